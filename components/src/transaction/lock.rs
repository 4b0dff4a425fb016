//! Locks, and the tables that find them by what they lock.
//!
//! What is locked is a range of keys of a tree: of a collection, or of the one tree with one key that stands for the
//! value of a chain. Multi-version timestamp ordering needs to know of a range: who older than a transaction may still
//! write it, and who newer has read or written it already.
//!
//! Who waits, waits behind one other lock, an undecided write of an older transaction. When that one goes, only those
//! behind it are looked at: of writes that wait for one another that is the next one. So whatever waits, each lock costs
//! the logarithm of how many there are, a few times (`Intervals` says when it may be more).

mod intervals;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bevy_ecs::prelude::Component;
use slab::Slab;

use self::intervals::{Intervals, Question, Summarize};

use crate::rows::key::{Key, KeyRange};
use crate::value::ids::{ChainId, TreeId};
use crate::value::transaction_id::TxnId;

/// How a transaction wants to use what it locks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LockMode {
    /// See it.
    Read,
    /// See and change it.
    Write,
}

/// The keys that are locked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LockRange {
    /// One whole key.
    Key(Key),
    /// A range of keys.
    Range(KeyRange),
}

impl LockRange {
    /// Every key.
    pub fn all() -> Self {
        Self::Range(KeyRange::all())
    }

    /// Whether both hold a common key.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(this), Self::Key(that)) => this == that,
            (Self::Key(key), Self::Range(range)) | (Self::Range(range), Self::Key(key)) => {
                range.contains(key)
            }
            (Self::Range(this), Self::Range(that)) => this.overlaps(that),
        }
    }

    /// Whether every key of `other` is among these.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(this), Self::Key(that)) => this == that,
            (Self::Key(_), Self::Range(range)) => range.is_empty(),
            (Self::Range(range), Self::Key(key)) => range.contains(key),
            (Self::Range(this), Self::Range(that)) => this.covers(that),
        }
    }
}

/// What a lock is on.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Resource {
    /// The tree.
    pub tree: TreeId,
    /// The keys.
    pub range: LockRange,
}

impl Resource {
    /// The whole value of a chain.
    pub fn value(chain: ChainId) -> Self {
        Self { tree: TreeId::value(chain), range: LockRange::all() }
    }
}

/// Names a lock of a [`LockTable`] as long as it is held or waited for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LockId(u32);

/// A lock that a transaction holds or waits for.
#[derive(Clone, Debug)]
pub struct Lock {
    /// What is locked.
    pub resource: Resource,
    /// By whom.
    pub holder: TxnId,
    /// How.
    pub mode: LockMode,
    /// Whether it was granted; else it waits.
    pub is_granted: bool,
    /// The lock that it waits for; none if that has gone, and it is to be looked at again.
    behind: Option<LockId>,
    /// Those that wait for it, the oldest first.
    waiters: BTreeSet<(TxnId, LockId)>,
}

/// The locks on one range of keys that others have to look at.
#[derive(Debug, Default)]
struct Queue {
    /// Those for writing, granted or not: who is newer waits for them.
    writes: BTreeMap<TxnId, LockId>,
    /// Those that were granted: who is older comes too late to write.
    granted: BTreeSet<(TxnId, LockMode)>,
}

/// What is known of the locks on some ranges.
#[derive(Clone, Copy, Debug)]
struct QueueSummary {
    oldest_write: TxnId,
    newest_write: Option<(TxnId, LockId)>,
    newest_granted: TxnId,
}

impl Summarize for Queue {
    type Summary = QueueSummary;

    fn summarize(&self) -> QueueSummary {
        QueueSummary {
            oldest_write: self.writes.first_key_value().map_or(TxnId::MAX, |(id, _)| *id),
            newest_write: self.writes.last_key_value().map(|(id, lock)| (*id, *lock)),
            newest_granted: self.granted.last().map_or(TxnId::ZERO, |(id, _)| *id),
        }
    }

    fn join(this: QueueSummary, that: QueueSummary) -> QueueSummary {
        QueueSummary {
            oldest_write: this.oldest_write.min(that.oldest_write),
            newest_write: this.newest_write.max(that.newest_write),
            newest_granted: this.newest_granted.max(that.newest_granted),
        }
    }

    fn is_nothing(&self) -> bool {
        self.writes.is_empty() && self.granted.is_empty()
    }
}

