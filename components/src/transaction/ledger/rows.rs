//! What a transaction sees and changes of the rows of hosted collections.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Content, Ledger, Want, ask, writes_too_much};
use crate::language::chain::Recorded;
use crate::rows::change::{Change, RowChange};
use crate::rows::key::{Key, KeyRange};
use crate::rows::merge::Merged;
use crate::rows::page::{PageCell, Tree};
use crate::rows::rewrite::{OwnTrees, RowChanges, WrittenChanges};
use crate::rows::schema::Schema;
use crate::rows::seen::{OwnRows, RowsSnapshot};
use crate::rows::staged::{Staged, StagedTree};
use crate::rows::{Row, row_bytes};
use crate::transaction::lock::{LockMode, LockRange, Resource};
use crate::value::error::Result;
use crate::value::ids::{ChainId, HostedCollection, PageId, TreeId};
use crate::value::limits::TRANSACTION_BYTES_MAX;

/// How many keys and ranges of a collection a transaction locks one by one. With more it locks whole trees.
pub const LOCKED_KEYS_MAX: usize = 1_024;

/// How often a transaction gets twice as much memory for changes because they lie scattered.
const SCATTERED_MAX: u32 = 2;

/// What a changed row takes beside its key and what it was and is, in bytes.
const CHANGE_BYTES: u64 = 64;

/// What a transaction has changed of a collection.
#[derive(Debug, Default)]
pub struct RowsChange {
    /// Rows that were written one by one, in the order of their keys.
    pub rows: Vec<RowChange>,
    /// What that changes in the trees.
    pub entries: Vec<Change>,
    /// Rows that were merged into all of it.
    pub merged: Option<Arc<Merged>>,
    /// The same, stored already.
    pub staged: Option<Staged>,
}

impl RowsChange {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.merged.is_none() && self.staged.is_none()
    }
}

/// What a transaction sees of a hosted collection.
#[derive(Debug)]
pub(super) struct RowsView {
    schema: Arc<Schema>,
    /// What was committed, as it was when the last lock was granted.
    trees: Arc<Vec<Tree>>,
    /// The trees with what the transaction has written into pages, if it has.
    own_trees: Option<OwnTrees>,
    /// The rows that the transaction has changed besides, by their keys.
    changes: WrittenChanges,
    /// What they count on the account of the transaction, in bytes.
    change_bytes: u64,
    /// Whether they are on their way into pages: until they are there, no other row changes.
    is_rewriting: bool,
    /// How often that was begun.
    rewrites: u64,
    /// The generations of its own trees that are being read, and by how many.
    readers: BTreeMap<u64, usize>,
    /// Whether what has begun to read these may go on when the transaction has ended.
    is_kept: bool,
    /// The same for each tree, once a snapshot was taken.
    own: Option<Vec<OwnRows>>,
    merged: Option<Arc<Merged>>,
    staged: Option<Staged>,
    locked_keys: BTreeSet<(u16, Key, LockMode)>,
    /// Those for reading or writing, and those for writing.
    locked_ranges: [Ranges; 2],
    /// How many locks were granted.
    locks: usize,
}

/// Ranges of keys of some trees; those that touch are one.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<(u16, Key), Option<Key>>);

impl Ranges {
    fn insert(&mut self, tree: u16, range: &KeyRange) {
        let KeyRange { mut start, mut end } = range.clone();
        while let Some((place, other_end)) = self.last_until(tree, end.as_ref())
            && other_end.as_ref().is_none_or(|other_end| *other_end >= start)
        {
            let (_, other_start) = &place;
            start = start.min(other_start.clone());
            end = end.zip(other_end).map(|(end, other_end)| end.max(other_end));
            self.0.remove(&place);
        }
        self.0.insert((tree, start), end);
    }

    /// The last range of a tree that begins up to a key.
    fn last_until(&self, tree: u16, key: Option<&Key>) -> Option<((u16, Key), Option<Key>)> {
        let until = match key {
            Some(key) => Bound::Included((tree, key.clone())),
            None => Bound::Excluded((tree + 1, Key::EMPTY)),
        };
        let last = self.0.range((Bound::Included((tree, Key::EMPTY)), until)).next_back();
        last.map(|(place, end)| (place.clone(), end.clone()))
    }

