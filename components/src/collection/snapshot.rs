//! Rows of a collection or view as they were at one moment, to be read page by page without the world.
//!
//! A snapshot is immutable: its trees are maps of pages, and whoever wants its rows reads one page after the other, from
//! memory or from storage, as slowly as they like. The world keeps the pages that a snapshot may read.

use std::sync::Arc;

use super::bound::Condition;
use super::columns::{Columns, ColumnsBuilder};
use super::key::{Key, KeyRange};
use super::local::{self, Snapshot};
use super::page::{Page, PageCell, PageId, Placed};
use super::schema::{Column, ColumnType, Layout, Schema};
use super::seen::{SeenPage, has_own};
use super::{CollectionContent, Row, row_bytes};
use crate::error::{Error, Result};
use crate::ledger::RowsSnapshot;

/// How many rows of a tree that is in memory come at a time.
const LOCAL_CHUNK_ROWS: usize = 1_024;

/// How many rows are completed at a time: their pages are read in the order of their keys, each once.
const COMPLETED_CHUNK_ROWS: usize = 1_024;

/// Reads the content of a page that is not in memory: its name, and the types of its columns.
pub type LoadPage<'a> = dyn FnMut(PageId, &Arc<[ColumnType]>) -> std::result::Result<Columns, String> + 'a;

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
    /// How many rows there are at most.
    pub limit: u64,
}

/// The trees of a collection as they were at one moment.
#[derive(Debug)]
pub enum Trees {
    /// Of one that is held in a chain of this host.
    Hosted(RowsSnapshot),
    /// Of one that was made in the transaction.
    Local(Snapshot),
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

