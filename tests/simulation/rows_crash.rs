//! Crashes of a host with collections: what was acknowledged is there afterwards, with every entry of every index, and
//! nothing of a transaction without the rest of it.

use std::collections::BTreeSet;

use components::hosting::storage::Keyspace;
use components::rows::stored::{garbage_prefix, parse_garbage_key, parse_handle_key};
use components::value::ids::PageId;
use io::storage::simulated::{CrashKind, Fault, SimulatedCounts, SimulatedDisk};

use world::Limits;

use crate::machine::{Crashed, Machine, MachineOptions, START_NS, TICK_NS, on_program_stack};
use crate::random::{Random, seeds};
use crate::rows::{self, Model, everything, everything_shown};
use crate::rows_history::{Counts, History, Load};
use crate::rows_serializability::tiny_limits;

/// How many workloads are crashed at every operation of the disk; `CRASH_SEEDS` asks for more.
const SEEDS: u64 = 1;

/// How many workloads are crashed now and then; `SIMULATION_SEEDS` asks for more.
const RANDOM_SEEDS: u64 = 8;

/// How often each of those is crashed.
const LIVES: usize = 5;

/// A host that dies and starts again on the same disk.
struct Lives {
    seed: u64,
    limits: Limits,
    /// What was there when `open` began.
    model: Model,
    /// What has happened since; which of the last commits have survived is not known before it is looked at.
    open: History,
    now_ns: u64,
    counts: Counts,
}

impl Lives {
    fn new(seed: u64) -> Self {
        let (model, open, counts) = (Model::default(), History::default(), Counts::default());
        Self { seed, limits: tiny_limits(&mut Random::new(seed)), model, open, now_ns: START_NS, counts }
    }

    fn options(&self) -> MachineOptions {
        let mut options = MachineOptions::new(self.seed, &rows::services());
        options.limits = self.limits;
        options
    }

    /// Start on a disk, look at what is there, work, and look again; an error if the disk crashed on the way.
    fn live(&mut self, disk: &SimulatedDisk, random: &mut Random, load: Load) -> Result<(), Crashed> {
        let mut machine = Machine::start(disk, self.options(), self.now_ns)?;
        let result = self.work(&mut machine, random, load);
        // The clock of the next start may be behind.
        self.now_ns = machine.now_ns - TICK_NS;
        self.counts.add(machine.host.statistics(), &self.open);
        result
    }

    fn work(&mut self, machine: &mut Machine, random: &mut Random, load: Load) -> Result<(), Crashed> {
        self.recover(machine)?;
        self.open.work(machine, random, load)?;
        let shown = self.open.call(machine, everything())?;
        let model = self.open.check(&self.model, self.open.commits).unwrap_or_else(|why| self.fail(&why));
        let shown = everything_shown(&shown).unwrap_or_else(|why| self.fail(&why));
        assert_eq!(shown, model, "seed {}", self.seed);
        machine.settle(vec![]);
        check_pages(machine);
        Ok(())
    }

    fn fail(&self, why: &str) -> ! {
        panic!("seed {}: {why}", self.seed)
    }

    /// What is there is what the first so many commits of the last life have made, and nobody was told anything else.
    fn recover(&mut self, machine: &mut Machine) -> Result<(), Crashed> {
        let mut history = History::default();
        let shown = history.call(machine, everything())?;
        let shown = everything_shown(&shown).unwrap_or_else(|why| self.fail(&why));
        let survivors = self.open.acknowledged()..=self.open.commits;
        let mut whys = Vec::new();
        for survivors in survivors.clone() {
            match self.open.check(&self.model, survivors) {
                Ok(model) if model == shown => {
                    (self.model, self.open) = (shown, history);
                    return Ok(());
                }
                Ok(_) => {}
                Err(why) => whys.push(why),
            }
        }
        self.fail(&format!("none of {survivors:?} commits explain {shown:?}: {whys:#?}"))
    }
}

/// Every page is in a tree, and every page of a tree is there.
fn check_pages(machine: &Machine) {
    let keys = machine.stored_keys(Keyspace::Trees).into_iter();
    let (garbage, handles): (Vec<_>, Vec<_>) = keys.partition(|key| key.starts_with(&garbage_prefix()));
    let garbage: Vec<PageId> = garbage.iter().filter_map(|key| parse_garbage_key(key)).collect();
    assert_eq!(garbage, [], "nobody reads what is in no tree");
    let in_trees: BTreeSet<u64> =
        handles.iter().map(|key| parse_handle_key(key).expect("a handle").1.0).collect();
    let number = |key: Vec<u8>| u64::from_be_bytes(key.try_into().expect("a number"));
    let pages: BTreeSet<u64> = machine.stored_keys(Keyspace::Pages).into_iter().map(number).collect();
    assert_eq!(pages, in_trees, "the pages, and those in trees");
}

fn assert_counts(counts: &Counts) {
    counts.assert_all(&[
        ("commits", counts.committed),
        ("page loads", counts.page_loads),
        ("evictions", counts.evictions),
        ("folds", counts.folds),
        ("splits", counts.splits),
        ("joined pages", counts.joins),
        ("deleted pages", counts.deletions),
        ("checkpoints", counts.checkpoints),
        ("pages stored before their commit", counts.stagings),
        ("restarts", counts.restarts),
        ("crashes", counts.crashes),
    ]);
}

