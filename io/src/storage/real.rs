//! The disk of this machine.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::checkpoint::DATA_NAME as CHECKPOINT_DATA_NAME;
use super::{CheckpointStore, Disk, DiskFile, HeedCheckpoint, StorageError};

/// The folder in the data directory that holds everything, so that other files beside it never matter.
pub const DIRECTORY_NAME: &str = "tinychain";

const LOCK_NAME: &str = "lock";
/// Only the owner may read what is stored, as there are keys among it.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

const CHECKPOINT_NAME: &str = "checkpoint";

/// The address space that the checkpoint starts with. It takes no memory and no disk until used.
const MAP_SIZE_BYTES: usize = 64 * 1024 * 1024 * 1024;

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 256 * 1024;

/// A data directory in the file system of this machine, locked for as long as this lives.
pub struct RealDisk {
    directory: PathBuf,
    map_size_bytes: usize,
    /// What was opened, by its name, with the device and number that it had.
    opened: Mutex<Vec<(PathBuf, u64, u64)>>,
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
        create_directory(&directory).map_err(failed("create", &directory))?;
        sync_directory(data_directory).map_err(failed("sync", data_directory))?;

        let lock_path = directory.join(LOCK_NAME);
        let lock = options().create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(failed("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path: lock_path }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
        }
        // Data that was made before may be open to others.
        restrict(&directory).map_err(failed("restrict access to", &directory))?;
        let disk = RealDisk { directory, map_size_bytes, opened: Mutex::default(), _lock: lock };
        for path in [data_directory, &disk.directory, &lock_path] {
            disk.note_opened(path).map_err(failed("look at", path))?;
        }
        Ok(disk)
    }

    /// Remembers what lies at a path.
    fn note_opened(&self, path: &Path) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push((path.to_path_buf(), metadata.dev(), metadata.ino()));
        Ok(())
    }
}

/// How files are opened: keys are in them, so only for the owner.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Creates a directory that only its owner can look into, unless there is one.
fn create_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Closes a directory, and all that is in it, to everybody but the owner.
fn restrict(directory: &Path) -> io::Result<()> {
    set_mode(directory, DIRECTORY_MODE)?;
    for entry in fs::read_dir(directory)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            restrict(&path)?;
        } else if kind.is_file() {
            set_mode(&path, FILE_MODE)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    if permissions.mode() & 0o777 & !mode == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for RealDisk {
    fn open_file(&self, name: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let path = self.directory.join(name);
        match options().open(&path) {
            Ok(file) => {
                self.note_opened(&path)?;
                Ok(Some(Arc::new(RealFile(file))))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_file(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let file = options().create_new(true).open(&path)?;
        self.note_opened(&path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, device, number) in &*opened {
            match fs::metadata(path) {
                Ok(metadata) if (metadata.dev(), metadata.ino()) == (*device, *number) => {}
                Ok(_) => return Err(StorageError::Replaced { path: path.clone() }),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Err(StorageError::Replaced { path: path.clone() });
                }
                // What cannot be looked at for the moment need not be gone.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        system::free_bytes(&self._lock)
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }

    fn open_checkpoint(&self, resident_bytes: u64) -> Result<Arc<dyn CheckpointStore>, StorageError> {
        let directory = self.directory.join(CHECKPOINT_NAME);
        let failed = |operation: &str| StorageError::io(format!("{operation} {}", directory.display()));
        create_directory(&directory).map_err(failed("create"))?;
        let checkpoint = HeedCheckpoint::open(&directory, self.map_size_bytes, resident_bytes)?;
        // LMDB syncs its file, but not its name.
        sync_directory(&directory).map_err(failed("sync"))?;
        sync_directory(&self.directory).map_err(failed("sync"))?;
        restrict(&directory).map_err(failed("restrict access to"))?;
        for path in [&directory, &directory.join(CHECKPOINT_DATA_NAME)] {
            self.note_opened(path).map_err(failed("look at"))?;
        }
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

    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        match system::allocate(&self.0, offset, length.saturating_sub(offset)) {
            // Not every file system can.
            Err(error) if error.kind() == ErrorKind::Unsupported => self.allocate(offset, length),
            result => result,
        }
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        // Not only reserved: blocks that were never written cost a journal commit at the first sync of each.
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

/// Room in a file system.
pub(super) mod system {
    use std::fs::File;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    /// How many bytes are free where this file is.
    pub fn free_bytes(file: &File) -> Option<u64> {
        let mut status = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the pointer is to a structure of this type, and all of it are numbers, of which zero is one.
        let status = unsafe {
            (libc::fstatvfs(file.as_raw_fd(), status.as_mut_ptr()) == 0).then(|| status.assume_init())?
        };
        Some((status.f_bavail as u64).saturating_mul(status.f_frsize as u64))
    }

    /// Gives a file room, and this length at least.
    #[cfg(target_os = "linux")]
    pub fn allocate(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        allocate_as(file, 0, offset, bytes)
    }

    /// Gives a file room beyond its end.
    #[cfg(target_os = "linux")]
    pub fn allocate_beyond(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        allocate_as(file, libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
    }

    #[cfg(target_os = "linux")]
    fn allocate_as(file: &File, mode: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        loop {
            // SAFETY: a call of the operating system with numbers only.
            if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, bytes as i64) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Elsewhere files get their room when they are written.
    #[cfg(not(target_os = "linux"))]
    pub fn allocate(_file: &File, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(not(target_os = "linux"))]
    pub fn allocate_beyond(_file: &File, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
