//! The thin layer between storage and the machine, so that a simulated disk can stand in.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Keyspace, StorageError};

/// A directory with a few files and one checkpoint.
pub trait Disk: Send + Sync {
    /// Opens a file, or says that there is none.
    fn open_file(&self, name: &str) -> io::Result<Option<Arc<dyn DiskFile>>>;

    /// Creates an empty file. Its name is durable after [`Disk::sync_directory`].
    fn create_file(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// An error unless all that was opened still lies in its place.
    fn check_in_place(&self) -> Result<(), StorageError>;

    /// Makes the names of created files durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// How many bytes are free for this process; `None` if that is not known.
    fn free_bytes(&self) -> Option<u64>;

    /// Opens the checkpoint, and creates it when there is none. If it maps a file into memory, it keeps about this
    /// much of it resident at most.
    fn open_checkpoint(&self, resident_bytes: u64) -> Result<Arc<dyn CheckpointStore>, StorageError>;
}

/// A file that is read and written at offsets.
pub trait DiskFile: Send + Sync {
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills the buffer from this offset; an error when the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all the bytes at this offset. They are durable after [`DiskFile::sync`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes sure that there is room for bytes from this offset to this length, which becomes that of the file. They are
    /// zeros until they are written.
    fn reserve(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Writes zeros from this offset to this length, which becomes that of the file. A later write there then
    /// changes no metadata of the file system, so that syncing it is cheap.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Cuts the file off at this length.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes everything written so far durable. Never call this again after it failed: what was not written is
    /// forgotten by the kernel, and the second call would report success.
    fn sync(&self) -> io::Result<()>;
}

/// An ordered map of sealed values whose changes are atomic and durable.
pub trait CheckpointStore: Send + Sync {
    /// The metadata written by the last [`CheckpointStore::apply`].
    fn metadata(&self) -> Result<Option<Vec<u8>>, StorageError>;

    /// Applies all the changes, their values [sealed](super::seal), and replaces the metadata if there is new. All or
    /// nothing, and durable on `Ok`. It takes about as much memory as the changes do. When there is [no
    /// room](StorageError::is_no_room) it may be called again.
    fn apply(&self, changes: &[Change<'_>], metadata: Option<&[u8]>) -> Result<(), StorageError>;

    /// An error unless everything is there that was stored; only keys and checksums of values are looked at.
    fn verify(&self) -> Result<(), StorageError>;

    /// Looks once more, after something was written, whether everything is there: a damaged list of free pages only shows
    /// when they are used.
    fn check_again(&self) -> Result<(), StorageError>;

    /// The chains of which not everything is there that was stored, as was seen when this was opened or [checked
    /// again](CheckpointStore::check_again), with what is not.
    fn damaged(&self) -> BTreeMap<u32, String>;

    /// How many bytes of changes certainly have room, and whether as much is kept in reserve as there should be.
    fn room(&self) -> Result<(u64, bool), StorageError>;

    /// The sealed value of a key.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// A view that later changes do not alter. Drop it soon: it keeps LMDB from reusing pages.
    fn snapshot(&self) -> Result<Box<dyn CheckpointSnapshot + '_>, StorageError>;
}

/// Sees a key and its sealed value, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError> + 'a;

/// An unchanging view of a checkpoint.
pub trait CheckpointSnapshot {
    /// Visits the keys from `start` (inclusive) in order until there are no more, or `visit` has enough.
    fn scan(&self, keyspace: Keyspace, start: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;
}
