//! What the world asks the storage to keep: plain keys and values.

use std::fmt;

use crate::value::ids::ChainId;

/// One named keyspace.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Keyspace {
    /// Keys and settings of the host.
    Meta,
    /// Chains by address.
    Catalog,
    /// Subjects of chains, and the mutations since they were last written as a whole.
    Values,
    /// Blocks of chains.
    Blocks,
    /// Decisions about transactions.
    Outcomes,
    /// Contents of the pages of collections, by page number: 8 bytes, big endian.
    Pages,
    /// What collections are made of: handles of their pages.
    Trees,
}

impl Keyspace {
    /// Every keyspace, in order.
    pub const ALL: [Keyspace; 7] = [
        Keyspace::Meta,
        Keyspace::Catalog,
        Keyspace::Values,
        Keyspace::Blocks,
        Keyspace::Outcomes,
        Keyspace::Pages,
        Keyspace::Trees,
    ];

    /// The stored number of this keyspace. Never reuse or renumber one.
    pub const fn number(self) -> u8 {
        match self {
            Keyspace::Meta => 0,
            Keyspace::Catalog => 1,
            Keyspace::Values => 2,
            Keyspace::Blocks => 3,
            Keyspace::Outcomes => 4,
            Keyspace::Pages => 5,
            Keyspace::Trees => 6,
        }
    }

    /// The keyspace with this stored number.
    pub fn from_number(number: u8) -> Option<Keyspace> {
        Keyspace::ALL.get(usize::from(number)).copied()
    }

    /// The position of this keyspace in [`Keyspace::ALL`].
    pub const fn index(self) -> usize {
        self.number() as usize
    }

    /// The name of this keyspace, also that of its LMDB database.
    pub const fn name(self) -> &'static str {
        match self {
            Keyspace::Meta => "meta",
            Keyspace::Catalog => "catalog",
            Keyspace::Values => "values",
            Keyspace::Blocks => "blocks",
            Keyspace::Outcomes => "outcomes",
            Keyspace::Pages => "pages",
            Keyspace::Trees => "trees",
        }
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One change of the storage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// Where.
    pub keyspace: Keyspace,
    /// Which key; 1 to 500 bytes.
    pub key: Vec<u8>,
    /// The new value; none deletes the key.
    pub value: Option<bytes::Bytes>,
}

/// What one tick asks the storage to make durable, all or nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Ascending by one or more from batch to batch.
    pub sequence: u64,
    /// In the order in which they are to be applied.
    pub writes: Vec<Write>,
}

/// What was stored, as the loader and jobs read it.
pub trait Read {
    /// The value of a key.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<bytes::Bytes>, String>;

    /// At most `limit` entries whose keys begin with `prefix`, in order of key, from the key `from` on.
    ///
    /// # Errors
    /// Why the storage cannot be read.
    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, String>;

    /// Why some of what was stored of a chain is known to be missing, if it is.
    fn damage(&self, _chain: ChainId) -> Option<String> {
        None
    }
}
