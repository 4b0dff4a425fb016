//! Collections under load, one danger at a time.

use std::collections::BTreeMap;

use components::TxnId;
use components::hosting::storage::Keyspace;
use components::rows::columns::PageSize;
use components::rows::stored::{garbage_prefix, parse_handle_key};
use components::transaction::RequestId;
use components::value::ids::TreeId;
use io::storage::simulated::{CrashKind, SimulatedDisk};
use serde_json::{Value, json};
use world::{InspectQuery, JobLimits, Limits};

use crate::machine::{Machine, MachineOptions, START_NS, answer, get, on_program_stack, post, with_id};
use crate::random::Random;
use crate::rows::{
    self, Action, Bound, Cell, Cells, Interval, Model, Query, Step, everything, everything_shown,
};
use crate::rows_history::History;
use crate::services::post_method;

const ITEMS: usize = 0;
const RANKS: usize = 5;

fn options(limits: Limits) -> MachineOptions {
    MachineOptions { limits, durable_delay_max: 0, ..MachineOptions::new(1, &rows::services()) }
}

fn item(sku: i64, color: &str, qty: i64) -> Step {
    Step::Upsert(ITEMS, vec![Cell::Int(sku), Cell::Text(color.into()), Cell::Int(qty)])
}

fn rank(id: i64, rank: i64) -> Step {
    Step::Upsert(RANKS, vec![Cell::Int(id), Cell::Int(rank)])
}

fn of_color(color: &str) -> Query {
    Query::all(ITEMS).with(1, Cell::Text(color.into()))
}

#[test]
fn a_range_without_keys_has_no_rows_and_waits_for_nothing() {
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits::default()));
        for bound in
            [json!([["ex", 5], ["ex", 5]]), json!([["in", 5], ["ex", 5]]), json!([["in", 7], ["in", 3]])]
        {
            for column in ["sku", "qty"] {
                let (id, event) =
                    machine.ask(post("/app/shop/items", json!({ "bounds": { column: bound } })));
                let outputs = machine.tick(vec![event]).expect("a disk without faults");
                let (_, reply) =
                    outputs.replies.iter().find(|(answered, _)| *answered == id).expect("an answer");
                let (status, body) = answer(reply);
                assert_eq!((status, rows::shown_rows(&body)), (200, Some(vec![])), "{column} {bound}");
            }
        }
    });
}

/// A page that is folded must not claim commits of the same tick that are not on it yet: recovery would skip them.
#[test]
fn a_page_that_is_folded_among_many_commits_loses_none_of_them() {
    on_program_stack(|| {
        let options = options(Limits { fold_rows_min: 2, ..Limits::default() });
        let disk = SimulatedDisk::new(1);
        let mut machine = Machine::start(&disk, options.clone(), START_NS).expect("no fault");
        let writes = (0..9).map(|sku| Action::Direct(item(sku, "red", sku)).request()).collect();
        assert!(machine.call_all(writes).iter().all(|(status, _)| *status == 200));
        assert!(machine.host.statistics().page_folds > 0, "no page was folded");
        let disk = disk.restart(CrashKind::Power);
        let mut machine = Machine::start(&disk, options, machine.now_ns).expect("no fault");
        let (status, body) = machine.call(everything().request());
        assert_eq!(status, 200, "{body}");
        assert_eq!(everything_shown(&body).expect("every index has every row").0[ITEMS].len(), 9);
    });
}

/// The base of a page does not say which commit wrote a row.
#[test]
fn what_was_folded_before_it_is_durable_is_not_shown_before_it_is_durable() {
    on_program_stack(|| {
        let reads = [
            get("/app/shop/items"),
            Action::Direct(Step::Get(ITEMS, vec![Cell::Int(1)])).request(),
            get("/app/shop/items/count"),
            Action::Program(vec![Step::Count(of_color("red"))]).request(),
            Action::Program(vec![Step::Count(of_color("blue"))]).request(),
        ];
        for read in reads {
            let mut options = options(Limits { fold_rows_min: 1, ..Limits::default() });
            options.durable_delay_max = 20;
            let mut machine = Machine::new(options);
            let (write_id, write) = machine.ask(Action::Direct(item(1, "red", 1)).request());
            let outputs = machine.tick(vec![write]).expect("a disk without faults");
            assert!(outputs.replies.is_empty() && machine.host.statistics().page_folds > 0);
            let (read_id, read) = machine.ask(read);
            let answers: Vec<RequestId> = machine.settle(vec![read]).iter().map(|(id, ..)| *id).collect();
            assert_eq!(answers, [write_id, read_id]);
        }
    });
}

