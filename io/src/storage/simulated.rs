//! A disk in memory that loses, tears and reorders what was not synced, and fails on command.
//!
//! Everything follows from one seed. The store must run with [`CheckpointMode::Deferred`](super::CheckpointMode), so
//! that its operations come in one order.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::Visit;
use super::{Change, CheckpointSnapshot, CheckpointStore, Disk, DiskFile, Keyspace, StorageError, sealed};

/// What a real disk writes in one piece, mostly.
const SECTOR_BYTES: usize = 512;

/// A failure that is injected once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The machine stops in the middle of the operation. Every later one fails until [`SimulatedDisk::restart`].
    Crash,
    /// The operation fails with this kind of error, having done nothing, a part or all of its work.
    Error(ErrorKind),
}

/// What a crash leaves of the memory of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CrashKind {
    /// The power fails: anything that was not synced may be lost.
    Power,
    /// Only the process dies: the operating system still has what was written, and may lose it in a later crash.
    Process,
}

/// How often each kind of event has happened, so that a test can see that it tested something.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SimulatedCounts {
    /// Operations on files and the checkpoint, reads not counted.
    pub operations: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Crashes.
    pub crashes: u64,
    /// Errors that were injected.
    pub errors: u64,
    /// Writes that a crash lost wholly.
    pub lost_writes: u64,
    /// Writes that a crash let through in part.
    pub torn_writes: u64,
}

/// Splitmix64: small, and the same everywhere.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// A change of a file that was not synced.
#[derive(Clone, Debug)]
enum Unsynced {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

#[derive(Clone, Debug, Default)]
struct FileState {
    /// What survives a loss of power for certain.
    durable: Vec<u8>,
    /// What a read sees.
    current: Vec<u8>,
    /// What lies between the two, in order.
    unsynced: Vec<Unsynced>,
    /// Whether the name survives a loss of power for certain.
    is_name_durable: bool,
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Unsynced {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Unsynced::Write { offset, bytes } => write(contents, *offset, bytes),
            Unsynced::Truncate { length } => contents.truncate(*length),
        }
    }
}

impl FileState {
    fn change(&mut self, change: Unsynced) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    /// Decides what is on the platter after a loss of power.
    fn settle(&mut self, random: &mut Random, counts: &mut SimulatedCounts) {
        for change in std::mem::take(&mut self.unsynced) {
            match &change {
                Unsynced::Truncate { .. } => {
                    if random.coin() {
                        change.apply(&mut self.durable);
                    }
                }
                Unsynced::Write { offset, bytes } => match random.below(4) {
                    0 => counts.lost_writes += 1,
                    1 => change.apply(&mut self.durable),
                    2 => {
                        // Torn at any byte.
                        counts.torn_writes += 1;
                        let length = random.below(bytes.len() + 1);
                        write(&mut self.durable, *offset, &bytes[..length]);
                    }
                    _ => {
                        counts.torn_writes += 1;
                        settle_sectors(&mut self.durable, *offset, bytes, random);
                    }
                },
            }
        }
        self.current = self.durable.clone();
    }
}

/// Any of the sectors may have made it, in any order.
fn settle_sectors(contents: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    let mut position = 0;
    while position < bytes.len() {
        let sector_end = (offset + position + 1).next_multiple_of(SECTOR_BYTES) - offset;
        let end = sector_end.min(bytes.len());
        if random.coin() {
            write(contents, offset + position, &bytes[position..end]);
        }
        position = end;
    }
}

type SealedValues = BTreeMap<(Keyspace, Vec<u8>), Vec<u8>>;

#[derive(Debug)]
struct State {
    random: Random,
    counts: SimulatedCounts,
    files: BTreeMap<String, FileState>,
    checkpoint: Arc<SealedValues>,
    checkpoint_metadata: Option<Vec<u8>>,
    fault: Option<(u64, Fault)>,
    is_crashed: bool,
    is_sync_a_lie: bool,
    /// Handles of an earlier start are dead.
    start_count: u64,
}

/// What an operation is to do.
enum Verdict {
    Succeed,
    /// Do it, or a part of it, or nothing, and fail.
    Fail(io::Error),
}

fn crashed() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl State {
    fn begin_operation(&mut self, start_count: u64) -> io::Result<Verdict> {
        self.check_running(start_count)?;
        let index = self.counts.operations;
        self.counts.operations += 1;
        match self.fault {
            Some((at, fault)) if at == index => {
                self.fault = None;
                Ok(Verdict::Fail(match fault {
                    Fault::Crash => {
                        self.counts.crashes += 1;
                        self.is_crashed = true;
                        crashed()
                    }
                    Fault::Error(kind) => {
                        self.counts.errors += 1;
                        io::Error::new(kind, "injected")
                    }
                }))
            }
            _ => Ok(Verdict::Succeed),
        }
    }

    fn check_running(&self, start_count: u64) -> io::Result<()> {
        if self.is_crashed || start_count != self.start_count { Err(crashed()) } else { Ok(()) }
    }
}

