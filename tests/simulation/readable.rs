//! What is accepted can be read again: random requests around every limit, a crash, a start. Then the state is the same,
//! everything verifies, and each history leads to its subject.

use components::language::decode;
use components::language::reference::Verb;
use components::value::limits::{
    DOCUMENT_DEPTH_MAX, ID_BYTES_MAX, KEY_DEPTH_MAX, PATH_SEGMENTS_MAX, STATE_DEPTH_MAX, STORED_DEPTH_MAX,
};
use components::{Path, Request, State};
use io::json;
use io::storage::simulated::{CrashKind, SimulatedDisk};
use serde_json::{Value, json};
use world::verify::verify;

use crate::blocks::check_history;
use crate::machine::{Machine, MachineOptions, START_NS, get, on_program_stack};
use crate::random::{Random, seeds};
use crate::services::{after, post_method};

/// How many workloads there are; `READABLE_SEEDS` asks for more.
const SEEDS: u64 = 3;

/// How often each is crashed, and how many requests there are before.
const LIVES: usize = 2;
const REQUESTS: usize = 50;

/// The members of the service, in each kind of chain.
const MEMBERS: [&str; 4] = ["value", "map", "table", "tree"];
const KINDS: [&str; 2] = ["sync", "block"];

fn services() -> Value {
    let any = |name: &str| json!([name, { "/state/scalar/value": {} }, 100_000]);
    let number = json!(["k", { "/state/scalar/value/number/int/64": {} }]);
    let text = json!(["s", { "/state/scalar/value/string": {} }, 100_000]);
    let link = json!(["l", { "/state/scalar/value/link": {} }, 100_000]);
    let tuple = json!(["t", { "/state/scalar/value/tuple": {} }, 100_000]);
    let named = |name: &str| json!({ format!("${name}"): [] });
    let mut members = serde_json::Map::new();
    for kind in KINDS {
        let subjects = [
            Value::Null,
            json!({ "a": { "b": {} }, "t": [null, [null]] }),
            json!({ "/state/collection/table":
                [[[[number], [any("c"), text, link]], [["by_s", ["s", "l"]]]]] }),
            json!({ "/state/collection/btree": [[any("a"), tuple]] }),
        ];
        for (member, subject) in MEMBERS.iter().zip(subjects) {
            members.insert(format!("{kind}_{member}"), json!({ format!("/state/chain/{kind}"): [subject] }));
        }
        // One level deeper with each call.
        let value = format!("$self/{kind}_value");
        let push = post_method(json!([
            ["old", { (value.clone()): [null] }],
            ["new", { "prev": named("old"), "x": named("x") }],
            ["_return", after(json!({ (value): [null, named("new")] }), json!(true))],
        ]));
        members.insert(format!("{kind}_push"), push);
        // As deep, or as large, as a program makes it.
        let grow = |more: Value| {
            json!({ "/state/scalar/ref/while": [
                post_method(json!([["_return", { "$n/gt": [0] }]])),
                post_method(json!([["_return", { "n": { "$n/sub": [1] }, "x": more }]])),
                { "n": named("n"), "x": named("x") },
            ] })
        };
        for (name, more) in [("nest", json!([named("x")])), ("double", json!([named("x"), named("x")]))] {
            let entry = format!("$self/{kind}_map");
            let row = format!("$self/{kind}_table");
            let body = post_method(json!([
                ["grown", grow(more)],
                ["large", { "$grown/x": [] }],
                ["written", { (entry): ["large", named("large")] }],
                ["_return", after(named("written"), json!({ (row): [[0], [named("large"), "s", "/l"]] }))],
            ]));
            members.insert(format!("{kind}_{name}"), body);
        }
        // A link that no request can write.
        let value = format!("$self/{kind}_value");
        let long = post_method(json!([
            ["link", { "/state/scalar/value/link": named("segments") }],
            ["_return", after(json!({ (value): [null, [named("link")]] }), json!(true))],
        ]));
        members.insert(format!("{kind}_link"), long);
    }
    json!({ "/app/any": members })
}

