//! What each part of a checkpoint must hold, so that nothing goes missing unseen: LMDB checks neither its pages nor that
//! a scan finds all of them.
//!
//! For each prefix of keys that belong together there is a [`Digest`]: how many entries there are, and the sum of a hash
//! of each, so that it does not matter in which order they come and go. The digests are entries of the checkpoint, too, in
//! the database of the store; the root digest is that of these.
//!
//! | keyspace | its prefixes |
//! | --- | --- |
//! | `Meta`, `Catalog`, `Outcomes` | one for all |
//! | `Values`, `Trees` | the number of a chain |
//! | `Blocks` | the number of a chain and the ordinal of a block |
//! | `Pages` | none: each page has a handle among the `Trees`, so a missing one is noticed when it is read |

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_seed};

use super::sealed::SEALED_HEADER_BYTES;
use super::{Keyspace, StorageError};

/// Where the digests begin in the database of the store.
pub(super) const DIGESTS_PREFIX: &[u8] = b"digest/";

/// The key of the root digest there.
pub(super) const ROOT_KEY: &[u8] = b"digests";

const DIGEST_BYTES: usize = 24;
/// The number of a chain at the beginning of a key.
pub(super) const CHAIN_BYTES: usize = 4;
const BLOCK_BYTES: usize = 8;

/// How many entries there are, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Digest {
    pub count: u64,
    pub sum: u128,
}

