//! Many rows written into a collection part by part: what each part makes of a tree is stored at once, where nobody
//! looks, and the commit puts it into its place.
//!
//! As [`super::merge`], but neither a result nor a batch grows with the rows.

use std::sync::Arc;

use bytes::Bytes;

use super::columns::{Columns, ColumnsBuilder, cut, sort};
use super::key::{Key, KeyRange};
use super::merge::{combine, current};
use super::page::{Page, PageCell, Statistics, Tree};
use super::runs::{Run, Runs};
use super::scan::LoadPage;
use super::schema::{Layout, Schema};
use crate::value::ids::TreeId;

/// Rows or entries, of which each part takes its own.
#[derive(Clone, Debug)]
pub enum PartRows {
    /// In memory, sorted by key, each key once.
    Resident(Columns),
    /// In scratch space. What merging them makes of the primary tree says which entries of the indices come and go.
    Spilled(Arc<Runs>),
}

impl PartRows {
    fn gather(&self, layout: &Layout, range: &KeyRange) -> Result<Columns, Unmerged> {
        match self {
            Self::Resident(rows) => Ok(within(layout, rows, range)),
            Self::Spilled(runs) => runs.gather(layout, range).map_err(Unmerged::Scratch),
        }
    }
}

/// The rows of a range of keys.
fn within(layout: &Layout, rows: &Columns, range: &KeyRange) -> Columns {
    let end = range.end.as_ref().map_or(rows.len(), |end| rows.lower_bound(layout, end));
    rows.slice(rows.lower_bound(layout, &range.start)..end)
}

/// A part of the work.
#[derive(Clone, Debug)]
pub struct PartOfMerge {
    /// What the rows are.
    pub schema: Arc<Schema>,
    /// The collection.
    pub trees: Arc<Vec<Tree>>,
    /// Into which tree of it rows are merged.
    pub tree: TreeId,
    /// Its rows, or entries.
    pub added: PartRows,
    /// Rows that go, or the entries of rows that were replaced.
    pub removed: Option<PartRows>,
    /// The keys of this part: as [`Runs::parts`] cuts them, or whole pages.
    pub range: KeyRange,
}

/// The content of a new page, as it is stored.
#[derive(Clone, Debug)]
pub struct NewPage {
    /// Its least key.
    pub low: Key,
    /// How many rows it has.
    pub rows: usize,
    /// What it takes in memory, in bytes.
    pub bytes: usize,
    /// What is known of its columns.
    pub statistics: Arc<Statistics>,
    /// The stored form.
    pub content: Bytes,
}

/// What a part makes of a tree.
#[derive(Debug)]
pub struct MergedPart {
    /// Whether rows only go.
    pub is_delete: bool,
    /// The tree.
    pub tree: TreeId,
    /// The ranges of old pages, in order, and (a part of) what is there instead.
    pub replaced: Vec<(KeyRange, Vec<NewPage>)>,
    /// How many rows the tree has more.
    pub rows: i64,
    /// Of rows: the entries of each index that come and those that go.
    pub entries: Vec<(Run, Run)>,
}

/// Why a part cannot be merged.
#[derive(Debug)]
pub enum Unmerged {
    /// A page cannot be read.
    Page(String),
    /// The scratch space fails.
    Scratch(String),
}

/// What a part has made of a tree, stored.
#[derive(Debug)]
pub struct StagedPart {
    /// As in [`MergedPart`], with new pages by their least keys.
    pub replaced: Vec<(KeyRange, Vec<(Key, Page)>)>,
    /// How many rows the tree has more.
    pub rows: i64,
    /// See [`MergedPart::entries`].
    pub entries: Vec<(Run, Run)>,
    /// What a commit has to store to put the pages into their places, in bytes.
    pub commit_bytes: u64,
    /// What was stored for it, in bytes.
    pub stored_bytes: u64,
}

/// What all parts have made of a tree.
#[derive(Debug, Default)]
pub struct StagedTree {
    /// The ranges of old pages, in order, and what is there instead, by least keys.
    pub replaced: Vec<(KeyRange, Vec<(Key, Page)>)>,
    /// How many rows the tree has more.
    pub rows: i64,
}

/// What many rows make of a collection, stored but for its place.
#[derive(Debug, Default)]
pub struct Staged {
    /// Each tree, the primary one first.
    pub trees: Vec<StagedTree>,
    /// Bases that were stored for it and are in no tree: what was written later has taken their places. Each with the
    /// number of the tree that it was in.
    pub superseded: Vec<(u16, Arc<PageCell>)>,
    /// Whether rows only go.
    pub is_delete: bool,
}

