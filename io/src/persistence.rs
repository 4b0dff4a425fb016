//! The thread that makes batches durable, and the one that reads blocks and pages for the world.
//!
//! All batches that wait are committed with one sync: while it runs, the world ticks on and fills the next ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use components::storage::{Batch, Keyspace, Read};
use crossbeam_channel::{Receiver, Sender, unbounded};
use world::Load;
use world::load::perform;

use crate::gateway::Event;
use crate::metrics::Metrics;
use crate::storage::{Reader, Store};

/// How many batches are committed with one sync at most: the replies of the first wait for the last.
const BATCHES_PER_SYNC_MAX: usize = 256;

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
}

/// The storage as the driver uses it.
#[derive(Debug)]
pub struct Persistence {
    batches: Option<Sender<Batch>>,
    loads: Option<Sender<Load>>,
    durable: Arc<AtomicU64>,
    committer: Option<JoinHandle<()>>,
    loader: Option<JoinHandle<()>>,
}

impl Persistence {
    /// Start the threads; they report to `events`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(store: Store, events: Sender<Event>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        // The world bounds what is in flight: it stops taking requests long before.
        let (batch_sender, batches) = unbounded();
        let (load_sender, loads) = unbounded();
        let reader = store.reader();
        let reports = events.clone();
        let durable = Arc::<AtomicU64>::default();
        let sequence = durable.clone();
        let committer = std::thread::Builder::new()
            .name("storage".into())
            .spawn(move || commit_batches(store, &batches, &sequence, &reports, &metrics))?;
        let loader = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || perform_loads(&reader, &loads, &events))?;
        Ok(Self {
            batches: Some(batch_sender),
            loads: Some(load_sender),
            durable,
            committer: Some(committer),
            loader: Some(loader),
        })
    }

    /// The last batch that is durable, as are all before it.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The world was made anew from what is durable, and counts its batches from 1 again. Nothing may be under way.
    pub fn restart(&self) {
        self.durable.store(0, Ordering::Release);
    }

    /// Make a batch durable; [`Event::Durable`] reports it.
    pub fn commit(&self, batch: Batch) {
        // If the thread has ended, it has reported why.
        let _ = self.batches.as_ref().expect("not closed").send(batch);
    }

    /// Read what the world asks for; [`Event::Loaded`] brings it.
    pub fn load(&self, load: Load) {
        let _ = self.loads.as_ref().expect("not closed").send(load);
    }

    /// Finish what was begun, write a checkpoint, and close the storage.
    pub fn close(mut self) {
        self.batches = None;
        self.loads = None;
        for thread in [self.committer.take(), self.loader.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

fn commit_batches(
    mut store: Store,
    batches: &Receiver<Batch>,
    durable: &AtomicU64,
    events: &Sender<Event>,
    metrics: &Metrics,
) {
    while let Ok(first) = batches.recv() {
        let mut waiting = vec![first];
        waiting.extend(batches.try_iter().take(BATCHES_PER_SYNC_MAX - 1));
        let sequence = waiting.last().expect("a batch").sequence;
        let writes: Vec<_> = waiting.into_iter().map(|batch| batch.writes).collect();
        let begun = Instant::now();
        let log_bytes = store.log_bytes();
        if let Err(cause) = store.commit(&writes) {
            let _ = events.send(Event::StorageFailed(cause.to_string()));
            return;
        }
        let grown = store.log_bytes().saturating_sub(log_bytes);
        metrics.count_storage_commit(begun.elapsed().as_micros() as u64, grown);
        durable.store(sequence, Ordering::Release);
        if events.send(Event::Durable).is_err() {
            break;
        }
    }
    if let Err(cause) = store.close() {
        tracing::error!("the last checkpoint failed; the next start will recover from the log: {cause}");
    }
}

fn perform_loads(reader: &Reader, loads: &Receiver<Load>, events: &Sender<Event>) {
    for load in loads {
        if events.send(Event::Loaded(perform(reader, &load))).is_err() {
            return;
        }
    }
}
