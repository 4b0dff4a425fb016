//! A collection in memory: in columns, but for what was written last.
//!
//! A row of values takes several times as much memory as in a column, so rows are kept as those of a host are: in pages
//! whose deltas are folded when they have grown, each by itself. A snapshot costs nothing, and scans read it as they read
//! pages of a host ([`super::scan`]).

use std::sync::Arc;

use super::Row;
use super::change::{Change, changes};
use super::columns::{PageSize, fold};
use super::delta::{DeltaEntry, Visibility};
use super::key::{Key, KeyRange};
use super::page::{Found, Page, PageCell, Statistics, Tree};
use super::schema::{Layout, Schema};
use super::seen::{OwnRows, RowsSnapshot};
use crate::value::ids::PageId;
use crate::value::transaction_id::TxnId;

/// A page is folded when it has no rows, or so many rows of it were written, or this part of those that it has, if that is
/// more.
const FOLD_ROWS_MIN: usize = 64;
const FOLD_PARTS: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct PackedRows {
    schema: Arc<Schema>,
    trees: Arc<Vec<Tree>>,
    /// How many rows were written: versions of a row have numbers.
    writes: u64,
    bytes: u64,
}

impl PackedRows {
    /// Without rows.
    pub fn new(schema: Arc<Schema>) -> Self {
        let trees = Arc::new(vec![Tree::empty(); schema.layouts().len()]);
        Self { schema, trees, writes: 0, bytes: 0 }
    }

    /// What the rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.trees[0].rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all trees take in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The row with this key.
    pub fn row(&self, key: &Key) -> Option<Row> {
        row(&self.schema.layouts()[0], &self.trees[0], key)
    }

    /// All rows as they are now.
    pub fn snapshot(&self) -> RowsSnapshot {
        RowsSnapshot {
            schema: self.schema.clone(),
            trees: self.trees.clone(),
            is_own: true,
            own: vec![OwnRows::new(); self.trees.len()],
            visibility: Visibility::NEWEST,
        }
    }

