//! A crash at every operation of the disk: what was acknowledged is there afterwards, all of it or none of it.

use std::collections::BTreeSet;

use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Request, State};
use io::storage::simulated::{CrashKind, Fault, SimulatedCounts, SimulatedDisk};
use serde_json::{Value, json};
use world::{Input, Limits};

use crate::blocks::check_history;
use crate::machine::{Crashed, Machine, MachineOptions, START_NS, get, on_program_stack, post, put, request};
use crate::random::{Random, seeds};
use crate::services;

/// How many workloads are crashed at every operation; `CRASH_SEEDS` asks for more.
const SEEDS: u64 = 2;

/// How many transactions the workload has before and after a crash.
const ITEMS: usize = 36;

/// On how many threads the worlds of one seed after the other run.
const THREADS: [usize; 2] = [1, 4];

/// How long the texts of the tables are at most.
const TEXT_BYTES_MAX: usize = 900;

/// What was asked, and what was acknowledged.
#[derive(Default)]
struct Promised {
    asked: usize,
    acknowledged: BTreeSet<usize>,
}

fn pair(item: usize, random: &mut Random) -> Request {
    let text = "x".repeat(random.below(TEXT_BYTES_MAX));
    post("/app/left/pair", json!({ "item": item, "name": format!("n{}", random.below(12)), "text": text }))
}

fn clusters() -> Value {
    let mut clusters = services::pairs().as_object().unwrap().clone();
    clusters.extend(services::kit().as_object().unwrap().clone());
    clusters.into()
}

fn options(seed: u64) -> MachineOptions {
    let mut options = MachineOptions::new(seed, &clusters());
    options.limits = Limits { fuel_per_tick: 200, ..Limits::default() };
    options.threads = THREADS[seed as usize % THREADS.len()];
    options
}

fn value(machine: &mut Machine, path: &str) -> Result<State, Crashed> {
    let (id, event) = machine.ask(get(path));
    let mut events = vec![event];
    loop {
        for (answered, reply) in machine.tick(std::mem::take(&mut events))?.replies {
            if answered == id {
                return Ok(reply.unwrap_or_else(|error| panic!("{path}: {error}")));
            }
        }
    }
}

fn items(state: &State) -> Vec<usize> {
    let json = serde_json::to_value(state).expect("a state has a JSON form");
    json.as_array().expect("a list").iter().map(|item| item.as_u64().expect("a number") as usize).collect()
}

/// Check what a machine has recovered.
fn check(machine: &mut Machine, promised: &Promised) -> Result<(), Crashed> {
    let left = items(&value(machine, "/app/left/items")?);
    let right = items(&value(machine, "/app/right/items")?);
    assert_eq!(left, right, "both or neither");
    let there: BTreeSet<usize> = left.iter().copied().collect();
    assert_eq!(there.len(), left.len(), "nothing happens twice");
    assert!(there.is_superset(&promised.acknowledged), "{:?} lost", promised.acknowledged.difference(&there));
    assert!(there.iter().all(|item| *item < promised.asked), "nothing happens that was not asked");
    let count = serde_json::to_value(value(machine, "/app/right/count")?).unwrap();
    assert_eq!(count, json!(left.len()));
    let tables = [value(machine, "/app/left/table")?, value(machine, "/app/right/table")?];
    let [left, right] = tables.map(|table| serde_json::to_value(table).unwrap());
    assert_eq!(left, right, "both or neither");
    for chain in ["/app/left/items/chain", "/app/left/table/chain", "/app/kit/text/chain"] {
        check_history(&value(machine, chain)?);
    }
    Ok(())
}