/// A history takes no lock on its own.
#[test]
fn a_history_is_read_after_what_is_older_and_still_open() {
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits { fuel_per_tick: 40, ..Limits::default() }));
        let mut history = History::default();
        let write = Action::Program(vec![rank(1, 1), Step::Spin(100), rank(2, 2)]);
        for read in [Action::History(1, false), Action::History(1, true)] {
            let events = vec![history.ask(&mut machine, write.clone(), None)];
            history.tick(&mut machine, events).expect("no fault");
            history.call(&mut machine, read.clone()).expect("no fault");
            // This one begins before the write has ended, and reads after that.
            let hypothetical = Action::Hypothetical(vec![Step::Spin(400), Step::List(Query::all(RANKS))]);
            let events = vec![history.ask(&mut machine, hypothetical, None)];
            history.tick(&mut machine, events).expect("no fault");
        }
        machine.settle(vec![]);
        history.check(&Model::default(), history.commits).expect("a serial history");
    });
}

/// The statistics of a page are those of its newest rows.
#[test]
fn who_is_too_old_for_a_page_is_refused_even_if_nothing_newer_matches() {
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits { fold_rows_min: 1, ..Limits::default() }));
        assert_eq!(machine.call(Action::Direct(item(1, "red", 1)).request()).0, 200);
        let before = TxnId::new(machine.now_ns + 1, 9);
        machine.wait(10);
        assert_eq!(machine.call(Action::Direct(Step::Delete(ITEMS, vec![Cell::Int(1)])).request()).0, 200);
        let (mut seen, mut nonce) = (Vec::new(), 9);
        for step in [
            Step::Count(of_color("red")),
            Step::Count(Query::all(ITEMS)),
            Step::List(of_color("red")),
            Step::List(Query::all(ITEMS)),
            Step::Get(ITEMS, vec![Cell::Int(1)]),
        ] {
            nonce += 1;
            let id = TxnId::new(before.time_ns(), nonce);
            seen.push(machine.call(with_id(Action::Program(vec![step]).request(), id)).0);
        }
        assert_eq!(seen, [409; 5], "what was there at that time is not known any more");
    });
}

/// A page that has the range of another one now does not know what was there before.
#[test]
fn who_is_too_old_for_a_page_that_is_gone_is_refused_by_the_one_in_its_place() {
    on_program_stack(|| {
        let page_size = PageSize { bytes: 1 << 16, rows: 4 };
        let mut machine = Machine::new(options(Limits { fold_rows_min: 1, page_size, ..Limits::default() }));
        for sku in 0..6 {
            assert_eq!(machine.call(Action::Direct(item(sku, "red", 1)).request()).0, 200);
        }
        let before = machine.now_ns + 1;
        machine.wait(10);
        let mut nonce = 0;
        let mut seen = |machine: &mut Machine| {
            [0, 3].map(|key| {
                nonce += 1;
                let read = Action::Direct(Step::Get(ITEMS, vec![Cell::Int(key)])).request();
                machine.call(with_id(read, TxnId::new(before, nonce))).0
            })
        };
        assert_eq!(seen(&mut machine), [200, 200]);
        for (sku, expected) in [(5, [200, 409]), (4, [200, 409]), (3, [409, 409])] {
            let delete = Action::Direct(Step::Delete(ITEMS, vec![Cell::Int(sku)]));
            assert_eq!(machine.call(delete.request()).0, 200);
            assert_eq!(seen(&mut machine), expected, "without {sku}");
        }
        assert!(machine.host.statistics().page_joins > 0, "no page is gone");
    });
}

/// In each tick somebody reads what a long transaction is going to write, until it has its turn.
fn assert_not_starved(long: Action, short: impl Fn(i64) -> Action + Send) {
    on_program_stack(move || {
        let mut machine = Machine::new(options(Limits { fuel_per_tick: 40, ..Limits::default() }));
        let mut history = History::default();
        let first = history.ask(&mut machine, long, None);
        history.tick(&mut machine, vec![first]).expect("no fault");
        for i in 0..300 {
            let event = history.ask(&mut machine, short(i), None);
            history.tick(&mut machine, vec![event]).expect("no fault");
            if history.all[0].answered.is_some() {
                break;
            }
        }
        assert!(history.all[0].answered.is_some(), "it never has its turn");
        let statistics = machine.host.statistics();
        assert!((1..10).contains(&statistics.retried), "{statistics:?}");
        while machine.has_work() {
            history.tick(&mut machine, vec![]).expect("no fault");
        }
        history.check(&Model::default(), history.commits).expect("a serial history");
    });
}

