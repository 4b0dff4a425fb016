//! A host, its storage on a simulated disk, and its clock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use components::hosting::cluster::{Catalog, ClusterConfig};
use components::hosting::storage::{Batch, Keyspace, Read, Write};
use components::language::chain::{Block, HistorySnapshot};
use components::language::collection::CollectionContent;
use components::language::collection::snapshot::RowsetSnapshot;
use components::language::decode;
use components::language::reference::Verb;
use components::language::state::ReadStored;
use components::rows::runs::{MemoryScratch, Scratch};
use components::rows::scan::in_turn;
use components::transaction::RequestId;
use components::transaction::job::{Job, JobId};
use components::{Path, Reply, Request, State, TxnId};
use io::json;
use io::storage::simulated::SimulatedDisk;
use io::storage::{CheckpointMode, Reader, Store, StoreOptions};
use world::history::HistoryReader;
use world::host::PROGRAM_STACK_BYTES;
use world::load::{load, page_loader, perform, work};
use world::{Host, HostConfig, Inherited, Input, Inputs, InspectQuery, Limits, Outputs};

use crate::random::Random;

/// When the clock of a machine starts.
pub const START_NS: u64 = 1_800_000_000_000_000_000;

/// How far the clock goes from tick to tick.
pub const TICK_NS: u64 = 1_000_000;

/// How many ticks pass at most before the rows of a reply are read.
const STREAM_TICKS_MAX: usize = 12;

/// How many ticks a job takes at most.
const JOB_TICKS_MAX: usize = 4;

/// Runs a test on a thread with the stack that a host needs.
pub fn on_program_stack<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PROGRAM_STACK_BYTES).spawn_scoped(scope, test);
        thread.expect("a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Reads what streams.
struct Stored(Reader);

impl ReadStored for Stored {
    fn rows(&mut self, rows: &Arc<RowsetSnapshot>) -> components::Result<CollectionContent> {
        rows.content(&page_loader(&self.0), &in_turn, u64::MAX)
    }

    fn blocks(&mut self, history: &Arc<HistorySnapshot>) -> components::Result<Vec<Block>> {
        HistoryReader::new(history.clone()).blocks(&self.0, u64::MAX)
    }
}

/// A request as it comes over HTTP.
pub fn request(verb: Verb, path: &str, key: serde_json::Value, body: serde_json::Value) -> Request {
    let key = json::with_copy(key.to_string().as_bytes(), decode::key).expect("a key");
    let body = match verb {
        Verb::Put | Verb::Post => {
            json::with_copy(body.to_string().as_bytes(), decode::state).expect("a body")
        }
        Verb::Get | Verb::Delete => State::NONE,
    };
    let path = Path::parse(path).expect("a path");
    Request { verb, path, key, body, txn_id: None, rows_only: false }
}

/// GET without a key.
pub fn get(path: &str) -> Request {
    request(Verb::Get, path, serde_json::Value::Null, serde_json::Value::Null)
}

/// PUT without a key.
pub fn put(path: &str, body: serde_json::Value) -> Request {
    request(Verb::Put, path, serde_json::Value::Null, body)
}

/// POST.
pub fn post(path: &str, body: serde_json::Value) -> Request {
    request(Verb::Post, path, serde_json::Value::Null, body)
}

/// The same request with a transaction id that the caller chose.
pub fn with_id(request: Request, id: TxnId) -> Request {
    Request { txn_id: Some(id), ..request }
}

/// Status and body of a reply, as they go over HTTP.
pub fn answer(reply: &Reply) -> (u16, serde_json::Value) {
    match reply {
        Ok(state) => (200, serde_json::to_value(state).expect("a state has a JSON form")),
        Err(error) => (error.kind().status(), serde_json::Value::from(error.message())),
    }
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    pub seed: u64,
    pub threads: usize,
    pub limits: Limits,
    /// How many ticks a batch takes to become durable at most.
    pub durable_delay_max: usize,
    /// The configurations that it serves.
    pub clusters: String,
}

impl MachineOptions {
    pub fn new(seed: u64, clusters: &serde_json::Value) -> Self {
        Self {
            seed,
            threads: 1,
            limits: Limits::default(),
            durable_delay_max: 3,
            clusters: clusters.to_string(),
        }
    }
}

/// What is stored, of which some keys cannot be read.
struct Damaged<'a> {
    reader: Reader,
    keys: &'a BTreeSet<(Keyspace, Vec<u8>)>,
}

