//! The rows of a page that were committed since its base was made.
//!
//! Adding a version touches as little memory as can be: it goes to the end, and a table of hashes finds the newest one of
//! a row. Chunks are shared by the versions of a page that have them both. The order of the keys is worked out when
//! somebody reads a range, which many deltas never see before they are folded.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::key::{Key, KeyRange};
use super::{Row, row_bytes};
use crate::value::transaction_id::TxnId;

/// What a reader sees: the versions of transactions before its own, among the first commits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Visibility {
    /// Versions of transactions before this one.
    pub before: TxnId,
    /// Versions of commits up to this one.
    pub commit: u64,
}

impl Visibility {
    /// That of a reader who sees everything.
    pub const NEWEST: Visibility = Visibility { before: TxnId::MAX, commit: u64::MAX };
}

/// How many entries a chunk has; the last one may have fewer.
const CHUNK_ENTRIES: usize = 32;

/// Up to so many entries are looked through one after the other: most pages of a large collection have few.
const ENTRIES_WITHOUT_TABLE_MAX: usize = 8;

const _: () = assert!(ENTRIES_WITHOUT_TABLE_MAX <= CHUNK_ENTRIES, "they are in the first chunk");

/// What an entry takes in memory beside its key and row, in bytes.
const ENTRY_BYTES: usize = 120;

/// One committed version of a row that is not in the base yet.
#[derive(Clone, Debug)]
pub struct DeltaEntry {
    /// The key of the row.
    pub key: Key,
    /// The transaction that wrote it.
    pub id: TxnId,
    /// The number of its commit.
    pub commit: u64,
    /// The row; none if it was deleted.
    pub row: Option<Row>,
}

impl DeltaEntry {
    /// Whether a reader sees this version, or a newer one of its row.
    pub fn is_visible(&self, visibility: Visibility) -> bool {
        self.id < visibility.before && self.commit <= visibility.commit
    }

    /// What it takes in memory, in bytes.
    pub fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.row.as_ref().map_or(0, |row| row_bytes(row) as usize)
    }
}

/// An entry, and where the version of its row before it is.
#[derive(Clone)]
struct Version {
    entry: DeltaEntry,
    previous: Option<Position>,
}

/// Says which entry, in the order in which they were added; one more than that, so that none takes no room.
type Position = std::num::NonZero<u32>;

/// Committed versions of rows.
#[derive(Clone, Default)]
pub struct Delta {
    /// In the order in which they were added: the versions of each row ascend.
    chunks: Vec<Arc<Vec<Version>>>,
    /// The newest version of each row, by the hash of its key; none while there are few entries. Most pages have few or
    /// none, and there are many.
    newest_versions: Option<Box<HashTable<Position>>>,
    /// All entries by key and transaction, once somebody has asked.
    order: OnceLock<Arc<Vec<Position>>>,
    /// The same of the first entries, from when somebody asked before.
    order_before: Option<Arc<Vec<Position>>>,
    len: usize,
    bytes: usize,
    /// The newest transaction and the newest commit among the entries.
    newest: (TxnId, u64),
}

/// The same for every run: nothing depends on where entries lie in a table, but so nothing ever can.
fn hash(key: &Key) -> u64 {
    FixedState::default().hash_one(&key[..])
}

impl Delta {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What they take in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest commit of an entry; 0 if there is none.
    pub fn newest_commit(&self) -> u64 {
        self.newest.1
    }

    /// Whether a reader sees all of it.
    pub fn is_all_visible(&self, visibility: Visibility) -> bool {
        (self.newest.0 < visibility.before && self.newest.1 <= visibility.commit)
            || self.as_added().all(|entry| entry.is_visible(visibility))
    }

