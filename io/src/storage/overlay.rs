//! Changes in memory that the checkpoint does not hold yet.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::{Keyspace, Write};

/// What an entry costs in memory besides its key and value, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// The newest change of each key. `None` is a deletion.
#[derive(Debug, Default)]
pub struct Overlay {
    keyspaces: [BTreeMap<Vec<u8>, Option<Bytes>>; Keyspace::ALL.len()],
    bytes: usize,
}

impl Overlay {
    /// Takes a change; it replaces an earlier one of the same key.
    pub fn insert(&mut self, write: Write) {
        let Write { keyspace, key, value } = write;
        let key_bytes = key.len() + ENTRY_OVERHEAD_BYTES;
        let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        self.bytes += length(&value);
        match self.keyspaces[keyspace.index()].insert(key, value) {
            Some(previous) => self.bytes -= length(&previous),
            None => self.bytes += key_bytes,
        }
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
    pub fn iter(&self) -> impl Iterator<Item = (Keyspace, &[u8], Option<&Bytes>)> {
        Keyspace::ALL.into_iter().flat_map(|keyspace| {
            let changes = &self.keyspaces[keyspace.index()];
            changes.iter().map(move |(key, value)| (keyspace, key.as_slice(), value.as_ref()))
        })
    }

    /// The changes in a keyspace from `start` (inclusive), in order.
    fn range<'a>(&'a self, keyspace: Keyspace, start: &[u8]) -> impl Iterator<Item = Change<'a>> {
        self.keyspaces[keyspace.index()]
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|(key, value)| (key.as_slice(), value.as_ref()))
    }
}

type Change<'a> = (&'a [u8], Option<&'a Bytes>);

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
    N: Iterator<Item = Change<'a>>,
    O: Iterator<Item = Change<'a>>,
{
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
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