    /// Whether every key of a range is in these.
    fn covers(&self, tree: u16, range: &LockRange) -> bool {
        let (start, end) = match range {
            LockRange::Key(key) => (key, None),
            LockRange::Range(range) if range.is_empty() => return true,
            LockRange::Range(range) => (&range.start, Some(&range.end)),
        };
        let Some((_, last)) = self.last_until(tree, Some(start)) else { return false };
        match (last, end) {
            (None, _) => true,
            (Some(last), None) => *start < last,
            (Some(last), Some(end)) => end.as_ref().is_some_and(|end| *end <= last),
        }
    }
}

impl RowsView {
    fn is_locked(&self, tree: u16, range: &LockRange, mode: LockMode) -> bool {
        if let LockRange::Key(key) = range
            && [LockMode::Read, LockMode::Write]
                .into_iter()
                .any(|held| held >= mode && self.locked_keys.contains(&(tree, key.clone(), held)))
        {
            return true;
        }
        self.locked_ranges[mode as usize].covers(tree, range)
    }

    /// The trees as the transaction sees them without its changes.
    fn seen_trees(&self) -> &Arc<Vec<Tree>> {
        self.own_trees.as_ref().map_or(&self.trees, OwnTrees::trees)
    }

    pub(super) fn into_changes(self) -> RowsChange {
        let rows: Vec<RowChange> = Arc::unwrap_or_clone(self.changes)
            .into_values()
            .filter(|change| change.old.is_some() || change.new.is_some())
            .collect();
        let entries = rows.iter().flat_map(|change| change.in_trees(&self.schema)).collect();
        // A commit without a change would wait for a batch that nobody stores.
        let has_changes = |merged: &Arc<Merged>| merged.trees.iter().any(|tree| !tree.replaced.is_empty());
        let staged = self.staged.or_else(|| self.own_trees.map(OwnTrees::into_staged));
        let (merged, staged) = (self.merged.filter(has_changes), staged.filter(|staged| !staged.is_empty()));
        RowsChange { rows, entries, merged, staged }
    }

    fn assert_locked_whole(&self) {
        for tree in 0..self.trees.len() {
            let is_locked = self.is_locked(tree as u16, &LockRange::all(), LockMode::Write);
            assert!(is_locked, "only a collection that is locked for writing changes as a whole");
        }
    }

    /// What the transaction has written, for each tree.
    fn own(&mut self) -> &mut Vec<OwnRows> {
        self.own.get_or_insert_with(|| {
            let mut own = vec![OwnRows::new(); self.trees.len()];
            for change in self.changes.values().flat_map(|change| change.in_trees(&self.schema)) {
                own[change.tree].insert(change.key, change.row);
            }
            own
        })
    }
}

/// Whether a row may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MayChange {
    /// Yes, as long as changes have begun to go into pages no more than so often.
    Now(u64),
    /// When changes that are on their way are in pages.
    Later,
    /// When the changes of this collection are in pages, for which somebody has to see.
    After(HostedCollection),
}

/// Says that pages of the transaction's own are being read, until it is dropped: they do not go meanwhile.
#[derive(Debug)]
pub struct Reading(Option<(Arc<Ledger>, HostedCollection, u64)>);

impl Drop for Reading {
    fn drop(&mut self) {
        let Some((ledger, collection, generation)) = self.0.take() else { return };
        let content = &mut *ledger.content();
        // What the transaction has changed may have been taken.
        let Some(view) = content.collections.get_mut(&collection) else { return };
        let count = view.readers.get_mut(&generation).expect("a reader");
        *count -= 1;
        if *count == 0 {
            view.readers.remove(&generation);
        }
    }
}

impl Ledger {
    // For the program.

    /// Whether a part of a collection is locked so, else ask for the lock.
    pub fn has_lock(
        &self,
        collection: HostedCollection,
        tree: u16,
        range: &LockRange,
        mode: LockMode,
    ) -> bool {
        let content = &mut *self.content();
        let view = content.collections.get(&collection);
        if view.is_some_and(|view| view.is_locked(tree, range, mode)) {
            return true;
        }
        if mode == LockMode::Write && view.is_some_and(|view| view.is_locked(tree, range, LockMode::Read)) {
            content.upgraded.insert(collection);
        }
        let is_many = view.is_some_and(|view| view.locks >= LOCKED_KEYS_MAX);
        let range = if is_many { LockRange::all() } else { range.clone() };
        ask(content, Want::Lock(Resource { tree: TreeId::of(collection, tree), range }, mode));
        false
    }

    /// How a row that is read is to be locked: for writing, if that is what comes next.
    pub fn read_mode(&self, collection: HostedCollection) -> LockMode {
        if self.content().for_update.contains(&collection) { LockMode::Write } else { LockMode::Read }
    }

