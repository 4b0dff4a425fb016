//! The store: commits go to the log, reads to the overlays and the checkpoint.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::backup::{BackupWriter, GO_ON, Sink};
use super::error::is_no_room;
use super::log::{self, RecordKeys, Records, Segment, SegmentHeader, batch_bytes};
use super::overlay::collect_changes;
use super::recovery::{self, Metadata, Recovered};
use super::sealed::unseal;
use super::{
    CheckpointStore, Disk, DiskFile, DiskId, FORMAT_VERSION, Keyspace, MAXIMUM_KEY_BYTES,
    MAXIMUM_VALUE_BYTES, Overlay, RealDisk, StorageError, Write,
};

/// How large a segment of the log grows before a checkpoint.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;

/// How much memory the changes of one segment take before a checkpoint. There are two at most.
const OVERLAY_BYTES: usize = 64 * 1024 * 1024;

/// The same when little memory is allowed.
const OVERLAY_BYTES_MIN: usize = 1024 * 1024;

/// How much a segment is filled with zeros ahead of need.
const GROWTH_BYTES: u64 = 8 * 1024 * 1024;

/// What shares the memory of a store: two overlays, a transaction of the checkpoint, and what is resident of its map.
const MEMORY_SHARES: u64 = 4;

/// While the checkpoint waits for room, the changes of one segment may take this many times the memory.
const WAITING_OVERLAYS: usize = 2;

/// How long a checkpoint waits for room before it looks again.
const ROOM_WAIT: Duration = Duration::from_millis(500);

/// How small the transactions of a checkpoint become when there is little room: what one frees, the next can use.
const TRANSACTION_BYTES_MIN: usize = 256 * 1024;

/// Records are handed to the file when there are this many bytes of them.
const WRITE_BYTES: usize = 4 * 1024 * 1024;

/// After how many commits it is noted what is durable, unless somebody does so before.
const COMMITS_PER_NOTE: u32 = 64;

/// Of each byte that waits for the checkpoint, how much room it takes there, in quarters.
const CHECKPOINT_QUARTERS: u64 = 5;

/// The name of the thread that writes checkpoints.
const CHECKPOINT_THREAD_NAME: &str = "checkpoint";

/// Who writes a checkpoint that a full segment calls for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CheckpointMode {
    /// A thread of its own, while commits go on.
    Background,
    /// The caller of a later commit: this many commits after the segments changed places. The same operations always
    /// happen in the same order, as a simulation needs it.
    Deferred {
        /// How many commits come before the checkpoint.
        commits: u32,
    },
}

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How large a segment of the log grows before a checkpoint. A commit that is larger than this has one for itself.
    pub segment_bytes: u64,
    /// How much memory the changes of one segment take before a checkpoint, in bytes. There are two at most.
    pub overlay_bytes: usize,
    /// How much memory one transaction of a checkpoint takes, in bytes. A checkpoint is as many as it needs.
    pub transaction_bytes: usize,
    /// How much of the map of the checkpoint is kept resident, in bytes, once it was read or written.
    pub map_bytes: u64,
    /// How much a segment is filled with zeros ahead of need.
    pub growth_bytes: u64,
    /// Who writes checkpoints.
    pub checkpoint_mode: CheckpointMode,
    /// The id of the disk if it is a new one; `None` asks the operating system for random bytes.
    pub new_disk_id: Option<DiskId>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            segment_bytes: SEGMENT_BYTES,
            overlay_bytes: OVERLAY_BYTES,
            transaction_bytes: OVERLAY_BYTES,
            map_bytes: OVERLAY_BYTES as u64,
            growth_bytes: GROWTH_BYTES,
            checkpoint_mode: CheckpointMode::Background,
            new_disk_id: None,
        }
    }
}

impl StoreOptions {
    /// Options for a store that takes about this much memory, in bytes, whatever is written and read: at least 4 MiB
    /// and at most 256 MiB. Only batches that are larger than a quarter of it take more, twice their size at most, and
    /// a start after a crash does, for as long as it takes.
    pub fn within(memory_bytes: u64) -> StoreOptions {
        let share_bytes =
            (memory_bytes / MEMORY_SHARES).clamp(OVERLAY_BYTES_MIN as u64, OVERLAY_BYTES as u64);
        let segment_bytes = share_bytes.min(SEGMENT_BYTES);
        StoreOptions {
            segment_bytes,
            overlay_bytes: share_bytes as usize,
            transaction_bytes: share_bytes as usize,
            map_bytes: share_bytes,
            growth_bytes: segment_bytes.min(GROWTH_BYTES),
            ..StoreOptions::default()
        }
    }
}