#[test]
fn readers_of_an_index_do_not_starve_who_writes_it() {
    let count = Action::Program(vec![Step::Count(of_color("red"))]);
    assert_not_starved(Action::Program(vec![item(1, "red", 1), Step::Spin(100)]), |_| count.clone());
}

#[test]
fn writers_of_one_collection_of_a_chain_do_not_starve_who_is_to_be_in_its_history() {
    assert_not_starved(Action::Program(vec![rank(0, 1), Step::Spin(100)]), |i| {
        Action::Direct(rank(1 + i, i))
    });
}

#[test]
fn two_that_write_what_the_other_one_counts_both_have_their_turn() {
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits { fuel_per_tick: 40, ..Limits::default() }));
        let mut history = History::default();
        let both = |mine: &str, other: &str, sku| {
            Action::Program(vec![Step::Count(of_color(other)), Step::Spin(30), item(sku, mine, 1)])
        };
        let actions = (0..20).flat_map(|i| [both("red", "blue", 2 * i), both("blue", "red", 2 * i + 1)]);
        let events: Vec<_> = actions.map(|action| history.ask(&mut machine, action, None)).collect();
        history.tick(&mut machine, events).expect("no fault");
        while machine.has_work() {
            history.tick(&mut machine, vec![]).expect("no fault");
        }
        let model = history.check(&Model::default(), history.commits).expect("a serial history");
        assert_eq!(model.0[ITEMS].len(), 40);
        let retried = machine.host.statistics().retried;
        assert!(retried > 0 && retried < 40 * 40, "{retried} restarts");
    });
}

/// How many pages of each tree are stored.
fn stored_pages(machine: &Machine) -> BTreeMap<TreeId, usize> {
    let mut pages = BTreeMap::new();
    for key in machine.stored_keys(Keyspace::Trees) {
        if !key.starts_with(&garbage_prefix()) {
            *pages.entry(parse_handle_key(&key).expect("a handle").0).or_default() += 1;
        }
    }
    pages
}

/// Rows come at one end and go at the other: what has become empty is not kept.
#[test]
fn a_table_that_is_a_queue_has_as_many_pages_as_its_rows_fill() {
    /// How many rows wait in the queue, and come and go in each round.
    const ROWS: i64 = 30;
    const ROUNDS: i64 = 30;
    /// The rows, and two indices: one on what ascends too, one on what does not.
    const TREES: usize = 3;
    on_program_stack(|| {
        let options = options(Limits {
            page_size: PageSize { bytes: 1 << 16, rows: 8 },
            fold_rows_min: 6,
            effects_bytes_max: 1_000,
            page_cache_bytes: 4_000,
            ..Limits::default()
        });
        let mut disk = SimulatedDisk::new(1);
        let mut machine = Machine::start(&disk, options.clone(), START_NS).expect("no fault");
        let color = |sku| if sku % 2 == 0 { "red" } else { "blue" };
        let delete = |sku: i64| Step::Delete(ITEMS, vec![Cell::Int(sku)]);
        let mut pages_max = 0;
        let mut joins = 0;
        for round in 0..ROUNDS {
            let comes = (round * ROWS..(round + 1) * ROWS).map(|sku| item(sku, color(sku), sku));
            let goes = (0.max(round - 1) * ROWS..round * ROWS).map(delete);
            let requests = comes.chain(goes).map(|step| Action::Direct(step).request()).collect();
            assert!(machine.call_all(requests).iter().all(|(status, _)| *status == 200));
            machine.settle(vec![]);
            let pages = stored_pages(&machine);
            pages_max = pages_max.max(pages.values().copied().max().unwrap_or(0));
            if round % 7 == 6 {
                let now_ns = machine.now_ns;
                joins += machine.host.statistics().page_joins;
                disk = disk.restart(CrashKind::Power);
                machine = Machine::start(&disk, options.clone(), now_ns).expect("no fault");
                assert_eq!(machine.value("/app/shop/items/count"), json!(ROWS));
            }
        }
        joins += machine.host.statistics().page_joins;
        assert!(joins > ROUNDS as u64, "{joins} joins");
        // Half of each page at least, a page that is being filled, and one that is being emptied.
        assert!(pages_max <= ROWS as usize / 4 + 4, "{pages_max} pages for {ROWS} rows");
        let rest = ((ROUNDS - 1) * ROWS..ROUNDS * ROWS).map(|sku| Action::Direct(delete(sku)).request());
        let rest = rest.collect();
        assert!(machine.call_all(rest).iter().all(|(status, _)| *status == 200));
        let now_ns = machine.now_ns;
        let disk = disk.restart(CrashKind::Power);
        let options = MachineOptions { limits: Limits { effects_bytes_max: 0, ..options.limits }, ..options };
        let mut machine = Machine::start(&disk, options, now_ns).expect("no fault");
        machine.settle(vec![]);
        let pages = stored_pages(&machine);
        assert!(pages.len() == TREES && pages.values().all(|pages| *pages == 1), "{pages:?}");
        assert_eq!(machine.value("/app/shop/items/count"), json!(0));
        let (status, body) = machine.call(everything().request());
        assert_eq!(status, 200, "{body}");
        assert_eq!(everything_shown(&body).expect("no index has a row").0[ITEMS].len(), 0);
    });
}