/// Ask for more items, several at a time, some of them deep in a loop when the machine stops.
fn work(machine: &mut Machine, promised: &mut Promised, random: &mut Random) -> Result<(), Crashed> {
    let last = promised.asked + ITEMS;
    let mut open: Vec<(RequestId, usize)> = Vec::new();
    while promised.asked < last || machine.has_work() || !open.is_empty() {
        let mut events: Vec<Input> = Vec::new();
        for _ in 0..random.below(4).min(last - promised.asked) {
            let (id, event) = machine.ask(pair(promised.asked, random));
            open.push((id, promised.asked));
            promised.asked += 1;
            events.push(event);
        }
        if random.one_in(6) {
            let text = "y".repeat(random.below(TEXT_BYTES_MAX));
            events.push(machine.ask(request(Verb::Put, "/app/kit/text", Value::Null, json!(text))).1);
        }
        for (id, reply) in machine.tick(events)?.replies {
            if let Some(at) = open.iter().position(|(open, _)| *open == id) {
                let (_, item) = open.swap_remove(at);
                reply.unwrap_or_else(|error| panic!("item {item}: {error}"));
                promised.acknowledged.insert(item);
            }
        }
    }
    Ok(())
}

/// Start on a disk, check what is there, and work on; the time when it ended.
fn live(
    disk: &SimulatedDisk,
    seed: u64,
    now_ns: u64,
    promised: &mut Promised,
    random: &mut Random,
) -> Result<(), Crashed> {
    let mut machine = Machine::start(disk, options(seed), now_ns)?;
    check(&mut machine, promised)?;
    work(&mut machine, promised, random)?;
    check(&mut machine, promised)
}

/// How many operations of the disk the workload takes without a crash.
fn operations(seed: u64) -> u64 {
    let disk = SimulatedDisk::new(seed);
    live(&disk, seed, START_NS, &mut Promised::default(), &mut Random::new(seed)).expect("no fault");
    disk.counts().operations
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_operation() {
    on_program_stack(|| {
        let (mut points, mut crashes, mut lost_writes, mut torn_writes) = (0, 0, 0, 0);
        for seed in seeds("CRASH_SEEDS", SEEDS) {
            for at in 0..operations(seed) {
                let counts = crash(seed, at);
                points += 1;
                crashes += counts.crashes;
                lost_writes += counts.lost_writes;
                torn_writes += counts.torn_writes;
            }
        }
        assert!(crashes > points && lost_writes > 0 && torn_writes > 0, "the disk was too kind");
    });
}

/// Crash at an operation, and once more soon after the next start; then work unharmed.
fn crash(seed: u64, at: u64) -> SimulatedCounts {
    let disk = SimulatedDisk::new(seed << 32 | at);
    let mut promised = Promised::default();
    let mut random = Random::new(seed);
    let mut now_ns = START_NS;
    disk.inject(at, Fault::Crash);
    let first = live(&disk, seed, now_ns, &mut promised, &mut random);
    assert!(first.is_err(), "operation {at} was never reached");
    let disk = disk.restart(if at % 3 == 2 { CrashKind::Process } else { CrashKind::Power });
    // The clock of the next start may be behind.
    now_ns -= 1_000_000;
    disk.inject((at + seed) % 7, Fault::Crash);
    let second = live(&disk, seed, now_ns, &mut promised, &mut random);
    assert!(second.is_err(), "operation {at}: no second crash");
    let disk = disk.restart(CrashKind::Power);
    live(&disk, seed, now_ns, &mut promised, &mut random).expect("no fault");
    assert_eq!(promised.acknowledged.range(promised.asked - ITEMS..).count(), ITEMS);
    disk.counts()
}

fn checked_after(change: impl FnOnce(&mut Machine, &mut Promised) + Send) {
    on_program_stack(|| {
        let mut machine = Machine::start(&SimulatedDisk::new(1), options(1), START_NS).expect("no fault");
        let mut promised = Promised::default();
        work(&mut machine, &mut promised, &mut Random::new(1)).expect("no fault");
        change(&mut machine, &mut promised);
        check(&mut machine, &promised).expect("no fault");
    });
}

#[test]
#[should_panic(expected = "lost")]
fn the_checker_misses_what_was_acknowledged_and_is_not_there() {
    checked_after(|_, promised| {
        promised.acknowledged.insert(promised.asked);
        promised.asked += 1;
    });
}

#[test]
#[should_panic(expected = "both or neither")]
fn the_checker_sees_half_of_a_transaction() {
    checked_after(|machine, _| {
        machine.call(put("/app/left/items", json!([1])));
    });
}