/// A data directory in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// Whether syncs wait, and who tells them to go on.
    stall: Arc<(Mutex<bool>, Condvar)>,
    /// Handles that were made before the last restart are dead.
    start_count: u64,
}

impl SimulatedDisk {
    /// An empty disk whose faults follow from this seed.
    pub fn new(seed: u64) -> SimulatedDisk {
        let state = State {
            random: Random(seed),
            counts: SimulatedCounts::default(),
            files: BTreeMap::new(),
            checkpoint: Arc::default(),
            checkpoint_metadata: None,
            fault: None,
            is_crashed: false,
            is_sync_a_lie: false,
            start_count: 0,
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)), stall: Arc::default(), start_count: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Injects a fault into the operation that comes after this many others.
    pub fn inject(&self, after_operations: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.counts.operations + after_operations, fault));
    }

    /// From now on the sync of a file only says that it did something. A test of durability that does not fail with this is
    /// worth nothing.
    pub fn lie_about_syncs(&self) {
        self.state().is_sync_a_lie = true;
    }

    /// From now on the syncs of files wait, as on a disk that is very slow, or go on.
    pub fn stall_syncs(&self, is_stalled: bool) {
        let (stalled, changed) = &*self.stall;
        *stalled.lock().unwrap_or_else(PoisonError::into_inner) = is_stalled;
        changed.notify_all();
    }

    /// Whether the machine stands still after an injected crash.
    pub fn is_crashed(&self) -> bool {
        self.state().is_crashed
    }

    /// What has happened so far.
    pub fn counts(&self) -> SimulatedCounts {
        self.state().counts
    }

    /// The disk as it is after a crash and a new start, whether or not the crash was injected.
    pub fn restart(&self, crash_kind: CrashKind) -> SimulatedDisk {
        let mut guard = self.state();
        let state = &mut *guard;
        state.is_crashed = false;
        state.fault = None;
        state.start_count += 1;
        if crash_kind == CrashKind::Power {
            let (random, counts) = (&mut state.random, &mut state.counts);
            state.files.retain(|_, file| file.is_name_durable || random.coin());
            for file in state.files.values_mut() {
                file.settle(random, counts);
                file.is_name_durable = true;
            }
        }
        SimulatedDisk { state: self.state.clone(), stall: self.stall.clone(), start_count: state.start_count }
    }

    /// Changes a byte of a file behind the back of the store.
    pub fn damage_file(&self, name: &str, offset: usize, change: impl FnOnce(u8) -> u8) {
        let mut state = self.state();
        let file = state.files.get_mut(name).expect("a file with this name");
        file.current[offset] = change(file.current[offset]);
        if let Some(byte) = file.durable.get_mut(offset) {
            *byte = file.current[offset];
        }
    }

    /// What a read of the whole file would see; `None` if there is none.
    pub fn file_contents(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.state().files.get(name)?.current.clone())
    }

    /// Deletes a file behind the back of the store.
    pub fn delete_file(&self, name: &str) {
        self.state().files.remove(name);
    }

    /// Changes a sealed value of the checkpoint behind the back of the store.
    pub fn damage_value(&self, keyspace: Keyspace, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let checkpoint = Arc::make_mut(&mut state.checkpoint);
        change(checkpoint.get_mut(&(keyspace, key.to_vec())).expect("a value in the checkpoint"));
    }

    fn handle(&self, name: &str) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: self.clone(), name: name.to_owned() })
    }
}

impl Disk for SimulatedDisk {
    fn open_file(&self, name: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let state = self.state();
        state.check_running(self.start_count)?;
        Ok(state.files.contains_key(name).then(|| self.handle(name)))
    }

