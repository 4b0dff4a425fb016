//! One harness for whatever a client can do (`HARNESS_STEPS`, `HARNESS_SEEDS` ask for more).
//!
//! Random steps over all classes of columns, with a pool of boundary values and all routes in and out, beside a model
//! that was written from the protocol pages. After each step: what was refused has changed nothing; what was done is
//! shown the same by every route, can be fed back, and is there after a kill and a start.

mod binary;
mod datum;
mod http;
mod model;
mod planted;
#[path = "../simulation/random.rs"]
mod random;
mod steps;

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
