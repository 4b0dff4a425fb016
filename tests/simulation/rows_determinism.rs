//! Transactions on collections give the same bytes and the same state on any number of threads, also while pages come
//! and go.

use components::transaction::RequestId;
use world::{Input, Limits, Statistics};

use crate::determinism::trace;
use crate::machine::{Machine, MachineOptions, on_program_stack};
use crate::random::{Random, seeds};
use crate::rows;
use crate::rows_history::{Counts, History};
use crate::rows_serializability::tiny_limits;

const THREADS: [usize; 2] = [2, 4];

const SEEDS: u64 = 2;

/// Ticks in which requests come.
const BUSY_TICKS: usize = 50;

fn run(seed: u64, threads: usize) -> (Vec<String>, Statistics) {
    let mut random = Random::new(seed);
    let mut options = MachineOptions::new(seed, &rows::services());
    options.threads = threads;
    options.limits = Limits {
        fuel_per_tick: 60,
        page_cache_bytes: 600,
        effects_bytes_max: 600,
        ..tiny_limits(&mut random)
    };
    let mut machine = Machine::new(options);
    let mut traces = Vec::new();
    let mut asked = 0;
    for tick in 0.. {
        let mut events = Vec::new();
        if tick < BUSY_TICKS {
            for _ in 0..random.below(6) {
                asked += 1;
                events.push(machine.ask(rows::emptying_action(&mut random).request()).1);
            }
            if asked > 0 && random.one_in(8) {
                events.push(Input::Cancel(RequestId(1 + random.below(asked) as u64)));
            }
        } else if !machine.has_work() {
            break;
        }
        let outputs = machine.tick(events).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        let state_hash = machine.host.state_hash();
        traces.push(trace(&outputs, state_hash));
    }
    assert_eq!(machine.host.open_requests(), 0, "everything is answered");
    let statistics = machine.host.statistics();
    (traces, statistics)
}

#[test]
fn the_same_load_on_collections_gives_the_same_bytes_on_any_number_of_threads() {
    on_program_stack(|| {
        let mut last = String::new();
        let mut counts = Counts::default();
        for seed in seeds("SIMULATION_SEEDS", SEEDS) {
            let (expected, statistics) = run(seed, 1);
            counts.add(statistics, &History::default());
            for threads in THREADS {
                let (traces, statistics) = run(seed, threads);
                assert!(statistics.parallel_polls > 0, "the threads had nothing to do");
                assert_eq!(traces.len(), expected.len());
                for (tick, (trace, expected)) in traces.iter().zip(&expected).enumerate() {
                    assert_eq!(trace, expected, "seed {seed}, {threads} threads, tick {tick}");
                }
            }
            let end = expected.last().expect("a tick").clone();
            assert_ne!(end, last, "the comparison compares something");
            last = end;
        }
        counts.assert_all(&[
            ("commits", counts.committed),
            ("restarts", counts.restarts),
            ("page loads", counts.page_loads),
            ("evictions", counts.evictions),
            ("splits", counts.splits),
            ("joined pages", counts.joins),
            ("checkpoints", counts.checkpoints),
        ]);
    });
}
