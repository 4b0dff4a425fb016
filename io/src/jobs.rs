//! The threads that work for the world on what takes too long for a tick.

use std::panic::{AssertUnwindSafe, catch_unwind};

use components::job::{Job, JobId, JobResult};
use crossbeam_channel::Sender;
use rayon::{ThreadPool, ThreadPoolBuilder};
use world::load::work;
use world::{Input, panic_message};

use crate::gateway::Event;
use crate::storage::Reader;

/// A pool of threads that read what is stored.
pub struct Jobs {
    pool: ThreadPool,
    reader: Reader,
    events: Sender<Event>,
}

impl Jobs {
    /// Start the threads; they report to `events`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(threads: usize, reader: Reader, events: Sender<Event>) -> Result<Self, String> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("job-{i}")).build();
        let pool = pool.map_err(|cause| format!("cannot start {threads} threads for jobs: {cause}"))?;
        Ok(Self { pool, reader, events })
    }

    /// Do a job; [`Event::Loaded`] brings what came of it.
    pub fn begin(&self, id: JobId, job: Job) {
        let (reader, events) = (self.reader.clone(), self.events.clone());
        let is_parallel = self.pool.current_num_threads() > 1;
        self.pool.spawn(move || {
            // A panic must not leave the transaction waiting for ever.
            let result = catch_unwind(AssertUnwindSafe(|| work(&reader, &job, is_parallel)));
            let result = result.unwrap_or_else(|panic| JobResult::Failed(panic_message(&*panic)));
            // If nobody listens any more, the host is going down.
            let _ = events.send(Event::Loaded(Input::Job { id, result }));
        });
    }
}