/// A number around a limit.
fn around(random: &mut Random, limits: &[usize]) -> usize {
    let limit = *random.choose(limits);
    (limit + random.below(5)).saturating_sub(2)
}

fn depth(random: &mut Random) -> usize {
    let limits =
        [0, 3, KEY_DEPTH_MAX, STORED_DEPTH_MAX as usize, DOCUMENT_DEPTH_MAX, STATE_DEPTH_MAX as usize];
    around(random, &limits)
}

fn segments(random: &mut Random) -> usize {
    around(random, &[1, PATH_SEGMENTS_MAX, ID_BYTES_MAX]).max(1)
}

/// The JSON text of a value without parts.
fn scalar(random: &mut Random) -> String {
    let integers = [0, 1, -1, i64::MAX, i64::MIN];
    match random.below(9) {
        0 => random.choose(&integers).to_string(),
        1 => u64::MAX.to_string(),
        2 => "5e-324".to_string(),
        // Around the size up to which a subject is written whole, and beyond that of a block.
        3 => json!("é".repeat(around(random, &[1, 255, 1_024, 2_048, 70_000]))).to_string(),
        4 => json!({ ("/a".repeat(segments(random))): [] }).to_string(),
        5 => json!({ "/state/scalar/value/id": "i".repeat(segments(random)) }).to_string(),
        6 => json!({ "/state/scalar/value/bytes": "YWI=" }).to_string(),
        7 => json!({ "/state/scalar/value/number/complex/64": [0.5, -1.5] }).to_string(),
        _ => random.choose(&["null", "true", "[]", "{}", "0.1"]).to_string(),
    }
}