    /// All entries, in the order in which they were added.
    pub fn as_added(&self) -> impl Iterator<Item = &DeltaEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|version| &version.entry)
    }

    /// All entries, by key and transaction.
    pub fn iter(&self) -> impl Iterator<Item = &DeltaEntry> {
        self.order().iter().map(|position| &version(&self.chunks, *position).entry)
    }

    /// The entries of a range of keys, by key and transaction.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a DeltaEntry> {
        let order = self.order();
        let entry = |position: &Position| &version(&self.chunks, *position).entry;
        let first = order.partition_point(|position| entry(position).key < range.start);
        let entries = order[first..].iter().map(entry);
        entries.take_while(|entry| range.end.as_ref().is_none_or(|end| entry.key < *end))
    }

    /// The newest version of a row that a reader sees.
    pub fn find(&self, key: &Key, visibility: Visibility) -> Option<&DeltaEntry> {
        let mut next = self.newest_of(key);
        while let Some(position) = next {
            let Version { entry, previous } = version(&self.chunks, position);
            if entry.is_visible(visibility) {
                return Some(entry);
            }
            next = *previous;
        }
        None
    }

    /// Add a version.
    ///
    /// # Panics
    /// If it is not newer than every other version of its row.
    pub fn insert(&mut self, entry: DeltaEntry) {
        let previous = self.newest_of(&entry.key);
        if let Some(previous) = previous {
            let DeltaEntry { id, commit, .. } = version(&self.chunks, previous).entry;
            assert!(id < entry.id && commit < entry.commit, "the versions of a row ascend");
        }
        self.len += 1;
        self.bytes += entry.bytes();
        self.newest = (self.newest.0.max(entry.id), self.newest.1.max(entry.commit));
        if let Some(order) = self.order.take() {
            self.order_before = Some(order);
        }
        let position = position(self.len - 1);
        let hash = hash(&entry.key);
        let version_of_entry = Version { entry, previous };
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ENTRIES => Arc::make_mut(chunk).push(version_of_entry),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
                chunk.push(version_of_entry);
                self.chunks.push(Arc::new(chunk));
            }
            // It takes no more room than it needs.
            None => self.chunks = vec![Arc::new(vec![version_of_entry])],
        }
        if self.len > ENTRIES_WITHOUT_TABLE_MAX {
            self.note_newest(position, hash, previous);
        }
    }

    /// Add many versions, in any order.
    ///
    /// # Panics
    /// If the versions of a row do not ascend with their commits.
    pub fn extend(&mut self, mut entries: Vec<DeltaEntry>) {
        entries.sort_by_key(|entry| entry.id);
        entries.into_iter().for_each(|entry| self.insert(entry));
    }

    /// The newest version of a row.
    fn newest_of(&self, key: &Key) -> Option<Position> {
        if self.len <= ENTRIES_WITHOUT_TABLE_MAX {
            let at = self.chunks.first()?.iter().rposition(|version| version.entry.key == *key)?;
            return Some(position(at));
        }
        let is_key = |position: &Position| version(&self.chunks, *position).entry.key == *key;
        self.newest_versions.as_ref()?.find(hash(key), is_key).copied()
    }

    /// Note that the newest version of a row is the one there, and no more the one before.
    fn note_newest(&mut self, position: Position, hash_of_key: u64, previous: Option<Position>) {
        let Self { chunks, newest_versions, .. } = self;
        let rehash = |position: &Position| hash(&version(chunks, *position).entry.key);
        let Some(newest_versions) = newest_versions else {
            let newest_versions = newest_versions.insert(Box::default());
            // The first entries are too many now to be looked through. What comes later is newer.
            for at in 0..self.len {
                let added = self::position(at);
                let key = &version(chunks, added).entry.key;
                let is_key = |other: &Position| version(chunks, *other).entry.key == *key;
                match newest_versions.find_mut(hash(key), is_key) {
                    Some(newest) => *newest = added,
                    None => {
                        newest_versions.insert_unique(hash(key), added, rehash);
                    }
                }
            }
            return;
        };
        match previous {
            None => {
                newest_versions.insert_unique(hash_of_key, position, rehash);
            }
            Some(previous) => {
                let newest = newest_versions.find_mut(hash_of_key, |other| *other == previous);
                *newest.expect("the version that was found") = position;
            }
        }
    }

    /// All entries by key and transaction.
    fn order(&self) -> &[Position] {
        if self.is_empty() {
            return &[];
        }
        self.order.get_or_init(|| {
            let known = self.order_before.as_deref().map_or(&[][..], Vec::as_slice);
            let added = (known.len()..self.len).map(position);
            let mut order: Vec<Position> = known.iter().copied().chain(added).collect();
            // The versions of a row are in order already, and so are the first of all: a stable sort makes use of that.
            order.sort_by(|this, that| {
                let key = |position: &Position| &version(&self.chunks, *position).entry.key;
                key(this).cmp(key(that))
            });
            order.into()
        })
    }
}

