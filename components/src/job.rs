//! Work that takes too long for a tick: it runs beside the world, and its result is an input of a later tick
//! (DESIGN.md §3).

use std::sync::Arc;

use crate::collection::bulk::Bulk;
use crate::collection::count::Counted;
use crate::collection::merge::Merged;
use crate::collection::page::Tree;
use crate::collection::scan::{Found, PageScan, Part};

/// Names a job of this process until its result is there.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JobId(pub u64);

/// What is to be done. It depends on nothing that changes.
#[derive(Clone, Debug)]
pub enum Job {
    /// Merge rows into a collection.
    Merge {
        /// The rows.
        bulk: Arc<Bulk>,
        /// The collection.
        trees: Arc<Vec<Tree>>,
    },
    /// Count rows.
    Count {
        /// Which.
        scan: Arc<PageScan>,
        /// Where they may be.
        parts: Arc<Vec<Part>>,
    },
    /// Find rows.
    Find {
        /// Which.
        scan: Arc<PageScan>,
        /// Where they may be, in the order of the scan.
        parts: Arc<Vec<Part>>,
        /// How much to find before the other parts are left for later, in bytes.
        bytes_max: u64,
    },
}

/// What came of a job.
#[derive(Clone, Debug)]
pub enum JobResult {
    /// The collection with the rows merged into it.
    Merged(Arc<Merged>),
    /// How many rows there are.
    Counted(Counted),
    /// Rows.
    Found(Found),
    /// What is stored cannot be read.
    Failed(String),
}
