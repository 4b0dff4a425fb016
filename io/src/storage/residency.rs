//! How much of LMDB's map the process has resident.
//!
//! Whatever is read through the map stays mapped, and counts as memory of the process, until the kernel is short of
//! memory. So large values are read beside the map, from the file, and the map is given back every now and then. The
//! kernel keeps the file cached, so a page that is read again costs a soft fault.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use crate::signals;

/// Values of at least this size are read beside the map.
const LARGE_VALUE_BYTES: usize = 16 * 1024;

/// What one fault makes resident at most: Linux 6.18 maps all of a folio at once, and files are cached in folios of up
/// to this size.
const FAULT_BYTES: i64 = 2 * 1024 * 1024;

/// By how much what is resident of other files grows at most between two measurements.
const FLOOR_GROWTH_BYTES: u64 = 1024 * 1024;

/// The map of a whole file, shared and only read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    start: usize,
    length: usize,
}

/// Keeps about a given part of a map resident at most.
#[derive(Debug)]
pub(super) struct Residency {
    limit_bytes: u64,
    /// What may become resident before the next look.
    left_bytes: AtomicI64,
    measure: Mutex<Measure>,
    /// The file that is mapped.
    file: File,
}

#[derive(Debug)]
struct Measure {
    /// Tells what is resident of all files.
    status: Option<File>,
    /// What is resident of all files when nothing is of the map.
    floor_bytes: u64,
}

impl Residency {
    /// About `limit_bytes` of the map of this file are to be resident at most.
    pub fn new(file: File, limit_bytes: u64) -> Residency {
        let status = system::open_status();
        let floor_bytes = status.as_ref().and_then(system::file_bytes).unwrap_or(0);
        Residency {
            limit_bytes,
            left_bytes: AtomicI64::new(limit_bytes as i64),
            measure: Mutex::new(Measure { status, floor_bytes }),
            file,
        }
    }

    /// Reads a large value, which is in the map, without touching the map. `None` if it is not large.
    pub fn read_large(&self, map: &Map, value: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if value.len() < LARGE_VALUE_BYTES {
            return Ok(None);
        }
        let offset = value.as_ptr() as usize - map.start;
        // What says where the value is may be damaged.
        let length = self.file.metadata()?.len();
        if (offset + value.len()) as u64 > length {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a value reaches beyond the end of the file",
            ));
        }
        let mut bytes = vec![0; value.len()];
        self.file.read_exact_at(&mut bytes, offset as u64)?;
        Ok(Some(bytes))
    }

    /// Call this after reading or writing at a few places of a map that cannot move or vanish meanwhile.
    pub fn touch(&self, map: &Map) {
        let touched_bytes = system::new_faults() * FAULT_BYTES;
        if touched_bytes == 0 {
            return;
        }
        let left_bytes = self.left_bytes.fetch_sub(touched_bytes, Ordering::Relaxed) - touched_bytes;
        if left_bytes > 0 {
            return;
        }
        let measure = match self.measure.try_lock() {
            // Another thread is at it, and may be for long: what has become resident meanwhile is no more than this.
            Err(TryLockError::WouldBlock) if left_bytes > -(self.limit_bytes as i64 / 2) => return,
            Err(TryLockError::WouldBlock) => self.measure.lock(),
            Ok(measure) => Ok(measure),
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
        };
        let mut measure = measure.unwrap_or_else(PoisonError::into_inner);
        // What others touch from here on counts.
        let left_before = self.left_bytes.load(Ordering::Relaxed);
        if left_before > 0 {
            return;
        }
        // Most faults make less resident, and some are not of the map. A look costs as much as a few of them.
        let resident_bytes = measure.file_bytes().map(|bytes| bytes.saturating_sub(measure.floor_bytes));
        let left_bytes = match resident_bytes {
            Some(resident_bytes) if resident_bytes < self.limit_bytes / 2 => {
                self.limit_bytes - resident_bytes
            }
            _ => {
                system::give_back(map);
                // Other files, such as the program itself, may have more resident by now than before. Much more than
                // before is what other threads have just read again of this one.
                let floor_bytes = measure.file_bytes().unwrap_or(0);
                measure.floor_bytes = floor_bytes.min(measure.floor_bytes + FLOOR_GROWTH_BYTES);
                self.limit_bytes
            }
        };
        self.left_bytes.fetch_add(left_bytes as i64 - left_before, Ordering::Relaxed);
    }
}

