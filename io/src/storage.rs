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
//!   └─────────────────────┘     checkpoint    │ on a thread
//!                                             ▼ of its own
//!                                     ┌───────────────┐
//!                                     │ heed (LMDB)   │
//!                                     └───────────────┘
//! ```
//!
//! A commit appends one record per batch to the active segment of the [log](mod@log) and syncs once. It is
//! acknowledged, and becomes visible, after that sync. When the segment or its overlay is full, the two segments
//! change places: the overlay is frozen and written into LMDB, in as many transactions as memory allows, while commits
//! go on in the other segment. A segment is reused only when LMDB holds everything that is in it, which the last of the
//! transactions says.
//!
//! All this takes as much memory as [`StoreOptions::within`] says, also the part of LMDB's map that is resident.
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

pub mod backup;
mod checkpoint;
mod digest;
mod disk;
mod error;
pub mod log;
mod overlay;
mod real;
mod recovery;
mod residency;
mod sealed;
pub mod simulated;
mod store;

pub use checkpoint::HeedCheckpoint;
pub use disk::{CheckpointSnapshot, CheckpointStore, Disk, DiskFile};
pub use error::StorageError;
pub use overlay::{Change, Overlay};
pub use real::{DIRECTORY_NAME, RealDisk};
pub use sealed::{SEALED_HEADER_BYTES, SEALED_VERSION, seal, unseal};
pub use store::{CheckpointMode, Reader, Room, Store, StoreOptions};

/// The version of everything that is stored: from 2 on, a batch may be several records of the log. A directory of a
/// later version is refused, one of an earlier version becomes one of this version.
pub const FORMAT_VERSION: u32 = 2;

/// The earliest version that can be read.
pub const FORMAT_VERSION_MIN: u32 = 1;

/// The longest key. LMDB takes 511 bytes; the rest is kept in reserve.
pub const MAXIMUM_KEY_BYTES: usize = 500;

/// The longest value: the length of a record is stored in four bytes. Batches have no limit.
pub const MAXIMUM_VALUE_BYTES: usize = u32::MAX as usize - 1024;

/// A random name for one data directory, made when it is created.
pub type DiskId = [u8; 16];

pub use components::hosting::storage::{Keyspace, Write};
