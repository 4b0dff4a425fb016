//! Changes in memory that the checkpoint does not hold yet.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::{Keyspace, Write};

/// What an entry costs in memory besides its key and value, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// What a change costs at least in the transaction that applies it: the page of LMDB that it changes.
const APPLIED_OVERHEAD_BYTES: usize = 4096;

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Where.
    pub keyspace: Keyspace,
    /// Which key.
    pub key: &'a [u8],
    /// The new value; none deletes the key.
    pub value: Option<&'a Bytes>,
}

impl Change<'_> {
    /// About how much memory, and how much of the file at most, it takes to apply this.
    pub(super) fn applied_bytes(&self) -> usize {
        APPLIED_OVERHEAD_BYTES + self.value.map_or(0, Bytes::len)
    }
}

/// The newest change of each key. `None` is a deletion.
#[derive(Debug, Default)]
pub struct Overlay {
    keyspaces: [BTreeMap<Vec<u8>, Option<Bytes>>; Keyspace::ALL.len()],
    bytes: usize,
}

impl Overlay {
    /// Takes a change; it replaces an earlier one of the same key.
    pub fn insert(&mut self, write: Write) {
        self.bytes += Overlay::write_bytes(&write);
        let Write { keyspace, key, value } = write;
        let key_bytes = key.len() + ENTRY_OVERHEAD_BYTES;
        if let Some(previous) = self.keyspaces[keyspace.index()].insert(key, value) {
            self.bytes -= key_bytes + previous.map_or(0, |value| value.len());
        }
    }

    /// About how much memory a change takes at most.
    pub fn write_bytes(write: &Write) -> usize {
        ENTRY_OVERHEAD_BYTES + write.key.len() + write.value.as_ref().map_or(0, Bytes::len)
    }

    /// The change of a key, if there is one.
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Option<&Option<Bytes>> {
        self.keyspaces[keyspace.index()].get(key)
    }

    /// About how much memory the changes take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.keyspaces.iter().all(BTreeMap::is_empty)
    }

    /// All changes, by keyspace and key.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        Keyspace::ALL.into_iter().flat_map(|keyspace| {
            let changes = &self.keyspaces[keyspace.index()];
            changes.iter().map(move |(key, value)| Change { keyspace, key, value: value.as_ref() })
        })
    }

    /// The changes after the first `skipped`, in parts that take about this much memory to apply, or are a single change.
    pub fn parts(&self, skipped: usize, part_bytes: usize) -> impl Iterator<Item = Vec<Change<'_>>> {
        let mut changes = self.iter().skip(skipped).peekable();
        std::iter::from_fn(move || {
            let mut part = vec![changes.next()?];
            let mut bytes = part[0].applied_bytes();
            while let Some(change) = changes.next_if(|change| bytes + change.applied_bytes() <= part_bytes) {
                bytes += change.applied_bytes();
                part.push(change);
            }
            Some(part)
        })
    }

    /// The changes in a keyspace from `start` (inclusive), in order.
    fn range<'a>(&'a self, keyspace: Keyspace, start: &[u8]) -> impl Iterator<Item = Entry<'a>> {
        self.keyspaces[keyspace.index()]
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|(key, value)| (key.as_slice(), value.as_ref()))
    }
}

type Entry<'a> = (&'a [u8], Option<&'a Bytes>);

/// Copies the changes that a scan of `limit` entries can need: up to the `limit`th change that is not a deletion,
/// those of `newer` hiding those of `older`.
pub(crate) fn collect_changes(
    newer: &Overlay,
    older: Option<&Overlay>,
    keyspace: Keyspace,
    prefix: &[u8],
    start: &[u8],
    limit: usize,
) -> Vec<(Vec<u8>, Option<Bytes>)> {
    let newer = newer.range(keyspace, start).take_while(|(key, _)| key.starts_with(prefix)).peekable();
    let older = older.into_iter().flat_map(|overlay| overlay.range(keyspace, start));
    let older = older.take_while(|(key, _)| key.starts_with(prefix)).peekable();
    let mut changes = Vec::new();
    let mut live_count = 0;
    for (key, value) in (Merge { newer, older }) {
        if live_count == limit {
            break;
        }
        live_count += usize::from(value.is_some());
        changes.push((key.to_vec(), value.cloned()));
    }
    changes
}

struct Merge<N: Iterator, O: Iterator> {
    newer: Peekable<N>,
    older: Peekable<O>,
}

impl<'a, N, O> Iterator for Merge<N, O>
where
    N: Iterator<Item = Entry<'a>>,
    O: Iterator<Item = Entry<'a>>,
{
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        match (self.newer.peek(), self.older.peek()) {
            (Some((newer, _)), Some((older, _))) if older < newer => self.older.next(),
            (Some((newer, _)), Some((older, _))) => {
                if newer == older {
                    self.older.next();
                }
                self.newer.next()
            }
            (Some(_), None) => self.newer.next(),
            (None, _) => self.older.next(),
        }
    }
}