#[test]
fn random_transactions_survive_random_crashes() {
    on_program_stack(|| {
        let mut counts = Counts::default();
        for seed in seeds("SIMULATION_SEEDS", RANDOM_SEEDS) {
            let mut random = Random::new(seed);
            let mut disk = SimulatedDisk::new(seed);
            let mut lives = Lives::new(seed);
            let action = if seed.is_multiple_of(2) { rows::action } else { rows::emptying_action };
            let load = Load { requests: 60, per_tick: 5, cancels: 30, chosen: 10, action };
            for _ in 0..LIVES {
                disk.inject(random.below(120) as u64, Fault::Crash);
                // It may as well end before.
                let _ = lives.live(&disk, &mut random, load);
                let kind = if random.one_in(3) { CrashKind::Process } else { CrashKind::Power };
                disk = disk.restart(kind);
            }
            lives.live(&disk, &mut random, load).expect("no fault");
            counts = counts.with(&lives.counts);
            counts.crashes += disk.counts().crashes;
        }
        assert_counts(&counts);
    });
}

/// A workload of many writes.
const WRITES: Load = Load { requests: 40, per_tick: 4, cancels: 0, chosen: 0, action: rows::emptying_write };

/// So little memory that each page is loaded again and again, and so few effects that there are checkpoints.
fn few_pages(seed: u64) -> Lives {
    let mut lives = Lives::new(seed);
    lives.limits.page_cache_bytes = 400;
    lives.limits.effects_bytes_max = lives.limits.effects_bytes_max.min(1_000);
    lives
}

/// How many operations of the disk the workload takes without a crash.
fn operations(seed: u64) -> u64 {
    let disk = SimulatedDisk::new(seed);
    few_pages(seed).live(&disk, &mut Random::new(seed), WRITES).expect("no fault");
    disk.counts().operations
}

/// Crash at an operation, and once more soon after the next start; then work unharmed.
fn crash(seed: u64, at: u64, counts: &mut Counts) -> SimulatedCounts {
    let disk = SimulatedDisk::new(seed << 32 | at);
    let mut random = Random::new(seed);
    let mut lives = few_pages(seed);
    disk.inject(at, Fault::Crash);
    lives.live(&disk, &mut random, WRITES).expect_err("the operation is reached");
    let disk = disk.restart(if at % 3 == 2 { CrashKind::Process } else { CrashKind::Power });
    disk.inject((at + seed) % 23, Fault::Crash);
    lives.live(&disk, &mut random, WRITES).expect_err("the operation is reached");
    let disk = disk.restart(CrashKind::Power);
    lives.live(&disk, &mut random, WRITES).expect("no fault");
    *counts = counts.with(&lives.counts);
    disk.counts()
}

#[test]
fn rows_survive_a_crash_at_any_operation() {
    on_program_stack(|| {
        let mut counts = Counts::default();
        for seed in seeds("CRASH_SEEDS", SEEDS) {
            for at in 0..operations(seed) {
                counts.crashes += crash(seed, at, &mut counts).crashes;
            }
        }
        assert_counts(&counts);
    });
}

/// A large body of rows that does not fit in memory.
fn large_load() -> rows::Action {
    let cells =
        |i: i64| vec![rows::Cell::Int(i), rows::Cell::Text(format!("c{}", i % 7)), rows::Cell::Int(i % 5)];
    rows::Action::Bulk(0, (0..301).map(|i| cells(i * 17 % 200)).collect())
}

/// The pages that are stored, and how many of them are garbage.
fn stored_pages(machine: &Machine) -> (usize, usize) {
    let keys = machine.stored_keys(Keyspace::Trees);
    let garbage = keys.iter().filter(|key| key.starts_with(&garbage_prefix())).count();
    (machine.stored_keys(Keyspace::Pages).len(), garbage)
}

#[test]
fn what_was_stored_for_a_load_that_does_not_commit_goes() {
    on_program_stack(|| {
        let mut ticks = 4;
        loop {
            let lives = few_pages(1);
            let disk = SimulatedDisk::new(1);
            let mut machine = Machine::start(&disk, lives.options(), START_NS).expect("no fault");
            let (id, event) = machine.ask(large_load().request());
            let mut events = vec![event];
            let mut is_answered = false;
            for _ in 0..ticks {
                let outputs = machine.tick(std::mem::take(&mut events)).expect("no fault");
                is_answered |= outputs.replies.iter().any(|(answered, _)| *answered == id);
            }
            if is_answered {
                assert!(ticks > 60, "the load has many parts");
                return;
            }
            let (pages, garbage) = stored_pages(&machine);
            assert!(
                pages == garbage || garbage == 0,
                "nothing is in a tree before the commit, and then everything"
            );
            let outputs = machine.settle(vec![world::Input::Cancel(id)]);
            let statistics = machine.host.statistics();
            let is_committed = statistics.committed == 1;
            assert_eq!(outputs.iter().any(|(_, status, _)| *status == 200), is_committed);
            assert!(is_committed || statistics.page_unstagings == statistics.page_stagings);
            check_pages(&machine);
            assert_eq!(stored_pages(&machine).0 > 0, is_committed);
            // The host goes on.
            assert_eq!(machine.call(large_load().request()).0, 200);
            machine.settle(vec![]);
            check_pages(&machine);
            ticks += 23;
        }
    });
}

#[test]
fn a_load_without_space_is_refused_and_leaves_nothing() {
    on_program_stack(|| {
        let mut machine = Machine::new(few_pages(1).options());
        assert_eq!(machine.call(rows::load_without_space()).0, 503);
        machine.settle(vec![]);
        assert_eq!(stored_pages(&machine), (0, 0));
        assert_eq!(machine.call(large_load().request()).0, 200);
    });
}