impl Measure {
    fn file_bytes(&self) -> Option<u64> {
        system::file_bytes(self.status.as_ref()?)
    }
}

impl Map {
    /// The map that this reference points into, if the operating system tells. The caller knows that it is one of a
    /// whole file, shared and only read.
    pub fn around(bytes: &[u8]) -> Option<Map> {
        let map = system::find_map(bytes.as_ptr() as usize);
        let (start, length) = map.as_ref().map_or((0, 0), |map| (map.start, map.length));
        signals::note_map(start, length);
        map
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::cell::Cell;
    use std::fs::{self, File};
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::unix::fs::FileExt;

    use super::Map;

    thread_local! {
        /// How many faults this thread had when it was last asked.
        static FAULTS: Cell<i64> = const { Cell::new(0) };
    }

    /// How many faults this thread had since it was last asked.
    pub fn new_faults() -> i64 {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to a structure of this type, and all of it are numbers, of which zero is one.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        let faults = usage.ru_minflt + usage.ru_majflt;
        faults - FAULTS.replace(faults)
    }

    pub fn open_status() -> Option<File> {
        File::open("/proc/self/status").ok()
    }

    /// What is resident of all files. The numbers of `/proc/self/statm` would be cheaper, but lag behind by megabytes.
    pub fn file_bytes(status: &File) -> Option<u64> {
        let mut buffer = [0; 4096];
        let length = status.read_at(&mut buffer, 0).ok()?;
        let kib = buffer[..length].split(|byte| *byte == b'\n').find_map(|line| {
            let text = str::from_utf8(line.strip_prefix(b"RssFile:")?).ok()?;
            text.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        })?;
        Some(kib * 1024)
    }

    /// A line of the list begins with `START-END PERMISSIONS OFFSET`, the numbers in hexadecimal.
    pub fn find_map(address: usize) -> Option<Map> {
        let list = fs::read("/proc/self/maps").ok()?;
        list.split(|byte| *byte == b'\n').find_map(|line| {
            let mut fields = str::from_utf8(line.split(|byte| *byte == b'/').next()?).ok()?.split(' ');
            let (start, end) = fields.next()?.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            let (start, end) = (number(start)?, number(end)?);
            let is_wanted = (start..end).contains(&address)
                && fields.next() == Some("r--s")
                && fields.next().and_then(number) == Some(0);
            is_wanted.then_some(Map { start, length: end - start })
        })
    }

    pub fn give_back(map: &Map) {
        // SAFETY: the range is one map of a file, shared and only read, that stays in its place during the call (see
        // `Map::around` and `Residency::touch`). Its contents are those of the file before and after: who reads it
        // meanwhile, through any reference, faults and reads the same bytes.
        if unsafe { libc::madvise(map.start as *mut _, map.length, libc::MADV_DONTNEED) } != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "the map of the checkpoint stays resident");
        }
    }
}

/// Elsewhere the map is left to the operating system.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;

    use super::Map;

    pub fn new_faults() -> i64 {
        0
    }

    pub fn open_status() -> Option<File> {
        None
    }

    pub fn file_bytes(_status: &File) -> Option<u64> {
        None
    }

    pub fn find_map(_address: usize) -> Option<Map> {
        None
    }

    pub fn give_back(_map: &Map) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_a_map_that_is_read_and_shared_is_found() {
        let bytes = vec![1; 100_000];
        assert!(Map::around(&bytes).is_none(), "giving this back would lose it");
        assert!(Map::around(b"a constant of the program").is_none());
    }

    #[test]
    fn faults_are_counted() {
        system::new_faults();
        let bytes = std::hint::black_box(vec![1_u8; 64 * 1024 * 1024]);
        assert!(system::new_faults() > 0);
        drop(bytes);
    }
}