impl Digest {
    /// The digest of a set with this hash more.
    pub fn add(&mut self, hash: u128) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash);
    }

    /// The digest of a set with this hash less.
    pub fn remove(&mut self, hash: u128) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash);
    }

    /// The digest of two sets together.
    pub fn join(&mut self, other: Digest) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub fn encode(self) -> [u8; DIGEST_BYTES] {
        let mut bytes = [0; DIGEST_BYTES];
        bytes[..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Digest, StorageError> {
        let malformed = || StorageError::CorruptMetadata { reason: "a digest is malformed" };
        let bytes: &[u8; DIGEST_BYTES] = bytes.try_into().map_err(|_| malformed())?;
        let (count, sum) = bytes.split_at(8);
        Ok(Digest {
            count: u64::from_le_bytes(count.try_into().expect("eight bytes")),
            sum: u128::from_le_bytes(sum.try_into().expect("sixteen bytes")),
        })
    }

    /// The root digest is stored with a checksum, as it has no digest above it.
    pub fn encode_root(self) -> Vec<u8> {
        let mut bytes = self.encode().to_vec();
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    pub fn decode_root(bytes: &[u8]) -> Result<Digest, StorageError> {
        let malformed = || StorageError::CorruptMetadata { reason: "the root digest is damaged" };
        let (digest, checksum) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(malformed)?;
        if checksum != xxh3_64(digest).to_le_bytes() {
            return Err(malformed());
        }
        Digest::decode(digest)
    }
}

/// The part of a key that says to which digest it belongs; none if it belongs to none.
pub(super) fn prefix(keyspace: Keyspace, key: &[u8]) -> Option<&[u8]> {
    let length = match keyspace {
        Keyspace::Meta | Keyspace::Catalog | Keyspace::Outcomes => 0,
        Keyspace::Values | Keyspace::Trees => CHAIN_BYTES,
        Keyspace::Blocks => BLOCK_BYTES,
        Keyspace::Pages => return None,
    };
    Some(&key[..length.min(key.len())])
}

/// The hash of an entry. The checksum of a value stands for it: who reads the value checks that.
pub(super) fn entry_hash(key: &[u8], sealed: &[u8]) -> u128 {
    let header = &sealed[..SEALED_HEADER_BYTES.min(sealed.len())];
    xxh3_128_with_seed(header, xxh3_64(key))
}

/// The hash of a digest, for the root.
fn digest_hash(key: &[u8], digest: Digest) -> u128 {
    xxh3_128(&[key, &digest.encode()].concat())
}

/// Where a digest is stored.
pub(super) fn digest_key(keyspace: Keyspace, prefix: &[u8]) -> Vec<u8> {
    [DIGESTS_PREFIX, &[keyspace.number()], prefix].concat()
}

/// The keyspace and prefix of a stored digest.
pub(super) fn parse_digest_key(key: &[u8]) -> Option<(Keyspace, &[u8])> {
    let (number, prefix) = key.strip_prefix(DIGESTS_PREFIX)?.split_first()?;
    Some((Keyspace::from_number(*number)?, prefix))
}

/// How some changes change digests.
#[derive(Debug, Default)]
pub(super) struct DigestChanges(BTreeMap<Vec<u8>, Digest>);

impl DigestChanges {
    /// An entry has this sealed value instead of that one.
    pub fn note(&mut self, keyspace: Keyspace, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let Some(prefix) = prefix(keyspace, key) else { return };
        let digest = self.0.entry(digest_key(keyspace, prefix)).or_default();
        if let Some(old) = old {
            digest.remove(entry_hash(key, old));
        }
        if let Some(new) = new {
            digest.add(entry_hash(key, new));
        }
    }

    /// The digests that change, with what they were and what they become, by their key.
    pub fn changed<E>(
        self,
        root: &mut Digest,
        mut stored: impl FnMut(&[u8]) -> Result<Digest, E>,
    ) -> Result<Vec<(Vec<u8>, Digest)>, E> {
        let mut changed = Vec::with_capacity(self.0.len());
        for (key, change) in self.0 {
            let old = stored(&key)?;
            let mut new = old;
            new.join(change);
            if old.count > 0 {
                root.remove(digest_hash(&key, old));
            }
            if new.count > 0 {
                root.add(digest_hash(&key, new));
            }
            changed.push((key, new));
        }
        Ok(changed)
    }
}

/// The root digest of these digests.
pub(super) fn root_of<'a>(digests: impl IntoIterator<Item = (&'a Vec<u8>, &'a Digest)>) -> Digest {
    let mut root = Digest::default();
    digests.into_iter().for_each(|(key, digest)| root.add(digest_hash(key, *digest)));
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_lead_to_the_same_digests_in_any_order() {
        let sealed = |number: u8| vec![number; 20];
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut digests: BTreeMap<Vec<u8>, Digest> = BTreeMap::new();
        let mut root = Digest::default();
        for step in 0..2_000_u32 {
            let random = step.wrapping_mul(2_654_435_761) >> 7;
            let key = [(random % 3).to_be_bytes(), (random / 3 % 5).to_be_bytes()].concat();
            let new = (random % 4 > 0).then(|| sealed(random as u8));
            let mut changes = DigestChanges::default();
            changes.note(Keyspace::Values, &key, entries.get(&key).map(Vec::as_slice), new.as_deref());
            let stored = |key: &[u8]| Ok::<_, ()>(digests.get(key).copied().unwrap_or_default());
            for (key, digest) in changes.changed(&mut root, stored).unwrap() {
                if digest.count == 0 {
                    assert_eq!(digest.sum, 0, "nothing has the sum of nothing");
                    digests.remove(&key);
                } else {
                    digests.insert(key, digest);
                }
            }
            match new {
                Some(new) => entries.insert(key, new),
                None => entries.remove(&key),
            };
            let mut expected: BTreeMap<Vec<u8>, Digest> = BTreeMap::new();
            for (key, sealed) in entries.iter().rev() {
                let prefix = prefix(Keyspace::Values, key).unwrap();
                let digest = expected.entry(digest_key(Keyspace::Values, prefix)).or_default();
                digest.add(entry_hash(key, sealed));
            }
            assert_eq!(digests, expected);
            assert_eq!(root, root_of(&digests));
        }
    }

    #[test]
    fn digests_are_read_back() {
        let digest = Digest { count: 7, sum: u128::MAX - 5 };
        assert_eq!(Digest::decode(&digest.encode()).unwrap(), digest);
        let root = digest.encode_root();
        assert_eq!(Digest::decode_root(&root).unwrap(), digest);
        for position in 0..root.len() {
            let mut damaged = root.clone();
            damaged[position] ^= 1;
            assert!(Digest::decode_root(&damaged).is_err());
            assert!(Digest::decode_root(&root[..position]).is_err());
        }
        let key = digest_key(Keyspace::Blocks, &[1, 2, 3]);
        assert_eq!(parse_digest_key(&key), Some((Keyspace::Blocks, &[1, 2, 3][..])));
    }
}
