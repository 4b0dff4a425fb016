//! Rows that a transaction has written one by one, and more of them than it keeps in memory: they are merged into pages
//! that it alone sees, which its commit puts into their places.
//!
//! What it has written since is gathered, tree by tree, as rows that come and rows that go ([`RowChanges::gather`]). Those
//! are merged part by part ([`super::staged`]) into the pages as the transaction sees them ([`OwnTrees`]), as often as it
//! takes. Until then nobody else sees the pages; they are garbage if the commit does not come.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::change::{RowChange, is_same};
use super::columns::{Columns, ColumnsBuilder, sort};
use super::key::{Key, KeyRange};
use super::page::{Page, PageCell, Tree};
use super::schema::{Layout, Schema};
use super::staged::{Staged, StagedTree};
use crate::value::ids::PageId;

/// The rows that a transaction has changed, by primary key.
pub type WrittenChanges = Arc<BTreeMap<Key, RowChange>>;

/// What a transaction has written into a collection, and the trees that it has written that into.
#[derive(Clone, Debug)]
pub struct RowChanges {
    /// What the rows are.
    pub schema: Arc<Schema>,
    /// As the transaction sees them without what it has written.
    pub trees: Arc<Vec<Tree>>,
    /// What it has written.
    pub changes: WrittenChanges,
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
    /// How often pages were put into their places.
    generation: u64,
    /// With which generation each page of its own has come.
    made: BTreeMap<PageId, u64>,
    superseded: Vec<Superseded>,
    is_delete: bool,
}

/// A page that is in no tree any more.
#[derive(Clone, Debug)]
struct Superseded {
    tree: u16,
    cell: Arc<PageCell>,
    /// Who has begun to read from then on until before then may read it.
    generations: Range<u64>,
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
        let (made, superseded) = (BTreeMap::new(), Vec::new());
        Self { trees, written, generation: 0, made, superseded, is_delete: true }
    }

    /// How often pages were put into their places: whoever begins to read now sees those.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// As they are now.
    pub fn trees(&self) -> &Arc<Vec<Tree>> {
        &self.trees
    }

    /// The size of what was written and is in no tree any more, in bytes.
    pub fn superseded_bytes(&self) -> u64 {
        self.superseded.iter().map(|page| page.cell.bytes() as u64).sum()
    }

    /// Forget what is in no tree any more and was not seen in any of these generations: those pages can go.
    pub fn free(&mut self, is_read: impl Fn(&Range<u64>) -> bool) -> Vec<PageId> {
        let free = self.superseded.extract_if(.., |page| !is_read(&page.generations));
        free.map(|page| page.cell.id()).collect()
    }

    /// Put pages into their places, for each tree, the primary one first. `is_delete` if rows only go.
    pub fn place(&mut self, staged: Vec<StagedTree>, is_delete: bool) {
        assert_eq!(staged.len(), self.trees.len(), "the trees of the collection");
        self.is_delete &= is_delete;
        self.generation += 1;
        let trees = Arc::make_mut(&mut self.trees);
        for (tree, StagedTree { replaced, rows }) in staged.into_iter().enumerate() {
            let (pages, written) = (&mut trees[tree], &mut self.written[tree]);
            written.rows += rows;
            pages.rows = pages.rows.checked_add_signed(rows).expect("rows that were there");
            for (range, new) in replaced {
                let before = written.ranges.range::<Key, _>(..=&range.start).next_back();
                let is_own = before.is_some_and(|(_, before)| before.contains(&range.start));
                if is_own {
                    for cell in pages.pages_in(&range).filter_map(|(_, page)| page.base.clone()) {
                        let made = self.made.remove(&cell.id()).expect("a page of its own");
                        let generations = made..self.generation;
                        self.superseded.push(Superseded { tree: tree as u16, cell, generations });
                    }
                } else {
                    written.ranges.insert(range.start.clone(), range.clone());
                }
                let made = new.iter().filter_map(|(_, page)| page.base.as_ref());
                self.made.extend(made.map(|cell| (cell.id(), self.generation)));
                pages.replace_range(&range, new);
            }
        }
    }

    /// What a commit puts into the places of what was committed before.
    pub fn into_staged(self) -> Staged {
        let trees = self.written.into_iter().zip(self.trees.iter());
        let trees = trees.map(|(written, tree)| {
            let replaced = joined(written.ranges.into_values()).into_iter().map(|range| {
                let pages = tree.pages_in(&range).filter(|(_, page)| page.base.is_some());
                let pages: Vec<(Key, Page)> =
                    pages.map(|(low, page)| (low.clone(), (**page).clone())).collect();
                (range, pages)
            });
            StagedTree { replaced: replaced.collect(), rows: written.rows }
        });
        let superseded = self.superseded.into_iter().map(|page| (page.tree, page.cell)).collect();
        Staged { trees: trees.collect(), superseded, is_delete: self.is_delete }
    }
}