/// What is shown of the chain around the items: the bytes of effects, and of deltas; and how many pages are retired.
fn kept(machine: &mut Machine) -> [u64; 3] {
    let query = |kind: &str| InspectQuery { kind: Some(kind.into()), limit: 100, ..Default::default() };
    let chains = machine.host.inspect(&query("chain"));
    let retired = chains["retired_pages"].as_u64().expect("a number");
    let sum = |shown: &Value, name: &str| -> u64 {
        let items = shown.as_array().expect("items").iter();
        items
            .filter(|item| item.to_string().contains("/app/shop/items"))
            .map(|item| item[name].as_u64().unwrap_or(0))
            .sum()
    };
    let effects = sum(&chains["entities"]["chain"]["items"], "effects_bytes");
    let collections = machine.host.inspect(&query("collection"));
    let trees = collections["entities"]["collection"]["items"].as_array().expect("items").iter();
    let trees = trees.filter(|item| item["chain"].to_string().contains("/app/shop/items"));
    let deltas = trees.map(|item| sum_of(&item["trees"], "changed_bytes")).sum();
    [effects, deltas, retired]
}

fn sum_of(items: &Value, name: &str) -> u64 {
    items.as_array().expect("items").iter().map(|item| item[name].as_u64().expect("a number")).sum()
}

/// An old transaction keeps what was before; if that becomes too much, it pays, and only if it looks there at all.
#[test]
fn what_an_old_transaction_keeps_is_bounded_and_it_is_the_one_that_begins_again() {
    on_program_stack(|| {
        let old = |first: Vec<Step>| {
            let steps = first.into_iter().chain([Step::Spin(1_000_000_000)]).collect();
            Action::Program(steps).request()
        };
        let looks = vec![Step::Get(ITEMS, vec![Cell::Int(1)])];
        let elsewhere = vec![rank(1, 1)];
        for (first, is_ended) in [(elsewhere, false), (looks, true)] {
            let limits = Limits {
                effects_bytes_max: 2_000,
                kept_effects_bytes_max: 10_000,
                fold_rows_min: 20,
                page_size: PageSize { bytes: 1 << 12, rows: 50 },
                ..Limits::default()
            };
            let mut machine = Machine::new(options(limits));
            let (_, event) = machine.ask(old(first.clone()));
            machine.tick(vec![event]).expect("no fault");
            for _ in 0..5 {
                machine.tick(vec![]).expect("no fault");
            }
            let mut most = [0; 3];
            for round in 0..400 {
                let writes =
                    (0..5).map(|i| Action::Direct(item((5 * round + i) % 300, "red", round)).request());
                let events = writes.map(|write| machine.ask(write).1).collect();
                let outputs = machine.tick(events).expect("no fault");
                assert_eq!(outputs.poisoned, None);
                if round % 8 == 0 {
                    let now = kept(&mut machine);
                    most = [0, 1, 2].map(|i| most[i].max(now[i]));
                }
            }
            // Of so many writes, without a bound, it is several times as much.
            assert!(most[0] < 30_000 && most[1] < 400_000 && most[2] < 100, "{most:?}");
            let retried = machine.host.statistics().retried;
            assert_eq!(retried > 0, is_ended, "{retried} times begun again");
        }
    });
}