fn position(at: usize) -> Position {
    let at = u32::try_from(at).expect("fewer than four thousand million versions of the rows of one page");
    Position::MIN.saturating_add(at)
}

fn version(chunks: &[Arc<Vec<Version>>], position: Position) -> &Version {
    let at = position.get() as usize - 1;
    &chunks[at / CHUNK_ENTRIES][at % CHUNK_ENTRIES]
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::change::tests::row;

    /// Versions of rows, each newer than those before.
    fn entries(keys: &[u8]) -> Vec<DeltaEntry> {
        let entry = |(i, key): (usize, &u8)| DeltaEntry {
            key: Key::from(vec![*key]),
            id: TxnId::new(i as u64 + 1, 0),
            commit: i as u64 + 1,
            row: (i % 5 > 0).then(|| row(u64::from(*key), "red", i as i64)),
        };
        keys.iter().enumerate().map(entry).collect()
    }

    proptest! {
        #[test]
        fn a_delta_finds_what_a_map_finds(
            keys in prop::collection::vec(0u8..60, 0..300),
            before in 1u64..310,
            range in (0u8..60, 0u8..60),
        ) {
            let entries = entries(&keys);
            let mut delta = Delta::default();
            for (i, entry) in entries.iter().enumerate() {
                delta.insert(entry.clone());
                // Somebody reads now and then: what is in order then stays so.
                if i % 70 == 69 {
                    prop_assert!(delta.iter().is_sorted_by_key(|entry| (&entry.key, entry.id)));
                }
            }
            let mut together = Delta::default();
            together.extend(entries.clone());
            prop_assert_eq!(format!("{delta:?}"), format!("{together:?}"));
            prop_assert_eq!((delta.len(), delta.bytes()), (together.len(), together.bytes()));
            let model: BTreeMap<(Key, TxnId), u64> =
                entries.iter().map(|entry| ((entry.key.clone(), entry.id), entry.commit)).collect();
            let commits = |entries: &mut dyn Iterator<Item = &DeltaEntry>| -> Vec<u64> {
                entries.map(|entry| entry.commit).collect()
            };
            prop_assert_eq!(commits(&mut delta.iter()), model.values().copied().collect::<Vec<_>>());
            let range = KeyRange { start: vec![range.0].into(), end: Some(vec![range.1].into()) };
            let within = model.iter().filter(|((key, _), _)| range.contains(key)).map(|(_, commit)| *commit);
            prop_assert_eq!(commits(&mut delta.range(&range)), within.collect::<Vec<_>>());
            let visibility = Visibility { before: TxnId::new(before, 0), commit: u64::MAX };
            for key in 0..60 {
                let key = Key::from(vec![key]);
                let seen = model.iter().filter(|((other, id), _)| *other == key && *id < visibility.before);
                let found = delta.find(&key, visibility).map(|entry| entry.commit);
                prop_assert_eq!(found, seen.map(|(_, commit)| *commit).next_back());
            }
            prop_assert_eq!(delta.is_all_visible(visibility), keys.len() < before as usize);
        }
    }

    #[test]
    fn versions_of_a_page_do_not_see_what_others_add() {
        let mut delta = Delta::default();
        let entries = entries(&(0..200).map(|i| (i * 37 % 200) as u8).collect::<Vec<_>>());
        entries[..100].iter().for_each(|entry| delta.insert(entry.clone()));
        let snapshot = delta.clone();
        let before = format!("{snapshot:?}");
        entries[100..].iter().for_each(|entry| delta.insert(entry.clone()));
        assert_eq!((format!("{snapshot:?}"), snapshot.len(), delta.len()), (before, 100, 200));
    }

    #[test]
    #[should_panic(expected = "the versions of a row ascend")]
    fn an_older_version_cannot_come_after_a_newer_one() {
        let mut delta = Delta::default();
        let entries = entries(&[7, 7]);
        entries.into_iter().rev().for_each(|entry| delta.insert(entry));
    }
}