/// Ranges that ascend and overlap nowhere; those that touch become one.
fn joined(ranges: impl Iterator<Item = KeyRange>) -> Vec<KeyRange> {
    let mut joined: Vec<KeyRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end.as_ref() == Some(&range.start) => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::merge::tests::{row, rows_of, schema};
    use crate::rows::scan::LoadPage;
    use crate::rows::staged::{PartOfMerge, PartRows, StagedPart};
    use crate::value::ids::{ChainId, HostedCollection, TreeId};

    const NOTHING_IS_STORED: &LoadPage<'_> = &|_, _| Err("everything is in memory".to_string());

    /// Merge changes and store what comes of it, as the world does.
    fn rewrite(own: &mut OwnTrees, schema: &Arc<Schema>, all: RowChanges, next: &mut u64) {
        let trees = all.trees.clone();
        let mut staged = Vec::new();
        let mut is_delete = true;
        for (tree, TreeChanges { added, removed, parts }) in all.gather().into_iter().enumerate() {
            is_delete &= added.is_empty();
            let mut merged = StagedTree::default();
            for range in parts {
                let collection = HostedCollection { chain: ChainId(0), slot: 0 };
                let part = PartOfMerge {
                    schema: schema.clone(),
                    trees: trees.clone(),
                    tree: TreeId::of(collection, tree as u16),
                    added: PartRows::Resident(added.clone()),
                    removed: Some(PartRows::Resident(removed.clone())),
                    range,
                };
                let part = part.merge(NOTHING_IS_STORED).unwrap();
                let pages = part.replaced.into_iter().map(|(range, pages)| {
                    let pages = pages.into_iter().map(|new| {
                        *next += 1;
                        let content = Columns::decode(&schema.layouts()[tree].types, new.content).unwrap();
                        let base = Some(Arc::new(PageCell::resident(PageId(*next), content)));
                        (new.low, Page { base, rows: new.rows as u64, ..Page::empty() })
                    });
                    (range, pages.collect())
                });
                let (replaced, rows) = (pages.collect(), part.rows);
                let (entries, stored_bytes) = (Vec::new(), 0);
                merged.push(&StagedPart { replaced, rows, entries, commit_bytes: 0, stored_bytes });
            }
            staged.push(merged);
        }
        own.place(staged, is_delete);
    }

    proptest! {
        /// Whatever is written, however often it goes into pages: the transaction sees it, and so does everybody after its
        /// commit; and every page that was stored is in a tree then or known to be in none.
        #[test]
        fn pages_written_again_and_again_have_the_rows_that_were_written(
            writes in prop::collection::vec(
                prop::collection::vec((0i64..60, prop::option::of((0i64..5, 0i64..9))), 1..40), 1..7),
            part_bytes in 1usize..2_000,
            reads in prop::collection::vec(prop::option::of(0u64..4), 7),
        ) {
            let schema = schema();
            let committed = Arc::new(vec![Tree::empty(), Tree::empty()]);
            let mut model: BTreeMap<i64, [i64; 3]> = BTreeMap::new();
            let (mut next, mut committed) = (0, committed);
            // Each half is a transaction.
            for writes in writes.chunks(writes.len().div_ceil(2)) {
                let mut own = OwnTrees::new(committed.clone());
                let first = next;
                let mut is_delete = true;
                let (mut readers, mut freed) = (Vec::new(), BTreeSet::new());
                for window in writes {
                    let model_before: Vec<Vec<i64>> = model.values().map(|row| row.to_vec()).collect();
                    let mut changes: BTreeMap<Key, RowChange> = BTreeMap::new();
                    for (a, content) in window {
                        let new = content.map(|(b, c)| [*a, b, c]);
                        let old = match &new {
                            Some(new) => model.insert(*a, *new),
                            None => model.remove(a),
                        };
                        let key = Key::of_prefix(&schema.layouts()[0], &[(*a).into()]);
                        let new = new.map(row);
                        let old = || RowChange { old: old.map(row), new: None };
                        changes.entry(key).or_insert_with(old).new = new;
                    }
                    let is_added = |change: &RowChange| change.new.is_some() && !change.is_nothing(&schema);
                    is_delete &= !changes.values().any(is_added);
                    let trees = own.trees().clone();
                    let all = RowChanges { schema: schema.clone(), trees, changes: Arc::new(changes), part_bytes };
                    let seen = (own.generation(), own.trees().clone(), model_before.clone());
                    rewrite(&mut own, &schema, all, &mut next);
                    // Of those that have read what was there before some still do.
                    readers.push(seen);
                    let ended = reads[readers.len() % reads.len()].unwrap_or(0) as usize;
                    readers.drain(..ended.min(readers.len()));
                    freed.extend(own.free(|seen| readers.iter().any(|(at, ..)| seen.contains(at))));
                    for (_, trees, model) in &readers {
                        let pages = trees.iter().flat_map(Tree::iter).filter_map(|(_, page)| page.base.as_ref());
                        prop_assert!(pages.map(|cell| cell.id()).all(|page| !freed.contains(&page)));
                        prop_assert_eq!(&rows_of(&trees[0], &schema.layouts()[0]), model);
                    }
                    let expected: Vec<Vec<i64>> = model.values().map(|row| row.to_vec()).collect();
                    prop_assert_eq!(rows_of(&own.trees()[0], &schema.layouts()[0]), expected);
                }
                let staged = own.into_staged();
                prop_assert_eq!(staged.is_delete, is_delete);
                let mut known: Vec<u64> = staged.superseded.iter().map(|(_, cell)| cell.id().0).collect();
                known.extend(freed.iter().map(|page| page.0));
                let trees = Arc::make_mut(&mut committed);
                for (tree, StagedTree { replaced, rows }) in trees.iter_mut().zip(staged.trees) {
                    tree.rows = tree.rows.checked_add_signed(rows).unwrap();
                    for (range, pages) in replaced {
                        known.extend(pages.iter().map(|(_, page)| page.base.as_ref().unwrap().id().0));
                        tree.replace_range(&range, pages);
                    }
                }
                known.sort_unstable();
                prop_assert_eq!(known, (first + 1..=next).collect::<Vec<_>>());
                let mut by_b: Vec<Vec<i64>> = model.values().map(|row| vec![row[1], row[0]]).collect();
                by_b.sort();
                prop_assert_eq!(rows_of(&committed[1], &schema.layouts()[1]), by_b);
                prop_assert!(committed.iter().all(|tree| tree.rows == model.len() as u64));
            }
        }
    }

    #[test]
    fn an_index_in_which_nothing_changes_is_left_alone_and_parts_are_whole_pages() {
        let schema = schema();
        let trees = Arc::new(vec![Tree::empty(); 2]);
        let key = |a: i64| Key::of_prefix(&schema.layouts()[0], &[a.into()]);
        let change = |old: [i64; 3], new: [i64; 3]| RowChange { old: Some(row(old)), new: Some(row(new)) };
        let changes: BTreeMap<Key, RowChange> =
            [(key(1), change([1, 5, 0], [1, 5, 9])), (key(2), change([2, 5, 0], [2, 6, 0]))].into();
        let all = RowChanges { schema, trees, changes: Arc::new(changes), part_bytes: 1 };
        let [rows, by_b] = &all.gather()[..] else { panic!("two trees") };
        assert_eq!((rows.added.len(), rows.removed.len()), (2, 0));
        assert_eq!((by_b.added.len(), by_b.removed.len()), (1, 1), "of the second row alone");
        assert_eq!(rows.parts, [KeyRange::all()]);
    }
}
