//! Rows of a collection or view as they were at one moment, to be read page by page without the world.
//!
//! A snapshot is immutable: its trees are maps of pages, and whoever wants its rows reads some pages after the other, from
//! memory or from storage, as slowly as they like. The world keeps the pages that a snapshot may read.

use std::collections::VecDeque;
use std::sync::Arc;

use super::CollectionContent;
use super::local::Snapshot;
use crate::rows::bound::Condition;
use crate::rows::columns::{Columns, ColumnsBuilder};
use crate::rows::key::{Key, KeyRange};
use crate::rows::page::{Page, Placed};
use crate::rows::scan::{Join, LoadPage, PageScan, Wanted, at_once, base, in_tasks};
use crate::rows::schema::{Column, Layout, Schema};
use crate::rows::seen::RowsSnapshot;
use crate::rows::sorter::{Order, Sorter};
use crate::rows::{Row, row_bytes};
use crate::value::error::{Error, Result};
use crate::value::ids::{HostedCollection, TreeId};

/// How many rows are completed at a time: their pages are read in the order of their keys, each once.
const COMPLETED_CHUNK_ROWS: usize = 1_024;

/// Of so many pages the rows that are to be completed are fetched in one task.
const COMPLETED_PAGES_PER_TASK: usize = 8;

/// How many pages are read at once at most. The first one is read alone: whoever wants few rows waits for no others.
pub const READ_AHEAD_PAGES: usize = 32;

/// How much is read at once, in bytes, if it is more than a page.
pub const READ_AHEAD_BYTES: u64 = 512 << 10;

/// How to find rows by a scan of one tree.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The tree.
    pub tree: usize,
    /// Which of its keys.
    pub range: KeyRange,
    /// Whether to scan them backwards.
    pub is_reversed: bool,
    /// What rows of the tree must meet; the positions are those in the tree.
    pub conditions: Vec<Condition>,
    /// Whether the whole rows must be fetched, as the tree does not have all columns.
    pub completes: bool,
    /// What the rows must meet then; the positions are those in the collection.
    pub residual: Vec<Condition>,
    /// Which values of the rows to give then; all if none are named.
    pub output: Option<Vec<usize>>,
    /// How the rows are sorted then, if they are not found in their order.
    pub order: Option<Order>,
    /// How many rows there are at most.
    pub limit: u64,
}

/// The trees of a collection as they were at one moment.
#[derive(Debug)]
pub enum Trees {
    /// Of one that is held in a chain of this host.
    Hosted(HostedCollection, RowsSnapshot),
    /// Of one that was made in the transaction.
    Local(Snapshot),
}

