//! Rows that a transaction has written one by one, and more of them than it keeps in memory: they are merged into pages
//! that it alone sees, which its commit puts into their places.
//!
//! What it has written since is gathered, tree by tree, as rows that come and rows that go ([`RowChanges::gather`]). Those
//! are merged part by part ([`super::staged`]) into the pages as the transaction sees them ([`OwnTrees`]), as often as it
//! takes. Until then nobody else sees the pages; they are garbage if the commit does not come.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::{RowChange, is_same};
use super::columns::{Columns, ColumnsBuilder, sort};
use super::key::{Key, KeyRange};
use super::page::{Page, PageCell, Tree};
use super::schema::{Layout, Schema};
use super::staged::{Staged, StagedTree};

/// What a transaction has written into a collection, by primary key, and the trees that it has written that into.
#[derive(Clone, Debug)]
pub struct RowChanges {
    /// What the rows are.
    pub schema: Arc<Schema>,
    /// As the transaction sees them without what it has written.
    pub trees: Arc<Vec<Tree>>,
    /// What it has written.
    pub changes: Arc<BTreeMap<Key, RowChange>>,
    /// How much of the pages is merged at once, in bytes.
    pub part_bytes: usize,
}

/// What comes and goes in one tree.
#[derive(Clone, Debug)]
pub struct TreeChanges {
    /// Rows that come, sorted by key; those in whose place they come need not go.
    pub added: Columns,
    /// Rows that go, sorted by key.
    pub removed: Columns,
    /// Where they lie: ranges of whole pages, each of which is merged at once, in order.
    pub parts: Vec<KeyRange>,
}

impl RowChanges {
    /// What comes and goes in each tree, the primary one first.
    pub fn gather(&self) -> Vec<TreeChanges> {
        let layouts = self.schema.layouts().iter().enumerate();
        layouts.map(|(tree, layout)| self.gather_tree(tree, layout)).collect()
    }

    fn gather_tree(&self, tree: usize, layout: &Layout) -> TreeChanges {
        let (mut added, mut removed) =
            (ColumnsBuilder::new(&layout.types), ColumnsBuilder::new(&layout.types));
        let entry = |row: &super::Row| if tree == 0 { row.clone() } else { layout.project(row) };
        for change in self.changes.values().filter(|change| !change.is_nothing(&self.schema)) {
            let (old, new) = (change.old.as_ref().map(entry), change.new.as_ref().map(entry));
            match (old, new) {
                // This tree stays as it is.
                (Some(old), Some(new)) if is_same(&old, &new) => {}
                (Some(old), Some(new)) => {
                    if tree > 0 && Key::of_row(layout, &old) != Key::of_row(layout, &new) {
                        removed.push(&old);
                    }
                    added.push(&new);
                }
                (Some(old), None) => removed.push(&old),
                (None, Some(new)) => added.push(&new),
                (None, None) => {}
            }
        }
        let (added, removed) = (sort(layout, added.finish()), sort(layout, removed.finish()));
        let parts = self.parts(&self.trees[tree], layout, &added, &removed);
        TreeChanges { added, removed, parts }
    }

    /// Cut what changes into ranges of whole pages.
    fn parts(&self, tree: &Tree, layout: &Layout, added: &Columns, removed: &Columns) -> Vec<KeyRange> {
        let mut parts: Vec<KeyRange> = Vec::new();
        let (mut next_added, mut next_removed) = (0, 0);
        // The part that is not full.
        let mut open: Option<(KeyRange, usize)> = None;
        while next_added < added.len() || next_removed < removed.len() {
            let keys = [(added, next_added), (removed, next_removed)];
            let keys =
                keys.iter().filter(|(rows, at)| at < &rows.len()).map(|(rows, at)| rows.key(layout, *at));
            let place = tree.place(&keys.min().expect("a row that comes or goes"));
            let end = |rows: &Columns| match &place.range.end {
                Some(end) => rows.lower_bound(layout, end),
                None => rows.len(),
            };
            let (added_end, removed_end) = (end(added), end(removed));
            let base_bytes = place.page.base.as_ref().map_or(0, |cell| cell.bytes());
            let added_bytes: usize = (next_added..added_end).map(|row| added.row_bytes(row)).sum();
            let bytes = base_bytes + place.page.delta.bytes() + added_bytes;
            (next_added, next_removed) = (added_end, removed_end);
            open = match open.take() {
                Some((range, before)) if before + bytes <= self.part_bytes => {
                    Some((KeyRange { start: range.start, end: place.range.end }, before + bytes))
                }
                full => {
                    parts.extend(full.map(|(range, _)| range));
                    Some((place.range, bytes))
                }
            };
        }
        parts.extend(open.map(|(range, _)| range));
        parts
    }
}

