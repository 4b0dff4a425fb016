//! Locks: entities of the world, and the tables that find them by what they lock (DESIGN.md §4).
//!
//! What is locked is a range of keys of a tree: of a collection, or of the one tree with one key that stands for the
//! value of a chain. Multi-version timestamp ordering needs to know of a range: who older than a transaction may still
//! write it, and who newer has read or written it already.

use std::collections::BTreeMap;

use bevy_ecs::prelude::{Component, Entity};

use crate::cluster::ChainId;
use crate::collection::HostedCollection;
use crate::collection::key::{Key, KeyRange};
use crate::transaction_id::TxnId;

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

/// A tree of a hosted chain: of which of its collections, and which of that one's trees. A chain around a value has
/// the tree (0, 0).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct TreeId {
    /// The chain.
    pub chain: ChainId,
    /// The place of the collection in the subject of the chain.
    pub slot: u16,
    /// 0 for the primary tree, else that of an index.
    pub tree: u16,
}

impl TreeId {
    /// A tree of a collection.
    pub fn of(HostedCollection { chain, slot }: HostedCollection, tree: u16) -> Self {
        Self { chain, slot, tree }
    }

    /// The collection of the tree.
    pub fn collection(self) -> HostedCollection {
        HostedCollection { chain: self.chain, slot: self.slot }
    }

    /// The value of a chain.
    pub fn value(chain: ChainId) -> Self {
        Self { chain, slot: 0, tree: 0 }
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

/// A lock that a transaction holds or waits for.
#[derive(Clone, Component, Debug)]
pub struct Lock {
    /// What is locked.
    pub resource: Resource,
    /// By whom.
    pub holder: TxnId,
    /// How.
    pub mode: LockMode,
    /// Whether it was granted; else it waits.
    pub is_granted: bool,
}

/// What a finished transaction did with a range, as long as an older one is not finished.
#[derive(Clone, Copy, Debug)]
struct Mark {
    read: TxnId,
    written: TxnId,
}

impl Mark {
    const NONE: Mark = Mark { read: TxnId::ZERO, written: TxnId::ZERO };

    fn note(&mut self, id: TxnId, mode: LockMode) {
        let newest = match mode {
            LockMode::Read => &mut self.read,
            LockMode::Write => &mut self.written,
        };
        *newest = id.max(*newest);
    }

    fn newest(&self) -> TxnId {
        self.read.max(self.written)
    }
}

/// The locks on one tree.
#[derive(Debug, Default)]
pub struct TreeLocks {
    keys: BTreeMap<Key, Vec<Entity>>,
    ranges: Vec<(KeyRange, Entity)>,
    key_marks: BTreeMap<Key, Mark>,
    range_marks: Vec<(KeyRange, Mark)>,
}

impl TreeLocks {
    fn insert(&mut self, range: &LockRange, lock: Entity) {
        match range {
            LockRange::Key(key) => self.keys.entry(key.clone()).or_default().push(lock),
            LockRange::Range(range) => self.ranges.push((range.clone(), lock)),
        }
    }

    fn remove(&mut self, range: &LockRange, lock: Entity) {
        match range {
            LockRange::Key(key) => {
                let locks = self.keys.get_mut(key).expect("the locks on a key");
                locks.retain(|other| *other != lock);
                if locks.is_empty() {
                    self.keys.remove(key);
                }
            }
            LockRange::Range(_) => self.ranges.retain(|(_, other)| *other != lock),
        }
    }

    /// Call `visit` with every lock that overlaps a range.
    fn each_overlapping(&self, range: &LockRange, visit: &mut impl FnMut(Entity)) {
        match range {
            LockRange::Key(key) => self.keys.get(key).into_iter().flatten().for_each(|lock| visit(*lock)),
            LockRange::Range(range) => {
                for (_, locks) in between(&self.keys, range) {
                    locks.iter().for_each(|lock| visit(*lock));
                }
            }
        }
        for (other, lock) in &self.ranges {
            if range.overlaps(&LockRange::Range(other.clone())) {
                visit(*lock);
            }
        }
    }

    /// The newest finished transaction that has read or written a part of a range.
    fn newest_mark(&self, range: &LockRange) -> TxnId {
        let keys = match range {
            LockRange::Key(key) => self.key_marks.get(key).map(Mark::newest),
            LockRange::Range(range) => between(&self.key_marks, range).map(|(_, mark)| mark.newest()).max(),
        };
        let ranges = self.range_marks.iter();
        let ranges = ranges.filter(|(other, _)| range.overlaps(&LockRange::Range(other.clone())));
        ranges.map(|(_, mark)| mark.newest()).chain(keys).max().unwrap_or(TxnId::ZERO)
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.ranges.is_empty()
            && self.key_marks.is_empty()
            && self.range_marks.is_empty()
    }
}

fn between<'a, V>(map: &'a BTreeMap<Key, V>, range: &KeyRange) -> impl Iterator<Item = (&'a Key, &'a V)> {
    let end = match &range.end {
        // A range of a map must not end before it begins.
        Some(end) => std::ops::Bound::Excluded(end.max(&range.start).clone()),
        None => std::ops::Bound::Unbounded,
    };
    map.range((std::ops::Bound::Included(range.start.clone()), end))
}

/// The locks on the trees of a chain, and what finished transactions did as long as that matters.
#[derive(Component, Debug, Default)]
pub struct LockTable {
    trees: BTreeMap<TreeId, TreeLocks>,
    /// The ranges of the marks, by transaction.
    marked: BTreeMap<TxnId, Vec<Resource>>,
    /// The newest transaction whose marks were dropped: whoever is older must not write any more.
    floor: TxnId,
}

impl LockTable {
    /// A table without locks; whoever is not after `floor` must not write.
    pub fn new(floor: TxnId) -> Self {
        Self { floor, ..Default::default() }
    }