impl Trees {
    /// The rows in them.
    pub fn rows(&self) -> &RowsSnapshot {
        match self {
            Self::Hosted(_, rows) | Self::Local(Snapshot { rows, .. }) => rows,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct RowsetSnapshot {
    /// What the rows are, as a reply shows it.
    pub schema: Arc<Schema>,
    /// The columns in the order of the rows.
    pub columns: Arc<[Column]>,
    /// Whether only the rows are shown, as of a stream.
    pub is_list: bool,
    /// The schema of the collection that has the rows.
    pub collection: Arc<Schema>,
    /// Its trees.
    pub trees: Trees,
    /// Which of its rows these are.
    pub scan: Scan,
    /// What this may keep in memory beside pages, in bytes.
    pub bytes: u64,
}

impl RowsetSnapshot {
    fn layout(&self) -> &Layout {
        &self.collection.layouts()[self.scan.tree]
    }

    /// What sorts the rows, if they are not found in their order: see [`Sorter::new`].
    pub fn sorter(&self, run_bytes: usize, part_bytes: usize) -> Option<Sorter> {
        let scan = &self.scan;
        let order = scan.order.as_ref()?;
        let found = if scan.completes { &self.collection.layouts()[0] } else { self.layout() };
        Some(Sorter::new(&found.types, order, scan.output.as_deref(), scan.limit, run_bytes, part_bytes))
    }

    /// The trees of this host whose pages are read.
    pub fn hosted_trees(&self) -> Vec<TreeId> {
        let Trees::Hosted(collection, _) = &self.trees else { return Vec::new() };
        // Rows that an index has found are completed from the primary tree.
        let completed = self.scan.completes.then_some(0);
        let trees = std::iter::once(self.scan.tree).chain(completed);
        trees.map(|tree| TreeId::of(*collection, tree as u16)).collect()
    }

    /// All rows at once, if they take no more than this in memory, in bytes.
    ///
    /// # Errors
    /// 413 if they take more, 500 if a page cannot be read.
    pub fn content(
        self: &Arc<Self>,
        load: &LoadPage<'_>,
        join: &Join<'_>,
        bytes_max: u64,
    ) -> Result<CollectionContent> {
        let mut reader = RowsReader::new(self.clone());
        let (mut rows, mut bytes): (Vec<Row>, u64) = (Vec::new(), 0);
        let mut sorted = None;
        if let Some(mut sorter) = self.sorter(usize::try_from(bytes_max).unwrap_or(usize::MAX), 1) {
            let no_scratch = || Err(format!("the rows that are sorted take more than {bytes_max} bytes"));
            while let Some(columns) = reader.next(load, join).map_err(Error::internal)? {
                sorter.push(&columns, &no_scratch).map_err(|cause| Error::too_large(cause.message()))?;
            }
            let last = sorter.take(true).spill(&no_scratch)?;
            sorted = Some(sorter.finish(last));
        }
        let mut next = || match &mut sorted {
            Some(sorted) => sorted.next_rows(),
            None => reader.next(load, join).map_err(Error::internal),
        };
        while let Some(columns) = next()? {
            for row in (0..columns.len()).map(|i| columns.row(i)) {
                bytes += row_bytes(&row);
                if bytes > bytes_max {
                    return Err(Error::too_large(format_args!(
                        "the result takes more than {bytes_max} bytes"
                    )));
                }
                rows.push(row);
            }
        }
        let (schema, columns) = (self.schema.clone(), self.columns.clone());
        Ok(CollectionContent { schema, columns, is_list: self.is_list, rows, bytes })
    }
}

/// A page, and the keys of the rows that are wanted of it, each with the place where the row goes.
type WantedOfPage<'a> = (Arc<Page>, &'a [(Key, usize)]);

/// Reads a snapshot from its first row to its last. Those that are yet to be sorted come as they are found, and whole: see
/// [`Sorter`].
#[derive(Debug)]
pub struct RowsReader {
    snapshot: Arc<RowsetSnapshot>,
    /// How pages are scanned.
    pages: PageScan,
    /// What has not been looked at.
    range: KeyRange,
    /// How many pages are looked at next, at most.
    pages_at_once: usize,
    /// How many pages of the tree were read.
    pages_read: u64,
    /// How many of its rows were completed.
    completed: u64,
    /// Rows of the tree that were found, and are next.
    found: VecDeque<Columns>,
    left: u64,
}

impl RowsReader {
    /// A reader of all rows.
    pub fn new(snapshot: Arc<RowsetSnapshot>) -> Self {
        let scan = &snapshot.scan;
        let pages = PageScan {
            rows: snapshot.trees.rows().clone(),
            tree: scan.tree,
            is_reversed: scan.is_reversed,
            conditions: scan.conditions.clone(),
        };
        // Which rows are the first ones is known when all were found.
        let left = if scan.order.is_some() { u64::MAX } else { scan.limit };
        let range = scan.range.clone();
        let found = VecDeque::new();
        Self { snapshot, pages, range, pages_at_once: 1, pages_read: 0, completed: 0, found, left }
    }

    /// The next rows, at least one, in order. Rows of a page in which nothing has changed are in the memory of that page.
    ///
    /// # Errors
    /// Why a page cannot be read.
    pub fn next(
        &mut self,
        load: &LoadPage<'_>,
        join: &Join<'_>,
    ) -> std::result::Result<Option<Columns>, String> {
        while self.left > 0 {
            let Some(mut rows) = self.next_found(load, join)? else {
                return Ok(None);
            };
            let scan = &self.snapshot.scan;
            if scan.completes {
                rows = self.complete(&rows, load, join)?;
                if !scan.residual.is_empty() {
                    rows = rows.filter(&rows.select(&scan.residual, 0..rows.len()));
                }
            }
            if rows.len() as u64 > self.left {
                rows = rows.slice(0..self.left as usize);
            }
            self.left -= rows.len() as u64;
            if let Some(output) = scan.output.as_ref().filter(|_| scan.order.is_none()) {
                rows = rows.project(output);
            }
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// The next rows of the tree, as many as are worked on at once: of those that must be completed no more than are
    /// wanted, or an eighth of those that were, if many of them were not what is wanted.
    fn next_found(
        &mut self,
        load: &LoadPage<'_>,
        join: &Join<'_>,
    ) -> std::result::Result<Option<Columns>, String> {
        while self.found.is_empty() && !self.range.is_empty() {
            self.scan_pages(load, join)?;
        }
        let Some(rows) = self.found.pop_front() else {
            return Ok(None);
        };
        if !self.snapshot.scan.completes {
            return Ok(Some(rows));
        }
        let wanted = self.left.max(at_once(self.completed));
        let len = rows.len().min(COMPLETED_CHUNK_ROWS).min(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.completed += len as u64;
        if len < rows.len() {
            self.found.push_front(rows.slice(len..rows.len()));
        }
        Ok(Some(rows.slice(0..len)))
    }

    /// Look at the next pages.
    fn scan_pages(&mut self, load: &LoadPage<'_>, join: &Join<'_>) -> std::result::Result<(), String> {
        let pages = &self.pages;
        let batch = pages.batch(&self.range, self.pages_at_once, READ_AHEAD_BYTES);
        let batch = batch.ok_or("a page does not have any more what the transaction saw")?;
        let wanted = Wanted { rows: self.left, pages_read: self.pages_read };
        let found = pages.find(&batch.parts, u64::MAX, wanted, load, join)?;
        self.range = match batch.parts.get(found.parts) {
            Some(next) => pages.rest_from(&self.range, &next.range),
            None => batch.rest,
        };
        self.pages_at_once = (2 * self.pages_at_once).min(READ_AHEAD_PAGES);
        self.pages_read += found.looked_at.pages;
        self.found = found.rows.into();
        Ok(())
    }

    /// The whole rows for rows of a tree that lacks columns.
    fn complete(
        &self,
        rows: &Columns,
        load: &LoadPage<'_>,
        join: &Join<'_>,
    ) -> std::result::Result<Columns, String> {
        let (layout, primary) = (self.snapshot.layout(), &self.snapshot.collection.layouts()[0]);
        let places: Vec<usize> = primary
            .key_columns()
            .iter()
            .map(|column| layout.place(*column).expect("an index has all columns of the key"))
            .collect();
        let keys = rows.project(&places);
        let key = |row: usize| Key::of_prefix(primary, &keys.row(row));
        let mut wanted: Vec<(Key, usize)> = (0..rows.len()).map(|row| (key(row), row)).collect();
        let mut whole: Vec<Option<Row>> = vec![None; rows.len()];
        let trees = self.snapshot.trees.rows();
        wanted.sort_unstable();
        let mut pages: Vec<WantedOfPage> = Vec::new();
        let mut rest = &wanted[..];
        while let Some((first, _)) = rest.first() {
            let Placed { range, page } = trees.trees[0].place(first);
            let (here, after) = rest.split_at(rest.partition_point(|(key, _)| range.contains(key)));
            pages.push((page, here));
            rest = after;
        }
        let row = |page: &Page, key: &Key, base: Option<&Columns>| match trees.own[0].get(key) {
            Some(own) => own.clone(),
            None => page.find_in(primary, key, trees.visibility, base),
        };
        let work = |pages: &[WantedOfPage]| {
            let mut found = Vec::new();
            for (page, wanted) in pages {
                let base = base(page, primary, load)?;
                found.extend(wanted.iter().map(|(key, at)| (*at, row(page, key, base.as_deref()))));
            }
            Ok::<_, String>(found)
        };
        for found in in_tasks(&pages, COMPLETED_PAGES_PER_TASK, &work, join) {
            for (at, row) in found? {
                whole[at] = row;
            }
        }
        let mut builder = ColumnsBuilder::with_capacity(&primary.types, whole.len());
        for row in whole {
            builder.push(&row.ok_or("an entry of an index has no row")?);
        }
        Ok(builder.finish())
    }
}

#[cfg(test)]
mod tests;