/// After so many looks, any older write will do to wait for: then the newest of them is only better.
const LOOKS_MAX: u32 = 64;

/// Looks for an undecided write that is older than a transaction, the newest one if that is found soon.
struct OlderWrite {
    id: TxnId,
    found: Option<(TxnId, LockId)>,
    looks: u32,
}

impl Question<Queue> for OlderWrite {
    fn matters(&self, summary: &QueueSummary) -> bool {
        let is_better = self.found.is_none() || (self.looks < LOOKS_MAX && self.found < summary.newest_write);
        summary.oldest_write < self.id && is_better
    }

    fn take(&mut self, summary: &QueueSummary) -> bool {
        self.looks += 1;
        let is_enough = summary.newest_write.is_none_or(|(newest, _)| newest < self.id);
        if is_enough {
            self.found = self.found.max(summary.newest_write);
        }
        is_enough
    }

    fn look(&mut self, queue: &Queue) {
        self.looks += 1;
        let older = queue.writes.range(..self.id).next_back();
        self.found = self.found.max(older.map(|(id, lock)| (*id, *lock)));
    }
}

/// Looks for the newest transaction whose lock was granted.
struct NewestGranted(TxnId);

impl Question<Queue> for NewestGranted {
    fn matters(&self, summary: &QueueSummary) -> bool {
        summary.newest_granted > self.0
    }

    fn take(&mut self, summary: &QueueSummary) -> bool {
        self.0 = self.0.max(summary.newest_granted);
        true
    }

    fn look(&mut self, queue: &Queue) {
        self.take(&queue.summarize());
    }
}

/// The newest finished transaction that has read or written a range, as long as an older one is not finished.
#[derive(Debug, Default)]
struct Mark(TxnId);

impl Summarize for Mark {
    type Summary = TxnId;

    fn summarize(&self) -> TxnId {
        self.0
    }

    fn join(this: TxnId, that: TxnId) -> TxnId {
        this.max(that)
    }

    fn is_nothing(&self) -> bool {
        self.0 == TxnId::ZERO
    }
}

/// Looks for the newest mark.
struct NewestMark(TxnId);

impl Question<Mark> for NewestMark {
    fn matters(&self, newest: &TxnId) -> bool {
        *newest > self.0
    }

    fn take(&mut self, newest: &TxnId) -> bool {
        self.0 = self.0.max(*newest);
        true
    }

    fn look(&mut self, Mark(newest): &Mark) {
        self.0 = self.0.max(*newest);
    }
}

/// The locks on one tree. It is kept when there are none: there are as many trees as are configured.
#[derive(Debug, Default)]
struct TreeLocks {
    queues: Intervals<Queue>,
    marks: Intervals<Mark>,
}

/// How much the marks of a chain may take, in bytes, roughly. Beyond, the oldest are forgotten: whoever is older than
/// one of them, and so is the cause that it was kept, begins again if it still wants to write.
pub const MARKS_BYTES_MAX: u64 = 64 << 20;

/// What a mark takes beside the text of its keys, in bytes.
const MARK_BYTES: u64 = 256;

/// How many transactions are forgotten at most when another one is noted: more than come, and few enough not to be
/// noticed when many become obsolete at once.
const FORGOTTEN_AT_ONCE_MAX: usize = 8;

/// How a request for a lock went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Requested {
    /// It is held.
    Granted(LockId),
    /// It waits for an older transaction.
    Waits(LockId),
    /// The transaction has asked for it before.
    Known(LockId),
}

/// The locks on the trees of a chain, and what finished transactions did as long as that matters.
#[derive(Component, Debug, Default)]
pub struct LockTable {
    locks: Slab<Lock>,
    trees: BTreeMap<TreeId, TreeLocks>,
    /// The ranges of the marks, by transaction.
    marked: BTreeMap<TxnId, Vec<Resource>>,
    /// What they take, in bytes.
    marks_bytes: u64,
    /// The newest transaction whose marks were dropped: whoever is older must not write any more.
    floor: TxnId,
    /// How many nodes and locks were looked at.
    looks: AtomicU64,
}

impl LockTable {
    /// A table without locks; whoever is not after `floor` must not write.
    pub fn new(floor: TxnId) -> Self {
        Self { floor, ..Default::default() }
    }

    /// A lock.
    pub fn lock(&self, lock: LockId) -> &Lock {
        &self.locks[lock.0 as usize]
    }

