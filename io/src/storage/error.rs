//! What can go wrong in storage.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{FORMAT_VERSION, Keyspace, MAXIMUM_BATCH_BYTES, MAXIMUM_KEY_BYTES};

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
        "{location} has format version {found}, but this program knows only version {FORMAT_VERSION}: \
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

    /// A batch is too large. Nothing was written.
    #[error("a batch has {length} bytes; at most {MAXIMUM_BATCH_BYTES} are allowed")]
    BatchTooLarge {
        /// The length of the batch in bytes.
        length: usize,
    },
}

impl StorageError {
    /// Says what was tried when the operating system returned an error.
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> StorageError {
        let operation = operation.into();
        move |source| StorageError::Io { operation, source }
    }
}