/// What the log holds and the checkpoint does not, in memory.
#[derive(Default)]
struct Overlays {
    /// The changes in the active segment.
    active: Overlay,
    /// Those in the other segment, while they are being written into the checkpoint.
    frozen: Option<Arc<Overlay>>,
}

/// What the store, its readers and its checkpoint thread have in common.
struct Shared {
    overlays: RwLock<Overlays>,
    checkpoint: Arc<dyn CheckpointStore>,
    /// See [`StoreOptions::transaction_bytes`].
    transaction_bytes: usize,
    poison: OnceLock<Arc<str>>,
    progress: Mutex<Progress>,
    progressed: Condvar,
    /// Whether a backup is being made.
    is_backed_up: AtomicBool,
    /// Keeps the directory locked.
    disk: Arc<dyn Disk>,
}

/// How the frozen changes come into the checkpoint.
#[derive(Default)]
struct Progress {
    /// Why that waits, if it waits for room.
    waits_for_room: Option<Arc<str>>,
    /// Whether a thread is at it.
    is_running: bool,
    /// Whether the store is being closed, so that waiting has an end.
    is_closing: bool,
}

impl Shared {
    // The lock guards plain maps that are whole between any two statements, so a panic elsewhere does not matter.
    fn overlays(&self) -> RwLockReadGuard<'_, Overlays> {
        self.overlays.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlays_mut(&self) -> RwLockWriteGuard<'_, Overlays> {
        self.overlays.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_poison(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            Some(reason) => Err(StorageError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Lets nothing happen after an error that leaves it unknown what is durable.
    fn poison(&self, error: &StorageError) {
        self.poison_with(error.to_string().into());
    }

    fn poison_with(&self, reason: Arc<str>) {
        if self.poison.set(reason.clone()).is_ok() {
            tracing::error!(%reason, "storage stops");
        }
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.check_poison()?;
        check_key(keyspace, key)?;
        {
            let overlays = self.overlays();
            let change = overlays.active.get(keyspace, key);
            let change = change.or_else(|| overlays.frozen.as_ref()?.get(keyspace, key));
            if let Some(value) = change {
                return Ok(value.clone());
            }
        }
        // A change that comes now and is already in the checkpoint may be seen: this read is concurrent with it.
        let sealed = self.poison_unless_corrupt(self.checkpoint.get(keyspace, key))?;
        sealed.map(|sealed| unseal(keyspace, key, sealed)).transpose()
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StorageError> {
        self.check_poison()?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let start = from.map_or(prefix, |from| from.max(prefix));
        // LMDB refuses long keys. No key is that long, so what follows cannot make a difference.
        let start = &start[..start.len().min(MAXIMUM_KEY_BYTES + 1)];

        // The snapshot is taken while no change can move from the overlays into the checkpoint.
        let (changes, snapshot) = {
            let overlays = self.overlays();
            let frozen = overlays.frozen.as_deref();
            let changes = collect_changes(&overlays.active, frozen, keyspace, prefix, start, limit);
            (changes, self.poison_unless_corrupt(self.checkpoint.snapshot())?)
        };

        let mut entries = Vec::new();
        let mut changes = changes.into_iter().peekable();
        let scanned = snapshot.scan(keyspace, start, &mut |key, sealed| {
            if !key.starts_with(prefix) {
                return Ok(ControlFlow::Break(()));
            }
            while let Some((change_key, value)) =
                changes.next_if(|(change_key, _)| change_key.as_slice() < key)
            {
                entries.extend(value.map(|value| (change_key, value)));
            }
            if entries.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            match changes.next_if(|(change_key, _)| change_key == key) {
                Some((change_key, value)) => entries.extend(value.map(|value| (change_key, value))),
                None => entries.push((key.to_vec(), unseal(keyspace, key, Bytes::copy_from_slice(sealed))?)),
            }
            Ok(if entries.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        self.poison_unless_corrupt(scanned)?;
        entries.extend(changes.filter_map(|(key, value)| Some((key, value?))));
        entries.truncate(limit);
        Ok(entries)
    }

    /// Hands everything that is stored at this moment to a sink.
    fn back_up(&self, sink: &mut Sink<'_>) -> Result<(), StorageError> {
        self.check_poison()?;
        if let Some((_, damage)) = self.checkpoint.damaged().pop_first() {
            return Err(StorageError::CannotBackUp { damage });
        }
        // The snapshot is taken while no change can move from the overlays into the checkpoint.
        let (changes, snapshot) = {
            let overlays = self.overlays();
            let frozen = overlays.frozen.as_deref();
            let changes = Keyspace::ALL
                .map(|keyspace| collect_changes(&overlays.active, frozen, keyspace, b"", b"", usize::MAX));
            (changes, self.poison_unless_corrupt(self.checkpoint.snapshot())?)
        };
        let mut writer = BackupWriter::begin(recovery::random_disk_id()?, sink)?;
        for (keyspace, changes) in Keyspace::ALL.into_iter().zip(changes) {
            let mut changes = changes.into_iter().peekable();
            snapshot.scan(keyspace, b"", &mut |key, sealed| {
                while let Some((before, value)) = changes.next_if(|(before, _)| before.as_slice() < key) {
                    value.map_or(Ok(()), |value| writer.put(keyspace, before, value))?;
                }
                match changes.next_if(|(changed, _)| changed == key) {
                    Some((key, value)) => value.map_or(Ok(()), |value| writer.put(keyspace, key, value))?,
                    None => writer.put_sealed(keyspace, key, sealed)?,
                }
                Ok(GO_ON)
            })?;
            for (key, value) in changes {
                value.map_or(Ok(()), |value| writer.put(keyspace, key, value))?;
            }
        }
        writer.end()
    }

    /// Reads everything that is in the checkpoint, and checks that it is all there and is what was stored.
    fn verify(&self) -> Result<(), StorageError> {
        self.checkpoint.verify()?;
        let snapshot = self.checkpoint.snapshot()?;
        for keyspace in Keyspace::ALL {
            snapshot.scan(keyspace, b"", &mut |key, sealed| {
                unseal(keyspace, key, Bytes::copy_from_slice(sealed)).map(|_| GO_ON)
            })?;
        }
        Ok(())
    }

    /// A damaged value is only known to concern those who read it; any other error stops the store.
    fn poison_unless_corrupt<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result
            && !matches!(error, StorageError::Corrupt { .. })
        {
            self.poison(error);
        }
        result
    }

    // Plain values; see `overlays`.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_room(reason: &Arc<str>) -> StorageError {
        StorageError::NoRoom { reason: reason.to_string() }
    }

    /// Writes the frozen overlay into the checkpoint; an error if there is no room for all of it now. Any other failure
    /// poisons the store.
    ///
    /// Several transactions are as good as one: everything in the overlay is durable in the log, and nothing counts as
    /// checkpointed before the last. After a crash in between, the log is replayed over what is there already, and
    /// until then readers see the overlay.
    fn write_checkpoint(&self, frozen: &Frozen) -> Result<(), Arc<str>> {
        let (mut done, mut transaction_bytes) = (0, self.transaction_bytes);
        let mut parts = frozen.changes.parts(done, transaction_bytes).peekable();
        while let Some(part) = parts.next() {
            let metadata = parts.peek().is_none().then(|| frozen.metadata.encode());
            let applied = self.checkpoint.apply(&part, metadata.as_ref().map(|bytes| &bytes[..]));
            match applied {
                Ok(()) => done += part.len(),
                Err(error) if error.is_no_room() && transaction_bytes > TRANSACTION_BYTES_MIN => {
                    transaction_bytes /= 4;
                    parts = frozen.changes.parts(done, transaction_bytes).peekable();
                }
                Err(error) if error.is_no_room() => {
                    let reason = Arc::<str>::from(error.to_string());
                    self.progress().waits_for_room = Some(reason.clone());
                    return Err(reason);
                }
                Err(error) => {
                    self.poison(&error);
                    return Ok(());
                }
            }
        }
        self.overlays_mut().frozen = None;
        self.progress().waits_for_room = None;
        Ok(())
    }

    /// Writes the frozen overlay into the checkpoint, however long that has to wait for room.
    fn write_checkpoint_when_there_is_room(&self, frozen: &Frozen) {
        loop {
            // A panic must not leave the frozen changes waiting for ever.
            match catch_unwind(AssertUnwindSafe(|| self.write_checkpoint(frozen))) {
                Ok(Ok(())) => break,
                Ok(Err(reason)) => tracing::debug!(%reason, "the checkpoint waits for room"),
                Err(_) => {
                    self.poison_with("the thread that writes the checkpoint panicked".into());
                    break;
                }
            }
            self.progressed.notify_all();
            let progress = self.progress();
            let waited =
                self.progressed.wait_timeout_while(progress, ROOM_WAIT, |progress| !progress.is_closing);
            if waited.unwrap_or_else(PoisonError::into_inner).0.is_closing {
                break;
            }
        }
        self.progress().is_running = false;
        self.progressed.notify_all();
    }
}

fn check_key(keyspace: Keyspace, key: &[u8]) -> Result<(), StorageError> {
    if key.is_empty() || key.len() > MAXIMUM_KEY_BYTES {
        return Err(StorageError::InvalidKey { keyspace, length: key.len() });
    }
    Ok(())
}

/// A handle for reading from any thread while the store commits.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// The value of a key. See [`Store::get`].
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.shared.get(keyspace, key)
    }

    /// Hands everything that is stored at this moment to a sink, as a [backup](super::backup). Commits go on meanwhile; what
    /// they replace in the checkpoint takes room until this ends. One backup is made at a time.
    pub fn back_up(&self, sink: &mut Sink<'_>) -> Result<(), StorageError> {
        if self.shared.is_backed_up.swap(true, Ordering::Acquire) {
            return Err(StorageError::BackupRuns);
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.shared.back_up(sink)));
        self.shared.is_backed_up.store(false, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Reads everything that is in the checkpoint, and checks that it is all there and is what was stored.
    pub fn verify(&self) -> Result<(), StorageError> {
        self.shared.verify()
    }

    /// The chains of which not everything is there that was stored, as was seen when the store was opened, with what is not.
    pub fn damaged_chains(&self) -> BTreeMap<u32, String> {
        self.shared.checkpoint.damaged()
    }

    /// The entries with a prefix. See [`Store::scan`].
    pub fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StorageError> {
        self.shared.scan(keyspace, prefix, from, limit)
    }
}

/// Changes on their way into the checkpoint, and what it says when it has them all.
struct Frozen {
    changes: Arc<Overlay>,
    metadata: Metadata,
}

/// A checkpoint that has begun: the segments have changed places.
enum PendingCheckpoint {
    Running(JoinHandle<()>),
    Deferred { commits: u32, frozen: Frozen },
}

/// For how many bytes there is room on the disk, as far as that is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// For any commit.
    pub bytes: u64,
    /// For commits that only delete.
    pub delete_bytes: u64,
}

/// Durable keyspaces. One thread commits; any number read through a [`Reader`].
pub struct Store {
    shared: Arc<Shared>,
    options: StoreOptions,
    active: Segment,
    /// The file of the other segment.
    other_file: Arc<dyn DiskFile>,
    /// How much of the other segment the checkpoint does not hold yet.
    frozen_bytes: u64,
    /// The sequence of the last record, which is durable.
    last_sequence: u64,
    pending: Option<PendingCheckpoint>,
    /// Kept to save the allocation; empty between commits.
    records: Records,
    /// The last sequence that is noted to be durable, and how many commits there were since.
    noted_sequence: u64,
    commits_since_note: u32,
}

impl Store {
    /// Opens a store and recovers what was committed.
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Store, StorageError> {
        assert!(options.growth_bytes > 0, "a segment must be able to grow");
        let recovered = recovery::recover(&*disk, &options)?;
        let Recovered { checkpoint, active, other_file, last_sequence, kept } = recovered;
        let shared = Shared {
            overlays: RwLock::default(),
            checkpoint,
            transaction_bytes: options.transaction_bytes,
            poison: OnceLock::new(),
            progress: Mutex::default(),
            progressed: Condvar::new(),
            is_backed_up: AtomicBool::new(false),
            disk,
        };
        let mut store = Store {
            shared: Arc::new(shared),
            options,
            active,
            other_file,
            frozen_bytes: 0,
            last_sequence,
            pending: None,
            records: Records::default(),
            noted_sequence: 0,
            commits_since_note: 0,
        };
        if let Some(kept) = kept {
            store.shared.overlays_mut().active = kept.active;
            if let Some((changes, metadata)) = kept.frozen {
                let changes = Arc::new(changes);
                store.shared.overlays_mut().frozen = Some(changes.clone());
                store.write_frozen(Frozen { changes, metadata })?;
            }
        }
        Ok(store)
    }

    /// Opens the store in a data directory of this machine. It takes about `memory_bytes`; see
    /// [`StoreOptions::within`].
    pub fn open_directory(data_directory: &Path, memory_bytes: u64) -> Result<Store, StorageError> {
        Store::open(Arc::new(RealDisk::open(data_directory)?), StoreOptions::within(memory_bytes))
    }

    /// The id of this disk.
    pub fn disk_id(&self) -> DiskId {
        self.active.header().disk_id
    }

    /// A handle for reading on other threads.
    pub fn reader(&self) -> Reader {
        Reader { shared: self.shared.clone() }
    }

    /// Makes all the batches durable with one sync. Each batch is atomic, and they are in order: after a crash
    /// during the call, some of the first may be there. An error other than for the arguments poisons the store.
    ///
    /// Values are shared, not copied, until the checkpoint has them; so each should have its memory for itself.
    ///
    /// [`StorageError::NoRoom`] says that none of the batches was taken, and never will be; the store goes on.
    pub fn commit(&mut self, batches: &[Vec<Write>]) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        for write in batches.iter().flatten() {
            check_key(write.keyspace, &write.key)?;
            if let Some(length) = write.value.as_ref().map(Bytes::len).filter(|it| *it > MAXIMUM_VALUE_BYTES)
            {
                return Err(StorageError::ValueTooLarge { length });
            }
        }
        let result = self.append(batches);
        self.poison_on_error(result)
    }

    fn append(&mut self, batches: &[Vec<Write>]) -> Result<(), StorageError> {
        if batches.iter().all(Vec::is_empty) {
            return Ok(());
        }
        if_room(self.advance_deferred_checkpoint())?;
        let batches_bytes: u64 = batches.iter().map(|batch| batch_bytes(batch) as u64).sum();
        let is_log_full = self.active.end() + batches_bytes > self.options.segment_bytes;
        let changes_bytes: usize = batches.iter().flatten().map(Overlay::write_bytes).sum();
        let overlay_bytes = self.shared.overlays().active.bytes();
        if (is_log_full || overlay_bytes + changes_bytes > self.options.overlay_bytes)
            && let Some(no_room) = if_room(self.begin_checkpoint())?
            && overlay_bytes > 0
            && overlay_bytes + changes_bytes > WAITING_OVERLAYS * self.options.overlay_bytes
        {
            return Err(no_room);
        }
        if let Some(no_room) = if_room(self.active.reserve(batches_bytes, self.options.growth_bytes))? {
            // The other segment may have room.
            if overlay_bytes == 0 || if_room(self.begin_checkpoint())?.is_some() {
                return Err(no_room);
            }
            self.active.reserve(batches_bytes, self.options.growth_bytes)?;
        }

        let sequence = match self.write_records(batches) {
            Err(StorageError::Io { source, operation }) if is_no_room(&source) => {
                self.records.clear();
                self.active.void()?;
                return Err(StorageError::NoRoom { reason: format!("cannot {operation}: {source}") });
            }
            result => result?,
        };
        self.commits_since_note += 1;
        if self.commits_since_note >= COMMITS_PER_NOTE && self.last_sequence > self.noted_sequence {
            // It becomes durable with this commit, and says that all before are.
            self.note(self.last_sequence)?;
        }
        self.active.commit()?;
        self.last_sequence = sequence;

        // Only what is durable becomes visible.
        let mut overlays = self.shared.overlays_mut();
        for write in batches.iter().flatten() {
            overlays.active.insert(write.clone());
        }
        let is_overlay_full = overlays.active.bytes() >= self.options.overlay_bytes;
        drop(overlays);
        // A very large commit should not stay in memory until the next, but it need not wait for a checkpoint either.
        if is_overlay_full && self.is_checkpoint_finished() {
            if_room(self.begin_checkpoint())?;
        }
        Ok(())
    }

    /// Writes the records of batches, which have room; the last sequence among them.
    fn write_records(&mut self, batches: &[Vec<Write>]) -> Result<u64, StorageError> {
        let keys: RecordKeys = self.active.header().record_keys();
        let mut sequence = self.last_sequence;
        for part in batches.iter().flat_map(|batch| log::parts(batch)) {
            sequence += 1;
            keys.encode(&mut self.records, sequence, self.last_sequence, part);
            if self.records.bytes() >= WRITE_BYTES {
                self.active.write(&self.records)?;
                self.records.clear();
            }
        }
        self.active.write(&self.records)?;
        self.records.clear();
        Ok(sequence)
    }

    fn note(&mut self, sequence: u64) -> Result<(), StorageError> {
        self.active.note_durable(sequence)?;
        (self.noted_sequence, self.commits_since_note) = (sequence, 0);
        Ok(())
    }

    /// Whether there are commits of which it is not noted that they are durable.
    pub fn is_note_due(&self) -> bool {
        self.last_sequence > self.noted_sequence
    }

    /// Notes that everything is durable, so that it is noticed if the end of the log is lost.
    pub fn note_durable(&mut self) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        if !self.is_note_due() {
            return Ok(());
        }
        let result = self.note(self.last_sequence).and_then(|()| self.active.sync());
        self.poison_on_error(result)
    }

