//! The driver: what was answered is durable, and a storage that fails ends the host.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use components::hosting::cluster::{Catalog, ClusterConfig};
use components::language::reference::Verb;
use components::{Map, Number, Path, Reply, Request, State, Value};
use crossbeam_channel::{Sender, bounded};
use io::driver::{Driver, Ended, answers, distribute};
use io::gateway::{Event, Gateway};
use io::json;
use io::metrics::Metrics;
use io::persistence::Persistence;
use io::storage::simulated::{Fault, SimulatedDisk};
use io::storage::{CheckpointMode, Store, StoreOptions};
use world::host::PROGRAM_STACK_BYTES;
use world::load::{Loaded, load};
use world::{Host, HostConfig, Inherited, Input, Limits};

const COUNTER: &str = r#"{"/app/counter": {
    "total": {"/state/chain/block": [0]},
    "text": {"/state/chain/sync": [""]},
    "add": {"/state/scalar/op/post": [
        ["new", {"$self/total/add": [{"$n": []}]}],
        ["_return", {"/state/scalar/ref/after": [{"$self/total": [null, {"$new": []}]}, {"$new": []}]}]]},
    "lock_for_ever": {"/state/scalar/op/post": [
        ["_return", {"/state/scalar/ref/after": [{"$self/total": [null, -1]}, {"/state/scalar/ref/while": [
            {"/state/scalar/op/post": [["_return", {"$i/gte": [0]}]]},
            {"/state/scalar/op/post": [["_return", {"i": {"$i": []}}]]},
            {"i": 0}]}]}]]}
}}"#;

fn clusters() -> Vec<ClusterConfig> {
    json::with_copy(COUNTER.as_bytes(), ClusterConfig::decode).unwrap()
}