impl Read for Damaged<'_> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, String> {
        match self.keys.contains(&(keyspace, key.to_vec())) {
            true => Err("the disk is on fire".to_string()),
            false => Read::get(&self.reader, keyspace, key),
        }
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, String> {
        match self.keys.contains(&(keyspace, prefix.to_vec())) {
            true => Err("the disk is on fire".to_string()),
            false => Read::scan(&self.reader, keyspace, prefix, from, limit),
        }
    }
}

/// Stands between a host and what is around it, so that faults can be planted there.
pub trait Between {
    /// What the host is told.
    fn inputs(&mut self, _inputs: &mut Inputs) {}

    /// What it says.
    fn outputs(&mut self, _outputs: &mut Outputs) {}

    /// What the storage is given, a batch at a time.
    fn batches(&mut self, _batches: &mut Vec<Vec<Write>>) {}
}

/// The disk has failed; nothing can be acknowledged any more.
#[derive(Debug)]
pub struct Crashed;

/// A batch on its way to the disk and back.
#[derive(Debug)]
struct Pending {
    batch: Batch,
    commit_at: u64,
    report_at: u64,
    is_committed: bool,
}

/// A host with its storage. Everything that it does follows from its options and what it is asked.
pub struct Machine {
    pub host: Host,
    /// The clock on the wall, which a test may set.
    pub now_ns: u64,
    /// The clock that nobody sets.
    monotonic_ns: u64,
    pub ticks: u64,
    store: Store,
    options: MachineOptions,
    random: Random,
    pending: VecDeque<Pending>,
    loads: VecDeque<(u64, world::Load)>,
    jobs: Vec<(u64, JobId, Job)>,
    /// How many jobs ended before one that was begun earlier.
    pub overtaken: u64,
    /// Whoever changes what is said.
    pub between: Option<Box<dyn Between + Send>>,
    /// What cannot be read once the host has started.
    pub damaged: BTreeSet<(Keyspace, Vec<u8>)>,
    /// How many jobs there were to find rows, and to count them.
    pub finds: u64,
    /// How often rows that a program has changed went into pages before its commit.
    pub gathers: u64,
    /// How many jobs sorted rows for programs.
    pub sorts: u64,
    pub counts: u64,
    /// Whether the rows of replies that stream are left to the test.
    pub leaves_streams: bool,
    /// Replies whose rows are not known to have been read.
    unread: BTreeSet<RequestId>,
    /// Those of them that this machine reads.
    streams: Vec<(u64, RequestId, State)>,
    next_request: u64,
    is_busy: bool,
}

fn store_options(seed: u64) -> StoreOptions {
    StoreOptions {
        // Small, so that checkpoints happen every few commits.
        segment_bytes: 4096 + 24 * 1024,
        overlay_bytes: 32 * 1024,
        transaction_bytes: 32 * 1024,
        map_bytes: 0,
        growth_bytes: 4096,
        checkpoint_mode: CheckpointMode::Deferred { commits: (seed % 4) as u32 },
        new_disk_id: Some([seed as u8; 16]),
    }
}

impl Machine {
    /// A machine with a new disk.
    pub fn new(options: MachineOptions) -> Self {
        let disk = SimulatedDisk::new(options.seed);
        Self::start(&disk, options, START_NS).expect("a disk without faults")
    }