impl Staged {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.trees.iter().all(|tree| tree.replaced.is_empty())
    }
}

impl StagedTree {
    /// Add what the next part has made.
    pub fn push(&mut self, part: &StagedPart) {
        self.rows += part.rows;
        for (range, pages) in &part.replaced {
            match self.replaced.last_mut() {
                // A page may lie in several parts.
                Some((last, before)) if last.start == range.start => before.extend_from_slice(pages),
                _ => self.replaced.push((range.clone(), pages.clone())),
            }
        }
    }
}

impl PartOfMerge {
    /// Merge.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub fn merge(&self, load: &LoadPage<'_>) -> Result<MergedPart, Unmerged> {
        let layouts = self.schema.layouts();
        let layout = &layouts[usize::from(self.tree.tree)];
        let added = self.added.gather(layout, &self.range)?;
        let removed = match &self.removed {
            Some(removed) => removed.gather(layout, &self.range)?,
            None => Columns::empty(&layout.types),
        };
        let mut merged = MergedPart {
            is_delete: added.is_empty(),
            tree: self.tree,
            replaced: Vec::new(),
            rows: 0,
            entries: Vec::new(),
        };
        let mut before = Vec::new();
        // Whoever has the rows in memory knows the entries.
        let runs = match &self.added {
            PartRows::Spilled(runs) if self.tree.tree == 0 && layouts.len() > 1 => Some(runs),
            _ => None,
        };
        let tree = &self.trees[usize::from(self.tree.tree)];
        for (low, page) in tree.pages_in(&self.range) {
            let place = tree.place(low).range;
            let range = place.intersection(&self.range);
            let within = |rows: &Columns| within(layout, rows, &range);
            let (added, removed) = (within(&added), within(&removed));
            // Of a page that lies in several parts, each makes its part anew: none knows what the others do.
            let is_shared = range != place && page.rows > 0;
            if added.is_empty() && removed.is_empty() && !is_shared {
                continue;
            }
            let content = within(&current(layout, page, load).map_err(Unmerged::Page)?);
            let rows = combine(layout, &content, &added, &removed, runs.is_some().then_some(&mut before));
            merged.rows += rows.len() as i64 - content.len() as i64;
            let pages = cut(&rows).into_iter().map(|page| NewPage {
                low: page.key(layout, 0),
                rows: page.len(),
                bytes: page.bytes(),
                statistics: Arc::new(Statistics::of(&page)),
                content: page.encode(),
            });
            merged.replaced.push((place, pages.collect()));
        }
        if let Some(runs) = runs {
            let mut gone = ColumnsBuilder::new(&layout.types);
            before.iter().for_each(|rows| gone.push_range(rows, 0..rows.len()));
            let gone = gone.finish();
            for layout in &layouts[1..] {
                let run = |rows: &Columns| {
                    let entries = sort(layout, rows.project(&layout.columns));
                    runs.write(layout, &entries).map_err(Unmerged::Scratch)
                };
                merged.entries.push((run(&added)?, run(&gone)?));
            }
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rows::bulk::Bulk;
    use crate::rows::merge::merge;
    use crate::rows::merge::tests::{apply, columns, join, rows_of, schema};
    use crate::rows::runs::MemoryScratch;
    use crate::value::ids::{ChainId, HostedCollection, PageId};

    const NOTHING_IS_STORED: &LoadPage<'_> = &|_, _| Err("everything is in memory".to_string());

    /// These rows, spilled every so many rows.
    fn spilled(rows: &[[i64; 3]], rows_per_run: usize, part_bytes: usize) -> (Arc<Bulk>, Runs) {
        let schema = schema();
        let layout = &schema.layouts()[0];
        let mut runs = Runs::new(Arc::new(MemoryScratch::default()), part_bytes);
        for rows in rows.chunks(rows_per_run) {
            let run = runs.write(layout, &sort(layout, columns(&schema, rows))).unwrap();
            runs.push(run);
        }
        (Arc::new(Bulk::spilled(schema.clone(), runs.clone(), runs.rows())), runs)
    }

    /// Merge part by part and put what comes of it into its place, as the world does; how many parts there were.
    fn merge_parts(bulk: &Arc<Bulk>, runs: &Runs, trees: &mut [Tree], next: &mut u64) -> usize {
        let layouts = bulk.schema().layouts();
        let before = Arc::new(trees.to_vec());
        let mut entries = vec![(runs.beside(), runs.beside()); layouts.len() - 1];
        let mut parts = 0;
        for tree in 0..layouts.len() {
            let (added, removed) = match tree.checked_sub(1) {
                None => (runs.clone(), None),
                Some(index) => (entries[index].0.clone(), Some(entries[index].1.clone())),
            };
            let mut merged = StagedTree::default();
            for range in Runs::parts(&removed.iter().chain([&added]).collect::<Vec<_>>()) {
                let collection = HostedCollection { chain: ChainId(0), slot: 0 };
                let part = PartOfMerge {
                    schema: bulk.schema().clone(),
                    trees: before.clone(),
                    tree: TreeId::of(collection, tree as u16),
                    added: PartRows::Spilled(Arc::new(added.clone())),
                    removed: removed.clone().map(|runs| PartRows::Spilled(Arc::new(runs))),
                    range,
                };
                let part = part.merge(NOTHING_IS_STORED).unwrap();
                parts += 1;
                for ((added, removed), (coming, going)) in entries.iter_mut().zip(part.entries) {
                    added.push(coming);
                    removed.push(going);
                }
                let mut page = |new: NewPage| {
                    *next += 1;
                    let content = Columns::decode(&layouts[tree].types, new.content).unwrap();
                    assert_eq!((content.len(), content.bytes()), (new.rows, new.bytes));
                    let base = Some(Arc::new(PageCell::resident(PageId(*next), content)));
                    (new.low, Page { base, rows: new.rows as u64, ..Page::empty() })
                };
                let replaced = part.replaced.into_iter();
                let replaced = replaced
                    .map(|(range, pages)| (range, pages.into_iter().map(&mut page).collect()))
                    .collect();
                let (rows, entries) = (part.rows, Vec::new());
                merged.push(&StagedPart { replaced, rows, entries, commit_bytes: 0, stored_bytes: 0 });
            }
            let tree = &mut trees[tree];
            tree.rows = tree.rows.checked_add_signed(merged.rows).unwrap();
            for (range, pages) in merged.replaced {
                tree.replace_range(&range, pages);
            }
        }
        parts
    }

    proptest! {
        #[test]
        fn merging_part_by_part_equals_merging_in_memory(
            loads in prop::collection::vec(
                prop::collection::vec([0i64..300, 0i64..5, 0i64..9], 1..200), 1..5),
            rows_per_run in 1usize..60,
            part_bytes in 1usize..2_000,
        ) {
            let schema = schema();
            let (mut whole, mut parts) = (vec![Tree::empty(); 2], vec![Tree::empty(); 2]);
            let mut next = 0;
            for rows in &loads {
                let sorted = sort(&schema.layouts()[0], columns(&schema, rows));
                let merged = merge(&schema, &sorted, &whole, NOTHING_IS_STORED, &join).unwrap();
                apply(&mut whole, merged, &mut next);
                let (bulk, runs) = spilled(rows, rows_per_run, part_bytes);
                merge_parts(&bulk, &runs, &mut parts, &mut next);
                for (i, layout) in schema.layouts().iter().enumerate() {
                    prop_assert_eq!(rows_of(&parts[i], layout), rows_of(&whole[i], layout));
                    prop_assert_eq!(parts[i].rows, whole[i].rows);
                }
            }
        }
    }

    #[test]
    fn parts_are_small_and_leave_alone_what_is_between_them() {
        let mut trees = vec![Tree::empty(); 2];
        let mut next = 0;
        let rows: Vec<[i64; 3]> = (0..20_000).map(|i| [i * 10, i % 7, i]).collect();
        let (bulk, runs) = spilled(&rows, 3_000, 64 << 10);
        let parts = merge_parts(&bulk, &runs, &mut trees, &mut next);
        assert!(parts >= 8, "{parts}");
        let pages = |tree: &Tree| -> Vec<PageId> {
            tree.iter().map(|(_, page)| page.base.as_ref().unwrap().id()).collect()
        };
        let before = pages(&trees[0]);
        let (bulk, runs) = spilled(&[[5, 0, 0], [199_995, 0, 0]], 1, 1);
        assert_eq!(merge_parts(&bulk, &runs, &mut trees, &mut next), 4);
        let kept = pages(&trees[0]).into_iter().filter(|page| before.contains(page)).count();
        // The first page, the last one, and one that lies in two parts.
        assert!(kept >= before.len() - 3, "{kept} of {}", before.len());
        assert_eq!(trees[0].rows, 20_002);
    }
}
