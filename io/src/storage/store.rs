//! The store: commits go to the log, reads to the overlays and the checkpoint.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::log::{RecordKeys, Records, Segment, SegmentHeader, payload_bytes};
use super::overlay::collect_changes;
use super::recovery::{self, Metadata, Recovered};
use super::sealed::unseal;
use super::{
    CheckpointStore, Disk, DiskFile, DiskId, Keyspace, MAXIMUM_BATCH_BYTES, MAXIMUM_KEY_BYTES, Overlay,
    RealDisk, StorageError, Write,
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
    /// Keeps the directory locked.
    _disk: Arc<dyn Disk>,
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

    /// A damaged value is only known to concern those who read it; any other error stops the store.
    fn poison_unless_corrupt<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result
            && !matches!(error, StorageError::Corrupt { .. })
        {
            self.poison(error);
        }
        result
    }

    /// Writes the frozen overlay into the checkpoint.
    ///
    /// Several transactions are as good as one: everything in the overlay is durable in the log, and nothing counts as
    /// checkpointed before the last. After a crash in between, the log is replayed over what is there already, and
    /// until then readers see the overlay.
    fn write_checkpoint(&self, frozen: &Overlay, metadata: &Metadata) {
        let mut parts = frozen.parts(self.transaction_bytes).peekable();
        let mut result = Ok(());
        while let (Ok(()), Some(part)) = (&result, parts.next()) {
            let is_last = parts.peek().is_none();
            result = self.checkpoint.apply(&part, is_last.then_some(&metadata.encode()));
        }
        match result {
            Ok(()) => self.overlays_mut().frozen = None,
            Err(error) => self.poison(&error),
        }
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

/// A checkpoint that has begun: the segments have changed places.
enum PendingCheckpoint {
    Running(JoinHandle<()>),
    Deferred { commits: u32, frozen: Arc<Overlay>, metadata: Metadata },
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
}

impl Store {
    /// Opens a store and recovers what was committed.
    pub fn open(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Store, StorageError> {
        assert!(options.growth_bytes > 0, "a segment must be able to grow");
        let recovered = recovery::recover(&*disk, &options)?;
        let Recovered { checkpoint, active, other_file, last_sequence } = recovered;
        let shared = Shared {
            overlays: RwLock::default(),
            checkpoint,
            transaction_bytes: options.transaction_bytes,
            poison: OnceLock::new(),
            _disk: disk,
        };
        Ok(Store {
            shared: Arc::new(shared),
            options,
            active,
            other_file,
            frozen_bytes: 0,
            last_sequence,
            pending: None,
            records: Records::default(),
        })
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
    pub fn commit(&mut self, batches: &[Vec<Write>]) -> Result<(), StorageError> {
        self.shared.check_poison()?;
        for batch in batches {
            for write in batch {
                check_key(write.keyspace, &write.key)?;
            }
            let length = payload_bytes(batch);
            if length > MAXIMUM_BATCH_BYTES {
                return Err(StorageError::BatchTooLarge { length });
            }
        }
        let result = self.append(batches);
        self.poison_on_error(result)
    }

    fn append(&mut self, batches: &[Vec<Write>]) -> Result<(), StorageError> {
        if batches.iter().all(Vec::is_empty) {
            return Ok(());
        }
        self.advance_deferred_checkpoint()?;
        let batches_bytes: usize = batches.iter().map(|batch| payload_bytes(batch)).sum();
        let is_log_full = self.active.end() + batches_bytes as u64 > self.options.segment_bytes;
        let changes_bytes: usize = batches.iter().flatten().map(Overlay::write_bytes).sum();
        let is_overlay_full =
            self.shared.overlays().active.bytes() + changes_bytes > self.options.overlay_bytes;
        if is_log_full || is_overlay_full {
            self.begin_checkpoint()?;
        }

        let keys: RecordKeys = self.active.header().record_keys();
        let mut sequence = self.last_sequence;
        for batch in batches.iter().filter(|batch| !batch.is_empty()) {
            sequence += 1;
            keys.encode(&mut self.records, sequence, self.last_sequence, batch);
        }
        self.active.append(&self.records, self.options.growth_bytes)?;
        self.last_sequence = sequence;
        self.records.clear();

        // Only what is durable becomes visible.
        let mut overlays = self.shared.overlays_mut();
        for write in batches.iter().flatten() {
            overlays.active.insert(write.clone());
        }
        let is_overlay_full = overlays.active.bytes() >= self.options.overlay_bytes;
        drop(overlays);
        // A very large commit should not stay in memory until the next, but it need not wait for a checkpoint either.
        if is_overlay_full && self.is_checkpoint_finished() {
            self.begin_checkpoint()?;
        }
        Ok(())
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
        result.inspect_err(|error| self.shared.poison(error))
    }

    /// Lets the segments change places and starts writing the full one into the checkpoint.
    fn begin_checkpoint(&mut self) -> Result<(), StorageError> {
        // The other segment must be in the checkpoint before it is overwritten.
        self.finish_checkpoint()?;
        if self.shared.overlays().active.is_empty() {
            return Ok(());
        }

        let full = *self.active.header();
        let header =
            SegmentHeader { generation: full.generation + 1, first_sequence: self.last_sequence + 1, ..full };
        let next = self.other_file.clone();
        let (segment_bytes, growth_bytes) = (self.options.segment_bytes, self.options.growth_bytes);
        self.frozen_bytes = self.active.end() - super::log::SEGMENT_HEADER_BYTES;
        let next = Segment::start(next, header, segment_bytes, growth_bytes)?;
        self.other_file = std::mem::replace(&mut self.active, next).into_file();

        let frozen = {
            let mut overlays = self.shared.overlays_mut();
            let frozen = Arc::new(std::mem::take(&mut overlays.active));
            overlays.frozen = Some(frozen.clone());
            frozen
        };
        let metadata = Metadata {
            disk_id: full.disk_id,
            checkpointed_sequence: self.last_sequence,
            log_generation: header.generation,
        };
        self.pending = Some(match self.options.checkpoint_mode {
            CheckpointMode::Deferred { commits } => PendingCheckpoint::Deferred { commits, frozen, metadata },
            CheckpointMode::Background => {
                let shared = self.shared.clone();
                let thread = thread::Builder::new().name(CHECKPOINT_THREAD_NAME.into());
                let handle = thread.spawn(move || {
                    // A panic must not leave the frozen changes waiting for ever.
                    let written =
                        catch_unwind(AssertUnwindSafe(|| shared.write_checkpoint(&frozen, &metadata)));
                    if written.is_err() {
                        shared.poison_with("the thread that writes the checkpoint panicked".into());
                    }
                });
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

    /// Waits until the frozen overlay is in the checkpoint.
    fn finish_checkpoint(&mut self) -> Result<(), StorageError> {
        match self.pending.take() {
            None => {}
            Some(PendingCheckpoint::Running(handle)) => {
                // A panic of the thread has poisoned the store.
                handle.join().ok();
            }
            Some(PendingCheckpoint::Deferred { frozen, metadata, .. }) => {
                self.shared.write_checkpoint(&frozen, &metadata);
            }
        }
        self.shared.check_poison()?;
        assert!(self.shared.overlays().frozen.is_none(), "a finished checkpoint holds the frozen changes");
        Ok(())
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

impl Drop for Store {
    fn drop(&mut self) {
        // The thread shares the lock of the directory; when the store is gone, the lock should be free.
        if let Some(PendingCheckpoint::Running(handle)) = self.pending.take() {
            handle.join().ok();
        }
    }
}