    fn create_file(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let verdict = state.begin_operation(self.start_count)?;
        let is_done = matches!(verdict, Verdict::Succeed) || state.random.coin();
        if is_done && state.files.insert(name.to_owned(), FileState::default()).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        match verdict {
            Verdict::Succeed => Ok(self.handle(name)),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.begin_operation(self.start_count)? {
            Verdict::Succeed => {
                state.counts.syncs += 1;
                state.files.values_mut().for_each(|file| file.is_name_durable = true);
                Ok(())
            }
            Verdict::Fail(error) => Err(error),
        }
    }

    fn check_in_place(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn open_checkpoint(&self, _resident_bytes: u64) -> Result<Arc<dyn CheckpointStore>, StorageError> {
        self.state().check_running(self.start_count).map_err(StorageError::io("open the checkpoint"))?;
        Ok(Arc::new(self.clone()))
    }
}

/// A file of a simulated disk.
struct SimulatedFile {
    disk: SimulatedDisk,
    name: String,
}

impl SimulatedFile {
    fn with<T>(&self, action: impl FnOnce(&mut State, &mut FileState) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        state.check_running(self.disk.start_count)?;
        let mut file = state.files.remove(&self.name).ok_or(ErrorKind::NotFound)?;
        let result = action(&mut state, &mut file);
        state.files.insert(self.name.clone(), file);
        result
    }

    fn change(&self, change: Unsynced) -> io::Result<()> {
        self.with(|state, file| match state.begin_operation(self.disk.start_count)? {
            Verdict::Succeed => {
                file.change(change);
                Ok(())
            }
            Verdict::Fail(error) => {
                if state.random.coin() {
                    file.change(match change {
                        Unsynced::Write { offset, mut bytes } => {
                            bytes.truncate(state.random.below(bytes.len() + 1));
                            Unsynced::Write { offset, bytes }
                        }
                        truncate => truncate,
                    });
                }
                Err(error)
            }
        })
    }
}

impl DiskFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        self.with(|_, file| Ok(file.current.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|_, file| {
            let start = offset as usize;
            let bytes = file.current.get(start..start + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Unsynced::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        self.allocate(offset, length)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let bytes = vec![0; length.saturating_sub(offset) as usize];
        self.change(Unsynced::Write { offset: offset as usize, bytes })
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.change(Unsynced::Truncate { length: length as usize })
    }

    fn sync(&self) -> io::Result<()> {
        let (stalled, changed) = &*self.disk.stall;
        let stalled = stalled.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(stalled, |stalled| *stalled).unwrap_or_else(PoisonError::into_inner));
        self.with(|state, file| match state.begin_operation(self.disk.start_count)? {
            Verdict::Succeed if state.is_sync_a_lie => Ok(()),
            Verdict::Succeed => {
                state.counts.syncs += 1;
                // What an earlier sync failed to write counts as clean, so that only memory still has it.
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable);
                }
                Ok(())
            }
            // The machine stops: what is unsynced is decided at the restart.
            Verdict::Fail(error) if state.is_crashed => Err(error),
            Verdict::Fail(error) => {
                // Like Linux: what could not be written counts as clean, and only memory still has it.
                let current = file.current.clone();
                file.settle(&mut state.random, &mut state.counts);
                file.current = current;
                Err(error)
            }
        })
    }
}

impl CheckpointStore for SimulatedDisk {
    fn metadata(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let state = self.state();
        state.check_running(self.start_count).map_err(StorageError::io("read the checkpoint"))?;
        Ok(state.checkpoint_metadata.clone())
    }

    fn apply(&self, changes: &[Change<'_>], metadata: Option<&[u8]>) -> Result<(), StorageError> {
        let mut state = self.state();
        let failed = || StorageError::io_or_no_room("write the checkpoint");
        let verdict = state.begin_operation(self.start_count).map_err(failed())?;
        // All or nothing; an error may come after the deed.
        if matches!(verdict, Verdict::Succeed) || state.random.coin() {
            let checkpoint = Arc::make_mut(&mut state.checkpoint);
            for Change { keyspace, key, value } in changes.iter().copied() {
                let place = (keyspace, key.to_vec());
                match value {
                    Some(value) => {
                        let mut buffer = Vec::new();
                        sealed::seal(&mut buffer, keyspace, key, value).map_err(failed())?;
                        checkpoint.insert(place, buffer);
                    }
                    None => {
                        checkpoint.remove(&place);
                    }
                }
            }
            if let Some(metadata) = metadata {
                state.checkpoint_metadata = Some(metadata.to_vec());
            }
        }
        match verdict {
            Verdict::Succeed => Ok(()),
            Verdict::Fail(error) => Err(failed()(error)),
        }
    }

    fn verify(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn check_again(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn damaged(&self) -> BTreeMap<u32, String> {
        BTreeMap::new()
    }

    fn room(&self) -> Result<(u64, bool), StorageError> {
        Ok((0, true))
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let state = self.state();
        state.check_running(self.start_count).map_err(StorageError::io("read the checkpoint"))?;
        Ok(state.checkpoint.get(&(keyspace, key.to_vec())).map(|sealed| Bytes::copy_from_slice(sealed)))
    }

    fn snapshot(&self) -> Result<Box<dyn CheckpointSnapshot + '_>, StorageError> {
        let state = self.state();
        state.check_running(self.start_count).map_err(StorageError::io("read the checkpoint"))?;
        Ok(Box::new(SimulatedSnapshot(state.checkpoint.clone())))
    }
}

/// The checkpoint as it was; a later change copies it first.
struct SimulatedSnapshot(Arc<SealedValues>);

impl CheckpointSnapshot for SimulatedSnapshot {
    fn scan(&self, keyspace: Keyspace, start: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let from = (keyspace, start.to_vec());
        let entries = self.0.range((Bound::Included(from), Bound::Unbounded));
        for ((_, key), sealed) in entries.take_while(|((entry_keyspace, _), _)| *entry_keyspace == keyspace) {
            if let ControlFlow::Break(()) = visit(key, sealed)? {
                break;
            }
        }
        Ok(())
    }
}
