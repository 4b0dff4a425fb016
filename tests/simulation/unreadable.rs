//! What cannot be read is the failure of those who want it, and of nobody else.

use std::collections::BTreeMap;

use components::hosting::storage::{Keyspace, Read};
use components::language::reference::Verb;
use components::rows::stored::{page_key, parse_handle, parse_handle_key};
use components::transaction::RequestId;
use components::value::ids::TreeId;
use io::storage::simulated::{CrashKind, SimulatedDisk};
use serde_json::json;
use world::{Input, InspectQuery};

use crate::machine::{Machine, START_NS, TICK_NS, get, on_program_stack, request};
use crate::poison::defect;
use crate::streams::{
    self, ITEMS, ROWS, SMALL_ROWS, read, retired_pages, row, stock, stocking, stream, texts,
};

const OTHERS: &str = "/app/shop/others";

fn key(sku: u64) -> serde_json::Value {
    json!([sku])
}

fn get_row(path: &str, sku: u64) -> components::Request {
    request(Verb::Get, path, key(sku), json!(null))
}

fn put_row(path: &str, sku: u64, qty: i64) -> components::Request {
    request(Verb::Put, path, key(sku), json!(["red", qty]))
}

/// The keys of what is stored of each page of a tree, with the first row in it, by that row.
fn pages_of(machine: &Machine, tree: u16) -> BTreeMap<u64, Vec<u8>> {
    let handles =
        Read::scan(&machine.reader(), Keyspace::Trees, &[0; 4], None, usize::MAX).expect("no fault");
    let handles = handles.iter().filter_map(|(key, value)| {
        let (TreeId { tree: found, .. }, page) = parse_handle_key(key)?;
        let (low, content) = parse_handle(page, value).expect("a handle");
        (found == tree).then_some((low, page, content.rows))
    });
    let mut handles: Vec<_> = handles.collect();
    handles.sort_by(|(this, ..), (that, ..)| this.cmp(that));
    let mut first = 0;
    let pages = handles.into_iter().map(|(_, page, rows)| {
        let entry = (first, page_key(page));
        first += rows;
        entry
    });
    pages.collect()
}

/// Read rows of the other table until nothing of the first one is in memory.
fn evict(machine: &mut Machine) {
    for sku in (0..ROWS).step_by(500).cycle().take(400) {
        assert_eq!(machine.call(get_row(OTHERS, sku)).0, 200);
        let query = InspectQuery { kind: Some("page".into()), limit: 1_000, ..Default::default() };
        let pages = machine.host.inspect(&query);
        let pages = pages["entities"]["page"]["items"].as_array().expect("pages").clone();
        if !pages.iter().any(|page| page["chain"] == json!(ITEMS) && page["resident"] == json!(true)) {
            return;
        }
    }
    panic!("the pages stay in memory");
}

fn shop(disk: &SimulatedDisk) -> Machine {
    let mut options = streams::options();
    options.limits.effects_bytes_max = 20_000;
    Machine::start(disk, options, START_NS).expect("no fault")
}