    /// A collection as it is now, with the transaction's own changes, as long as it is being read.
    ///
    /// # Panics
    /// If nothing of it is locked.
    pub fn rows(self: &Arc<Self>, collection: HostedCollection) -> (RowsSnapshot, Reading) {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        let reading = self.reading(collection, view);
        let rows = RowsSnapshot {
            own: view.own().clone(),
            schema: view.schema.clone(),
            trees: view.seen_trees().clone(),
            is_own: view.own_trees.is_some(),
            visibility: self.visibility,
        };
        (rows, reading)
    }

    /// What the transaction has begun to read of a collection may be read when it has ended.
    pub fn keep_pages(&self, collection: HostedCollection) {
        self.content().collections.get_mut(&collection).expect("a collection with a lock").is_kept = true;
    }

    fn reading(self: &Arc<Self>, collection: HostedCollection, view: &mut RowsView) -> Reading {
        // What is committed is kept by the world.
        Reading(view.own_trees.as_ref().map(|own| {
            *view.readers.entry(own.generation()).or_default() += 1;
            (self.clone(), collection, own.generation())
        }))
    }

    /// The transaction's own version of a row of the primary tree, if it has written one.
    pub fn own_row(&self, collection: HostedCollection, key: &Key) -> Option<Option<Row>> {
        self.content().collections.get(&collection)?.changes.get(key).map(|change| change.new.clone())
    }

    /// The trees of a collection as the transaction sees them without [`Self::own_row`]s.
    ///
    /// # Panics
    /// If nothing of it is locked.
    pub fn trees(self: &Arc<Self>, collection: HostedCollection) -> (Arc<Vec<Tree>>, Reading) {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        (view.seen_trees().clone(), self.reading(collection, view))
    }

    /// What the rows of a collection are.
    ///
    /// # Panics
    /// If nothing of it is locked.
    pub fn rows_schema(&self, collection: HostedCollection) -> Arc<Schema> {
        self.content().collections[&collection].schema.clone()
    }

    /// The committed trees of a collection, whatever the transaction has written.
    ///
    /// # Panics
    /// If nothing of it is locked.
    pub fn committed_trees(&self, collection: HostedCollection) -> Arc<Vec<Tree>> {
        self.content().collections[&collection].trees.clone()
    }

    /// Whether a row of a collection may change now. It may not while changes are on their way into pages, nor if what the
    /// transaction has changed and keeps in memory takes more than this, in bytes. It may take a few times as much if what
    /// it changes lies scattered over many pages ([`Self::note_scattered`]) and the transaction holds little else.
    pub fn may_change(&self, collection: HostedCollection, bytes_max: u64) -> MayChange {
        let content = self.content();
        let view = content.collections.get(&collection).expect("a collection with a lock");
        if view.is_rewriting {
            return MayChange::Later;
        }
        let change_bytes = content.collections.values().map(|view| view.change_bytes).sum::<u64>();
        let has_much = content.bytes > TRANSACTION_BYTES_MAX / 4 * 3;
        let patience = if has_much { 1 } else { 1 << content.scattered };
        if change_bytes <= bytes_max.saturating_mul(patience) {
            return MayChange::Now(view.rewrites);
        }
        let fullest = content.collections.iter().max_by_key(|(_, view)| view.change_bytes);
        let (fullest, view_of_fullest) = fullest.expect("a collection that was changed");
        match view_of_fullest.is_rewriting {
            // Somebody else sees to it.
            true => MayChange::Now(view.rewrites),
            false => MayChange::After(*fullest),
        }
    }

    /// What the transaction has changed made it write many times as much anew: with more changes at once it is less in all.
    pub fn note_scattered(&self) {
        let content = &mut *self.content();
        content.scattered = (content.scattered + 1).min(SCATTERED_MAX);
    }

    /// The collections with pages of the transaction's own, or more changes than this, and changes that are in no page.
    pub fn unsettled(&self, changes_max: usize) -> Vec<HostedCollection> {
        let content = self.content();
        let is_unsettled = |view: &RowsView| {
            let changes = view.changes.len();
            changes > changes_max || (changes > 0 && view.own_trees.is_some())
        };
        let views = content.collections.iter().filter(|(_, view)| is_unsettled(view));
        views.map(|(collection, _)| *collection).collect()
    }

