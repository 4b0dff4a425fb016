//! Many rows written into a collection at once: what they make of its pages.
//!
//! The trees are merged page by page. A page to which nothing belongs stays as it is; one that is touched is replaced
//! by new ones.

use std::ops::Range;

use super::columns::{Columns, ColumnsBuilder, PageSize, cut, fold, sort};
use super::delta::Visibility;
use super::key::{Key, KeyRange};
use super::page::{Page, Tree};
use super::scan::{Join, LoadPage, base};
use super::schema::{Layout, Schema};

/// The pages that take the place of a part of a tree.
#[derive(Debug)]
pub struct Replaced {
    /// Which part.
    pub range: KeyRange,
    /// What is there instead, in order; nothing if no row is left.
    pub pages: Vec<Columns>,
}

/// What is replaced in a tree.
#[derive(Debug, Default)]
pub struct MergedTree {
    /// The parts, in order.
    pub replaced: Vec<Replaced>,
    /// How many rows the tree has more.
    pub rows: i64,
}

/// What many rows make of a collection.
#[derive(Debug)]
pub struct Merged {
    /// Each tree, the primary one first.
    pub trees: Vec<MergedTree>,
    /// How many rows were written.
    pub written: u64,
}

impl Merged {
    /// The size of all new pages, in bytes.
    pub fn bytes(&self) -> u64 {
        let pages = self.trees.iter().flat_map(|tree| &tree.replaced).flat_map(|replaced| &replaced.pages);
        pages.map(|page| page.bytes() as u64).sum()
    }
}

/// Merge rows, sorted by key, into a collection of which a transaction sees everything that is committed and has written nothing itself.
///
/// # Errors
/// Why a page cannot be read.
pub fn merge(
    schema: &Schema,
    rows: &Columns,
    trees: &[Tree],
    load: &LoadPage<'_>,
    join: &Join<'_>,
) -> Result<Merged, String> {
    assert_eq!(trees.len(), schema.layouts().len(), "the trees of the collection");
    let (primary, replaced) = merge_tree(&schema.layouts()[0], &trees[0], rows, None, load)?;
    let mut merged: Vec<Option<Result<MergedTree, String>>> = Vec::new();
    merged.resize_with(schema.layouts().len() - 1, || None);
    each_index(
        &mut merged,
        1,
        &|tree, slot| {
            *slot = Some(merge_index(schema, tree, &trees[tree], rows, &replaced, load));
        },
        join,
    );
    let mut all = vec![primary];
    for tree in merged {
        all.push(tree.expect("every index is merged")?);
    }
    Ok(Merged { trees: all, written: rows.len() as u64 })
}

/// Call `work` with each index and its slot, several at the same time.
fn each_index<T: Send>(
    slots: &mut [Option<T>],
    first: usize,
    work: &(dyn Fn(usize, &mut Option<T>) + Sync),
    join: &Join<'_>,
) {
    match slots {
        [] => {}
        [one] => work(first, one),
        many => {
            let middle = many.len() / 2;
            let (left, right) = many.split_at_mut(middle);
            join(&mut || each_index(left, first, work, join), &mut || {
                each_index(right, first + middle, work, join)
            });
        }
    }
}

fn merge_index(
    schema: &Schema,
    tree: usize,
    pages: &Tree,
    rows: &Columns,
    replaced: &[Columns],
    load: &LoadPage<'_>,
) -> Result<MergedTree, String> {
    let layout = &schema.layouts()[tree];
    let entries = |rows: &Columns| sort(layout, rows.project(&layout.columns));
    let added = entries(rows);
    // An entry of a row that was there is replaced, or goes.
    let mut removed = ColumnsBuilder::new(&layout.types);
    for rows in replaced {
        removed.push_range(&rows.project(&layout.columns), 0..rows.len());
    }
    let removed = sort(layout, removed.finish());
    Ok(merge_tree(layout, pages, &added, Some(&removed), load)?.0)
}