fn nested(random: &mut Random) -> String {
    let (depth, leaf) = (depth(random), scalar(random));
    match random.below(3) {
        0 => format!("{}{leaf}{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        _ => format!("{}{leaf}{}", "[".repeat(depth), "]".repeat(depth)),
    }
}

fn value(random: &mut Random) -> String {
    match random.below(4) {
        0 => scalar(random),
        1 => format!("[{},{}]", scalar(random), nested(random)),
        _ => nested(random),
    }
}

/// A request as texts: verb, path, key and body.
fn texts(random: &mut Random) -> (Verb, String, String, String) {
    let kind = *random.choose(&KINDS);
    let at = |member: &str| format!("/app/any/{kind}_{member}");
    let null = || "null".to_string();
    let key = match random.below(3) {
        0 => nested(random),
        _ => random.below(4).to_string(),
    };
    let text = json!("s".repeat(around(random, &[1, 255, 40_000])));
    let link = "/a".repeat(segments(random));
    match random.below(14) {
        0 | 1 => (Verb::Put, at("value"), null(), value(random)),
        2 | 3 => {
            let path = random.choose(&["map", "map/a", "map/a/b", "map/t", "map/t/1"]);
            let key = match random.below(3) {
                0 => key,
                _ => "\"k\"".to_string(),
            };
            (Verb::Put, at(path), key, value(random))
        }
        4 => (Verb::Delete, at("map/a"), "\"k\"".to_string(), null()),
        5 => (Verb::Put, at("table"), format!("[{key}]"), format!("[{},{text},\"{link}\"]", value(random))),
        6 => (Verb::Put, at("table"), format!("[{key}]"), format!("{{\"c\":{}}}", value(random))),
        7 => (Verb::Delete, at("table"), format!("[{key}]"), null()),
        8 => (Verb::Put, at("tree"), null(), format!("[{},{}]", value(random), nested(random))),
        9 => (Verb::Delete, at("tree"), format!("[{key}]"), null()),
        10 => (Verb::Post, at("push"), null(), format!("{{\"x\":{}}}", value(random))),
        11 => {
            (Verb::Post, at("nest"), null(), format!("{{\"n\":{},\"x\":{}}}", depth(random), scalar(random)))
        }
        12 => {
            let doublings = random.choose(&[1, 8, 20, 40]);
            let leaf = random.choose(&["1", "[]", "{}"]);
            (Verb::Post, at("double"), null(), format!("{{\"n\":{doublings},\"x\":{leaf}}}"))
        }
        _ => {
            let segments = vec!["a"; segments(random)];
            (Verb::Post, at("link"), null(), json!({ "segments": segments }).to_string())
        }
    }
}

/// A random request that can be decoded.
fn request(random: &mut Random) -> Request {
    loop {
        let (verb, path, key, body) = texts(random);
        let key = json::with_copy(key.as_bytes(), decode::key);
        let body = json::with_copy(body.as_bytes(), decode::state);
        if let (Ok(key), Ok(body)) = (key, body) {
            let path = Path::parse(&path).expect("a path");
            let body = if verb == Verb::Delete { State::NONE } else { body };
            return Request { verb, path, key, body, txn_id: None, rows_only: false };
        }
    }
}

/// Everything that the service shows.
fn shown(machine: &mut Machine) -> Vec<(String, Value)> {
    let mut shown = Vec::new();
    for (kind, member) in KINDS.iter().flat_map(|kind| MEMBERS.map(|member| (kind, member))) {
        for route in ["", "/chain"] {
            let path = format!("/app/any/{kind}_{member}{route}");
            let (status, body) = machine.call(get(&path));
            assert_eq!(status, 200, "{path}: {body}");
            shown.push((path, body));
        }
    }
    shown
}

/// Check what is stored, and that each history of a value leads to the subject.
fn check(machine: &mut Machine) {
    assert!(machine.refused().is_empty(), "{:?}", machine.refused());
    let found = verify(&machine.reader(), &mut |_, _| {});
    assert_eq!(found.damages, []);
    for member in ["value", "map"] {
        let (id, event) = machine.ask(get(&format!("/app/any/block_{member}/chain")));
        let mut events = vec![event];
        loop {
            let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
            if let Some((_, reply)) = outputs.replies.into_iter().find(|(answered, _)| *answered == id) {
                check_history(&reply.expect("a history"));
                break;
            }
        }
    }
}

fn live(seed: u64) {
    let mut random = Random::new(seed);
    let mut options = MachineOptions::new(seed, &services());
    // So that pages are folded and stored, and not only effects.
    options.limits.effects_bytes_max = 100_000;
    options.limits.fuel_per_tick = 100_000;
    let mut disk = SimulatedDisk::new(seed);
    let mut before: Option<Vec<(String, Value)>> = None;
    let mut accepted = 0;
    for life in 0..=LIVES {
        let now_ns = START_NS + life as u64 * 1_000_000_000_000;
        let mut machine = Machine::start(&disk, options.clone(), now_ns).expect("a disk without faults");
        check(&mut machine);
        let after = shown(&mut machine);
        if let Some(before) = &before {
            let differs = after.iter().zip(before.iter()).find(|(after, before)| after != before);
            assert!(differs.is_none(), "seed {seed}: {} is not what it was", differs.unwrap().0.0);
        }
        for _ in 0..REQUESTS {
            let request = request(&mut random);
            let what = format!("{} {} {:?}", request.verb, request.path, request.key);
            let (status, body) = machine.call(request);
            assert!(status < 500, "seed {seed}: {}: {status} {body}", &what[..what.len().min(200)]);
            accepted += usize::from(status == 200);
        }
        before = Some(shown(&mut machine));
        machine.settle(vec![]);
        drop(machine);
        disk = disk.restart(*random.choose(&[CrashKind::Process, CrashKind::Power]));
    }
    assert!(accepted > REQUESTS / 4, "seed {seed}: most requests are refused");
}

#[test]
fn what_is_accepted_is_there_after_a_crash() {
    for seed in seeds("READABLE_SEEDS", SEEDS) {
        on_program_stack(|| live(seed));
    }
}