#[test]
fn a_page_that_cannot_be_read_is_missed_by_those_alone_who_want_it() {
    on_program_stack(|| {
        let disk = SimulatedDisk::new(3);
        let mut machine = shop(&disk);
        stock(&mut machine, 1);
        assert_eq!(machine.call(stocking(OTHERS, 1)).0, 200);
        let pages = pages_of(&machine, 0);
        let (first, damaged) =
            pages.iter().nth(pages.len() / 2).map(|(first, key)| (*first, key.clone())).unwrap();
        let in_page = [first, first + 1, first + 2];
        // What was written before, and is in no stored page yet.
        assert_eq!(machine.call(put_row(ITEMS, in_page[0], 77)).0, 200);
        evict(&mut machine);
        machine.damaged.insert((Keyspace::Pages, damaged.clone()));

        let reads = [in_page[1], 0, in_page[2], ROWS - 1].map(|sku| get_row(ITEMS, sku)).into();
        let answers = machine.call_all(reads);
        let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [500, 200, 500, 200], "{answers:?}");
        let why = answers[0].1.as_str().expect("a message");
        let page = u64::from_be_bytes(damaged.clone().try_into().unwrap());
        assert!(why.contains(&format!("page {page} of {ITEMS} cannot be read")), "{why}");
        assert_eq!(machine.call(put_row(ITEMS, in_page[1], 9)).0, 500);
        // A job meets it too.
        let (status, body) = machine.call(stocking(ITEMS, 5));
        assert_eq!(status, 500, "{body}");
        assert!(body.as_str().unwrap().contains(&format!("page {page} cannot be read")), "{body}");
        assert!(machine.host.statistics().failed_jobs > 0);

        // Other pages are stored as ever, and what recovery repeats does not grow.
        let before = machine.host.statistics();
        let far = (0..first).step_by(40).chain((first + 4_000..ROWS).step_by(40));
        for round in 0..6 {
            for sku in far.clone() {
                machine.tick(vec![]).expect("no fault");
                let (status, body) = machine.call(put_row(ITEMS, sku, i64::try_from(sku).unwrap() + round));
                assert_eq!(status, 200, "{body}");
            }
        }
        machine.wait(60_000_000_000);
        for sku in far.clone().take(20) {
            assert_eq!(machine.call(put_row(ITEMS, sku, i64::try_from(sku).unwrap() + 5)).0, 200);
        }
        let after = machine.host.statistics();
        assert!(after.checkpoints >= before.checkpoints + 3, "{} checkpoints", after.checkpoints);
        let query = InspectQuery { kind: Some("chain".into()), limit: 10, ..Default::default() };
        let inspected = machine.host.inspect(&query);
        let items = &inspected["entities"]["chain"]["items"][0];
        assert!(items["effects_bytes"].as_u64().unwrap() < 60_000, "{items}");
        assert_eq!(inspected["damaged_pages"], json!(1));

        // Nothing of it is lost: if it can be read again, it has everything that was acknowledged.
        let now_ns = machine.now_ns;
        let disk = disk.restart(CrashKind::Power);
        let mut machine = Machine::start(&disk, streams::options(), now_ns).expect("no fault");
        assert_eq!(machine.call(get_row(ITEMS, in_page[0])).1, json!([in_page[0], "red", 77]));
        assert_eq!(machine.call(get_row(ITEMS, in_page[1])).1[2], json!(1));
        for sku in far {
            assert_eq!(machine.call(get_row(ITEMS, sku)).1[2], json!(sku + 5), "{sku}");
        }
        assert_eq!(machine.value(&format!("{ITEMS}/count")), json!(ROWS));
    });
}

#[test]
fn what_can_be_read_again_is_read_again() {
    on_program_stack(|| {
        let disk = SimulatedDisk::new(4);
        let mut machine = shop(&disk);
        stock(&mut machine, 1);
        assert_eq!(machine.call(stocking(OTHERS, 1)).0, 200);
        let (first, page) = pages_of(&machine, 0).into_iter().nth(3).expect("a page");
        evict(&mut machine);
        machine.damaged.insert((Keyspace::Pages, page));
        assert_eq!(machine.call(get_row(ITEMS, first)).0, 500);
        machine.damaged.clear();
        assert_eq!(machine.call(get_row(ITEMS, first)).1[2], json!(1));
    });
}

#[test]
fn answers_that_are_being_read_survive_a_defect() {
    on_program_stack(|| {
        let mut machine = Machine::new(streams::options());
        machine.leaves_streams = true;
        stock(&mut machine, 1);
        let (id, snapshot) = stream(&mut machine, get(ITEMS));
        stock(&mut machine, 2);
        // Under load: some requests wait, some run, pages are on their way.
        let (_, one) = machine.ask(stocking(ITEMS, 3));
        let (_, two) = machine.ask(get_row(ITEMS, 7));
        machine.tick(vec![one, two]).expect("no fault");
        let outputs = machine.tick(vec![defect()]).expect("no fault");
        assert!(outputs.poisoned.is_some());
        machine.rebuild();
        for qty in 4..7 {
            stock(&mut machine, qty);
            machine.settle(vec![]);
        }
        let expected: Vec<_> = (0..ROWS).map(|sku| row(sku, 1).to_vec()).collect();
        assert_eq!(texts(read(&machine, &snapshot).unwrap()), texts(expected));
        machine.settle(vec![Input::Unpin(id)]);
        assert_eq!(retired_pages(&mut machine), 0, "what the world before had left is gone too");
        assert_no_garbage(&machine);
    });
}