    fn lock_mut(&mut self, lock: LockId) -> &mut Lock {
        &mut self.locks[lock.0 as usize]
    }

    /// Every lock.
    pub fn locks(&self) -> impl Iterator<Item = &Lock> {
        self.locks.iter().map(|(_, lock)| lock)
    }

    /// For whom a lock waits, if it does.
    pub fn waits_for(&self, lock: &Lock) -> Option<TxnId> {
        lock.behind.map(|behind| self.lock(behind).holder)
    }

    /// How many nodes and locks were looked at since the last call.
    pub fn take_looks(&mut self) -> u64 {
        std::mem::take(self.looks.get_mut())
    }

    fn note_looks(&self, looks: u64) {
        self.looks.fetch_add(looks, Relaxed);
    }

    /// Ask for a lock, and have it unless an older transaction may still write a part of it.
    pub fn request(&mut self, resource: Resource, holder: TxnId, mode: LockMode) -> Requested {
        let lock = LockId(u32::try_from(self.locks.vacant_key()).expect("less locks than fit in memory"));
        let behind = self.older_write(&resource, holder);
        let mut known = None;
        if behind.is_none() || mode == LockMode::Write {
            let tree = self.trees.entry(resource.tree).or_default();
            tree.queues.change(&resource.range, |queue| {
                known = queue.writes.get(&holder).copied().filter(|_| mode == LockMode::Write);
                if known.is_some() {
                    return;
                }
                if mode == LockMode::Write {
                    queue.writes.insert(holder, lock);
                }
                if behind.is_none() {
                    queue.granted.insert((holder, mode));
                }
            });
        }
        if let Some(known) = known {
            return Requested::Known(known);
        }
        let (is_granted, waiters) = (behind.is_none(), BTreeSet::new());
        self.locks.insert(Lock { resource, holder, mode, is_granted, behind: None, waiters });
        match behind {
            None => Requested::Granted(lock),
            Some(behind) => {
                self.wait(lock, behind);
                Requested::Waits(lock)
            }
        }
    }

    /// Grant a lock that waits for nobody any more, or else let it wait for the next one.
    pub fn grant(&mut self, lock: LockId) -> bool {
        let Lock { resource, holder, mode, is_granted, behind, .. } = self.lock(lock);
        assert!(!is_granted && behind.is_none(), "a lock is granted once, when nothing is in its way");
        let (resource, holder, mode) = (resource.clone(), *holder, *mode);
        if let Some(behind) = self.older_write(&resource, holder) {
            self.wait(lock, behind);
            return false;
        }
        debug_assert!(
            mode == LockMode::Read || self.newest_granted(&resource) <= holder,
            "nobody newer has come first"
        );
        self.lock_mut(lock).is_granted = true;
        let tree = self.trees.entry(resource.tree).or_default();
        tree.queues.change(&resource.range, |queue| {
            queue.granted.insert((holder, mode));
        });
        true
    }

    /// An undecided write of a part of a resource that is older than a transaction.
    fn older_write(&self, resource: &Resource, id: TxnId) -> Option<LockId> {
        let mut older = OlderWrite { id, found: None, looks: 0 };
        let tree = self.trees.get(&resource.tree);
        self.note_looks(1 + tree.map_or(0, |tree| tree.queues.ask(&resource.range, &mut older)));
        older.found.map(|(_, lock)| lock)
    }

    /// **Invariant.** Waits only point to older transactions, so there are no deadlocks.
    fn wait(&mut self, lock: LockId, behind: LockId) {
        let holder = self.lock(lock).holder;
        assert!(self.lock(behind).holder < holder, "waits only point to older transactions");
        self.lock_mut(lock).behind = Some(behind);
        self.lock_mut(behind).waiters.insert((holder, lock));
    }

    /// Let go of a lock; those that waited for it are to be [granted](Self::grant) now, or wait for another one.
    pub fn release(&mut self, lock: LockId) -> (Lock, BTreeSet<(TxnId, LockId)>) {
        let mut released = self.locks.remove(lock.0 as usize);
        let Lock { resource, holder, mode, is_granted, behind, .. } = &released;
        if let Some(behind) = behind {
            let is_there = self.lock_mut(*behind).waiters.remove(&(*holder, lock));
            assert!(is_there, "who waits is among those that wait");
        }
        if *is_granted || *mode == LockMode::Write {
            let tree = self.trees.get_mut(&resource.tree).expect("the locks on a tree");
            tree.queues.change(&resource.range, |queue| {
                queue.granted.remove(&(*holder, *mode));
                if *mode == LockMode::Write {
                    queue.writes.remove(holder);
                }
            });
        }
        let waiters = std::mem::take(&mut released.waiters);
        for (holder, waiter) in &waiters {
            let waiter = self.lock_mut(*waiter);
            assert!(waiter.behind == Some(lock) && waiter.holder == *holder && !waiter.is_granted);
            waiter.behind = None;
        }
        self.note_looks(1 + waiters.len() as u64);
        (released, waiters)
    }