    /// Put a row in the place of the one with this key, if there is one, or delete that, if so much more memory is to be
    /// had, in bytes. The size of what only snapshots may still hold then, in bytes.
    ///
    /// # Errors
    /// That of `reserve`; then nothing has changed.
    pub fn write<E>(
        &mut self,
        key: &Key,
        new: Option<Row>,
        reserve: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<u64, E> {
        let old = self.row(key);
        self.writes += 1;
        let (id, commit) = (TxnId::new(self.writes, 0), self.writes);
        let changes = changes(&self.schema, old.as_ref(), new.as_ref()).into_iter();
        let entry = |Change { tree, key, row, rows }| (tree, DeltaEntry { key, id, commit, row }, rows);
        let entries: Vec<(usize, DeltaEntry, i64)> = changes.map(entry).collect();
        reserve(entries.iter().map(|(_, entry, _)| entry.bytes() as u64).sum())?;
        let trees = Arc::make_mut(&mut self.trees);
        let mut left_bytes = 0;
        for (tree, entry, rows) in entries {
            let (tree, layout) = (&mut trees[tree], &self.schema.layouts()[tree]);
            tree.rows = tree.rows.checked_add_signed(rows).expect("rows that were there");
            let (low, page) = tree.page_mut(&entry.key);
            self.bytes += entry.bytes() as u64;
            page.commit(entry, rows);
            let base_rows = page.base.as_ref().map_or(0, |base| base.rows());
            let is_empty = page.rows == 0 && base_rows > 0;
            if is_empty || page.delta.len() >= FOLD_ROWS_MIN.max(base_rows / FOLD_PARTS) {
                let (before, after) = pack(tree, layout, &low);
                self.bytes = self.bytes + after - before;
                left_bytes += before;
            }
        }
        Ok(left_bytes)
    }
}

/// The row with a key of a tree that is in memory.
pub fn row(layout: &Layout, tree: &Tree, key: &Key) -> Option<Row> {
    match tree.page(key).1.find(layout, key, Visibility::NEWEST) {
        Found::Row(row, _) => row,
        Found::NotResident(_) => unreachable!("all of it is in memory"),
    }
}

/// What a page takes in memory, in bytes.
fn page_bytes(page: &Page) -> u64 {
    (page.base.as_ref().map_or(0, |base| base.bytes()) + page.delta.bytes()) as u64
}

/// Fold a page; what it took before and what those take that it becomes, in bytes.
fn pack(tree: &mut Tree, layout: &Layout, low: &Key) -> (u64, u64) {
    let place = tree.place(low);
    let base = place.page.base.as_ref().map(|cell| cell.content().expect("all of it is in memory"));
    let (changes, _) = place.page.changes(&KeyRange::all(), Visibility::NEWEST);
    let contents = fold(layout, base.as_deref(), &changes, PageSize::default());
    let pages = contents.into_iter().map(|content| {
        let (rows, statistics) = (content.len() as u64, Arc::new(Statistics::of(&content)));
        let low = content.key(layout, 0);
        // Nobody asks for it by its name.
        let base = Some(Arc::new(PageCell::resident(PageId(0), content)));
        (low, Page { base, rows, statistics, ..Page::empty() })
    });
    let pages: Vec<(Key, Page)> = pages.collect();
    let bytes = pages.iter().map(|(_, page)| page_bytes(page)).sum();
    let beside = tree.beside(low)[0].map(|(low, page)| (low.clone(), (**page).clone()));
    match beside {
        // A page without rows is not left to lie there.
        Some((low_beside, beside)) if pages.is_empty() => {
            let range = KeyRange { start: low_beside.clone(), end: place.range.end };
            tree.replace_range(&range, vec![(low_beside, beside)]);
        }
        _ => tree.replace_range(&place.range, pages),
    }
    (page_bytes(&place.page), bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::merge::tests::{row as row_of, rows_of, schema};

    fn bytes(rows: &PackedRows) -> u64 {
        rows.trees.iter().flat_map(Tree::iter).map(|(_, page)| page_bytes(page)).sum()
    }

    proptest! {
        #[test]
        fn packed_rows_are_those_that_were_written(
            writes in prop::collection::vec((0i64..400, prop::option::weighted(0.7, (0i64..5, 0i64..9))), 1..1_500),
        ) {
            let schema = schema();
            let key = |a: i64| Key::of_prefix(&schema.layouts()[0], &[a.into()]);
            let mut rows = PackedRows::new(schema.clone());
            let mut model: BTreeMap<i64, [i64; 3]> = BTreeMap::new();
            let mut snapshots = Vec::new();
            for (i, (a, content)) in writes.iter().enumerate() {
                let new = content.map(|(b, c)| [*a, b, c]);
                match new {
                    Some(new) => model.insert(*a, new),
                    None => model.remove(a),
                };
                let reserve = |_| Ok::<_, ()>(());
                rows.write(&key(*a), new.map(row_of), reserve).unwrap();
                prop_assert_eq!(rows.row(&key(*a)), new.map(row_of));
                if i % 300 == 7 {
                    snapshots.push((rows.snapshot(), model.clone()));
                }
            }
            snapshots.push((rows.snapshot(), model));
            for (snapshot, model) in &snapshots {
                let expected: Vec<Vec<i64>> = model.values().map(|row| row.to_vec()).collect();
                prop_assert_eq!(rows_of(&snapshot.trees[0], &schema.layouts()[0]), expected);
                let mut by_b: Vec<Vec<i64>> = model.values().map(|row| vec![row[1], row[0]]).collect();
                by_b.sort();
                prop_assert_eq!(rows_of(&snapshot.trees[1], &schema.layouts()[1]), by_b);
                prop_assert!(snapshot.trees.iter().all(|tree| tree.rows == model.len() as u64));
            }
            prop_assert_eq!(rows.bytes(), bytes(&rows));
        }
    }

    #[test]
    fn many_rows_take_little_more_than_their_values_and_those_that_went_take_nothing() {
        let schema = schema();
        let key = |a: i64| Key::of_prefix(&schema.layouts()[0], &[a.into()]);
        let mut rows = PackedRows::new(schema.clone());
        let count: i64 = 50_000;
        let reserve = |_| Ok::<_, ()>(());
        for a in 0..count {
            let a = a * 7_919 % count;
            rows.write(&key(a), Some(row_of([a, a % 7, a])), reserve).unwrap();
        }
        // Three columns in the table and two in its index, of eight bytes each.
        let values = 5 * 8 * count as u64;
        assert!(rows.bytes() < 3 * values, "{} bytes for {values} of values", rows.bytes());
        for a in 0..count {
            rows.write(&key(a), None, reserve).unwrap();
        }
        assert!(rows.is_empty() && rows.trees.iter().all(|tree| tree.pages() == 1));
        assert!(rows.bytes() < 64 << 10, "{} bytes", rows.bytes());
    }
}