/// Every stored page is in a tree.
fn assert_no_garbage(machine: &Machine) {
    let trees = machine.stored_keys(Keyspace::Trees);
    let garbage = trees.iter().filter(|key| key.starts_with(&[0xff; 4])).count();
    assert_eq!((garbage, machine.stored_keys(Keyspace::Pages).len()), (0, trees.len()));
}

#[test]
fn a_defect_whose_answers_are_never_unpinned_keeps_no_more_than_the_limit() {
    on_program_stack(|| {
        let mut options = streams::options();
        options.limits.pinned_bytes_max = 1_000_000;
        let mut machine = Machine::new(options);
        machine.leaves_streams = true;
        stock(&mut machine, 1);
        let (lost, _) = stream(&mut machine, get(ITEMS));
        machine.settle(vec![]);
        machine.tick(vec![defect()]).expect("no fault");
        machine.rebuild();
        let (mut revoked, mut most) = (Vec::new(), 0);
        for qty in 2..12 {
            let (_, event) = machine.ask(stocking(ITEMS, qty));
            let mut events = vec![event];
            for _ in 0..60 {
                revoked.extend(machine.tick(std::mem::take(&mut events)).expect("no fault").revoked);
            }
            most = most.max(retired_bytes(&mut machine));
        }
        assert_eq!(revoked, [lost]);
        assert!(most < 3_000_000, "{most}");
        machine.settle(vec![]);
        assert_eq!(retired_pages(&mut machine), 0);
    });
}

fn retired_bytes(machine: &mut Machine) -> u64 {
    let inspected = machine.host.inspect(&InspectQuery { limit: 1, ..Default::default() });
    inspected["retired_page_bytes"].as_u64().expect("a number")
}

#[test]
fn a_reply_that_is_read_too_slowly_is_broken_off_and_keeps_nothing_of_others() {
    on_program_stack(|| {
        let mut options = streams::options();
        options.limits.pinned_bytes_max = 1_500_000;
        let mut machine = Machine::new(options);
        machine.leaves_streams = true;
        stock(&mut machine, 1);
        assert_eq!(machine.call(stocking(OTHERS, 1)).0, 200);
        let (slow, snapshot) = stream(&mut machine, get(ITEMS));
        let (other, other_snapshot) = stream(&mut machine, get(OTHERS));
        let mut revoked: Vec<RequestId> = Vec::new();
        let mut most = 0;
        for qty in 2..14 {
            let (_, event) = machine.ask(stocking(ITEMS, qty));
            let mut events = vec![event];
            for _ in 0..60 {
                revoked.extend(machine.tick(std::mem::take(&mut events)).expect("no fault").revoked);
            }
            most = most.max(retired_bytes(&mut machine));
        }
        assert_eq!(revoked, [slow], "once, and no other");
        assert!(most < 4_000_000, "{most} bytes were kept");
        assert!(read(&machine, &snapshot).is_err(), "it is broken, not wrong");
        let expected: Vec<_> = (0..ROWS).map(|sku| row(sku, 1).to_vec()).collect();
        assert_eq!(texts(read(&machine, &other_snapshot).unwrap()), texts(expected));
        // It may still say that it has ended, and once more.
        machine.settle(vec![Input::Unpin(slow), Input::Unpin(slow), Input::Unpin(other)]);
        assert_eq!(retired_pages(&mut machine), 0);
        assert_no_garbage(&machine);
    });
}

#[test]
fn a_slow_reply_keeps_no_pages_of_other_tables() {
    on_program_stack(|| {
        let mut machine = Machine::new(streams::options());
        machine.leaves_streams = true;
        stock(&mut machine, 1);
        assert_eq!(machine.call(stocking(OTHERS, 1)).0, 200);
        let (slow, _) = stream(&mut machine, get(ITEMS));
        for qty in 2..5 {
            assert_eq!(machine.call(stocking(OTHERS, qty)).0, 200);
        }
        machine.settle(vec![]);
        assert_eq!(retired_pages(&mut machine), 0);
        stock(&mut machine, 2);
        machine.settle(vec![]);
        assert!(retired_pages(&mut machine) > 0);
        machine.settle(vec![Input::Unpin(slow)]);
        assert_eq!(retired_pages(&mut machine), 0);
    });
}

