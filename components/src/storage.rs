//! What the world asks the storage to keep: plain keys and values.

/// One named keyspace of the storage.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Keyspace {
    /// Format version, disk id, keys of the host.
    Meta,
    /// Chains by address.
    Catalog,
    /// Subjects of chains, and the mutations since they were last written as a whole.
    Values,
    /// Blocks of chains.
    Blocks,
    /// Decisions about transactions.
    Outcomes,
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
