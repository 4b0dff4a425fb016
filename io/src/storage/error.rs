//! What can go wrong in storage.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use components::rows::stored::GARBAGE;

use super::{FORMAT_VERSION, Keyspace, MAXIMUM_KEY_BYTES, MAXIMUM_VALUE_BYTES};

/// Entries are missing, or others are there than should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "in keyspace {keyspace}, below {}, there should be {expected} entries, and there are {found}, or other ones",
    hex::encode(prefix)
)]
pub struct Incomplete {
    /// The keyspace.
    pub keyspace: Keyspace,
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// How many entries there should be.
    pub expected: u64,
    /// How many there are.
    pub found: u64,
}

impl Incomplete {
    /// The number of the chain that this concerns, if it concerns no others.
    pub fn chain(&self) -> Option<u32> {
        match self.keyspace {
            Keyspace::Values | Keyspace::Blocks | Keyspace::Trees => {
                let chain = self.prefix.first_chunk().copied().map(u32::from_be_bytes);
                chain.filter(|chain| *chain != GARBAGE)
            }
            Keyspace::Meta | Keyspace::Catalog | Keyspace::Outcomes | Keyspace::Pages => None,
        }
    }
}

/// A failure of the storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process (or another store in this process) has the directory open.
    #[error("the data directory is in use by another process (lock file {})", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },

    /// The stored format is not one that this program knows.
    #[error(
        "{location} has format version {found}, but this program knows versions up to {FORMAT_VERSION}: \
         use the program that wrote it"
    )]
    UnknownVersion {
        /// What carries the version.
        location: String,
        /// The version found.
        found: u32,
    },

    /// A stored value does not match its checksum.
    #[error("the value of key {} in keyspace {keyspace} is corrupt: {reason}", key.escape_ascii())]
    Corrupt {
        /// The keyspace of the value.
        keyspace: Keyspace,
        /// The key of the value.
        key: Vec<u8>,
        /// What does not fit.
        reason: &'static str,
    },

    /// The metadata of the checkpoint cannot be read.
    #[error("the metadata of the checkpoint is corrupt: {reason}")]
    CorruptMetadata {
        /// What does not fit.
        reason: &'static str,
    },

    /// The checkpoint does not hold what it should.
    #[error("the checkpoint is damaged: {0}")]
    Incomplete(#[from] Incomplete),

    /// Acknowledged records of the log are missing or damaged.
    #[error("the log file {file} is corrupt at byte {offset}: {reason}")]
    CorruptLog {
        /// The name of the log file.
        file: String,
        /// Where.
        offset: u64,
        /// What does not fit.
        reason: String,
    },

    /// The log and the checkpoint were not made together.
    #[error("the log file {file} belongs to another data directory")]
    ForeignLog {
        /// The name of the log file.
        file: String,
    },

    /// An earlier failure left it unknown what is durable. Only opening the store again can tell.
    #[error("storage stopped after an earlier failure: {reason}")]
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },

    /// The disk failed.
    #[error("cannot {operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// What the operating system said.
        source: io::Error,
    },

    /// LMDB failed.
    #[error("the checkpoint cannot {operation}: {source}")]
    Checkpoint {
        /// What was tried.
        operation: &'static str,
        /// What LMDB said.
        source: heed::Error,
    },

    /// A key is empty or too long. Nothing was written.
    #[error("a key in keyspace {keyspace} has {length} bytes; 1 to {MAXIMUM_KEY_BYTES} are allowed")]
    InvalidKey {
        /// The keyspace of the key.
        keyspace: Keyspace,
        /// The length of the key in bytes.
        length: usize,
    },

    /// A value is too large. Nothing was written.
    #[error("a value has {length} bytes; at most {MAXIMUM_VALUE_BYTES} are allowed")]
    ValueTooLarge {
        /// The length of the value in bytes.
        length: usize,
    },

    /// There is no room for a commit: nothing of it was written, and the store goes on.
    #[error("there is no room: {reason}")]
    NoRoom {
        /// What has no room.
        reason: String,
    },

    /// A backup is not whole, or not one.
    #[error("the backup is damaged: {reason}")]
    DamagedBackup {
        /// What does not fit.
        reason: String,
    },

    /// A copy of what is damaged would not show that it is.
    #[error("there is no backup of what is damaged: {damage}")]
    CannotBackUp {
        /// What is not there.
        damage: String,
    },

    /// A backup is being made already.
    #[error("another backup is being made")]
    BackupRuns,

    /// Who was to take a backup wants no more of it.
    #[error("the backup was not taken")]
    BackupNotTaken,

    /// The data directory is not what it was when it was opened.
    #[error("{} was removed or replaced while the host ran", path.display())]
    Replaced {
        /// What is not there any more.
        path: PathBuf,
    },
}

impl StorageError {
    /// Says what was tried when the operating system returned an error.
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> StorageError {
        let operation = operation.into();
        move |source| StorageError::Io { operation, source }
    }

    /// Like [`StorageError::io`], and names it if there was only no room. For operations that may be tried again.
    pub(crate) fn io_or_no_room(operation: impl Into<String>) -> impl FnOnce(io::Error) -> StorageError {
        let operation = operation.into();
        move |source| match is_no_room(&source) {
            true => StorageError::NoRoom { reason: format!("cannot {operation}: {source}") },
            false => StorageError::Io { operation, source },
        }
    }

    /// Whether there was only no room: on the disk, in the quota, or for a file of this size.
    pub fn is_no_room(&self) -> bool {
        matches!(self, StorageError::NoRoom { .. })
    }
}

/// Whether an error of the operating system says that there is no room.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