#[test]
fn what_is_dropped_from_the_cache_costs_in_proportion() {
    on_program_stack(|| {
        // What is known of the pages alone takes more than the cache.
        const PAGE_CACHE_BYTES: u64 = 200_000;
        let mut machine = streams::in_small_pages(PAGE_CACHE_BYTES);
        let pages = pages_of(&machine, 0).len() as u64;
        assert!(pages * 1_024 > PAGE_CACHE_BYTES, "{pages} pages");
        let before = machine.host.statistics();
        let mut looks_max = 0;
        for sku in (0..SMALL_ROWS).step_by(11) {
            let looks = machine.host.statistics().eviction_looks;
            assert_eq!(machine.call(get_row(ITEMS, sku)).0, 200);
            looks_max = looks_max.max(machine.host.statistics().eviction_looks - looks);
        }
        let after = machine.host.statistics();
        let (loads, dropped) =
            (after.page_loads - before.page_loads, after.page_evictions - before.page_evictions);
        assert!(dropped > 200 && dropped <= loads + 1_000, "{dropped} dropped, {loads} read");
        let looks = after.eviction_looks - before.eviction_looks;
        assert!(looks <= 8 * dropped + 1_000, "{looks} looks for {dropped}");
        assert!(looks_max <= 2_048, "{looks_max} looks for one request");
        let inspected = machine.host.inspect(&InspectQuery { limit: 1, ..Default::default() });
        let resident_bytes = inspected["resident_page_bytes"].as_u64().expect("a number");
        assert!(
            (25_000..=50_000).contains(&resident_bytes),
            "a quarter of the cache is for content: {inspected}"
        );
        // What is used again and again stays.
        let loads = machine.host.statistics().page_loads;
        for sku in (0..SMALL_ROWS).step_by(17) {
            assert_eq!(machine.call(get_row(ITEMS, 0)).0, 200);
            assert_eq!(machine.call(get_row(ITEMS, 0)).0, 200);
            assert_eq!(machine.call(get_row(ITEMS, sku)).0, 200);
        }
        let loads = machine.host.statistics().page_loads - loads;
        assert!(loads <= SMALL_ROWS / 17 + 4, "{loads} pages were read");
    });
}

#[test]
fn nothing_is_looked_for_in_a_cache_that_waits_for_the_disk() {
    on_program_stack(|| {
        let mut options = streams::options();
        options.durable_delay_max = 40;
        let mut machine = Machine::new(options);
        let (_, event) = machine.ask(stocking(ITEMS, 1));
        let mut events = vec![event];
        let mut most = 0;
        while machine.has_work() || !events.is_empty() {
            let before = machine.host.statistics().eviction_looks;
            machine.tick(std::mem::take(&mut events)).expect("no fault");
            most = most.max(machine.host.statistics().eviction_looks - before);
        }
        assert!(0 < most && most <= 1_024, "{most} looks in one tick");
    });
}

#[test]
fn the_name_of_a_page_is_never_used_twice() {
    on_program_stack(|| {
        let disk = SimulatedDisk::new(5);
        let mut machine = shop(&disk);
        stock(&mut machine, 1);
        machine.settle(vec![]);
        let newest = |machine: &Machine| machine.stored_keys(Keyspace::Pages).into_iter().max();
        let before = newest(&machine).expect("a page");
        // All rows go, and the newest pages with them.
        for first in (0..ROWS).step_by(1_000) {
            let deletes =
                (first..first + 1_000).map(|sku| request(Verb::Delete, ITEMS, key(sku), json!(null)));
            assert!(machine.call_all(deletes.collect()).iter().all(|(status, _)| *status == 200));
        }
        for _ in 0..3 {
            machine.settle(vec![]);
        }
        let now_ns = machine.now_ns + TICK_NS;
        let disk = disk.restart(CrashKind::Power);
        let mut machine = Machine::start(&disk, streams::options(), now_ns).expect("no fault");
        stock(&mut machine, 2);
        let keys = machine.stored_keys(Keyspace::Pages);
        assert!(keys.iter().all(|key| *key > before), "{keys:?} are after {before:?}");
    });
}
