//! The signing keys of this host and its clusters: made once, kept in the storage (protocol page 04 §6.3).

use bytes::Bytes;
use components::Path;
use components::hosting::storage::{Keyspace, Read, Write};
use ed25519_dalek::SigningKey;

/// An Ed25519 seed.
type Seed = [u8; 32];

/// The keys that are stored, and those that have been made since.
pub struct Keys<'a> {
    storage: Option<&'a dyn Read>,
    /// Keys to store before the first request.
    pub writes: Vec<Write>,
}

impl<'a> Keys<'a> {
    /// The keys in a storage; without one, keys live as long as the process.
    pub fn new(storage: Option<&'a dyn Read>) -> Self {
        Self { storage, writes: Vec::new() }
    }

    /// The public key of the cluster at a path; `/` is the host itself.
    ///
    /// # Errors
    /// Why a key cannot be read or made.
    pub fn public_key(&mut self, path: &Path) -> Result<[u8; 32], String> {
        let key = storage_key(path);
        let stored = match self.storage {
            Some(storage) => storage.get(Keyspace::Meta, &key)?,
            None => None,
        };
        let seed: Seed = match stored {
            Some(seed) => seed.as_ref().try_into().map_err(|_| format!("the key of {path} is malformed"))?,
            None => {
                let mut seed = Seed::default();
                getrandom::fill(&mut seed).map_err(|cause| format!("no random bytes for a key: {cause}"))?;
                let value = Some(Bytes::copy_from_slice(&seed));
                self.writes.push(Write { keyspace: Keyspace::Meta, key, value });
                seed
            }
        };
        Ok(SigningKey::from_bytes(&seed).verifying_key().to_bytes())
    }
}

/// Paths may be longer than a key of the storage, so their hash stands for them.
fn storage_key(path: &Path) -> Vec<u8> {
    let hash = xxhash_rust::xxh3::xxh3_128(path.to_string().as_bytes());
    [&b"key/"[..], &hash.to_be_bytes()].concat()
}