/// The trees of a collection as a transaction sees them that has written pages into them.
#[derive(Clone, Debug)]
pub struct OwnTrees {
    trees: Arc<Vec<Tree>>,
    written: Vec<Written>,
    superseded: Vec<(u16, Arc<PageCell>)>,
    superseded_bytes: u64,
    is_delete: bool,
}

/// What was written into a tree.
#[derive(Clone, Debug, Default)]
struct Written {
    /// The ranges of committed pages that were replaced, by where they begin.
    ranges: BTreeMap<Key, KeyRange>,
    /// How many rows it has more than what is committed.
    rows: i64,
}

impl OwnTrees {
    /// Those that are committed, for now. All of them must be locked, so that nobody else changes them.
    pub fn new(trees: Arc<Vec<Tree>>) -> Self {
        let written = vec![Written::default(); trees.len()];
        Self { trees, written, superseded: Vec::new(), superseded_bytes: 0, is_delete: true }
    }

    /// As they are now.
    pub fn trees(&self) -> &Arc<Vec<Tree>> {
        &self.trees
    }

    /// The size of what was written and is in no tree any more, in bytes.
    pub fn superseded_bytes(&self) -> u64 {
        self.superseded_bytes
    }

    /// Put pages into their places, for each tree, the primary one first. `is_delete` if rows only go.
    pub fn place(&mut self, staged: Vec<StagedTree>, is_delete: bool) {
        assert_eq!(staged.len(), self.trees.len(), "the trees of the collection");
        self.is_delete &= is_delete;
        let trees = Arc::make_mut(&mut self.trees);
        for (tree, StagedTree { replaced, rows }) in staged.into_iter().enumerate() {
            let (pages, written) = (&mut trees[tree], &mut self.written[tree]);
            written.rows += rows;
            pages.rows = pages.rows.checked_add_signed(rows).expect("rows that were there");
            for (range, new) in replaced {
                let before = written.ranges.range::<Key, _>(..=&range.start).next_back();
                let is_own = before.is_some_and(|(_, before)| before.contains(&range.start));
                if is_own {
                    let old = pages.pages_in(&range).filter_map(|(_, page)| page.base.clone());
                    for cell in old {
                        self.superseded_bytes += cell.bytes() as u64;
                        self.superseded.push((tree as u16, cell));
                    }
                } else {
                    written.ranges.insert(range.start.clone(), range.clone());
                }
                pages.replace_range(&range, new);
            }
        }
    }

    /// What a commit puts into the places of what was committed before.
    pub fn into_staged(self) -> Staged {
        let trees = self.written.into_iter().zip(self.trees.iter());
        let trees = trees.map(|(written, tree)| {
            let replaced = written.ranges.into_values().map(|range| {
                let pages = tree.pages_in(&range).filter(|(_, page)| page.base.is_some());
                let pages: Vec<(Key, Page)> =
                    pages.map(|(low, page)| (low.clone(), (**page).clone())).collect();
                (range, pages)
            });
            StagedTree { replaced: replaced.collect(), rows: written.rows }
        });
        Staged { trees: trees.collect(), superseded: self.superseded, is_delete: self.is_delete }
    }
}
