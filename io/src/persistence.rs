//! The thread that makes batches durable, and the one that reads blocks and pages for the world.
//!
//! All batches that wait are committed with one sync, up to a size: while it runs, the world ticks on and fills the next
//! ones. What was handed over and is not durable is counted, so that the driver can hold requests back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use components::hosting::storage::{Batch, Keyspace, Read, Write};
use components::value::ids::ChainId;
use components::value::limits::STORED_STACK_BYTES;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use world::load::perform;
use world::{Load, Room};

use crate::gateway::Event;
use crate::metrics::Metrics;
use crate::storage::{Disk, Reader, StorageError, Store};

/// How many batches are committed with one sync at most: the replies of the first wait for the last.
const BATCHES_PER_SYNC_MAX: usize = 256;

/// How many bytes of batches are committed with one sync at most, if they are more than one.
const BYTES_PER_SYNC_MAX: u64 = 32 << 20;

/// How long after a commit it is noted that it is durable, and how often a full disk is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often it is checked that the data directory is still the one that was opened.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// After how many bytes of commits the room on the disk is looked at again.
const LOOK_BYTES: u64 = 1 << 20;

/// With so much room nobody needs to count, in bytes.
const PLENTY_BYTES: u64 = 2 << 30;

/// With less room, the log says that the disk is nearly full, or full, in bytes.
const NEARLY_FULL_BYTES: u64 = 256 << 20;
const FULL_BYTES: u64 = 1 << 20;

impl Read for Reader {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<bytes::Bytes>, String> {
        Reader::get(self, keyspace, key).map_err(|cause| cause.to_string())
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, String> {
        Reader::scan(self, keyspace, prefix, from, limit).map_err(|cause| cause.to_string())
    }

    fn damage(&self, chain: ChainId) -> Option<String> {
        self.damaged_chains().get(&chain.0).cloned()
    }
}

/// What the storage thread and the driver know of one another.
#[derive(Debug)]
struct Progress {
    /// The last batch that is durable.
    durable: AtomicU64,
    /// How many bytes were handed over and are not durable.
    pending_bytes: AtomicU64,
    /// The room on the disk.
    room_bytes: AtomicU64,
    delete_room_bytes: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        let (durable, pending_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (room_bytes, delete_room_bytes) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        Self { durable, pending_bytes, room_bytes, delete_room_bytes }
    }
}

/// What the driver tells the storage thread.
#[derive(Debug)]
enum Message {
    /// Make this durable.
    Batch(Batch),
    /// The world has begun again from what is durable.
    Restart,
}

fn bytes_of(batch: &Batch) -> u64 {
    let bytes = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len);
    batch.writes.iter().map(|write| bytes(write) as u64).sum()
}

