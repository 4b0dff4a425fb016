//! The threads that work for the world on what takes too long for a tick: with pages that are stored, and in scratch space.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use components::hosting::storage::{Keyspace, Read};
use components::transaction::job::{Job, JobId, JobResult};
use crossbeam_channel::Sender;
use rayon::{ThreadPool, ThreadPoolBuilder};
use world::load::work;
use world::{Input, panic_message};

use crate::gateway::Event;
use crate::storage::Reader;
use crate::workspace::Workspace;

/// A pool of threads.
pub struct Jobs {
    pool: ThreadPool,
    /// Those that wait or run, and whether anybody still wants what comes of them.
    wanted: Mutex<BTreeMap<JobId, Arc<AtomicBool>>>,
    /// None if nothing is kept: then no job is about what is stored.
    reader: Option<Reader>,
    workspace: Arc<Workspace>,
    events: Sender<Event>,
}

impl Jobs {
    /// Start the threads; they report to `events`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        threads: usize,
        reader: Option<Reader>,
        workspace: Arc<Workspace>,
        events: Sender<Event>,
    ) -> Result<Self, String> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("job-{i}")).build();
        let pool = pool.map_err(|cause| format!("cannot start {threads} threads for jobs: {cause}"))?;
        Ok(Self { pool, wanted: Mutex::default(), reader, workspace, events })
    }

    /// Do a job; [`Event::Loaded`] brings what came of it.
    pub fn begin(&self, id: JobId, job: Job) {
        let (reader, workspace, events) = (self.reader.clone(), self.workspace.clone(), self.events.clone());
        let is_parallel = self.pool.current_num_threads() > 1;
        let is_wanted = Arc::new(AtomicBool::new(true));
        self.wanted().insert(id, is_wanted.clone());
        self.pool.spawn(move || {
            let reader = WhileWanted { reader, is_wanted };
            if !reader.is_wanted.load(Ordering::Relaxed) {
                return;
            }
            // A panic must not leave the transaction waiting for ever.
            let result =
                catch_unwind(AssertUnwindSafe(|| work(&reader, &|| workspace.scratch(), &job, is_parallel)));
            let result = result.unwrap_or_else(|panic| {
                let message = panic_message(&*panic);
                tracing::error!("a job panicked: {message}");
                JobResult::Failed(format!("this is a defect of the host: a job panicked: {message}"))
            });
            // If nobody listens any more, the host is going down.
            let _ = events.send(Event::Loaded(Input::Job { id, result }));
        });
    }

    /// Nobody wants the result of a job any more, or it is there: if it has not ended, it does not begin, or ends when it
    /// would read the next page.
    pub fn end(&self, id: JobId) {
        if let Some(is_wanted) = self.wanted().remove(&id) {
            is_wanted.store(false, Ordering::Relaxed);
        }
    }

    /// Nobody wants the result of any job.
    pub fn end_all(&self) {
        for is_wanted in std::mem::take(&mut *self.wanted()).values() {
            is_wanted.store(false, Ordering::Relaxed);
        }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<AtomicBool>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is stored, as long as somebody wants it.
struct WhileWanted {
    reader: Option<Reader>,
    is_wanted: Arc<AtomicBool>,
}

impl WhileWanted {
    fn reader(&self) -> Result<&Reader, String> {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return Err("nobody wants it any more".to_string());
        }
        self.reader.as_ref().ok_or_else(|| "this host has no storage".to_string())
    }
}

impl Read for WhileWanted {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, String> {
        Read::get(self.reader()?, keyspace, key)
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, String> {
        Read::scan(self.reader()?, keyspace, prefix, from, limit)
    }
}