/// The tree with rows in their places and entries removed, and, if none are to be removed, the rows that were there
/// before.
fn merge_tree(
    layout: &Layout,
    tree: &Tree,
    added: &Columns,
    removed: Option<&Columns>,
    load: &LoadPage<'_>,
) -> Result<(MergedTree, Vec<Columns>), String> {
    let mut merged = MergedTree::default();
    let mut before = Vec::new();
    let (mut next_added, mut next_removed) = (0, 0);
    let empty = Columns::empty(&layout.types);
    let removed_rows = removed.unwrap_or(&empty);
    let mut pages = tree.iter().peekable();
    while let Some((low, page)) = pages.next() {
        let end = pages.peek().map(|(low, _)| (*low).clone());
        let bound = |rows: &Columns| end.as_ref().map_or(rows.len(), |end| rows.lower_bound(layout, end));
        let added_here = next_added..bound(added);
        let removed_here = next_removed..bound(removed_rows);
        (next_added, next_removed) = (added_here.end, removed_here.end);
        if added_here.is_empty() && removed_here.is_empty() {
            continue;
        }
        let range = KeyRange { start: low.clone(), end };
        let content = current(layout, page, load)?;
        let rows_before = content.len() as i64;
        let is_primary = removed.is_none();
        let sorted = combine(
            layout,
            &content,
            &added.slice(added_here),
            &removed_rows.slice(removed_here),
            is_primary.then_some(&mut before),
        );
        merged.rows += sorted.len() as i64 - rows_before;
        merged.replaced.push(Replaced { range, pages: cut(&sorted) });
    }
    Ok((merged, before))
}

/// All rows of a page, those that were committed since it was folded included.
pub(super) fn current(layout: &Layout, page: &Page, load: &LoadPage<'_>) -> Result<Columns, String> {
    let base = base(page, layout, load)?;
    let (changes, _) = page.changes(&KeyRange::all(), Visibility::NEWEST);
    if changes.is_empty() {
        return Ok(base.map_or_else(|| Columns::empty(&layout.types), |base| (*base).clone()));
    }
    let mut rows = ColumnsBuilder::new(&layout.types);
    for part in fold(layout, base.as_deref(), &changes, PageSize::default()) {
        rows.push_range(&part, 0..part.len());
    }
    Ok(rows.finish())
}