    /// For how much there is room. When there is little, this makes a checkpoint begin, which frees the log.
    pub fn room(&mut self) -> Result<Room, StorageError> {
        self.shared.check_poison()?;
        let free_bytes = self.shared.disk.free_bytes().unwrap_or(u64::MAX);
        let (checkpoint_bytes, is_reserved) = self.shared.checkpoint.room()?;
        let (active_bytes, frozen_bytes) = {
            let overlays = self.shared.overlays();
            (overlays.active.bytes(), overlays.frozen.as_ref().map_or(0, |frozen| frozen.bytes()))
        };
        let is_waiting = self.shared.progress().waits_for_room.is_some();
        let log_bytes = self.active.room_bytes().saturating_add(free_bytes);
        let pending_bytes = (active_bytes + frozen_bytes) as u64 / 4 * CHECKPOINT_QUARTERS;
        let checkpoint_bytes = free_bytes.saturating_add(checkpoint_bytes).saturating_sub(pending_bytes)
            / CHECKPOINT_QUARTERS
            * 4;
        let overlay_bytes = WAITING_OVERLAYS * self.options.overlay_bytes;
        let room = Room {
            bytes: if is_waiting || !is_reserved { 0 } else { log_bytes.min(checkpoint_bytes) },
            delete_bytes: match is_waiting {
                true => log_bytes.min(overlay_bytes.saturating_sub(active_bytes) as u64),
                false => log_bytes,
            },
        };
        if room.bytes < self.options.growth_bytes && active_bytes > 0 && self.is_checkpoint_finished() {
            let begun = self.begin_checkpoint();
            if_room(self.poison_on_error(begun))?;
        }
        Ok(room)
    }