const CLIENTS: usize = 64;

/// Each client asks for one thing after the other.
fn closed_loop(
    limits: Limits,
    requests: usize,
    action: impl Fn(usize, &mut Random) -> Action,
) -> (Machine, History) {
    let mut options = options(limits);
    options.durable_delay_max = 2;
    let mut machine = Machine::new(options);
    let (mut history, mut random) = (History::default(), Random::new(1));
    let mut open: Vec<Option<usize>> = vec![None; CLIENTS];
    let mut left = vec![requests; CLIENTS];
    loop {
        let mut events = Vec::new();
        for client in 0..CLIENTS {
            if open[client].is_some_and(|at| history.all[at].answered.is_none()) || left[client] == 0 {
                continue;
            }
            left[client] -= 1;
            open[client] = Some(history.all.len());
            events.push(history.ask(&mut machine, action(client, &mut random), None));
        }
        if events.is_empty() && !machine.has_work() {
            break;
        }
        history.tick(&mut machine, events).expect("no fault");
    }
    assert_eq!(history.all.len(), CLIENTS * requests);
    for one in &history.all {
        assert!(matches!(one.answered, Some((200, _))), "{one:?}");
    }
    (machine, history)
}

#[test]
fn many_clients_on_few_hot_rows_are_all_served_and_nothing_is_lost() {
    on_program_stack(|| {
        for fuel_per_tick in [50, Limits::default().fuel_per_tick] {
            let limits = Limits { fuel_per_tick, ..Limits::default() };
            let (_, history) = closed_loop(limits, 6, |_, random| {
                let sku = random.below(10) as i64;
                let key: Cells = vec![Cell::Int(sku)];
                match random.below(4) {
                    0 => Action::Direct(item(sku, "red", 0)),
                    1 => Action::Program(vec![Step::Add(ITEMS, key, 1), Step::Spin(5)]),
                    _ => Action::Program(vec![Step::Add(ITEMS, key, 1)]),
                }
            });
            history.check(&Model::default(), history.commits).expect("a serial history");
        }
    });
}

#[test]
fn clients_on_different_keys_are_never_begun_again() {
    on_program_stack(|| {
        let limits = Limits { fuel_per_tick: 50, effects_bytes_max: 1_000, ..Limits::default() };
        let (machine, history) = closed_loop(limits, 6, |client, random| {
            let key: Cells = vec![Cell::Int(client as i64)];
            match random.below(5) {
                0 => Action::Direct(item(client as i64, "red", 0)),
                1 => Action::Direct(Step::Get(ITEMS, key)),
                2 => Action::Direct(Step::Delete(ITEMS, key)),
                _ => Action::Program(vec![Step::Add(ITEMS, key, 1), Step::Spin(10)]),
            }
        });
        history.check(&Model::default(), history.commits).expect("a serial history");
        assert_eq!(machine.host.statistics().retried, 0);
    });
}

/// How many mutations recovery is measured with; `RECOVERY_MUTATIONS` asks for more.
const MUTATIONS: usize = 2_000;

/// Start with mutations that no page has; prints how long that takes.
#[test]
fn recovery_repeats_what_no_page_has() {
    on_program_stack(|| {
        let count =
            std::env::var("RECOVERY_MUTATIONS").map_or(MUTATIONS, |count| count.parse().expect("a number"));
        let limits = Limits { effects_bytes_max: u64::MAX, fold_rows_min: usize::MAX, ..Limits::default() };
        let disk = SimulatedDisk::new(1);
        let mut machine = Machine::start(&disk, options(limits), START_NS).expect("no fault");
        let mut random = Random::new(1);
        for first in (0..count).step_by(500) {
            let writes = (first..count.min(first + 500)).map(|i| {
                let sku = if random.one_in(4) { random.below(count) } else { i };
                Action::Direct(item(sku as i64, "red", random.below(100) as i64)).request()
            });
            let writes = writes.collect();
            assert!(machine.call_all(writes).iter().all(|(status, _)| *status == 200));
        }
        let shown = machine.value("/app/shop/items/count");
        let now_ns = machine.now_ns;
        drop(machine);
        let disk = disk.restart(CrashKind::Power);
        let begun = std::time::Instant::now();
        let mut machine = Machine::start(&disk, options(limits), now_ns).expect("no fault");
        let loaded = begun.elapsed();
        assert_eq!(machine.value("/app/shop/items/count"), shown);
        println!("{count} mutations: loaded in {loaded:?}, first answer after {:?}", begun.elapsed());
    });
}

