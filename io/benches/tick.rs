//! What a tick costs inside the process: `cargo bench -p io --bench tick`.
//!
//! First a tick with one stateless request; then ticks with many requests, their programs polled by the thread of
//! the tick alone and by two threads in turn; then empty systems on the executors of bevy.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bevy_ecs::prelude::*;
use bevy_ecs::schedule::{MultiThreadedExecutor, SingleThreadedExecutor};
use components::hosting::cluster::{Catalog, ClusterConfig};
use components::hosting::storage::{Keyspace, Read};
use components::language::decode;
use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Path, Request, State, Value};
use io::json;
use world::host::PROGRAM_STACK_BYTES;
use world::load::load;
use world::{Host, HostConfig, Inherited, Input, Inputs, Limits};

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(150);

/// How many programs there are in a tick.
const PROGRAMS: [usize; 6] = [1, 4, 16, 64, 256, 1024];

const COUNTER: &str = r#"{"/app/counter": {"n": {"/state/chain/sync": [0]},
    "bump": {"/state/scalar/op/post":
        [["n", {"$self/n": [null]}], ["_return", {"$self/n": [null, {"$n/add": [1]}]}]]}}}"#;

/// A program that counts.
const LOOP: &str = r#"[["done", {"/state/scalar/ref/while": [
    {"/state/scalar/op/post": [["_return", {"$i/lt": [20]}]]},
    {"/state/scalar/op/post": [["next", {"$i/add": [1]}], ["_return", {"i": {"$next": []}}]]},
    {"i": 0}]}], ["_return", {"$done": []}]]"#;

/// A storage with nothing in it.
struct Nothing;

impl Read for Nothing {
    fn get(&self, _: Keyspace, _: &[u8]) -> Result<Option<bytes::Bytes>, String> {
        Ok(None)
    }

    fn scan(
        &self,
        _: Keyspace,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
    ) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, String> {
        Ok(Vec::new())
    }
}

fn state(text: &str) -> State {
    json::with_copy(text.as_bytes(), decode::state).expect("a state")
}

fn request(verb: Verb, path: &str, key: Value, body: State) -> Request {
    let path = Path::parse(path).expect("a path");
    Request { verb, path, key, body, txn_id: None, rows_only: false }
}

/// A host and its clock.
struct Ticker {
    host: Host,
    now_ns: u64,
    next: u64,
}

impl Ticker {
    fn new(threads: usize) -> Self {
        let configs = json::with_copy(COUNTER.as_bytes(), ClusterConfig::decode).expect("a cluster");
        let catalog = Catalog::new("http://127.0.0.1:8702", [0; 32]);
        let loaded = load(&Nothing, configs, catalog, |_| [0; 32]).expect("a world");
        let limits = Limits::default();
        let config = HostConfig {
            catalog: loaded.catalog,
            chains: loaded.chains,
            last_page: loaded.last_page,
            inherited: Inherited::default(),
            limits,
            threads,
            now_ns: 0,
            monotonic_ns: 0,
        };
        Self { host: Host::new(config).expect("a host"), now_ns: 1_700_000_000_000_000_000, next: 0 }
    }

    /// Tick with that many times the request, and until all are answered.
    fn tick(&mut self, request: &Request, count: usize) {
        self.now_ns += 1_000_000;
        let ids = self.next..self.next + count as u64;
        self.next = ids.end;
        let mut events: Vec<Input> =
            ids.map(|id| Input::Request { id: RequestId(id), request: request.clone() }).collect();
        let mut answered = 0;
        while answered < count {
            let outputs = self.host.tick(Inputs { now_ns: self.now_ns, monotonic_ns: self.now_ns, events });
            for (_, reply) in black_box(outputs.replies) {
                reply.expect("a request that succeeds");
                answered += 1;
            }
            // The disk of this host is instant.
            events = outputs.batch.map(|batch| Input::Durable(batch.sequence)).into_iter().collect();
        }
    }

    /// The mean of a tick, in microseconds.
    fn round_us(&mut self, request: &Request, count: usize) -> f64 {
        let (begun, mut ticks) = (Instant::now(), 0);
        while begun.elapsed() < ROUND {
            self.tick(request, count);
            ticks += 1;
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(ticks)
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn requests() -> [(&'static str, Request); 3] {
    let path = "/state/scalar/value/string";
    let key = Value::String("Hello".into());
    [
        ("GET a string", request(Verb::Get, path, key, State::NONE)),
        ("POST a loop of 20", request(Verb::Post, "/transact/hypothetical", Value::None, state(LOOP))),
        ("POST a hot counter", request(Verb::Post, "/app/counter/bump", Value::None, state("{}"))),
    ]
}

fn programs() {
    let (mut one, mut two) = (Ticker::new(1), Ticker::new(2));
    println!(
        "{:>20} {:>9} {:>14} {:>14} {:>9}",
        "a tick with", "programs", "1 thread, µs", "2 threads, µs", "ratio"
    );
    for (name, request) in requests() {
        for count in PROGRAMS {
            let (mut with_one, mut with_two) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                with_one.push(one.round_us(&request, count));
                with_two.push(two.round_us(&request, count));
            }
            let (with_one, with_two) = (median(with_one), median(with_two));
            println!("{name:>20} {count:>9} {with_one:>14.1} {with_two:>14.1} {:>9.2}", with_one / with_two);
        }
    }
}

#[derive(Resource, Default)]
struct Count(u64);

fn empty(mut count: ResMut<Count>) {
    count.0 += 1;
}

/// As many systems in a row as a tick of one round has.
fn executors() {
    bevy_tasks::ComputeTaskPool::get_or_init(|| bevy_tasks::TaskPoolBuilder::new().num_threads(2).build());
    let mut single = Schedule::default();
    single.set_executor(SingleThreadedExecutor::new());
    let mut multi = Schedule::default();
    multi.set_executor(MultiThreadedExecutor::new());
    let mut world = World::new();
    world.init_resource::<Count>();
    for schedule in [&mut single, &mut multi] {
        schedule.add_systems((empty, empty, empty, empty, empty, empty, empty, empty).chain());
        schedule.run(&mut world);
    }
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (schedule, figures) in [&mut single, &mut multi].into_iter().zip(&mut figures) {
            let (begun, mut runs) = (Instant::now(), 0);
            while begun.elapsed() < ROUND {
                schedule.run(&mut world);
                runs += 1;
            }
            figures.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(runs));
        }
    }
    let [single, multi] = figures.map(median);
    println!(
        "8 empty systems: single-threaded {single:.2} µs, multi-threaded {multi:.2} µs, ratio {:.0}",
        multi / single
    );
}

fn main() {
    let measure = || {
        programs();
        executors();
    };
    let thread = std::thread::Builder::new().stack_size(PROGRAM_STACK_BYTES).spawn(measure);
    thread.expect("a thread").join().expect("no panic");
}
