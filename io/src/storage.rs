//! Durable storage: an append-only log in front of an LMDB checkpoint.
//!
//! ```text
//!            commit                       get, scan
//!              │                              │
//!              ▼                              ▼
//!   ┌─────────────────────┐  after    ┌────────────────┐
//!   │ log, active segment │  the sync │ active overlay │  everything in the log
//!   │ one sync per commit │ ────────► ├────────────────┤  that is not yet in the
//!   ├─────────────────────┤           │ frozen overlay │  checkpoint, in memory
//!   │ log, other segment  │           └───────┬────────┘
//!   └─────────────────────┘     checkpoint    │ one transaction,
//!                                             ▼ on a thread of its own
//!                                     ┌───────────────┐
//!                                     │ heed (LMDB)   │
//!                                     └───────────────┘
//! ```
//!
//! A commit appends one record per batch to the active segment of the [log](mod@log) and syncs once. It is
//! acknowledged, and becomes visible, after that sync. When the segment or its overlay is full, the two segments
//! change places: the overlay is frozen and written into LMDB in one transaction while commits go on in the other
//! segment. A segment is reused only when LMDB holds everything that is in it.
//!
//! Recovery replays the records that LMDB does not hold, stops at the torn tail of the last commit, and refuses to
//! open when a record that had been acknowledged is damaged.
//!
//! Any failure of the disk *poisons* the [`Store`]: it cannot know any more what is durable, so every later call
//! returns [`StorageError::Poisoned`], and no sync is ever retried.
//!
//! Everything lives in the folder [`DIRECTORY_NAME`] of the data directory:
//!
//! | name | holds |
//! | --- | --- |
//! | `lock` | the lock that keeps other processes out |
//! | `log-0`, `log-1` | the two log segments |
//! | `checkpoint/` | the LMDB environment |

mod checkpoint;
mod disk;
mod error;
pub mod log;
mod overlay;
mod real;
mod recovery;
mod sealed;
pub mod simulated;
mod store;

pub use checkpoint::HeedCheckpoint;
pub use disk::{CheckpointSnapshot, CheckpointStore, Disk, DiskFile};
pub use error::StorageError;
pub use overlay::Overlay;
pub use real::{DIRECTORY_NAME, RealDisk};
pub use sealed::{SEALED_HEADER_BYTES, SEALED_VERSION, seal, unseal};
pub use store::{CheckpointMode, Reader, Store, StoreOptions};

use std::fmt;

use bytes::Bytes;

/// The version of everything that is stored. A directory of another version is refused.
pub const FORMAT_VERSION: u32 = 1;

/// The longest key. LMDB takes 511 bytes; the rest is kept in reserve.
pub const MAXIMUM_KEY_BYTES: usize = 500;

/// The most bytes that one batch may take in the log.
pub const MAXIMUM_BATCH_BYTES: usize = 256 * 1024 * 1024;

/// A random name for one data directory, made when it is created.
pub type DiskId = [u8; 16];

/// One named keyspace.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Keyspace {
    /// What the host knows about itself.
    Meta,
    /// Which services, collections and chains exist.
    Catalog,
    /// Rows, pages and tensor blocks.
    Values,
    /// Blocks of chains.
    Blocks,
    /// Outcomes of transactions, by idempotency key.
    Outcomes,
}

impl Keyspace {
    /// Every keyspace, in order.
    pub const ALL: [Keyspace; 5] =
        [Keyspace::Meta, Keyspace::Catalog, Keyspace::Values, Keyspace::Blocks, Keyspace::Outcomes];

    /// The stored number of this keyspace. Never reuse or renumber one.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Keyspace::Meta => 0,
            Keyspace::Catalog => 1,
            Keyspace::Values => 2,
            Keyspace::Blocks => 3,
            Keyspace::Outcomes => 4,
        }
    }

    /// The keyspace with this stored number.
    pub(crate) fn from_number(number: u8) -> Option<Keyspace> {
        Keyspace::ALL.get(usize::from(number)).copied()
    }

    /// The position of this keyspace in [`Keyspace::ALL`].
    pub(crate) const fn index(self) -> usize {
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
        }
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// Where the key lives.
    pub keyspace: Keyspace,
    /// 1 to [`MAXIMUM_KEY_BYTES`] bytes.
    pub key: Vec<u8>,
    /// The new value; `None` deletes. The store keeps a reference to these bytes until the next checkpoint.
    pub value: Option<Bytes>,
}