    /// The newest transaction with a granted lock on a part of a resource.
    fn newest_granted(&self, resource: &Resource) -> TxnId {
        let mut newest = NewestGranted(TxnId::ZERO);
        if let Some(tree) = self.trees.get(&resource.tree) {
            self.note_looks(tree.queues.ask(&resource.range, &mut newest));
        }
        newest.0
    }

    /// Whether a transaction comes too late to write: another one that is newer, or has used its id, has read or written a
    /// part of this, or it must be assumed.
    pub fn is_too_late(&self, id: TxnId, resource: &Resource) -> bool {
        self.newest_mark(resource) >= id || self.newest_granted(resource) > id
    }

    /// Whether all of a tree is locked for writing by somebody.
    pub fn is_written_whole(&self, tree: TreeId) -> bool {
        let queue = self.trees.get(&tree).and_then(|tree| tree.queues.get(&LockRange::all()));
        queue.is_some_and(|queue| queue.granted.iter().any(|(_, mode)| *mode == LockMode::Write))
    }

    /// Note what a transaction has read or written. It is forgotten once no active transaction is older.
    pub fn mark(&mut self, id: TxnId, resource: Resource, oldest_active: TxnId) {
        self.forget(oldest_active);
        if id <= oldest_active {
            self.floor = self.floor.max(id);
            return;
        }
        let tree = self.trees.entry(resource.tree).or_default();
        tree.marks.change(&resource.range, |Mark(newest)| *newest = id.max(*newest));
        self.marks_bytes += mark_bytes(&resource);
        self.marked.entry(id).or_default().push(resource);
    }

    /// Forget some of what transactions did before which none is active, and what is too much.
    fn forget(&mut self, oldest_active: TxnId) {
        for _ in 0..FORGOTTEN_AT_ONCE_MAX {
            let Some(entry) = self.marked.first_entry() else { return };
            if *entry.key() >= oldest_active && self.marks_bytes <= MARKS_BYTES_MAX {
                return;
            }
            let (id, resources) = entry.remove_entry();
            self.floor = self.floor.max(id);
            for resource in resources {
                self.marks_bytes -= mark_bytes(&resource);
                let tree = self.trees.get_mut(&resource.tree).expect("the marks on a tree");
                tree.marks.change(&resource.range, |Mark(newest)| {
                    if *newest <= id {
                        *newest = TxnId::ZERO;
                    }
                });
            }
        }
    }

    /// The newest transaction of which it is known or must be assumed that it has read or written a part of this.
    pub fn newest_mark(&self, resource: &Resource) -> TxnId {
        let mut newest = NewestMark(self.floor);
        if let Some(tree) = self.trees.get(&resource.tree) {
            self.note_looks(tree.marks.ask(&resource.range, &mut newest));
        }
        newest.0
    }

    /// What the marks take, in bytes, roughly.
    pub fn marks_bytes(&self) -> u64 {
        self.marks_bytes
    }

    /// Whether nothing is locked or marked.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
            && self.trees.values().all(|tree| tree.queues.is_empty() && tree.marks.is_empty())
    }
}

