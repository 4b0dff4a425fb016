//! One harness for whatever a client can do (`HARNESS_STEPS`, `HARNESS_SEEDS` ask for more).
//!
//! Random steps over all classes of columns, with a pool of boundary values and all routes in and out, beside a model
//! that was written from the protocol pages. After each step: what was refused has changed nothing; what was done is
//! shown the same by every route, can be fed back, and is there after a kill and a start.

mod binary;
mod datum;
mod deterministic;
mod http;
// The simulations use all of it.
#[allow(dead_code)]
#[path = "../simulation/machine.rs"]
mod machine;
mod model;
mod planted;
#[path = "../simulation/random.rs"]
mod random;
mod steps;
mod tbon;
mod within;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use machine::on_program_stack;
use random::seeds;

/// How many hosts are tried.
const SEEDS: u64 = 2;

/// How many steps each takes.
const STEPS: usize = 400;

fn steps() -> usize {
    std::env::var("HARNESS_STEPS").map_or(STEPS, |steps| steps.parse().expect("a number"))
}

#[test]
fn the_binary_does_what_the_pages_say() {
    for seed in seeds("HARNESS_SEEDS", SEEDS) {
        let mut harness = steps::Harness::new(binary::Binary::start(&steps::cluster()), seed);
        harness.run(steps()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(harness.done > 0 && harness.refused > 0 && harness.open > 0, "every kind of step is tried");
    }
}

/// How many deterministic machines are tried.
const MACHINES: u64 = 6;

/// Run a test on a machine; what its host has come to.
fn on_machine(seed: u64, threads: usize) -> u64 {
    on_program_stack(|| {
        let mut harness =
            steps::Harness::new(deterministic::Deterministic::start(&steps::cluster(), seed, threads), seed);
        harness.run(steps()).unwrap_or_else(|why| panic!("seed {seed}, {threads} threads: {why}"));
        assert!(harness.done > 0 && harness.refused > 0 && harness.open > 0, "every kind of step is tried");
        harness.runner.state_hash()
    })
}

#[test]
fn the_deterministic_machine_does_what_the_pages_say_through_crashes_on_any_number_of_threads() {
    for seed in seeds("HARNESS_SEEDS", MACHINES) {
        let hash = on_machine(seed, 1);
        assert_eq!(on_machine(seed, 4), hash, "seed {seed}: other bytes on other threads");
    }
}

/// A harness that finds nothing proves nothing.
#[test]
fn every_planted_fault_is_found() {
    for fault in planted::Fault::ALL {
        let host = binary::Binary::start(&steps::cluster());
        let mut harness = steps::Harness::new(planted::Faulty::new(host, fault), 0);
        let found = harness.run(STEPS);
        assert!(harness.runner.happened > 0, "{fault:?} has not happened");
        assert!(
            found.is_err(),
            "{fault:?} was not found, and has happened {} times",
            harness.runner.happened
        );
    }
}

/// On how many machines a fault is looked for until it is found.
const FAULTY_MACHINES: u64 = MACHINES;

#[test]
fn every_fault_planted_within_a_machine_is_found() {
    let missed: Vec<within::Fault> =
        within::Fault::ALL.into_iter().filter(|fault| !is_found(*fault)).collect();
    assert_eq!(missed, [], "these were not found");
}

fn is_found(fault: within::Fault) -> bool {
    (0..FAULTY_MACHINES).any(|seed| {
        let happened = Arc::default();
        let run = || {
            on_program_stack(|| {
                let machine = deterministic::Deterministic::start(&steps::cluster(), seed, 1);
                steps::Harness::new(fault.plant(machine, &happened), seed).run(STEPS)
            })
        };
        // A host that cannot be started is a fault that was found, too: without one, none of these machines panics, as
        // another test shows.
        let is_found = !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())));
        let times = happened.load(Relaxed);
        println!("{fault:?}, machine {seed}: has happened {times} times, found: {is_found}");
        assert!(times > 0 || !is_found, "{fault:?} was found though it has not happened");
        is_found
    })
}