    /// Add a lock.
    pub fn insert(&mut self, resource: &Resource, lock: Entity) {
        self.trees.entry(resource.tree).or_default().insert(&resource.range, lock);
    }

    /// Remove a lock.
    pub fn remove(&mut self, resource: &Resource, lock: Entity) {
        let tree = self.trees.get_mut(&resource.tree).expect("the locks on a tree");
        tree.remove(&resource.range, lock);
        if tree.is_empty() {
            self.trees.remove(&resource.tree);
        }
    }

    /// The locks that overlap a resource, in no particular order of meaning but always the same.
    pub fn overlapping(&self, resource: &Resource) -> Vec<Entity> {
        let mut locks = Vec::new();
        if let Some(tree) = self.trees.get(&resource.tree) {
            tree.each_overlapping(&resource.range, &mut |lock| locks.push(lock));
        }
        locks
    }

    /// The locks on all keys of a tree.
    pub fn on_all(&self, tree: TreeId) -> impl Iterator<Item = Entity> {
        let ranges = self.trees.get(&tree).into_iter().flat_map(|tree| &tree.ranges);
        ranges.filter(|(range, _)| range.covers(&KeyRange::all())).map(|(_, lock)| *lock)
    }

    /// Note what a transaction has read or written. It is forgotten once no active transaction is older.
    pub fn mark(&mut self, id: TxnId, resource: Resource, mode: LockMode, oldest_active: TxnId) {
        if id <= oldest_active {
            self.floor = self.floor.max(id);
            return;
        }
        let tree = self.trees.entry(resource.tree).or_default();
        match &resource.range {
            LockRange::Key(key) => tree.key_marks.entry(key.clone()).or_insert(Mark::NONE).note(id, mode),
            LockRange::Range(range) => match tree.range_marks.iter_mut().find(|(other, _)| other == range) {
                Some((_, mark)) => mark.note(id, mode),
                None => {
                    let mut mark = Mark::NONE;
                    mark.note(id, mode);
                    tree.range_marks.push((range.clone(), mark));
                }
            },
        }
        self.marked.entry(id).or_default().push(resource);
    }

    /// Forget what transactions did before which none is active.
    pub fn forget(&mut self, oldest_active: TxnId) {
        while let Some(entry) = self.marked.first_entry()
            && *entry.key() < oldest_active
        {
            let (id, resources) = entry.remove_entry();
            self.floor = self.floor.max(id);
            for resource in resources {
                let Some(tree) = self.trees.get_mut(&resource.tree) else { continue };
                match &resource.range {
                    LockRange::Key(key) => {
                        if tree.key_marks.get(key).is_some_and(|mark| mark.newest() <= id) {
                            tree.key_marks.remove(key);
                        }
                    }
                    LockRange::Range(range) => {
                        tree.range_marks.retain(|(other, mark)| other != range || mark.newest() > id);
                    }
                }
                if tree.is_empty() {
                    self.trees.remove(&resource.tree);
                }
            }
        }
    }

    /// The newest transaction of which it is known or must be assumed that it has read or written a part of this.
    pub fn newest_mark(&self, resource: &Resource) -> TxnId {
        let mark =
            self.trees.get(&resource.tree).map_or(TxnId::ZERO, |tree| tree.newest_mark(&resource.range));
        mark.max(self.floor)
    }

    /// How many trees have locks or marks.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(range: LockRange) -> Resource {
        Resource { tree: TreeId::value(ChainId(1)), range }
    }

    fn key(byte: u8) -> Resource {
        resource(LockRange::Key(vec![byte].into()))
    }

    fn range(start: u8, end: u8) -> Resource {
        resource(LockRange::Range(KeyRange { start: vec![start].into(), end: Some(vec![end].into()) }))
    }

    #[test]
    fn locks_on_other_keys_are_not_found() {
        let mut world = bevy_ecs::prelude::World::new();
        let mut table = LockTable::default();
        let locks: Vec<Entity> = [key(1), key(2), range(2, 4), range(5, 7)]
            .iter()
            .map(|resource| {
                let lock = world.spawn_empty().id();
                table.insert(resource, lock);
                lock
            })
            .collect();
        assert_eq!(table.overlapping(&key(1)), [locks[0]]);
        assert_eq!(table.overlapping(&key(2)), [locks[1], locks[2]]);
        assert_eq!(table.overlapping(&range(0, 3)), [locks[0], locks[1], locks[2]]);
        assert_eq!(table.overlapping(&key(4)), []);
        assert_eq!(table.overlapping(&resource(LockRange::all())).len(), 4);
        for (resource, lock) in [key(1), key(2), range(2, 4), range(5, 7)].iter().zip(&locks) {
            table.remove(resource, *lock);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn marks_are_kept_as_long_as_an_older_transaction_is_active() {
        let id = |i| TxnId::new(i, 0);
        let mut table = LockTable::default();
        table.mark(id(5), key(1), LockMode::Read, id(3));
        table.mark(id(6), range(2, 4), LockMode::Write, id(3));
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
}