    /// Start on a disk that may hold something already.
    pub fn start(disk: &SimulatedDisk, options: MachineOptions, now_ns: u64) -> Result<Self, Crashed> {
        let mut store =
            Store::open(Arc::new(disk.clone()), store_options(options.seed)).map_err(|error| {
                assert!(disk.is_crashed(), "the storage cannot be opened: {error}");
                Crashed
            })?;
        let host = Self::make_host(&mut store, &options, now_ns, 0, Vec::new()).map_err(|why| {
            assert!(disk.is_crashed(), "the host cannot start: {why}");
            Crashed
        })?;
        let random = Random::new(options.seed);
        Ok(Self {
            host,
            now_ns,
            monotonic_ns: 0,
            ticks: 0,
            store,
            options,
            random,
            pending: VecDeque::new(),
            loads: VecDeque::new(),
            jobs: Vec::new(),
            overtaken: 0,
            between: None,
            damaged: BTreeSet::new(),
            finds: 0,
            gathers: 0,
            sorts: 0,
            counts: 0,
            leaves_streams: false,
            unread: BTreeSet::new(),
            streams: Vec::new(),
            next_request: 0,
            is_busy: false,
        })
    }

    fn make_host(
        store: &mut Store,
        options: &MachineOptions,
        now_ns: u64,
        monotonic_ns: u64,
        answers: Vec<RequestId>,
    ) -> Result<Host, String> {
        let configs = json::with_copy(options.clusters.as_bytes(), ClusterConfig::decode).expect("clusters");
        let catalog = Catalog::new("http://127.0.0.1:8702", [1; 32]);
        let loaded = load(&store.reader(), configs, catalog, |_| [2; 32])?;
        if !loaded.writes.is_empty() {
            store.commit(&[loaded.writes]).map_err(|cause| cause.to_string())?;
        }
        Host::new(HostConfig {
            catalog: loaded.catalog,
            chains: loaded.chains,
            last_page: loaded.last_page,
            inherited: Inherited { garbage: loaded.garbage, answers, writes: Vec::new() },
            limits: options.limits,
            threads: options.threads,
            now_ns,
            monotonic_ns,
        })
    }

    /// A new world from what is stored, after a defect: what was committed becomes durable first.
    pub fn rebuild(&mut self) {
        let batches: Vec<_> = self.pending.drain(..).filter(|pending| !pending.is_committed).collect();
        let writes: Vec<_> = batches.into_iter().map(|pending| pending.batch.writes).collect();
        if !writes.is_empty() {
            self.store.commit(&writes).expect("a disk without faults");
        }
        self.loads.clear();
        self.jobs.clear();
        self.is_busy = true;
        let answers = self.unread.iter().copied().collect();
        let (now_ns, monotonic_ns) = (self.now_ns, self.monotonic_ns);
        self.host = Self::make_host(&mut self.store, &self.options, now_ns, monotonic_ns, answers)
            .expect("what is stored is sound");
    }