/// Jobs find what the program would have found page by page, its own rows included, and nothing is read twice.
#[test]
fn a_long_scan_is_left_to_jobs_and_a_short_one_is_not() {
    const ROWS: i64 = 300;
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits {
            page_size: PageSize { bytes: 1 << 16, rows: 4 },
            fold_rows_min: 4,
            jobs: JobLimits { pages_min: 4, found_bytes: 300, ..JobLimits::default() },
            ..Limits::default()
        }));
        let mut history = History::default();
        let writes =
            (0..ROWS).map(|sku| history.ask(&mut machine, Action::Direct(item(sku, "red", sku % 7)), None));
        let writes = writes.collect();
        history.tick(&mut machine, writes).expect("no fault");
        while machine.has_work() {
            history.tick(&mut machine, vec![]).expect("no fault");
        }

        let (status, all) = machine.call(get("/app/shop/items/explain"));
        assert_eq!((status, &all["rows"]), (200, &json!(ROWS)));
        let pages = all["pages"].as_u64().expect("a number");
        assert!(pages >= ROWS as u64 / 4 && all["pages_read"] == all["pages"], "{all}");
        assert!(machine.finds > 4, "a job ends when it has found enough: {}", machine.finds);

        let far = Query { order: Some(vec![0]), is_reversed: true, ..Query::all(ITEMS) };
        let from = |cell| Bound::Within(Interval { from: Some((cell, true)), to: None });
        // Neither bound helps more than the other, so one is met by looking at the rows.
        let bounds = vec![(0, from(Cell::Int(5))), (1, from(Cell::Text("p".into())))];
        let red = Query { bounds, ..far.clone() };
        let own = vec![
            item(50, "blue", 3),
            item(2 * ROWS, "blue", 3),
            Step::Delete(ITEMS, vec![Cell::Int(10)]),
            Step::Sum(far.clone(), 0),
            Step::Sum(red.clone(), 0),
            Step::Sum(Query { order: Some(vec![1, 0]), ..far.clone() }, 2),
            Step::CountInto(red, ITEMS, vec![Cell::Int(-1)]),
            Step::List(far.clone()),
        ];
        let before = machine.finds;
        history.call(&mut machine, Action::Program(own)).expect("no fault");
        assert!(machine.finds > before + 10, "{} jobs", machine.finds - before);
        assert!(machine.counts > 0, "rows with a condition are counted by jobs");

        let before = machine.finds;
        let first = Action::Program(vec![Step::Sum(Query { limit: Some(9), ..far }, 0)]);
        let (status, body) = machine.call(first.request());
        let expected = 2 * ROWS + (ROWS - 8..ROWS).sum::<i64>();
        assert_eq!((status, body), (200, json!([expected])));
        assert_eq!(machine.finds, before, "the first rows are in the first pages");
        history.check(&Model::default(), history.commits).expect("a serial history");
    });
}

/// Where a scan of many pages ends is known only afterwards; jobs find its rows in hardly more pages all the same.
#[test]
fn a_scan_with_a_limit_reads_hardly_more_pages_than_it_must() {
    const ROWS: i64 = 600;
    on_program_stack(|| {
        let mut machine = Machine::new(options(Limits {
            page_size: PageSize { bytes: 1 << 16, rows: 4 },
            fold_rows_min: 4,
            jobs: JobLimits { pages_min: 4, found_bytes: 1 << 20, ..JobLimits::default() },
            ..Limits::default()
        }));
        // One row of a page does not tell of the others, nor do its statistics.
        let color = |sku: i64| match sku {
            sku if sku % 29 == 13 => "m",
            sku if sku % 2 == 0 => "a",
            _ => "z",
        };
        let writes = (0..ROWS).map(|sku| Action::Direct(item(sku, color(sku), 0)).request()).collect();
        assert!(machine.call_all(writes).iter().all(|(status, _)| *status == 200));

        // Neither bound helps more than the other, so one is met by looking at the rows.
        let within = |last: i64| {
            let bounds = json!({ "sku": [["in", 0], ["in", last]], "t_color": [["in", "m"], ["in", "n"]] });
            json!({ "/app/shop/items": { "bounds": bounds } })
        };
        let before = machine.finds;
        for limit in [1, 2, 5, 11, 19] {
            let last = 13 + 29 * (limit - 1);
            let op = json!([
                ["until_there", within(last)],
                ["needed", { "$until_there/explain": [null] }],
                ["all", within(ROWS)],
                ["rows", { "$all/limit": [limit] }],
                ["plan", { "$rows/explain": [null] }],
                ["count", { "$rows/count": [null] }],
                ["_return", [{ "$needed": [] }, { "$plan": [] }, { "$count": [] }]],
            ]);
            let (status, body) = machine.call(post("/app/shop/run", json!({ "op": post_method(op) })));
            assert_eq!((status, &body[2]), (200, &json!(limit)), "{body}");
            assert!(body[0]["rows"] == json!(limit) && body[1]["rows"] == json!(limit), "{body}");
            let read = |plan: usize| body[plan]["pages_read"].as_u64().expect("a number");
            let (needed, read) = (read(0), read(1));
            assert!(needed <= read && read <= needed + needed / 8 + 1, "{read} pages, not {needed}");
        }
        assert!(machine.finds > before && machine.counts > 0, "jobs look at many pages");
    });
}