    /// Where it is stored.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.shared.disk.clone()
    }

    /// The value of a key.
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.shared.get(keyspace, key)
    }

    /// At most `limit` entries whose keys begin with `prefix` and are not below `from`, in order of keys. They are all
    /// of one moment. To go on, scan from the last key with a zero byte appended.
    pub fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StorageError> {
        self.shared.scan(keyspace, prefix, from, limit)
    }

    /// Moves everything from the log into the checkpoint, now.
    pub fn checkpoint(&mut self) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        let result = self.begin_checkpoint().and_then(|()| self.finish_checkpoint());
        self.poison_on_error(result)
    }

    /// How many bytes of the log the checkpoint does not hold yet.
    pub fn log_bytes(&self) -> u64 {
        let frozen_bytes = if self.shared.overlays().frozen.is_some() { self.frozen_bytes } else { 0 };
        self.active.end() - super::log::SEGMENT_HEADER_BYTES + frozen_bytes
    }

    /// Writes a checkpoint and closes the store. The directory is unlocked when the last [`Reader`] is gone, too.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.checkpoint()
    }

    fn poison_on_error(&self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        result.inspect_err(|error| {
            if !error.is_no_room() {
                self.shared.poison(error);
            }
        })
    }

    /// Lets the segments change places and starts writing the full one into the checkpoint.
    fn begin_checkpoint(&mut self) -> Result<(), StorageError> {
        // The other segment must be in the checkpoint before it is overwritten.
        self.finish_checkpoint()?;
        if self.shared.overlays().active.is_empty() {
            return Ok(());
        }

        let full = *self.active.header();
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            generation: full.generation + 1,
            first_sequence: self.last_sequence + 1,
            ..full
        };
        let next = self.other_file.clone();
        let (segment_bytes, growth_bytes) = (self.options.segment_bytes, self.options.growth_bytes);
        let next = Segment::start(next, header, segment_bytes, growth_bytes)?;
        self.frozen_bytes = self.active.end() - super::log::SEGMENT_HEADER_BYTES;
        self.other_file = std::mem::replace(&mut self.active, next).into_file();
        // The header of the next segment says what is durable in this one.
        (self.noted_sequence, self.commits_since_note) = (self.last_sequence, 0);

        let changes = {
            let mut overlays = self.shared.overlays_mut();
            let changes = Arc::new(std::mem::take(&mut overlays.active));
            overlays.frozen = Some(changes.clone());
            changes
        };
        let metadata = Metadata {
            disk_id: full.disk_id,
            checkpointed_sequence: self.last_sequence,
            log_generation: header.generation,
        };
        self.write_frozen(Frozen { changes, metadata })
    }

    /// Has the frozen changes written into the checkpoint.
    fn write_frozen(&mut self, frozen: Frozen) -> Result<(), StorageError> {
        self.pending = Some(match self.options.checkpoint_mode {
            CheckpointMode::Deferred { commits } => PendingCheckpoint::Deferred { commits, frozen },
            CheckpointMode::Background => {
                let shared = self.shared.clone();
                shared.progress().is_running = true;
                let thread = thread::Builder::new().name(CHECKPOINT_THREAD_NAME.into());
                let handle = thread.spawn(move || shared.write_checkpoint_when_there_is_room(&frozen));
                PendingCheckpoint::Running(handle.map_err(StorageError::io("start the checkpoint thread"))?)
            }
        });
        Ok(())
    }

    /// Whether the next checkpoint can begin without waiting for the last.
    fn is_checkpoint_finished(&self) -> bool {
        match &self.pending {
            None => true,
            Some(PendingCheckpoint::Running(handle)) => handle.is_finished(),
            Some(PendingCheckpoint::Deferred { .. }) => false,
        }
    }

    /// Waits until the frozen overlay is in the checkpoint; an error if that has to wait for room.
    fn finish_checkpoint(&mut self) -> Result<(), StorageError> {
        match &self.pending {
            None => {}
            Some(PendingCheckpoint::Running(_)) => {
                let waiting =
                    |progress: &mut Progress| progress.is_running && progress.waits_for_room.is_none();
                let progress = self.shared.progressed.wait_while(self.shared.progress(), waiting);
                let progress = progress.unwrap_or_else(PoisonError::into_inner);
                if progress.is_running
                    && let Some(reason) = &progress.waits_for_room
                {
                    return Err(Shared::no_room(reason));
                }
                drop(progress);
                self.join_checkpoint();
            }
            Some(PendingCheckpoint::Deferred { frozen, .. }) => {
                self.shared.write_checkpoint(frozen).map_err(|reason| Shared::no_room(&reason))?;
                self.pending = None;
            }
        }
        self.shared.check_poison()?;
        assert!(self.shared.overlays().frozen.is_none(), "a finished checkpoint holds the frozen changes");
        Ok(())
    }

    fn join_checkpoint(&mut self) {
        if let Some(PendingCheckpoint::Running(handle)) = self.pending.take() {
            // A panic of the thread has poisoned the store.
            handle.join().ok();
        }
    }

    /// Counts commits towards a deferred checkpoint, and writes it when it is due.
    fn advance_deferred_checkpoint(&mut self) -> Result<(), StorageError> {
        match &mut self.pending {
            Some(PendingCheckpoint::Deferred { commits: 0, .. }) => self.finish_checkpoint(),
            Some(PendingCheckpoint::Deferred { commits, .. }) => {
                *commits -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The error if there was no room, so that something else can be tried.
fn if_room(result: Result<(), StorageError>) -> Result<Option<StorageError>, StorageError> {
    match result {
        Ok(()) => Ok(None),
        Err(error) if error.is_no_room() => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The thread shares the lock of the directory; when the store is gone, the lock should be free.
        self.shared.progress().is_closing = true;
        self.shared.progressed.notify_all();
        self.join_checkpoint();
    }
}
