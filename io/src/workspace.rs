//! Scratch space in `--workspace`: files without a name, so that whatever ends the host leaves nothing behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use components::rows::runs::Scratch;

use crate::metrics::Metrics;

/// What the names of our files begin with, for the moment that they have one.
const FILE_PREFIX: &str = ".tinychain-rows-";

/// Which part of `--cache_size` the rows of one request may take in memory; sorting takes about twice that besides.
const MEMORY_SHARE: u64 = 16;

/// The same if the cache is small, in bytes.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// Which part of `--cache_size` a body may have whose rows a history records, each of them: that takes up to ten times as
/// much while they are decoded, sorted, merged and stored.
const RECORDED_SHARE: u64 = 8;

/// The same if the cache is small, in bytes.
const RECORDED_BYTES_MIN: u64 = 8 << 20;

/// How much of the rows is gathered at most before it is sorted and written, in bytes.
const RUN_BYTES_MAX: usize = 32 << 20;

/// How large the parts are, at most, in which rows out of scratch space are merged, in bytes.
const PART_BYTES_MAX: usize = 16 << 20;

/// The directory for what does not fit in memory, which other hosts may use, too.
#[derive(Debug)]
pub struct Workspace {
    directory: PathBuf,
    memory_bytes: usize,
    recorded_bytes: usize,
    files: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Workspace {
    /// A directory that exists, for a host with a cache of so many bytes. What a host left that was killed is removed.
    pub fn new(directory: PathBuf, cache_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let names = fs::read_dir(&directory).into_iter().flatten().flatten();
        for name in names.filter(|name| name.file_name().to_string_lossy().starts_with(FILE_PREFIX)) {
            // Of a host that runs it has a name for a moment only, and is used without.
            let _ = fs::remove_file(name.path());
        }
        let memory_bytes = (cache_bytes / MEMORY_SHARE).max(MEMORY_BYTES_MIN);
        let recorded_bytes = (cache_bytes / RECORDED_SHARE).max(RECORDED_BYTES_MIN);
        let recorded_bytes = usize::try_from(recorded_bytes).unwrap_or(usize::MAX);
        let memory_bytes = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        Self { recorded_bytes, ..Self::within(directory, memory_bytes, metrics) }
    }

    /// A directory as it is, for rows that take so many bytes in memory.
    pub fn within(directory: PathBuf, memory_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let recorded_bytes = usize::MAX;
        Self { directory, memory_bytes, recorded_bytes, files: AtomicU64::new(0), metrics }
    }

    /// How large a body is at most that is decoded as a whole, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// How large a body is at most whose rows a history records, in bytes.
    pub fn recorded_bytes(&self) -> usize {
        self.recorded_bytes
    }

    /// How much of the rows is gathered before it is sorted and written, in bytes.
    pub fn run_bytes(&self) -> usize {
        self.memory_bytes.min(RUN_BYTES_MAX)
    }

    /// How much of the rows is merged at once, in bytes.
    pub fn part_bytes(&self) -> usize {
        (self.memory_bytes / 2).min(PART_BYTES_MAX)
    }

    /// Empty space.
    ///
    /// # Errors
    /// Why there is none.
    pub fn scratch(&self) -> Result<Arc<dyn Scratch>, String> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{FILE_PREFIX}{}-{number}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|cause| format!("{}: {cause}", path.display()))?;
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {cause}", path.display()));
            }
            _ => {}
        }
        let metrics = self.metrics.clone();
        Ok(Arc::new(ScratchFile { file, end: AtomicU64::new(0), metrics }))
    }
}

/// A file that goes with its last handle.
#[derive(Debug)]
struct ScratchFile {
    file: File,
    end: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Scratch for ScratchFile {
    fn append(&self, bytes: &[u8]) -> Result<u64, String> {
        let len = bytes.len() as u64;
        let offset = self.end.fetch_add(len, Ordering::Relaxed);
        self.file.write_all_at(bytes, offset).map_err(|cause| cause.to_string())?;
        self.metrics.spilled_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(offset)
    }

    fn read(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|cause| cause.to_string())?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_space_has_no_name_and_leftovers_go() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join(format!("{FILE_PREFIX}1-0"));
        fs::write(&left, "left by a host that was killed").unwrap();
        fs::write(directory.path().join("other"), "not ours").unwrap();
        let workspace = Workspace::new(directory.path().to_path_buf(), 0, Arc::default());
        let (one, other) = (workspace.scratch().unwrap(), workspace.scratch().unwrap());
        let names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names, ["other"]);
        assert_eq!((one.append(b"abc"), one.append(b"de"), other.append(b"f")), (Ok(0), Ok(3), Ok(0)));
        assert_eq!(one.read(2, 3).unwrap(), "cde");
        assert!(one.read(2, 4).is_err());
        assert_eq!(workspace.metrics.spilled_bytes.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error() {
        let workspace = Workspace::new("/nowhere".into(), 1 << 30, Arc::default());
        assert!(workspace.scratch().unwrap_err().contains("/nowhere"));
        assert_eq!((workspace.memory_bytes(), workspace.part_bytes()), (64 << 20, 16 << 20));
    }
}
