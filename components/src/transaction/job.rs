//! Work that takes too long for a tick: it runs beside the world, and its result is an input of a later tick.

use std::sync::Arc;

use crate::rows::bulk::Bulk;
use crate::rows::columns::Columns;
use crate::rows::count::Counted;
use crate::rows::merge::Merged;
use crate::rows::page::Tree;
use crate::rows::rewrite::{RowChanges, TreeChanges, WrittenChanges};
use crate::rows::scan::{Found, PageScan, Part, Wanted};
use crate::rows::sorter::{Gathered, SortedPart, Spilled};
use crate::rows::staged::{MergedPart, PartOfMerge, StagedPart};
use crate::value::error::Error;

/// Names a job of this process until its result is there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JobId(pub u64);

/// What is to be done. It depends on nothing that changes.
#[derive(Clone, Debug)]
pub enum Job {
    /// Merge rows that are in memory into a collection.
    Merge {
        /// The rows.
        bulk: Arc<Bulk>,
        /// The collection.
        trees: Arc<Vec<Tree>>,
    },
    /// Merge some of the rows that are not in memory into a tree.
    MergePart(Arc<PartOfMerge>),
    /// Gather what a transaction has written into a collection, to merge it in parts.
    Gather(RowChanges),
    /// Let go of what a transaction has changed, which is in pages now: many small things.
    LetGo(WrittenChanges),
    /// Sort rows that a program has gathered, and write them to scratch space if they are not all.
    Sort(Gathered),
    /// Read rows that were sorted and written.
    ReadSorted(SortedPart),
    /// Count rows.
    Count {
        /// Which.
        scan: Arc<PageScan>,
        /// Where they may be.
        parts: Arc<Vec<Part>>,
        /// When to end.
        wanted: Wanted,
    },
    /// Find rows.
    Find {
        /// Which.
        scan: Arc<PageScan>,
        /// Where they may be, in the order of the scan.
        parts: Arc<Vec<Part>>,
        /// How much to find before the other parts are left for later, in bytes.
        bytes_max: u64,
        /// How many rows to find before the other parts are left.
        wanted: Wanted,
    },
}

/// What came of a job.
#[derive(Clone, Debug)]
pub enum JobResult {
    /// The collection with the rows merged into it.
    Merged(Arc<Merged>),
    /// What comes and goes in each tree, the primary one first.
    Gathered(Vec<TreeChanges>),
    /// Rows that are sorted, in memory or in scratch space.
    Spilled(Spilled),
    /// Rows in order.
    Sorted(Columns),
    /// A part of a tree with rows merged into it. The world stores it before it goes on.
    MergedPart(Arc<MergedPart>),
    /// That part is stored.
    Staged(Arc<StagedPart>),
    /// It cannot be done now, for want of space.
    Refused(Error),
    /// How many rows there are.
    Counted(Counted),
    /// Rows.
    Found(Found),
    /// Nothing, and nobody waits for it.
    Gone,
    /// What is stored cannot be read.
    Failed(String),
}