    /// Begin to write the changes of a collection, which is locked for writing as a whole, into pages, `part_bytes` at once.
    /// None if somebody else does that.
    ///
    /// # Panics
    /// If it is not locked.
    pub fn begin_rewrite(&self, collection: HostedCollection, part_bytes: usize) -> Option<RowChanges> {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        view.assert_locked_whole();
        if view.is_rewriting {
            return None;
        }
        view.is_rewriting = true;
        view.rewrites += 1;
        let (schema, trees, changes) = (view.schema.clone(), view.seen_trees().clone(), view.changes.clone());
        Some(RowChanges { schema, trees, changes, part_bytes })
    }

    /// What was begun with [`Self::begin_rewrite`] is stored, for each tree, or could not be done. `is_delete` if rows only
    /// go. The size of the transaction's own pages that are in no tree any more, in bytes, and the changes, of which it may
    /// take long to let go.
    pub fn end_rewrite(
        &self,
        collection: HostedCollection,
        staged: Option<Vec<StagedTree>>,
        is_delete: bool,
    ) -> (u64, WrittenChanges) {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        assert!(std::mem::take(&mut view.is_rewriting), "what ends has begun");
        // Who waits for this may have been polled before, and asks the world for nothing.
        content.out_of_fuel = true;
        let mut changes = WrittenChanges::default();
        if let Some(staged) = staged {
            let own_trees = view.own_trees.get_or_insert_with(|| OwnTrees::new(view.trees.clone()));
            own_trees.place(staged, is_delete);
            if !view.is_kept {
                let readers = &view.readers;
                let free = own_trees.free(|seen| readers.range(seen.clone()).next().is_some());
                content.freed_pages.extend(free);
            }
            changes = std::mem::take(&mut view.changes);
            view.own = None;
            content.bytes -= std::mem::take(&mut view.change_bytes);
        }
        let own_trees = content.collections.values().filter_map(|view| view.own_trees.as_ref());
        (own_trees.map(OwnTrees::superseded_bytes).sum(), changes)
    }