    /// All rows at once, if they take no more than this in memory, in bytes.
    ///
    /// # Errors
    /// 413 if they take more, 500 if a page cannot be read.
    pub fn content(self: &Arc<Self>, load: &mut LoadPage<'_>, bytes_max: u64) -> Result<CollectionContent> {
        let mut reader = RowsReader::new(self.clone());
        let (mut rows, mut bytes): (Vec<Row>, u64) = (Vec::new(), 0);
        while let Some(columns) = reader.next(load).map_err(Error::internal)? {
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

/// Reads a snapshot from its first row to its last.
#[derive(Debug)]
pub struct RowsReader {
    snapshot: Arc<RowsetSnapshot>,
    /// What has not been looked at.
    range: KeyRange,
    /// Rows of the tree that were found and wait to be completed.
    found: Option<Columns>,
    left: u64,
}

impl RowsReader {
    /// A reader of all rows.
    pub fn new(snapshot: Arc<RowsetSnapshot>) -> Self {
        let (range, left) = (snapshot.scan.range.clone(), snapshot.scan.limit);
        Self { snapshot, range, found: None, left }
    }

    /// The next rows, at least one, in order. Rows of a page in which nothing has changed are in the memory of that page.
    ///
    /// # Errors
    /// Why a page cannot be read.
    pub fn next(&mut self, load: &mut LoadPage<'_>) -> std::result::Result<Option<Columns>, String> {
        while self.left > 0 {
            let Some(mut rows) = self.next_found(load)? else {
                return Ok(None);
            };
            let scan = &self.snapshot.scan;
            if scan.completes {
                rows = self.complete(&rows, load)?;
                if !scan.residual.is_empty() {
                    rows = rows.filter(&rows.select(&scan.residual, 0..rows.len()));
                }
            }
            if rows.len() as u64 > self.left {
                rows = rows.slice(0..self.left as usize);
            }
            self.left -= rows.len() as u64;
            if let Some(output) = &scan.output {
                rows = rows.project(output);
            }
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// The next rows of the tree, as many as are worked on at once.
    fn next_found(&mut self, load: &mut LoadPage<'_>) -> std::result::Result<Option<Columns>, String> {
        let rows = match self.found.take() {
            Some(rows) => rows,
            None => match self.scan(load)? {
                Some(rows) => rows,
                None => return Ok(None),
            },
        };
        if !self.snapshot.scan.completes || rows.len() <= COMPLETED_CHUNK_ROWS {
            return Ok(Some(rows));
        }
        self.found = Some(rows.slice(COMPLETED_CHUNK_ROWS..rows.len()));
        Ok(Some(rows.slice(0..COMPLETED_CHUNK_ROWS)))
    }

    /// The rows of the next part of the range that has some.
    fn scan(&mut self, load: &mut LoadPage<'_>) -> std::result::Result<Option<Columns>, String> {
        let snapshot = self.snapshot.clone();
        let scan = &snapshot.scan;
        while !self.range.is_empty() {
            let rows = match &snapshot.trees {
                Trees::Local(trees) => {
                    let tree = &trees.trees[scan.tree];
                    let (rows, _) = local::read_chunk(
                        tree,
                        &mut self.range,
                        scan.is_reversed,
                        &scan.conditions,
                        LOCAL_CHUNK_ROWS,
                    );
                    Some(Columns::from_rows(&snapshot.layout().types, rows.iter().map(|row| &**row)))
                }
                Trees::Hosted(trees) => self.scan_page(trees, load)?,
            };
            if let Some(rows) = rows
                && !rows.is_empty()
            {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// The rows of the next page, which is taken off the range; none if it need not be looked at.
    fn scan_page(
        &mut self,
        trees: &RowsSnapshot,
        load: &mut LoadPage<'_>,
    ) -> std::result::Result<Option<Columns>, String> {
        let (scan, layout) = (&self.snapshot.scan, self.snapshot.layout());
        let (tree, own) = (&trees.trees[scan.tree], &trees.own[scan.tree]);
        let Placed { range: place, page } = match scan.is_reversed {
            true => tree.place_before(self.range.end.as_ref()),
            false => tree.place(&self.range.start),
        };
        let part = self.range.intersection(&place);
        if scan.is_reversed {
            self.range.end = Some((&part.start).max(&self.range.start).clone());
        } else {
            match &part.end {
                Some(end) => self.range.start = end.clone(),
                None => self.range.end = Some(self.range.start.clone()),
            }
        }
        if !has_own(own, &part) && !page.statistics.may_match(&scan.conditions) {
            return Ok(None);
        }
        let base = base(&page, layout, load)?;
        let (seen, _) = SeenPage::new(layout, &page, base, &part, own, trees.visibility);
        let rows = seen.columns(layout, &scan.conditions);
        Ok(Some(match scan.is_reversed {
            true => rows.take(&(0..rows.len()).rev().collect::<Vec<_>>()),
            false => rows,
        }))
    }

    /// The whole rows for rows of a tree that lacks columns.
    fn complete(&self, rows: &Columns, load: &mut LoadPage<'_>) -> std::result::Result<Columns, String> {
        let (layout, primary) = (self.snapshot.layout(), &self.snapshot.collection.layouts()[0]);
        let places: Vec<usize> = primary
            .key_columns()
            .iter()
            .map(|column| layout.place(*column).expect("an index has all columns of the key"))
            .collect();
        let keys = rows.project(&places);
        let key = |row: usize| Key::of_prefix(primary, &keys.row(row));
        let mut found: Vec<(Key, usize)> = (0..rows.len()).map(|row| (key(row), row)).collect();
        let mut whole: Vec<Option<Row>> = vec![None; rows.len()];
        match &self.snapshot.trees {
            Trees::Local(trees) => {
                for (key, row) in found {
                    whole[row] = trees.trees[0].get(&key).cloned();
                }
            }
            Trees::Hosted(trees) => {
                found.sort_unstable();
                let mut found = found.into_iter().peekable();
                while let Some((first, _)) = found.peek() {
                    let Placed { range, page } = trees.trees[0].place(first);
                    let base = base(&page, primary, load)?;
                    while let Some((key, row)) = found.next_if(|(key, _)| range.contains(key)) {
                        whole[row] = match trees.own[0].get(&key) {
                            Some(own) => own.clone(),
                            None => page.find_in(primary, &key, trees.visibility, base.as_deref()),
                        };
                    }
                }
            }
        }
        let mut builder = ColumnsBuilder::with_capacity(&primary.types, whole.len());
        for row in whole {
            builder.push(&row.ok_or("an entry of an index has no row")?);
        }
        Ok(builder.finish())
    }
}

/// The content of the base of a page.
fn base(
    page: &Page,
    layout: &Layout,
    load: &mut LoadPage<'_>,
) -> std::result::Result<Option<Arc<Columns>>, String> {
    let content = |cell: &Arc<PageCell>| match cell.content() {
        Some(content) => Ok(content),
        // Others may want other pages more: it does not come into the cache.
        None => load(cell.id(), &layout.types).map(Arc::new),
    };
    page.base.as_ref().map(content).transpose()
}

#[cfg(test)]
mod tests;