/// The rows of `base` without those of `removed`, then with those of `added` in their places, in order. What was in the
/// place of an added row goes to `before`.
pub(super) fn combine(
    layout: &Layout,
    base: &Columns,
    added: &Columns,
    removed: &Columns,
    mut before: Option<&mut Vec<Columns>>,
) -> Columns {
    if base.is_empty() {
        return added.clone();
    }
    let mut rows = ColumnsBuilder::with_capacity(&layout.types, base.len() + added.len());
    let mut gone: Vec<usize> = Vec::new();
    let keep = |rows: &mut ColumnsBuilder, range: Range<usize>| rows.push_range(base, range);
    let mut key = Vec::new();
    let (mut kept, mut next_added, mut next_removed) = (0, 0, 0);
    // Whichever of the next added and the next removed key comes first has its turn; of equal ones, the added one.
    loop {
        let added_key: Option<Key> = (next_added < added.len()).then(|| added.key(layout, next_added));
        let removed_key: Option<Key> =
            (next_removed < removed.len()).then(|| removed.key(layout, next_removed));
        let (is_added, next_key) = match (added_key, removed_key) {
            (Some(added), Some(removed)) if added <= removed => {
                next_removed += usize::from(added == removed);
                (true, added)
            }
            (_, Some(removed)) => (false, removed),
            (Some(added), None) => (true, added),
            (None, None) => break,
        };
        let at = kept + base.slice(kept..base.len()).lower_bound(layout, &next_key);
        keep(&mut rows, kept..at);
        kept = at;
        if at < base.len() {
            key.clear();
            base.encode_key(layout, at, &mut key);
            if *key == *next_key {
                gone.push(at);
                kept += 1;
            }
        }
        if is_added {
            rows.push_from(added, next_added);
            next_added += 1;
        } else {
            next_removed += 1;
        }
    }
    keep(&mut rows, kept..base.len());
    if let Some(before) = &mut before
        && !gone.is_empty()
    {
        before.push(base.take(&gone));
    }
    rows.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::rows::Row;
    use crate::rows::change::RowChange;
    use crate::rows::delta::DeltaEntry;
    use crate::rows::page::PageCell;
    use crate::rows::schema::{CollectionKind, Column, ColumnType, Index};
    use crate::value::Value;
    use crate::value::name::Id;
    use crate::value::number::NumberType;
    use crate::value::transaction_id::TxnId;
    use proptest::prelude::*;

    pub(in crate::rows) fn schema() -> Arc<Schema> {
        let column = |name| Column {
            name: Id::literal(name),
            class: ColumnType::Number(NumberType::I64),
            max_len: None,
        };
        let index = Index { name: Id::literal("by_b"), columns: [1].into() };
        let columns = [column("a"), column("b"), column("c")];
        Arc::new(Schema::new(CollectionKind::Table, columns.into(), 1, [index].into()))
    }

    pub(in crate::rows) fn row(values: [i64; 3]) -> Row {
        values.map(Value::from).into()
    }

    pub(in crate::rows) fn columns(schema: &Schema, rows: &[[i64; 3]]) -> Columns {
        let rows: Vec<Row> = rows.iter().map(|values| row(*values)).collect();
        Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..]))
    }

    pub(in crate::rows) fn join(a: &mut (dyn FnMut() + Send), b: &mut (dyn FnMut() + Send)) {
        a();
        b();
    }

    /// Put what was merged into its place, as the world does.
    pub(in crate::rows) fn apply(trees: &mut [Tree], merged: Merged, next: &mut u64) {
        for (tree, merged) in trees.iter_mut().zip(merged.trees) {
            tree.rows = tree.rows.checked_add_signed(merged.rows).expect("rows that were there");
            for Replaced { range, pages } in merged.replaced {
                let pages = pages.into_iter().map(|content| {
                    *next += 1;
                    let key = content.key(&schema().layouts()[0], 0);
                    let rows = content.len() as u64;
                    let base = Arc::new(PageCell::resident(crate::value::ids::PageId(*next), content));
                    (key, Page { base: Some(base), rows, ..Page::empty() })
                });
                tree.replace_range(&range, pages.collect());
            }
        }
    }

    pub(in crate::rows) fn rows_of(tree: &Tree, layout: &Layout) -> Vec<Vec<i64>> {
        let load = |_: &PageCell, _: &Layout| Err("everything is in memory".to_string());
        let mut rows = Vec::new();
        for (_, page) in tree.iter() {
            let content = current(layout, page, &load).unwrap();
            for i in 0..content.len() {
                let values = content.row(i);
                rows.push(
                    values
                        .iter()
                        .map(|value| match value {
                            Value::Number(number) => number.as_i64().unwrap(),
                            _ => unreachable!(),
                        })
                        .collect(),
                );
            }
        }
        rows
    }

    proptest! {
        #[test]
        fn merging_equals_writing_row_by_row(
            loads in prop::collection::vec(
                prop::collection::vec([0i64..300, 0i64..5, 0i64..9], 1..200), 1..5),
            points in prop::collection::vec([0i64..300, 0i64..5, 0i64..9], 0..40),
        ) {
            let schema = schema();
            let mut trees = vec![Tree::empty(), Tree::empty()];
            let mut model: BTreeMap<i64, [i64; 3]> = BTreeMap::new();
            let mut next = 0;
            let mut commit = 0;
            for rows in &loads {
                let sorted = sort(&schema.layouts()[0], columns(&schema, rows));
                let load = |_: &PageCell, _: &Layout| Err("everything is in memory".to_string());
                let merged = merge(&schema, &sorted, &trees, &load, &join).unwrap();
                apply(&mut trees, merged, &mut next);
                model.extend(rows.iter().map(|row| (row[0], *row)));
                // Some rows are written one by one in between, so that there are deltas.
                for point in &points {
                    commit += 1;
                    let old = model.insert(point[0], *point).map(row);
                    let change = RowChange { old, new: Some(row(*point)) };
                    for change in change.in_trees(&schema) {
                        let tree = &mut trees[change.tree];
                        let entry = DeltaEntry {
                            key: change.key.clone(),
                            id: TxnId::new(commit, 0),
                            commit,
                            row: change.row,
                        };
                        tree.page_mut(&change.key).1.commit(entry, change.rows);
                        tree.rows = tree.rows.checked_add_signed(change.rows).unwrap();
                    }
                }
            }
            let expected: Vec<Vec<i64>> = model.values().map(|row| row.to_vec()).collect();
            prop_assert_eq!(rows_of(&trees[0], &schema.layouts()[0]), expected);
            let mut by_b: Vec<Vec<i64>> = model.values().map(|row| vec![row[1], row[0]]).collect();
            by_b.sort();
            prop_assert_eq!(rows_of(&trees[1], &schema.layouts()[1]), by_b);
            prop_assert!(trees.iter().all(|tree| tree.rows == model.len() as u64));
        }
    }
}