    fn damaged_reader(&self) -> Damaged<'_> {
        Damaged { reader: self.store.reader(), keys: &self.damaged }
    }

    /// The state that a request answers, with everything in it that streams.
    pub fn read(&mut self, request: Request) -> State {
        let (id, event) = self.ask(request);
        let mut events = vec![event];
        loop {
            let outputs = self.tick(std::mem::take(&mut events)).expect("a disk without faults");
            if let Some((_, reply)) = outputs.replies.into_iter().find(|(answered, _)| *answered == id) {
                return reply.unwrap_or_else(|error| panic!("a bad answer: {error}"));
            }
        }
    }

    /// Store something beside the world.
    pub fn store(&mut self, writes: Vec<Write>) {
        self.store.commit(&[writes]).expect("a disk without faults");
    }

    /// Change what is stored behind the back of the host, as if it had always been so.
    pub fn tamper(&mut self, writes: Vec<Write>) {
        self.store.commit(&[writes]).expect("a disk without faults");
    }

    /// The chains that are not served, and why.
    pub fn refused(&mut self) -> serde_json::Map<String, serde_json::Value> {
        let nothing = InspectQuery { limit: 0, ..Default::default() };
        self.host.inspect(&nothing)["refused"].as_object().expect("names and reasons").clone()
    }

    /// A reader of what is stored.
    pub fn reader(&self) -> Reader {
        self.store.reader()
    }

    /// The name of the next request.
    pub fn next_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// An input that asks for something, and its name.
    pub fn ask(&mut self, request: Request) -> (RequestId, Input) {
        let id = self.next_id();
        (id, Input::Request { id, request })
    }

    /// Commit the batches whose time has come, and say which are known to be durable.
    fn flush(&mut self, events: &mut Vec<Input>) -> Result<(), Crashed> {
        let due = self.pending.iter().filter(|one| !one.is_committed && one.commit_at <= self.ticks).count();
        let first = self.pending.iter().position(|pending| !pending.is_committed).unwrap_or(0);
        if due > 0 {
            let range = first..first + due;
            let mut writes: Vec<_> =
                self.pending.range(range.clone()).map(|pending| pending.batch.writes.clone()).collect();
            if let Some(between) = &mut self.between {
                between.batches(&mut writes);
            }
            self.store.commit(&writes).map_err(|_| Crashed)?;
            self.pending.range_mut(range).for_each(|pending| pending.is_committed = true);
        }
        let mut durable = None;
        while let Some(pending) = self.pending.front()
            && pending.is_committed
            && pending.report_at <= self.ticks
        {
            durable = Some(pending.batch.sequence);
            self.pending.pop_front();
        }
        events.extend(durable.map(Input::Durable));
        Ok(())
    }

    /// These events, at this time.
    pub fn inputs(&self, events: Vec<Input>) -> Inputs {
        Inputs { now_ns: self.now_ns, monotonic_ns: self.monotonic_ns, events }
    }

    fn read_stored(&self, state: &State) -> State {
        state.with_stored(&mut Stored(self.store.reader())).expect("what a snapshot reads is kept")
    }

    /// One tick with these inputs and those that are due.
    pub fn tick(&mut self, events: Vec<Input>) -> Result<Outputs, Crashed> {
        self.ticks += 1;
        self.now_ns += TICK_NS;
        self.monotonic_ns += TICK_NS;
        let mut all = Vec::new();
        self.flush(&mut all)?;
        while let Some((_, load)) = self.loads.pop_front_if(|(at, _)| *at <= self.ticks) {
            all.push(perform(&self.damaged_reader(), &load));
        }
        let ticks = self.ticks;
        // Jobs end in any order.
        let ended: Vec<_> = self.jobs.extract_if(.., |(at, ..)| *at <= ticks).collect();
        for (_, id, job) in ended {
            let scratch = || Ok(Arc::new(MemoryScratch::default()) as Arc<dyn Scratch>);
            all.push(Input::Job { id, result: work(&self.damaged_reader(), &scratch, &job, false) });
        }
        let streams: Vec<_> = self.streams.extract_if(.., |(at, ..)| *at <= ticks).collect();
        let mut read: Vec<(RequestId, Reply)> = Vec::new();
        for (_, id, state) in streams {
            read.push((id, Ok(self.read_stored(&state))));
            all.push(Input::Unpin(id));
        }
        all.extend(events);
        for event in &all {
            if let Input::Unpin(id) = event {
                self.unread.remove(id);
            }
        }
        let mut inputs = self.inputs(all);
        if let Some(between) = &mut self.between {
            between.inputs(&mut inputs);
        }
        let mut outputs = self.host.tick(inputs);
        if let Some(between) = &mut self.between {
            between.outputs(&mut outputs);
        }
        for (id, reply) in std::mem::take(&mut outputs.replies) {
            if reply.as_ref().is_ok_and(State::is_streamed) {
                self.unread.insert(id);
            }
            match reply {
                // Whoever sends it reads the rows when there is time for that.
                Ok(state) if state.is_streamed() && !self.leaves_streams => {
                    let at = self.ticks + 1 + self.random.below(STREAM_TICKS_MAX) as u64;
                    self.streams.push((at, id, state));
                }
                reply => outputs.replies.push((id, reply)),
            }
        }
        outputs.replies.append(&mut read);
        if let Some(batch) = &outputs.batch {
            let delay = |random: &mut Random| random.below(self.options.durable_delay_max + 1) as u64;
            // In order: a batch never overtakes the one before it.
            let before = self.pending.back();
            let commit_at = self.ticks + 1 + delay(&mut self.random);
            let commit_at = before.map_or(commit_at, |before| commit_at.max(before.commit_at));
            let report_at = commit_at + delay(&mut self.random);
            let report_at = before.map_or(report_at, |before| report_at.max(before.report_at));
            self.pending.push_back(Pending {
                batch: batch.clone(),
                commit_at,
                report_at,
                is_committed: false,
            });
        }
        // One at a time, so that blocks of one chain come in different ticks.
        let mut at = self.loads.back().map_or(self.ticks, |(at, ..)| *at);
        for (id, job) in &outputs.jobs {
            self.finds += u64::from(matches!(job, Job::Find { .. }));
            self.sorts += u64::from(matches!(job, Job::Sort(_) | Job::ReadSorted(_)));
            self.gathers += u64::from(matches!(job, Job::Gather(_)));
            self.counts += u64::from(matches!(job, Job::Count { .. }));
            let at = self.ticks + 1 + self.random.below(JOB_TICKS_MAX) as u64;
            self.overtaken += u64::from(self.jobs.last().is_some_and(|(before, ..)| at < *before));
            self.jobs.push((at, *id, job.clone()));
        }
        for load in &outputs.loads {
            at += 1;
            self.loads.push_back((at, load.clone()));
        }
        self.is_busy = outputs.is_busy;
        Ok(outputs)
    }

    /// Whether something happens without further requests.
    pub fn has_work(&self) -> bool {
        self.is_busy
            || !self.pending.is_empty()
            || !self.loads.is_empty()
            || !self.jobs.is_empty()
            || !self.streams.is_empty()
    }

    /// Send one request, and tick until it is answered.
    pub fn call(&mut self, request: Request) -> (u16, serde_json::Value) {
        self.call_all(vec![request]).remove(0)
    }

    /// Send requests in one tick, and tick until all of them are answered.
    pub fn call_all(&mut self, requests: Vec<Request>) -> Vec<(u16, serde_json::Value)> {
        let (ids, events): (Vec<_>, Vec<_>) = requests.into_iter().map(|request| self.ask(request)).unzip();
        let mut answers = self.settle(events);
        ids.iter()
            .map(|id| {
                let at = answers.iter().position(|(answered, ..)| answered == id).expect("an answer");
                let (_, status, body) = answers.remove(at);
                (status, body)
            })
            .collect()
    }

    /// Tick, first with these inputs, until nothing moves; give the answers.
    pub fn settle(&mut self, events: Vec<Input>) -> Vec<(RequestId, u16, serde_json::Value)> {
        /// More than any test needs.
        const TICKS_MAX: u64 = 100_000;
        let mut answers = Vec::new();
        let mut events = events;
        let last = self.ticks + TICKS_MAX;
        loop {
            let outputs = self.tick(std::mem::take(&mut events)).expect("a disk without faults");
            assert_eq!(outputs.poisoned, None);
            answers.extend(outputs.replies.iter().map(|(id, reply)| {
                let (status, body) = answer(reply);
                (*id, status, body)
            }));
            if !self.has_work() {
                return answers;
            }
            assert!(self.ticks < last, "the host does not come to rest");
        }
    }

    /// The value of a chain.
    pub fn value(&mut self, path: &str) -> serde_json::Value {
        let (status, body) = self.call(get(path));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The keys of what is stored in a keyspace.
    pub fn stored_keys(&self, keyspace: Keyspace) -> Vec<Vec<u8>> {
        let all = Read::scan(&self.store.reader(), keyspace, &[], None, usize::MAX);
        all.expect("a disk without faults").into_iter().map(|(key, _)| key).collect()
    }

    /// Pass the time without ticking.
    pub fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        self.monotonic_ns += ns;
    }
}
