//! Same inputs, same outputs and same state, on any number of threads.

use components::transaction::RequestId;
use components::transaction::job::Job;
use world::{Input, Limits, Outputs, Statistics};

use crate::machine::{Machine, MachineOptions, answer, on_program_stack};
use crate::programs::random_request;
use crate::random::Random;
use crate::services;

const THREADS: [usize; 3] = [1, 4, 16];

const SEEDS: u64 = 2;

/// Ticks in which requests come.
const BUSY_TICKS: usize = 60;

/// How many requests one tick in a few brings: enough for several threads.
const CROWD: usize = 100;

/// The inputs of every tick, and when the clock jumps.
struct Load {
    ticks: Vec<(u64, Vec<Input>)>,
}

/// Everything that a host was asked in one run of a simulation.
fn random_load(seed: u64) -> Load {
    let mut random = Random::new(seed);
    let mut now_ns = crate::machine::START_NS;
    let mut next = 0;
    let mut ticks = Vec::new();
    for tick in 0..BUSY_TICKS {
        // Now and then so late that everything that waits has run out of time.
        let pause_ns = if tick % 25 == 24 { 40_000_000 } else { 0 };
        now_ns += pause_ns + crate::machine::TICK_NS;
        let count = if tick % 10 == 3 { CROWD } else { random.below(6) };
        let mut events = Vec::new();
        for _ in 0..count {
            next += 1;
            let request = random_request(&mut random, now_ns);
            events.push(Input::Request { id: RequestId(next), request });
            if random.one_in(12) {
                events.push(Input::Cancel(RequestId(1 + random.below(next as usize) as u64)));
            }
        }
        ticks.push((pause_ns, events));
    }
    Load { ticks }
}

/// The bytes of everything that leaves a host in a tick, and the hash of its state after it.
pub fn trace(outputs: &Outputs, state_hash: u64) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (id, reply) in &outputs.replies {
        let (status, body) = answer(reply);
        writeln!(text, "{} {status} {body}", id.0).unwrap();
    }
    for write in outputs.batch.iter().flat_map(|batch| &batch.writes) {
        writeln!(text, "{:?} {:?} {:?}", write.keyspace, write.key, write.value).unwrap();
    }
    for (id, job) in &outputs.jobs {
        let kind = match job {
            Job::Merge { .. } => "merge",
            Job::MergePart(_) => "merge a part",
            Job::Gather(all) => &format!("gather {} changes", all.changes.len()),
            Job::LetGo(_) => "let go",
            Job::Sort(_) => "sort",
            Job::ReadSorted(_) => "read what is sorted",
            Job::Count { parts, wanted, .. } => &format!("count {} parts, {wanted:?}", parts.len()),
            Job::Find { parts, wanted, .. } => &format!("find in {} parts, {wanted:?}", parts.len()),
        };
        writeln!(text, "{id:?} {kind}").unwrap();
    }
    let batch = outputs.batch.as_ref().map(|batch| batch.sequence);
    let rest =
        (batch, &outputs.loads, &outputs.ended, outputs.is_busy, outputs.next_deadline_ns, &outputs.poisoned);
    writeln!(text, "{rest:?} {state_hash:016x}").unwrap();
    text
}

fn run(seed: u64, threads: usize) -> (Vec<String>, Statistics) {
    let mut options = MachineOptions::new(seed, &services::all());
    options.threads = threads;
    options.limits = Limits { fuel_per_tick: 60, request_ttl_ns: 30_000_000, ..Limits::default() };
    let mut machine = Machine::new(options);
    let mut traces = Vec::new();
    let mut step = |machine: &mut Machine, events: Vec<Input>| {
        let outputs = machine.tick(events).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        let state_hash = machine.host.state_hash();
        traces.push(trace(&outputs, state_hash));
    };
    for (pause_ns, events) in random_load(seed).ticks {
        machine.wait(pause_ns);
        step(&mut machine, events);
    }
    while machine.has_work() {
        step(&mut machine, Vec::new());
    }
    assert_eq!(machine.host.open_requests(), 0, "everything is answered");
    let statistics = machine.host.statistics();
    (traces, statistics)
}

#[test]
fn a_recorded_load_gives_the_same_bytes_on_any_number_of_threads() {
    on_program_stack(|| {
        for seed in 0..SEEDS {
            let (expected, statistics) = run(seed, 1);
            // The load must contain what could go wrong.
            assert_eq!(statistics.parallel_polls, 0);
            for (count, what) in [
                (statistics.committed, "commits"),
                (statistics.read_only, "reads"),
                (statistics.failed, "failures"),
                (statistics.retried, "retries"),
                (statistics.conflicts, "conflicts"),
                (statistics.timeouts, "timeouts"),
            ] {
                assert!(count > 0, "seed {seed}: there were no {what}: {statistics:?}");
            }
            for threads in THREADS {
                for _ in 0..2 {
                    let (traces, statistics) = run(seed, threads);
                    for (tick, (trace, expected)) in traces.iter().zip(&expected).enumerate() {
                        assert_eq!(trace, expected, "seed {seed}, {threads} threads, tick {tick}");
                    }
                    assert_eq!(traces.len(), expected.len());
                    if threads > 1 {
                        assert!(statistics.parallel_polls > 0, "the threads had nothing to do");
                    }
                }
            }
        }
    });
}

#[test]
fn different_loads_give_different_states() {
    on_program_stack(|| {
        let last = |seed| run(seed, 1).0.pop().expect("a tick");
        assert_ne!(last(0), last(1), "the comparison compares something");
    });
}
