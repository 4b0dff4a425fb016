//! Random concurrent transactions on collections, in little memory, equal to one after the other in the order of their
//! ids.

use components::rows::columns::PageSize;
use world::{JobLimits, Limits};

use crate::machine::{Machine, MachineOptions, on_program_stack};
use crate::random::{Random, seeds};
use crate::rows::{self, Action, Model, everything, everything_shown};
use crate::rows_history::{Counts, History, Load};

/// How many histories a run looks at; `SIMULATION_SEEDS` asks for more.
const SEEDS: u64 = 12;

/// How many requests a history has.
const REQUESTS: usize = 160;

/// So little of everything that all of it is used up all the time.
pub fn tiny_limits(random: &mut Random) -> Limits {
    Limits {
        fuel_per_tick: 20 + random.below(200) as u64,
        page_cache_bytes: 200 + random.below(3_000) as u64,
        effects_bytes_max: 200 + random.below(4_000) as u64,
        page_size: PageSize { bytes: 100 + random.below(400), rows: 2 + random.below(8) },
        fold_rows_min: 2 + random.below(8),
        jobs: JobLimits {
            pages_min: 1 + random.below(6),
            found_bytes: random.below(1_000) as u64,
            merged_rows_min: random.below(8),
            // Half of the worlds write rows into pages before the commit, after one or a few.
            changes_bytes: if random.below(2) == 0 { random.below(400) as u64 } else { 16 << 20 },
            changes_max: 1 + random.below(40),
            part_bytes: 1 + random.below(2_000),
            sorted_bytes: 1 + random.below(2_000),
        },
        ..Limits::default()
    }
}

/// In every third machine much of the work of a tick is left to the next one.
pub fn few_steps(seed: u64) -> usize {
    if seed % 3 == 2 { 1 + seed as usize % 40 } else { Limits::default().steps_per_tick }
}

/// Record one history.
fn record(seed: u64) -> (Machine, History) {
    let mut random = Random::new(seed);
    let mut options = MachineOptions::new(seed, &rows::services());
    options.durable_delay_max = random.below(5);
    options.limits = tiny_limits(&mut random);
    options.limits.steps_per_tick = few_steps(seed);
    if seed % 4 == 3 {
        options.limits.kept_effects_bytes_max = 2 * options.limits.effects_bytes_max;
    }
    let per_tick = 1 + random.below(6);
    let mut machine = Machine::new(options);
    let mut history = History::default();
    let action = if seed.is_multiple_of(2) { rows::action } else { rows::emptying_action };
    let load = Load { requests: REQUESTS, per_tick, cancels: 30, chosen: 8, action };
    history.work(&mut machine, &mut random, load).expect("a disk without faults");
    (machine, history)
}

#[test]
fn every_history_is_that_of_one_transaction_after_the_other() {
    on_program_stack(|| {
        let mut counts = Counts::default();
        let (mut finds, mut gathers, mut sorts, mut counted, mut overtaken) = (0, 0, 0, 0, 0);
        for seed in seeds("SIMULATION_SEEDS", SEEDS) {
            let (mut machine, mut history) = record(seed);
            let last = history.call(&mut machine, everything()).expect("a disk without faults");
            let model = history
                .check(&Model::default(), history.commits)
                .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            let shown = everything_shown(&last).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            assert_eq!(shown, model, "seed {seed}");
            counts.add(machine.host.statistics(), &history);
            finds += machine.finds;
            gathers += machine.gathers;
            sorts += machine.sorts;
            overtaken += machine.overtaken;
            counted += machine.counts;
        }
        counts.assert_all(&[
            ("commits", counts.committed),
            ("reads", counts.read_only),
            ("failures", counts.failed),
            ("restarts", counts.restarts),
            ("refusals", counts.refusals),
            ("page loads", counts.page_loads),
            ("evictions", counts.evictions),
            ("folds", counts.folds),
            ("splits", counts.splits),
            ("joined pages", counts.joins),
            ("deleted pages", counts.deletions),
            ("checkpoints", counts.checkpoints),
            ("hypothetical transactions", counts.hypothetical),
            ("histories that were read", counts.histories),
            ("scans by jobs", finds),
            ("rows that went into pages before the commit", gathers),
            ("sorts by jobs", sorts),
            ("counts by jobs", counted),
            ("jobs that overtook others", overtaken),
        ]);
    });
}

/// How many histories are corrupted.
const CORRUPTED: u64 = 6;

/// A history that did not happen must be found out.
#[test]
fn the_checker_complains_about_corrupted_histories() {
    on_program_stack(|| {
        let (mut lost_writes, mut found, mut swapped) = (0, 0, 0);
        for seed in 1..=CORRUPTED {
            let (mut machine, mut history) = record(seed);
            history.call(&mut machine, everything()).expect("a disk without faults");
            history.check(&Model::default(), history.commits).expect("the history as it was");

            let is_write = |at: &usize| {
                let one = &history.all[*at];
                one.commit.is_some() && matches!(&one.action, Action::Direct(_))
            };
            let writes: Vec<usize> = (0..history.all.len()).filter(is_write).collect();
            for at in &writes {
                let mut lost = history.clone();
                lost.all.remove(*at);
                found += usize::from(lost.check(&Model::default(), lost.commits).is_err());
            }
            lost_writes += writes.len();

            let mut late = history.clone();
            let [first, .., last] = writes[..] else { panic!("too few writes") };
            let id = late.all[first].id;
            late.all[first].id = late.all[last].id;
            late.all[last].id = id;
            swapped += u64::from(late.check(&Model::default(), late.commits).is_err());
        }
        assert!(found > lost_writes / 3, "only {found} of {lost_writes} lost writes were noticed");
        // Some two may come in any order.
        assert!(swapped > CORRUPTED / 2, "only {swapped} of {CORRUPTED} swaps were noticed");
    });
}
