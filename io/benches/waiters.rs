//! What many requests cost that wait for one lock: `cargo bench -p io --bench waiters`.
//!
//! One transaction holds a lock, others wait for it; then it ends, or all hang up. Shown are the time from then until all
//! are answered, and the longest tick, for a thousand and for ten thousand: the one grows as they do, the other does not.

use std::time::{Duration, Instant};

use components::hosting::cluster::{Catalog, ClusterConfig};
use components::hosting::storage::{Keyspace, Read};
use components::language::decode;
use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Path, Request, Value};
use io::json;
use world::host::PROGRAM_STACK_BYTES;
use world::load::load;
use world::{Host, HostConfig, Inherited, Input, Inputs, Limits};

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const WAITERS: [usize; 2] = [1_000, 10_000];

/// How often each is measured; the fastest counts, as the machine has other things to do.
const ROUNDS: usize = 3;

/// As many events as the driver takes for one tick.
const EVENTS_PER_TICK: usize = 32;

const SERVICE: &str = r#"{"/app/s": {
    "n": {"/state/chain/sync": [0]},
    "b": {"/state/chain/block": [0]},
    "t": {"/state/chain/sync": [{"/state/collection/table": [[
        [[["id", "/state/scalar/value/number/int/64"]], [["q", "/state/scalar/value/number/int/64"]]], []]]}]},
    "bump_n": {"/state/scalar/op/post": [
        ["old", {"$self/n": [null]}], ["new", {"$old/add": [1]}],
        ["_return", {"$self/n": [null, {"$new": []}]}]]},
    "bump_b": {"/state/scalar/op/post": [
        ["old", {"$self/b": [null]}], ["new", {"$old/add": [1]}],
        ["_return", {"$self/b": [null, {"$new": []}]}]]},
    "bump_row": {"/state/scalar/op/post": [
        ["old", {"$self/t": [[1]]}], ["new", {"$old/1/add": [1]}],
        ["_return", {"$self/t": [[1], [{"$new": []}]]}]]},
    "count": {"/state/scalar/op/post": [["_return", {"$self/t/count": [null]}]]},
    "hold_n": {"/state/scalar/op/post": [["w", {"$self/n": [null, 5]}], ["_return", SPIN]]},
    "hold_b": {"/state/scalar/op/post": [["w", {"$self/b": [null, 5]}], ["_return", SPIN]]},
    "hold_t": {"/state/scalar/op/post": [["w", {"$self/t": [[1], [5]]}], ["_return", SPIN]]}}}"#;

/// Takes its time after `w`.
const SPIN: &str = r#"{"/state/scalar/ref/after": [{"$w": []}, {"/state/scalar/ref/while": [
    {"/state/scalar/op/post": [["_return", {"$i/lt": [200000]}]]},
    {"/state/scalar/op/post": [["next", {"$i/add": [1]}], ["_return", {"i": {"$next": []}}]]},
    {"i": 0}]}]}"#;

/// What is waited for: who holds it, and who wants it.
const CASES: [(&str, &str, &str); 4] = [
    ("a value", "hold_n", "bump_n"),
    ("a block value", "hold_b", "bump_b"),
    ("a row", "hold_t", "bump_row"),
    ("a range", "hold_t", "count"),
];

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

fn post(member: &str) -> Request {
    let path = Path::parse(&format!("/app/s/{member}")).expect("a path");
    let body = json::with_copy(b"{}", decode::state).expect("a state");
    Request { verb: Verb::Post, path, key: Value::None, body, txn_id: None, rows_only: false }
}

fn host() -> Host {
    let text = SERVICE.replace("SPIN", SPIN);
    let configs = json::with_copy(text.as_bytes(), ClusterConfig::decode).expect("a cluster");
    let catalog = Catalog::new("http://127.0.0.1:8702", [0; 32]);
    let loaded = load(&Nothing, configs, catalog, |_| [0; 32]).expect("a world");
    let (catalog, chains, last_page) = (loaded.catalog, loaded.chains, loaded.last_page);
    let (inherited, limits, threads) = (Inherited::default(), Limits::default(), 1);
    let (now_ns, monotonic_ns) = (0, 0);
    let config = HostConfig { catalog, chains, last_page, inherited, limits, threads, now_ns, monotonic_ns };
    Host::new(config).expect("a host")
}

/// What was measured.
struct Figures {
    total: Duration,
    longest: Duration,
    ticks: usize,
    looks: u64,
}

fn measure(holder: &str, waiter: &str, count: usize, is_hangup: bool) -> Figures {
    let mut host = host();
    let mut now_ns = 1_700_000_000_000_000_000;
    let mut events = vec![Input::Request { id: RequestId(0), request: post(holder) }];
    let mut coming = (1..=count).map(|id| Input::Request { id: RequestId(id as u64), request: post(waiter) });
    let (mut answered, mut has_come) = (0, false);
    let mut figures = Figures { total: Duration::ZERO, longest: Duration::ZERO, ticks: 0, looks: 0 };
    while answered < count + 1 {
        let mut come = coming.by_ref().take(EVENTS_PER_TICK).peekable();
        let is_last = come.peek().is_none();
        events.extend(come);
        if is_last && !has_come {
            has_come = true;
            if is_hangup {
                events.extend((0..=count as u64).map(|id| Input::Cancel(RequestId(id))));
            }
        }
        now_ns += 1_000_000;
        let begun = Instant::now();
        let outputs = host.tick(Inputs { now_ns, monotonic_ns: now_ns, events: std::mem::take(&mut events) });
        let took = begun.elapsed();
        answered += outputs.replies.len();
        for (_, reply) in &outputs.replies {
            assert!(is_hangup || reply.is_ok(), "{reply:?}");
        }
        // It begins when the first one ends.
        if answered > 0 || (has_come && is_hangup) {
            figures.total += took;
        }
        figures.longest = figures.longest.max(took);
        figures.ticks += 1;
        // The disk of this host is instant.
        events.extend(outputs.batch.map(|batch| Input::Durable(batch.sequence)));
    }
    figures.looks = host.statistics().locks_looked_at;
    figures
}

fn waiters() {
    println!(
        "{:>14} {:>9} {:>8} {:>11} {:>12} {:>7} {:>10}",
        "wait for", "end", "waiters", "total, ms", "longest, ms", "ticks", "looks"
    );
    for (name, holder, waiter) in CASES {
        for is_hangup in [false, true] {
            for count in WAITERS {
                let mut all: Vec<Figures> =
                    (0..ROUNDS).map(|_| measure(holder, waiter, count, is_hangup)).collect();
                all.sort_by_key(|figures| figures.longest);
                let Figures { total, longest, ticks, looks } = &all[0];
                let end = if is_hangup { "hang-up" } else { "turn" };
                let [total, longest] = [total, longest].map(|took| took.as_secs_f64() * 1e3);
                println!(
                    "{name:>14} {end:>9} {count:>8} {total:>11.1} {longest:>12.2} {ticks:>7} {looks:>10}"
                );
            }
        }
    }
}

fn main() {
    let thread = std::thread::Builder::new().stack_size(PROGRAM_STACK_BYTES).spawn(waiters);
    thread.expect("a thread").join().expect("no panic");
}