fn mark_bytes(resource: &Resource) -> u64 {
    let texts = match &resource.range {
        LockRange::Key(key) => key.len(),
        LockRange::Range(range) => range.start.len() + range.end.as_ref().map_or(0, |end| end.len()),
    };
    MARK_BYTES + size_of::<Resource>() as u64 + 2 * texts as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(range: LockRange) -> Resource {
        Resource { tree: TreeId::value(ChainId(1)), range }
    }

    fn key(byte: u8) -> Resource {
        resource(LockRange::Key(vec![byte].into()))
    }

    fn range(start: u8, end: u8) -> Resource {
        resource(LockRange::Range(KeyRange { start: vec![start].into(), end: Some(vec![end].into()) }))
    }

    fn id(i: u64) -> TxnId {
        TxnId::new(i, 0)
    }

    #[test]
    fn who_waits_is_looked_at_when_the_one_before_has_gone() {
        let mut table = LockTable::default();
        let Requested::Granted(first) = table.request(key(1), id(1), LockMode::Write) else { panic!() };
        let Requested::Waits(second) = table.request(key(1), id(2), LockMode::Write) else { panic!() };
        let Requested::Waits(all) = table.request(range(0, 5), id(3), LockMode::Read) else { panic!() };
        let Requested::Granted(other) = table.request(key(2), id(4), LockMode::Read) else { panic!() };
        assert_eq!(table.request(key(1), id(2), LockMode::Write), Requested::Known(second));
        assert!(table.is_too_late(id(3), &key(2)) && !table.is_too_late(id(3), &key(3)));
        let (_, waiters) = table.release(first);
        assert_eq!(Vec::from_iter(waiters), [(id(2), second)]);
        assert!(table.grant(second));
        let (_, waiters) = table.release(second);
        assert_eq!(Vec::from_iter(waiters), [(id(3), all)]);
        assert!(table.grant(all));
        for lock in [all, other] {
            assert!(table.release(lock).1.is_empty());
        }
        assert!(table.is_empty());
    }

    #[test]
    fn marks_are_kept_as_long_as_an_older_transaction_is_active() {
        let mut table = LockTable::default();
        table.mark(id(5), key(1), id(3));
        table.mark(id(6), range(2, 4), id(3));
        assert_eq!(table.newest_mark(&key(1)), id(5));
        assert_eq!(table.newest_mark(&key(3)), id(6));
        assert_eq!(table.newest_mark(&key(4)), TxnId::ZERO);
        table.forget(id(6));
        assert_eq!(table.newest_mark(&key(3)), id(6));
        assert_eq!(table.newest_mark(&key(4)), id(5), "what was forgotten must be assumed of everything");
        table.forget(id(7));
        assert!(table.is_empty());
        assert_eq!(table.newest_mark(&key(4)), id(6));
    }

    #[test]
    fn marks_are_bounded_and_who_is_older_than_a_forgotten_one_pays() {
        let mut table = LockTable::default();
        let long = |i: u64| {
            let text = [&i.to_be_bytes()[..], &[0; 1_000]].concat();
            resource(LockRange::Key(text.into()))
        };
        for i in 2..100_000 {
            table.mark(id(i), long(i), id(1));
            assert!(table.marks_bytes() <= MARKS_BYTES_MAX + 10_000);
        }
        assert!(table.is_too_late(id(1), &key(1)), "it may have been read or written meanwhile");
        assert!(!table.is_too_late(id(99_000), &key(1)));
        assert!(table.is_too_late(id(99_000), &long(99_500)));
    }

    /// What a list of locks says that is looked through from end to end.
    #[derive(Default)]
    struct Model(Vec<(Resource, TxnId, LockMode, bool)>);

    impl Model {
        fn is_behind(&self, resource: &Resource, id: TxnId) -> bool {
            self.0.iter().any(|(other, holder, mode, _)| {
                *mode == LockMode::Write && *holder < id && other.range.overlaps(&resource.range)
            })
        }

        fn is_too_late(&self, resource: &Resource, id: TxnId) -> bool {
            self.0.iter().any(|(other, holder, _, is_granted)| {
                *is_granted && *holder > id && other.range.overlaps(&resource.range)
            })
        }
    }

    fn any_resource() -> impl Strategy<Value = Resource> {
        prop_oneof![
            3 => (0_u8..6).prop_map(key),
            2 => (0_u8..6, 1_u8..6).prop_map(|(start, len)| range(start, start + len)),
            1 => Just(resource(LockRange::all())),
        ]
    }

    proptest! {
        #[test]
        fn locks_are_granted_as_if_all_were_looked_at(
            steps in prop::collection::vec((any_resource(), 1_u64..40, any::<bool>(), any::<prop::sample::Index>()), 1..80),
        ) {
            let mut table = LockTable::default();
            let mut model = Model::default();
            let mut held: Vec<(TxnId, LockId)> = Vec::new();
            for (resource, i, is_write, index) in steps {
                let mode = if is_write { LockMode::Write } else { LockMode::Read };
                let is_new = !model.0.iter().any(|(other, holder, other_mode, _)| {
                    (other, holder, other_mode) == (&resource, &id(i), &mode)
                });
                let is_late = is_write && table.is_too_late(id(i), &resource);
                prop_assert_eq!(is_late, is_write && model.is_too_late(&resource, id(i)));
                if is_new && !is_late {
                    let is_behind = model.is_behind(&resource, id(i));
                    let lock = match table.request(resource.clone(), id(i), mode) {
                        Requested::Granted(lock) => (false, lock),
                        Requested::Waits(lock) => (true, lock),
                        Requested::Known(_) => panic!("it is new"),
                    };
                    prop_assert_eq!(lock.0, is_behind);
                    model.0.push((resource, id(i), mode, !is_behind));
                    held.push((id(i), lock.1));
                    continue;
                }
                if held.is_empty() {
                    continue;
                }
                // Another one goes, whether it was granted or not.
                let at = index.index(held.len());
                let (_, lock) = held.remove(at);
                model.0.remove(at);
                for (_, waiter) in table.release(lock).1 {
                    let at = held.iter().position(|(_, other)| *other == waiter).expect("who waits is there");
                    let (resource, holder, ..) = model.0[at].clone();
                    let is_granted = table.grant(waiter);
                    prop_assert_eq!(is_granted, !model.is_behind(&resource, holder));
                    model.0[at].3 = is_granted;
                }
                for (at, (_, lock)) in held.iter().enumerate() {
                    let Lock { is_granted, holder, .. } = table.lock(*lock);
                    prop_assert_eq!(*is_granted, model.0[at].3);
                    // Nobody waits for nothing.
                    prop_assert_eq!(*is_granted, table.waits_for(table.lock(*lock)).is_none());
                    prop_assert!(table.waits_for(table.lock(*lock)).is_none_or(|older| older < *holder));
                }
            }
            for (_, lock) in held {
                for (_, waiter) in table.release(lock).1 {
                    table.grant(waiter);
                }
            }
            prop_assert!(table.is_empty());
        }
    }

    /// How many nodes and locks are looked at for so many transactions that want one thing after another.
    fn looks(count: u64, resource: impl Fn(u64) -> (Resource, LockMode), is_cancelled: bool) -> u64 {
        let mut table = LockTable::default();
        let mut open = BTreeMap::new();
        let first =
            table.request(super::Resource { range: LockRange::all(), ..key(0) }, id(1), LockMode::Write);
        let Requested::Granted(first) = first else { panic!("it is free") };
        for i in 2..count {
            let (resource, mode) = resource(i);
            let Requested::Waits(lock) = table.request(resource, id(i), mode) else { panic!("it is not") };
            open.insert(id(i), lock);
        }
        let mut again: BTreeSet<(TxnId, LockId)> = BTreeSet::new();
        if is_cancelled {
            // From the newest on, which is the worst order.
            while let Some((_, lock)) = open.pop_last() {
                again.extend(table.release(lock).1);
            }
        }
        again.extend(table.release(first).1);
        while let Some((holder, lock)) = again.pop_first() {
            if open.contains_key(&holder) && table.grant(lock) {
                open.remove(&holder);
                again.extend(table.release(lock).1);
            }
        }
        assert!(open.is_empty() && table.is_empty());
        table.take_looks()
    }

    #[test]
    fn what_waiters_cost_grows_as_they_do() {
        let number = |i: u64| Key::from(i.to_be_bytes().to_vec());
        let cases: [&dyn Fn(u64) -> (Resource, LockMode); 5] = [
            &|_| (key(1), LockMode::Write),
            &|_| (resource(LockRange::all()), LockMode::Read),
            &|i| (resource(LockRange::all()), if i % 3 == 0 { LockMode::Write } else { LockMode::Read }),
            &|i| (resource(LockRange::Key(number(i))), LockMode::Write),
            &|i| {
                let range = KeyRange { start: number(i), end: Some(number(i + 20)) };
                (resource(LockRange::Range(range)), LockMode::Write)
            },
        ];
        for (case, resource) in cases.iter().enumerate() {
            for is_cancelled in [false, true] {
                let [one, two, four] =
                    [2_000, 4_000, 8_000].map(|count| looks(count, resource, is_cancelled));
                // Twice as many cost twice as much, and a little more for the height of the trees.
                assert!(10 * two <= 24 * one && 10 * four <= 24 * two, "{case}: {one}, {two}, {four}");
                assert!(four <= 8_000 * 40, "{case}: {four}");
            }
        }
    }
}