struct Running {
    gateway: Gateway,
    events: Sender<Event>,
    driver: JoinHandle<Ended>,
    ready: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// A host without HTTP, on the given disk.
fn start(disk: &SimulatedDisk) -> Running {
    let options = StoreOptions {
        checkpoint_mode: CheckpointMode::Deferred { commits: 2 },
        new_disk_id: Some([7; 16]),
        ..StoreOptions::default()
    };
    let mut store = Store::open(Arc::new(disk.clone()), options).unwrap();
    let reader = store.reader();
    let loaded = load(&reader, clusters(), Catalog::default(), |_| [0; 32]).unwrap();
    store.commit(&[loaded.writes]).unwrap();
    let (events, receiver) = bounded(64);
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(true));
    let persistence = Persistence::start(store, events.clone(), metrics.clone()).unwrap();
    let make_host = Box::new(move |answers| {
        let Loaded { catalog, chains, garbage, .. } =
            load(&reader, clusters(), Catalog::default(), |_| [0; 32])?;
        let last_page = Default::default();
        let inherited = Inherited { garbage, answers, writes: Vec::new() };
        let (limits, threads, now_ns, monotonic_ns) = (Limits::default(), 1, 0, 0);
        Host::new(HostConfig { catalog, chains, last_page, inherited, limits, threads, now_ns, monotonic_ns })
    });
    let (answers, deliveries) = answers(events.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::spawn(move || runtime.block_on(distribute(deliveries)));
    let driver =
        Driver::new(make_host, receiver, answers, Some(persistence), None, metrics.clone(), ready.clone())
            .unwrap();
    let driver = std::thread::Builder::new().stack_size(PROGRAM_STACK_BYTES).spawn(|| driver.run()).unwrap();
    Running { gateway: Gateway::new(events.clone()), events, driver, ready, metrics }
}

fn request(verb: Verb, path: &str, parameters: &[(&'static str, i64)]) -> Request {
    let named = parameters.iter().map(|(name, n)| (components::Id::literal(name), Number::I64(*n).into()));
    let body = Map::new(named.collect::<BTreeMap<_, _>>()).unwrap();
    let (path, key, body) = (Path::parse(path).unwrap(), Value::None, State::Map(body));
    Request { verb, path, key, body, txn_id: None, rows_only: false }
}

fn add(gateway: &Gateway, n: i64) -> Reply {
    block_on(gateway.call(request(Verb::Post, "/app/counter/add", &[("n", n)]))).reply
}

fn total(gateway: &Gateway) -> Reply {
    block_on(gateway.call(request(Verb::Get, "/app/counter/total", &[]))).reply
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn number(reply: Reply) -> i64 {
    match reply.unwrap() {
        State::Value(Value::Number(number)) => number.as_i64().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_that_is_asked_to_stop_has_everything_on_disk() {
    let disk = SimulatedDisk::new(1);
    let host = start(&disk);
    assert_eq!(number(add(&host.gateway, 2)), 2);
    assert_eq!(number(add(&host.gateway, 3)), 5);
    host.events.send(Event::Drain).unwrap();
    assert_eq!(host.driver.join().unwrap(), Ended::Drained);
    assert!(!host.ready.load(Ordering::Relaxed));
    // The power fails right after.
    let disk = disk.restart(io::storage::simulated::CrashKind::Power);
    let host = start(&disk);
    assert_eq!(number(total(&host.gateway)), 5);
    host.events.send(Event::Drain).unwrap();
    host.driver.join().unwrap();
}

#[test]
fn a_storage_error_ends_the_host_and_acknowledges_nothing_more() {
    let disk = SimulatedDisk::new(2);
    let host = start(&disk);
    assert_eq!(number(add(&host.gateway, 2)), 2);
    disk.inject(0, Fault::Error(ErrorKind::Other));
    let refused = add(&host.gateway, 3).unwrap_err();
    assert_eq!(refused.kind(), components::ErrorKind::Unavailable);
    let Ended::Failed(why) = host.driver.join().unwrap() else { panic!("the host went on") };
    assert!(why.contains("storage"), "{why}");
    assert!(add(&host.gateway, 4).is_err());
    // Whatever the disk did with the refused one, the next start finds a state that was committed.
    let disk = disk.restart(io::storage::simulated::CrashKind::Power);
    let host = start(&disk);
    assert!([2, 5].contains(&number(total(&host.gateway))));
    host.events.send(Event::Drain).unwrap();
    host.driver.join().unwrap();
}

#[test]
fn a_caller_who_goes_away_frees_what_the_request_had_locked() {
    let disk = SimulatedDisk::new(3);
    let host = start(&disk);
    block_on(async {
        let call = host.gateway.call(request(Verb::Post, "/app/counter/lock_for_ever", &[]));
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(50), call);
        assert!(given_up.await.is_err(), "the loop ended");
    });
    // This one waits for nothing but the one before it.
    assert_eq!(number(add(&host.gateway, 2)), 2);
    let inspected = block_on(host.gateway.inspect(io::gateway::InspectQuery {
        kind: Some("transaction".into()),
        limit: 10,
        ..Default::default()
    }));
    assert_eq!(inspected.unwrap()["entities"]["transaction"]["total"], 0);
    host.events.send(Event::Drain).unwrap();
    assert_eq!(host.driver.join().unwrap(), Ended::Drained);
}

/// With a disk that is behind, writes wait before they take memory, reads go on, and nothing is lost.
#[test]
fn writes_wait_for_a_disk_that_is_behind_and_reads_do_not() {
    const MEBIBYTES: usize = 200;
    let disk = SimulatedDisk::new(4);
    let host = start(&disk);
    assert_eq!(number(add(&host.gateway, 2)), 2);
    let committed = || host.metrics.transactions_committed.load(Ordering::Relaxed);
    let before = committed();
    disk.stall_syncs(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let text = |i: usize| State::string(char::from(b'a' + (i % 26) as u8).to_string().repeat(1 << 20));
        let path = Path::parse("/app/counter/text").unwrap();
        let mut writes = tokio::task::JoinSet::new();
        for i in 0..MEBIBYTES {
            let (gateway, path, body) = (host.gateway.clone(), path.clone(), text(i));
            let put =
                Request { verb: Verb::Put, path, key: Value::None, body, txn_id: None, rows_only: false };
            writes.spawn(async move { gateway.call(put).await.reply });
            // The queue of events is short here.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let stateless = request(Verb::Get, "/state/scalar/value/number", &[]);
        let read = host.gateway.call(Request { key: 7.into(), ..stateless }).await.reply;
        assert_eq!(number(read), 7, "who needs no disk has an answer");
        assert!(writes.try_join_next().is_none(), "nothing is acknowledged that is not on the disk");
        let taken = committed() - before;
        assert!((64..100).contains(&taken), "{taken} MiB were taken, and {} wait", MEBIBYTES as u64 - taken);
        disk.stall_syncs(false);
        while let Some(reply) = writes.join_next().await {
            reply.unwrap().unwrap();
        }
    });
    assert_eq!(committed() - before, MEBIBYTES as u64);
    host.events.send(Event::Drain).unwrap();
    assert_eq!(host.driver.join().unwrap(), Ended::Drained);
}

/// A defect costs those who wait their answers, and no data; too many of them in an hour end the host.
#[test]
fn a_world_is_made_anew_eight_times() {
    let host = start(&SimulatedDisk::new(5));
    for defects in 1..=8 {
        assert_eq!(number(add(&host.gateway, 1)), defects);
        // What was durable is not.
        host.events.send(Event::Loaded(Input::Durable(0))).unwrap();
        // Who comes in the same tick is told of the defect.
        let there = total(&host.gateway).or_else(|_| total(&host.gateway));
        assert_eq!(number(there), defects, "nothing is lost");
    }
    assert_eq!(number(add(&host.gateway, 1)), 9);
    host.events.send(Event::Loaded(Input::Durable(0))).unwrap();
    let Ended::Failed(why) = host.driver.join().unwrap() else { panic!("the host went on") };
    assert!(why.contains("too many defects"), "{why}");
}
