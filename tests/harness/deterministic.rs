//! A host on the deterministic machine of the simulations: its clock, its threads, its disk and every crash follow from a
//! seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use components::hosting::cluster::ClusterConfig;
use components::language::reference::Verb;
use components::language::{decode, encode};
use components::rows::bulk::Bulk;
use components::rows::schema::Schema;
use components::{Error, Path, Reply, Result, State, Value};
use io::http::bulk;
use io::json;
use io::storage::simulated::{CrashKind, Fault, SimulatedDisk};
use world::{JobLimits, Limits};

use crate::http::{Answer, Request};
use crate::machine::{Between, Crashed, Machine, MachineOptions, START_NS, TICK_NS};
use crate::random::Random;
use crate::steps::Runner;

/// How many ticks an answer takes at most.
const ANSWER_TICKS_MAX: u64 = 2_000;

/// How many operations of the disk pass at most before it stops in the middle of a request.
const CRASH_OPERATIONS_MAX: usize = 6;

/// A host on a machine of its own.
pub struct Deterministic {
    disk: SimulatedDisk,
    options: MachineOptions,
    machine: Machine,
    schemas: BTreeMap<String, Arc<Schema>>,
    random: Random,
    /// Whoever stands between the host and what is around it.
    between: Box<dyn Fn() -> Box<dyn Between + Send>>,
    /// How far the clock is behind after each start, in nanoseconds.
    pub clock_back_ns: u64,
    /// How often it was started again.
    starts: Arc<AtomicU64>,
}

/// Nobody.
struct Nobody;

impl Between for Nobody {}

impl Deterministic {
    /// A machine with a new disk, on so many threads, that serves this configuration.
    pub fn start(cluster: &serde_json::Value, seed: u64, threads: usize) -> Self {
        let mut options = MachineOptions::new(seed, cluster);
        options.threads = threads;
        // Small, so that pages, effects and programs of every age are met.
        // Few rows that come at once are merged here, too, so that there are pages.
        let jobs = JobLimits { merged_rows_min: 3, ..JobLimits::default() };
        options.limits = Limits { fuel_per_tick: 300, effects_bytes_max: 4_000, jobs, ..Limits::default() };
        let disk = SimulatedDisk::new(seed);
        let machine =
            Machine::start(&disk, options.clone(), START_NS).unwrap_or_else(|_| unreachable!("no fault"));
        let configs = json::with_copy(options.clusters.as_bytes(), ClusterConfig::decode).expect("clusters");
        let specs = configs.iter().flat_map(|config| config.chains());
        let schemas = specs
            .filter_map(|spec| Some((spec.address.to_string(), spec.collections().first()?.clone())))
            .collect();
        let (random, between) = (Random::new(seed), Box::new(|| Box::new(Nobody) as Box<dyn Between + Send>));
        Self { disk, options, machine, schemas, random, between, clock_back_ns: 0, starts: Arc::default() }
    }

    /// The same machine with somebody between the host and what is around it, also after each start.
    pub fn with(mut self, between: impl Fn() -> Box<dyn Between + Send> + 'static) -> Self {
        self.machine.between = Some(between());
        self.between = Box::new(between);
        self
    }

    /// The same machine, which counts how often it is started again.
    pub fn counting_starts(self, starts: &Arc<AtomicU64>) -> Self {
        Self { starts: starts.clone(), ..self }
    }

    pub fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// What the state of the host comes to.
    pub fn state_hash(&mut self) -> u64 {
        self.machine.host.state_hash()
    }

    fn start_again(&mut self) {
        self.starts.fetch_add(1, Relaxed);
        // Without power nothing is left but what was synced; else the kernel has it.
        let kind = if self.random.one_in(3) { CrashKind::Process } else { CrashKind::Power };
        self.disk = self.disk.restart(kind);
        let now_ns = self.machine.now_ns + TICK_NS - self.clock_back_ns;
        self.machine = Machine::start(&self.disk, self.options.clone(), now_ns)
            .unwrap_or_else(|_| unreachable!("no fault"));
        self.machine.between = Some((self.between)());
    }

    /// The request as the edge makes one of it.
    fn request(&self, request: &Request) -> Result<components::Request> {
        let verb = match request.verb {
            "GET" => Verb::Get,
            "PUT" => Verb::Put,
            "POST" => Verb::Post,
            _ => Verb::Delete,
        };
        let key = match &request.key {
            Some(key) if verb != Verb::Post => json::with_copy(key.as_bytes(), decode::key)?,
            _ => Value::None,
        };
        let body = match verb {
            Verb::Get | Verb::Delete => State::NONE,
            Verb::Put | Verb::Post => self.body(request, verb)?,
        };
        let txn_id = request.txn_id.as_ref().map(|id| id.parse()).transpose()?;
        Ok(components::Request {
            verb,
            path: Path::parse(&request.path)?,
            key,
            body,
            txn_id,
            rows_only: false,
        })
    }

    fn body(&self, request: &Request, verb: Verb) -> Result<State> {
        let schema = self.schemas.get(&request.path).filter(|schema| {
            verb == Verb::Put
                && request.key.is_none()
                && request.body.first() == Some(&b'[')
                && schema.reads_lists_as_rows()
        });
        if let Some(schema) = schema
            && let Some(rows) = bulk::json(schema, &request.body, &mut |_| Ok(()))?
        {
            return Ok(State::Bulk(Arc::new(Bulk::new(schema.clone(), rows))));
        }
        json::with_copy(&request.body, decode::state)
    }

    /// Ask, and tick until there is an answer; an error if there is none, or the disk has stopped.
    fn ask(&mut self, request: &Request) -> std::result::Result<Answer, Crashed> {
        let request = match self.request(request) {
            Ok(request) => request,
            Err(error) => return Ok(shown(&Err(error))),
        };
        let (id, event) = self.machine.ask(request);
        let mut events = vec![event];
        for _ in 0..ANSWER_TICKS_MAX {
            let outputs = self.machine.tick(std::mem::take(&mut events))?;
            assert_eq!(outputs.poisoned, None);
            if let Some((_, reply)) = outputs.replies.iter().find(|(answered, _)| *answered == id) {
                return Ok(shown(reply));
            }
        }
        Ok(shown(&Err(Error::timeout("there is no answer"))))
    }
}

/// An answer as it goes over HTTP.
fn shown(reply: &Reply) -> Answer {
    let body = reply.as_ref().map_err(Clone::clone).and_then(encode::to_json);
    match body {
        Ok(json) => Answer { status: 200, body: json.into_bytes() },
        Err(error) => Answer { status: error.kind().status(), body: encode::error_json(&error).into_bytes() },
    }
}

impl Runner for Deterministic {
    fn call(&mut self, request: &Request) -> Answer {
        self.ask(request).unwrap_or_else(|_| unreachable!("no fault"))
    }

    fn restart(&mut self) {
        self.start_again();
    }

    fn crash_during(&mut self, request: &Request) -> Option<Answer> {
        self.disk.inject(self.random.below(CRASH_OPERATIONS_MAX) as u64, Fault::Crash);
        let answer = self.ask(request).ok();
        self.start_again();
        answer
    }

    fn now_ns(&self) -> u64 {
        self.machine.now_ns
    }

    fn has_formats(&self) -> bool {
        false
    }
}