/// Rows that an index has found lie in many pages. All are asked for together, and a cache for one of them is enough.
#[test]
fn the_pages_of_rows_that_an_index_has_found_come_together() {
    const ROWS: i64 = 1_600;
    const PAGE_ROWS: usize = 40;
    /// An index page that goes from memory at once comes again for the next chunk of its rows.
    const CHUNKS: u64 = 3;
    on_program_stack(|| {
        let disk = SimulatedDisk::new(1);
        let limits = Limits {
            page_size: PageSize { bytes: 1 << 16, rows: PAGE_ROWS },
            fold_rows_min: PAGE_ROWS,
            effects_bytes_max: 1,
            ..Limits::default()
        };
        let mut machine = Machine::start(&disk, options(limits), START_NS).expect("no fault");
        // What is together in the index is far apart in the table.
        let writes =
            (0..ROWS).map(|sku| Action::Direct(item(sku, "red", 37 * sku % ROWS)).request()).collect();
        assert!(machine.call_all(writes).iter().all(|(status, _)| *status == 200));
        let now_ns = machine.now_ns;
        drop(machine);
        let disk = disk.restart(CrashKind::Power);
        let small = Limits { page_cache_bytes: 1, ..limits };
        let mut machine = Machine::start(&disk, options(small), now_ns).expect("no fault");
        let pages = machine.value("/app/shop/items/explain")["pages"].as_u64().expect("a number");
        assert!(pages >= ROWS as u64 / PAGE_ROWS as u64, "{pages} pages");

        for limit in [1, 7, 40] {
            let op = json!([
                ["by_qty", { "/app/shop/items/order": [[["qty"], false]] }],
                ["rows", { "$by_qty/limit": [limit] }],
                ["plan", { "$rows/explain": [null] }],
                ["_return", [{ "$plan": [] }, { "$rows": [] }]],
            ]);
            let op = json!({ "op": post_method(op) });
            let (_, event) = machine.ask(post("/app/shop/run", op));
            let loads_before = machine.host.statistics().page_loads;
            let (mut events, mut at_once_max, mut answers) = (vec![event], 0, Vec::new());
            while answers.is_empty() {
                let outputs = machine.tick(std::mem::take(&mut events)).expect("no fault");
                at_once_max = outputs.loads.len().max(at_once_max);
                answers = outputs.replies;
            }
            let (status, body) = answer(&answers[0].1);
            assert_eq!(status, 200, "{body}");
            let shown = rows::shown_rows(&body[1]).expect("rows");
            let quantities: Vec<Cell> = shown.iter().map(|row| row[2].clone()).collect();
            assert_eq!(quantities, (0..limit).map(Cell::Int).collect::<Vec<_>>());
            // The rows are read twice, once for the plan.
            let index_pages = body[0]["pages_read"].as_u64().expect("a number");
            let loads = machine.host.statistics().page_loads - loads_before;
            assert!(
                loads <= 2 * (index_pages + CHUNKS + limit as u64),
                "{loads} pages came for {limit} rows"
            );
            let together = limit.min(16) as usize;
            assert!((together / 2..=2 * together).contains(&at_once_max), "{at_once_max} pages at once");
        }
    });
}