/// The storage as the driver uses it.
#[derive(Debug)]
pub struct Persistence {
    messages: Option<Sender<Message>>,
    loads: Option<Sender<Load>>,
    progress: Arc<Progress>,
    committer: Option<JoinHandle<()>>,
    loader: Option<JoinHandle<()>>,
    watcher: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Persistence {
    /// Start the threads; they report to `events`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(store: Store, events: Sender<Event>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        // The driver bounds what is under way, by `pending_bytes`.
        let (message_sender, messages) = unbounded();
        let (load_sender, loads) = unbounded();
        let (stop, stopped) = bounded(0);
        let (reader, disk) = (store.reader(), store.disk());
        let progress = Arc::<Progress>::default();
        let committer = Committer {
            store,
            progress: progress.clone(),
            events: events.clone(),
            metrics,
            is_low: true,
            fill: Fill::Plenty,
            looked_bytes: 0,
        };
        let watch_events = events.clone();
        let watcher = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || watch(&*disk, &stopped, &watch_events))?;
        let committer =
            std::thread::Builder::new().name("storage".into()).spawn(move || committer.run(&messages))?;
        let loader = std::thread::Builder::new()
            .name("loader".into())
            .stack_size(STORED_STACK_BYTES)
            .spawn(move || perform_loads(&reader, &loads, &events))?;
        Ok(Self {
            messages: Some(message_sender),
            loads: Some(load_sender),
            progress,
            committer: Some(committer),
            loader: Some(loader),
            watcher: Some((stop, watcher)),
        })
    }

    /// The last batch that is durable, as are all before it.
    pub fn durable(&self) -> u64 {
        self.progress.durable.load(Ordering::Acquire)
    }

    /// How many bytes were handed over and are not durable.
    pub fn pending_bytes(&self) -> u64 {
        self.progress.pending_bytes.load(Ordering::Relaxed)
    }

    /// For how much more there is room on the disk.
    pub fn room(&self) -> Room {
        let bytes = self.progress.room_bytes.load(Ordering::Relaxed);
        if bytes == u64::MAX {
            return Room::PLENTY;
        }
        let (delete_bytes, pending) =
            (self.progress.delete_room_bytes.load(Ordering::Relaxed), self.pending_bytes());
        Room { bytes: bytes.saturating_sub(pending), delete_bytes: delete_bytes.saturating_sub(pending) }
    }

    /// The world was made anew from what is durable, and counts its batches from 1 again. Nothing may be under way that
    /// is not to be forgotten.
    pub fn restart(&self) {
        self.progress.durable.store(0, Ordering::Release);
        self.send(Message::Restart);
    }

    /// Make a batch durable; [`Event::Durable`] reports it.
    pub fn commit(&self, batch: Batch) {
        self.progress.pending_bytes.fetch_add(bytes_of(&batch), Ordering::Relaxed);
        self.send(Message::Batch(batch));
    }

    fn send(&self, message: Message) {
        // If the thread has ended, it has reported why.
        let _ = self.messages.as_ref().expect("not closed").send(message);
    }

    /// Read what the world asks for; [`Event::Loaded`] brings it.
    pub fn load(&self, load: Load) {
        let _ = self.loads.as_ref().expect("not closed").send(load);
    }

    /// Finish what was begun, write a checkpoint, and close the storage.
    pub fn close(mut self) {
        self.messages = None;
        self.loads = None;
        let watcher = self.watcher.take().map(|(_stop, thread)| thread);
        for thread in [self.committer.take(), self.loader.take(), watcher].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

/// How full the disk is, for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fill {
    Plenty,
    NearlyFull,
    Full,
}

impl Fill {
    /// How full it is with room for so many bytes. What was said once is taken back only when there is clearly more.
    fn after(self, room_bytes: u64) -> Self {
        let full_bytes = if self == Self::Full { 4 * FULL_BYTES } else { FULL_BYTES };
        let is_plenty = self == Self::Plenty;
        let nearly_full_bytes = if is_plenty { NEARLY_FULL_BYTES } else { NEARLY_FULL_BYTES / 4 * 5 };
        match room_bytes {
            bytes if bytes < full_bytes => Self::Full,
            bytes if bytes < nearly_full_bytes => Self::NearlyFull,
            _ => Self::Plenty,
        }
    }
}

/// The storage thread.
struct Committer {
    store: Store,
    progress: Arc<Progress>,
    events: Sender<Event>,
    metrics: Arc<Metrics>,
    /// Whether there was little room on the disk when it was last looked at.
    is_low: bool,
    /// What was said of it.
    fill: Fill,
    /// How much was committed since.
    looked_bytes: u64,
}

impl Committer {
    fn run(mut self, messages: &Receiver<Message>) {
        match self.serve(messages) {
            Ok(()) => {}
            Err(cause) => {
                let _ = self.events.send(Event::StorageFailed(cause.to_string()));
                return;
            }
        }
        if let Err(cause) = self.store.close() {
            tracing::error!("the last checkpoint failed; the next start will recover from the log: {cause}");
        }
    }

    /// Commit what comes until nothing will come any more.
    fn serve(&mut self, messages: &Receiver<Message>) -> Result<(), StorageError> {
        let mut is_refusing = false;
        let mut next = None;
        self.look()?;
        while let Some(message) = next.take().map_or_else(|| self.receive(messages), |next| Ok(Some(next)))? {
            let first = match message {
                Message::Restart => {
                    is_refusing = false;
                    continue;
                }
                Message::Batch(batch) if is_refusing => {
                    self.forget(bytes_of(&batch));
                    continue;
                }
                Message::Batch(batch) => batch,
            };
            let mut bytes = bytes_of(&first);
            let mut group = vec![first];
            while group.len() < BATCHES_PER_SYNC_MAX
                && bytes < BYTES_PER_SYNC_MAX
                && let Ok(message) = messages.try_recv()
            {
                match message {
                    Message::Batch(batch) if bytes + bytes_of(&batch) <= BYTES_PER_SYNC_MAX => {
                        bytes += bytes_of(&batch);
                        group.push(batch);
                    }
                    message => {
                        next = Some(message);
                        break;
                    }
                }
            }
            is_refusing = !self.commit(group, bytes)?;
        }
        Ok(())
    }