    /// Change a row that is locked for writing, from what the transaction sees of it: since when, [`Self::may_change`] has
    /// said. False if changes have gone into pages since, perhaps also of this row; then nothing has changed.
    ///
    /// # Errors
    /// 413 if the transaction writes too much; then nothing has changed.
    ///
    /// # Panics
    /// If the row is not locked for writing, or changes are on their way into pages.
    pub fn change_row(
        &self,
        collection: HostedCollection,
        key: &Key,
        change: RowChange,
        since: u64,
    ) -> Result<bool> {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        let range = LockRange::Key(key.clone());
        assert!(view.is_locked(0, &range, LockMode::Write), "only a row that is locked for writing changes");
        if view.rewrites != since {
            return Ok(false);
        }
        assert!(!view.is_rewriting, "what is on its way into pages stays as it is");
        let rows_written = u64::from(change.old.is_some() || change.new.is_some());
        content.rows_written = Some(content.rows_written.unwrap_or(0) + rows_written);
        if change.is_nothing(&view.schema) {
            return Ok(true);
        }
        let row_bytes = |row: &Option<Row>| row.as_ref().map_or(0, |row| row_bytes(row));
        let bytes = CHANGE_BYTES + key.len() as u64 + row_bytes(&change.old) + row_bytes(&change.new);
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(writes_too_much());
        }
        content.bytes += bytes;
        view.change_bytes += bytes;
        if let Some(own) = &mut view.own {
            for change in change.in_trees(&view.schema) {
                own[change.tree].insert(change.key, change.row);
            }
        }
        let changes = Arc::make_mut(&mut view.changes);
        match changes.get_mut(key) {
            Some(before) => before.new = change.new,
            None => {
                changes.insert(key.clone(), change);
            }
        }
        Ok(true)
    }

    /// Merge many rows into a collection that is locked for writing as a whole.
    ///
    /// # Panics
    /// If it is not, or if the transaction has written to it already.
    pub fn merge_rows(&self, collection: HostedCollection, merged: Arc<Merged>) {
        self.change_whole(collection, |view| view.merged = Some(merged));
    }

    /// Put pages that are stored into their places, as [`Self::merge_rows`] does.
    ///
    /// # Panics
    /// As that.
    pub fn place_rows(&self, collection: HostedCollection, staged: Staged) {
        self.change_whole(collection, |view| view.staged = Some(staged));
    }

    fn change_whole(&self, collection: HostedCollection, change: impl FnOnce(&mut RowsView)) {
        let content = &mut *self.content();
        let view = content.collections.get_mut(&collection).expect("a collection with a lock");
        view.assert_locked_whole();
        let is_written = view.merged.is_some() || view.staged.is_some() || view.own_trees.is_some();
        let is_unchanged = view.changes.is_empty() && !is_written;
        assert!(is_unchanged, "rows are merged into what is committed");
        change(view);
    }

    /// Let the history of a chain around collections record changes.
    ///
    /// # Errors
    /// 413 if the transaction would hold more than [`TRANSACTION_BYTES_MAX`].
    pub fn record(&self, chain: ChainId, recorded: Recorded) -> Result<()> {
        if recorded.is_empty() {
            return Ok(());
        }
        let content = &mut *self.content();
        let bytes = recorded.bytes();
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(writes_too_much());
        }
        content.bytes += bytes;
        content.recorded.entry(chain).or_default().append(recorded);
        Ok(())
    }

    /// Ask for the content of a page.
    pub fn want_page(&self, cell: &PageCell) {
        let content = &mut *self.content();
        let want = Want::Page(cell.id());
        if !content.wants.contains(&want) {
            content.wants.push(want);
        }
    }

    /// Note that a page was read.
    pub fn note_page(&self, cell: &PageCell) {
        cell.note_use(self.tick.load(Relaxed));
    }

    /// Note that what a commit wrote was read.
    pub fn note_commit(&self, commit: u64) {
        let content = &mut *self.content();
        content.seen_commit = content.seen_commit.max(commit);
    }

    /// Ask to begin again, because what the transaction would see is gone.
    pub fn want_restart(&self) {
        ask(&mut self.content(), Want::Restart);
    }

    // For the world.

    /// Pages that were stored for the transaction, and that it will not look at any more, since the last call.
    pub fn take_freed_pages(&self) -> Vec<PageId> {
        std::mem::take(&mut self.content().freed_pages)
    }

    /// Grant a lock on a part of a collection: show the program its newest trees.
    pub fn grant_rows(
        &self,
        resource: &Resource,
        mode: LockMode,
        schema: &Arc<Schema>,
        trees: &Arc<Vec<Tree>>,
    ) {
        let (collection, tree) = (resource.tree.collection(), resource.tree.tree);
        let content: &mut Content = &mut self.content();
        let view = content.collections.entry(collection).or_insert_with(|| {
            Box::new(RowsView {
                schema: schema.clone(),
                trees: trees.clone(),
                own_trees: None,
                changes: Arc::default(),
                change_bytes: 0,
                is_rewriting: false,
                rewrites: 0,
                readers: BTreeMap::new(),
                is_kept: false,
                own: None,
                merged: None,
                staged: None,
                locked_keys: BTreeSet::new(),
                locked_ranges: Default::default(),
                locks: 0,
            })
        });
        view.trees = trees.clone();
        match &resource.range {
            LockRange::Key(key) => {
                view.locked_keys.insert((tree, key.clone(), mode));
            }
            LockRange::Range(range) => {
                for held in &mut view.locked_ranges[..=mode as usize] {
                    held.insert(tree, range);
                }
            }
        }
        view.locks += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> Key {
        vec![byte].into()
    }

    fn range(start: u8, end: u8) -> KeyRange {
        // Beyond what is asked for, it has no end.
        KeyRange { start: key(start), end: (end < 30).then(|| key(end)) }
    }

    proptest! {
        #[test]
        fn ranges_that_touch_are_one_and_cover_what_each_key_says(
            held in prop::collection::vec((0_u16..2, 0_u8..30, 1_u8..8), 0..30),
            asked in prop::collection::vec((0_u16..2, 0_u8..30, 1_u8..8), 30),
        ) {
            let mut ranges = Ranges::default();
            for (tree, start, len) in &held {
                ranges.insert(*tree, &range(*start, start + len));
            }
            let is_held = |tree: u16, byte: u8| {
                held.iter().any(|(other, start, len)| *other == tree && range(*start, start + len).contains(&key(byte)))
            };
            for (tree, start, len) in asked {
                let covered = (start..(start + len).min(30)).all(|byte| is_held(tree, byte));
                let is_open = start + len >= 30;
                let covered = covered && (!is_open || is_held(tree, 200));
                prop_assert_eq!(ranges.covers(tree, &LockRange::Range(range(start, start + len))), covered);
                prop_assert_eq!(ranges.covers(tree, &LockRange::Key(key(start))), is_held(tree, start));
            }
            let (one, two) = (ranges.0.iter(), ranges.0.iter().skip(1));
            let are_apart = one.zip(two).all(|(((tree, _), end), ((next_tree, next), _))| {
                tree != next_tree || end.as_ref().is_some_and(|end| end < next)
            });
            prop_assert!(are_apart);
        }
    }
}
