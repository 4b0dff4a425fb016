//! The disk of this machine.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CheckpointStore, Disk, DiskFile, HeedCheckpoint, StorageError};

/// The folder in the data directory that holds everything, so that other files beside it never matter.
pub const DIRECTORY_NAME: &str = "tinychain";

const LOCK_NAME: &str = "lock";
const CHECKPOINT_NAME: &str = "checkpoint";

/// The address space that the checkpoint starts with. It takes no memory and no disk until used.
const MAP_SIZE_BYTES: usize = 64 * 1024 * 1024 * 1024;

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 256 * 1024;

/// A data directory in the file system of this machine, locked for as long as this lives.
pub struct RealDisk {
    directory: PathBuf,
    map_size_bytes: usize,
    /// The lock goes when this file is closed, also when the process is killed.
    _lock: File,
}

impl RealDisk {
    /// Opens the data directory, creates it when there is none, and locks it.
    pub fn open(data_directory: &Path) -> Result<RealDisk, StorageError> {
        RealDisk::open_with_map_size(data_directory, MAP_SIZE_BYTES)
    }

    /// Like [`RealDisk::open`], with another first size of the memory map.
    pub fn open_with_map_size(
        data_directory: &Path,
        map_size_bytes: usize,
    ) -> Result<RealDisk, StorageError> {
        let directory = data_directory.join(DIRECTORY_NAME);
        let failed =
            |operation: &str, path: &Path| StorageError::io(format!("{operation} {}", path.display()));
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        sync_directory(data_directory).map_err(failed("sync", data_directory))?;

        let lock_path = directory.join(LOCK_NAME);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path: lock_path }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
        }
        Ok(RealDisk { directory, map_size_bytes, _lock: lock })
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for RealDisk {
    fn open_file(&self, name: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match OpenOptions::new().read(true).write(true).open(self.directory.join(name)) {
            Ok(file) => Ok(Some(Arc::new(RealFile(file)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_file(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn open_checkpoint(&self, resident_bytes: u64) -> Result<Arc<dyn CheckpointStore>, StorageError> {
        let directory = self.directory.join(CHECKPOINT_NAME);
        let failed = |operation: &str| StorageError::io(format!("{operation} {}", directory.display()));
        fs::create_dir_all(&directory).map_err(failed("create"))?;
        let checkpoint = HeedCheckpoint::open(&directory, self.map_size_bytes, resident_bytes)?;
        // LMDB syncs its file, but not its name.
        sync_directory(&directory).map_err(failed("sync"))?;
        sync_directory(&self.directory).map_err(failed("sync"))?;
        Ok(Arc::new(checkpoint))
    }
}

/// A file in the data directory.
struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        // Not fallocate: blocks that were never written cost a journal commit at the first sync of each.
        let zeros = vec![0; ZEROS_BYTES.min(length.saturating_sub(offset) as usize)];
        let mut position = offset;
        while position < length {
            let piece = zeros.len().min((length - position) as usize);
            self.0.write_all_at(&zeros[..piece], position)?;
            position += piece as u64;
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