    /// The next message, if there will be one. What can be done later is done while none comes.
    fn receive(&mut self, messages: &Receiver<Message>) -> Result<Option<Message>, StorageError> {
        while self.is_low || self.store.is_note_due() {
            match messages.recv_timeout(LOOK_INTERVAL) {
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    self.store.note_durable()?;
                    self.look()?;
                }
            }
        }
        Ok(messages.recv().ok())
    }

    /// Commit some batches; false if there was no room for them.
    fn commit(&mut self, group: Vec<Batch>, bytes: u64) -> Result<bool, StorageError> {
        let sequence = group.last().expect("a batch").sequence;
        let writes: Vec<_> = group.into_iter().map(|batch| batch.writes).collect();
        let begun = Instant::now();
        let log_bytes = self.store.log_bytes();
        let committed = self.store.commit(&writes);
        if let Err(cause) = &committed
            && cause.is_no_room()
        {
            tracing::warn!("a write was refused: {cause}");
            self.forget(bytes);
            self.look()?;
            let _ = self.events.send(Event::StorageRefused(cause.to_string()));
            return Ok(false);
        }
        committed?;
        let grown = self.store.log_bytes().saturating_sub(log_bytes);
        self.metrics.count_storage_commit(begun.elapsed().as_micros() as u64, grown);
        self.progress.durable.store(sequence, Ordering::Release);
        self.forget(bytes);
        // If nobody listens any more, nothing more will come.
        let _ = self.events.send(Event::Durable);
        self.looked_bytes += bytes;
        if self.is_low || self.looked_bytes >= LOOK_BYTES {
            self.look()?;
        }
        Ok(true)
    }

    fn forget(&self, bytes: u64) {
        self.progress.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// See how much room there is.
    fn look(&mut self) -> Result<(), StorageError> {
        self.looked_bytes = 0;
        let room = self.store.room()?;
        self.metrics.disk_room_bytes.store(room.bytes, Ordering::Relaxed);
        let fill = self.fill.after(room.bytes);
        if fill != self.fill {
            self.fill = fill;
            let mib = room.bytes >> 20;
            match fill {
                Fill::Full => tracing::warn!(
                    "the disk is full: writes are answered 503 until there is room; deletes, also of rows, and reads go on"
                ),
                Fill::NearlyFull => tracing::warn!("the disk is nearly full: there is room for {mib} MiB"),
                Fill::Plenty => tracing::warn!("the disk has room again"),
            }
        }
        self.is_low = room.bytes < PLENTY_BYTES;
        let (bytes, delete_bytes) =
            if self.is_low { (room.bytes, room.delete_bytes) } else { (u64::MAX, u64::MAX) };
        self.progress.delete_room_bytes.store(delete_bytes, Ordering::Relaxed);
        self.progress.room_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// See to it that the data directory is the one that was opened: what is written elsewhere is lost.
fn watch(disk: &dyn Disk, stopped: &Receiver<()>, events: &Sender<Event>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(WATCH_INTERVAL) {
        if let Err(cause) = disk.check_in_place() {
            let _ = events.send(Event::StorageFailed(cause.to_string()));
            return;
        }
    }
}

fn perform_loads(reader: &Reader, loads: &Receiver<Load>, events: &Sender<Event>) {
    for load in loads {
        if events.send(Event::Loaded(perform(reader, &load))).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_full_the_disk_is_does_not_change_with_every_byte() {
        let mut fill = Fill::Plenty;
        let mut said = Vec::new();
        for mib in [1_000, 300, 255, 300, 200, 0, 2, 0, 3, 5, 300, 330, 300] {
            let now = fill.after(mib << 20);
            if now != fill {
                said.push((mib, now));
            }
            fill = now;
        }
        let expected = [(255, Fill::NearlyFull), (0, Fill::Full), (5, Fill::NearlyFull), (330, Fill::Plenty)];
        assert_eq!(said, expected);
    }
}
