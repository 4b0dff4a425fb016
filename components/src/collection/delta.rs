//! The rows of a page that were committed since its base was made.
//!
//! They are kept in order, in chunks, so that adding one moves few others, and versions of a page share the chunks in
//! which they do not differ.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::key::{Key, KeyRange};
use super::page::Visibility;
use super::{Row, row_bytes};
use crate::transaction_id::TxnId;

/// How many entries a chunk has at most.
const CHUNK_ENTRIES_MAX: usize = 32;

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

    fn place(&self) -> (&Key, TxnId) {
        (&self.key, self.id)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.row.as_ref().map_or(0, |row| row_bytes(row) as usize)
    }
}

/// A run of entries, at least one.
#[derive(Clone)]
struct Chunk {
    /// The key and the transaction of the first entry, at hand without looking into the run.
    first: (Key, TxnId),
    entries: Arc<Vec<DeltaEntry>>,
}

impl Chunk {
    fn new(entries: Vec<DeltaEntry>) -> Self {
        let first = entries.first().expect("a chunk has an entry");
        Self { first: (first.key.clone(), first.id), entries: Arc::new(entries) }
    }
}

/// Committed versions of rows, by key and transaction.
#[derive(Clone, Default)]
pub struct Delta {
    chunks: Vec<Chunk>,
    len: usize,
    bytes: usize,
    /// The newest transaction and the newest commit among the entries.
    newest: (TxnId, u64),
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
            || self.iter().all(|entry| entry.is_visible(visibility))
    }

    /// All entries, by key and transaction.
    pub fn iter(&self) -> impl Iterator<Item = &DeltaEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.entries.iter())
    }

    /// The entries of a range of keys, in order.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a DeltaEntry> {
        // Versions of the first key may begin in the chunk before the one that begins with it.
        let first = self.chunks.partition_point(|chunk| chunk.first.0 < range.start).saturating_sub(1);
        let entries = self.chunks[first..].iter().flat_map(|chunk| chunk.entries.iter());
        entries
            .skip_while(|entry| entry.key < range.start)
            .take_while(|entry| range.end.as_ref().is_none_or(|end| entry.key < *end))
    }

    /// The newest version of a row that a reader sees.
    pub fn find(&self, key: &Key, visibility: Visibility) -> Option<&DeltaEntry> {
        let end = self.chunks.partition_point(|chunk| chunk.first.0 <= *key);
        for (i, chunk) in self.chunks[..end].iter().enumerate().rev() {
            // Of a chunk before the last, only the end can be of this key.
            let entries = match i + 1 == end {
                true => &chunk.entries[..chunk.entries.partition_point(|entry| entry.key <= *key)],
                false => &chunk.entries[..],
            };
            for entry in entries.iter().rev() {
                if entry.key != *key {
                    return None;
                }
                if entry.is_visible(visibility) {
                    return Some(entry);
                }
            }
        }
        None
    }

    /// Add a version.
    ///
    /// # Panics
    /// If it is not newer than every other version of its row.
    pub fn insert(&mut self, entry: DeltaEntry) {
        self.count(&entry);
        let after = self.chunks.partition_point(|chunk| (&chunk.first.0, chunk.first.1) <= entry.place());
        if let Some(next) = self.chunks.get(after) {
            assert!(next.first.0 != entry.key, "the versions of a row ascend");
        }
        // Before the first entry of all, it becomes the first of the first chunk.
        let at = after.saturating_sub(1);
        let Some(chunk) = self.chunks.get_mut(at) else {
            // Most pages of a large collection have one entry or none: it takes no more room than it needs.
            self.chunks = vec![Chunk::new(vec![entry])];
            return;
        };
        let entries = Arc::make_mut(&mut chunk.entries);
        let place = entries.partition_point(|other| other.place() < entry.place());
        if let Some(next) = entries.get(place) {
            assert!(next.key != entry.key, "the versions of a row ascend");
        }
        if entries.len() < CHUNK_ENTRIES_MAX {
            if place == 0 {
                chunk.first = (entry.key.clone(), entry.id);
            }
            entries.insert(place, entry);
        } else if place == entries.len() {
            // Keys that ascend fill one chunk after the other.
            self.chunks.insert(at + 1, Chunk::new(vec![entry]));
        } else {
            let mut rest = entries.split_off(CHUNK_ENTRIES_MAX / 2);
            match place.checked_sub(CHUNK_ENTRIES_MAX / 2) {
                Some(place) if place > 0 => rest.insert(place, entry),
                _ => {
                    if place == 0 {
                        chunk.first = (entry.key.clone(), entry.id);
                    }
                    entries.insert(place, entry);
                }
            }
            self.chunks.insert(at + 1, Chunk::new(rest));
        }
    }

    /// Add many versions at once, in any order.
    ///
    /// # Panics
    /// If the versions of a row do not ascend with their commits.
    pub fn extend(&mut self, entries: Vec<DeltaEntry>) {
        entries.iter().for_each(|entry| self.count(entry));
        let mut all: Vec<DeltaEntry> = self.iter().cloned().chain(entries).collect();
        all.sort_by(|this, that| this.place().cmp(&that.place()));
        let is_after = |this: &DeltaEntry, next: &DeltaEntry| match this.key.cmp(&next.key) {
            Ordering::Equal => this.id < next.id && this.commit < next.commit,
            order => order == Ordering::Less,
        };
        assert!(all.is_sorted_by(is_after), "the versions of a row ascend");
        self.chunks = all.chunks(CHUNK_ENTRIES_MAX).map(|entries| Chunk::new(entries.to_vec())).collect();
    }

    fn count(&mut self, entry: &DeltaEntry) {
        self.len += 1;
        self.bytes += entry.bytes();
        self.newest = (self.newest.0.max(entry.id), self.newest.1.max(entry.commit));
    }
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
    use crate::collection::change::tests::row;

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
            entries.iter().for_each(|entry| delta.insert(entry.clone()));
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
