//! Random programs: most of them run, some fail, a few never end.

use components::language::reference::Verb;
use components::{Request, TxnId};
use serde_json::{Value, json};

use crate::machine::{get, post, put, request, with_id};
use crate::random::Random;
use crate::services::{self, ACCOUNTS, REGISTERS};

/// How deep expressions nest.
const DEPTH_MAX: usize = 3;

const CHAINS: [&str; 5] =
    ["/app/kit/number", "/app/kit/text", "/app/kit/table", "/app/hot/list", "/app/left/items"];

fn number(random: &mut Random) -> Value {
    match random.below(6) {
        0 => json!(random.below(10) as f64 / 4.0),
        1 => json!(-(random.below(100) as i64)),
        2 => json!(u64::MAX - random.below(4) as u64),
        _ => json!(random.below(10)),
    }
}

fn value(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => json!(random.one_in(2)),
        2 => json!("text"),
        3 => json!([number(random), number(random)]),
        4 => json!({ "a": number(random), "b": "x" }),
        _ => number(random),
    }
}

fn chain(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("/app/hot/r{}", random.below(REGISTERS)),
        1 => format!("/app/hot/a{}", random.below(ACCOUNTS)),
        _ => random.choose(&CHAINS).to_string(),
    }
}

/// An expression over the names of the entries before it.
fn expression(random: &mut Random, names: usize, depth: usize) -> Value {
    if depth >= DEPTH_MAX {
        return match names {
            0 => value(random),
            _ => json!({ format!("$e{}", random.below(names)): [] }),
        };
    }
    let deeper = depth + 1;
    let name = if names > 0 { random.below(names) } else { 0 };
    match random.below(22) {
        0..=2 => value(random),
        3..=5 => expression(random, names, DEPTH_MAX),
        6..=8 => {
            let method =
                *random.choose(&["add", "sub", "mul", "div", "gt", "lte", "eq", "and", "pow", "nothing"]);
            json!({ format!("$e{name}/{method}"): [expression(random, names, deeper)] })
        }
        9 => {
            let condition = json!({ format!("$e{name}/gt"): [number(random)] });
            services::choose(condition, expression(random, names, deeper), expression(random, names, deeper))
        }
        10 => json!({ "/state/scalar/ref/case": [
            { format!("$e{name}"): [] },
            [1, 2],
            [expression(random, names, deeper), "two", expression(random, names, deeper)],
        ] }),
        11 => services::spin_from(json!(random.below(30))),
        12 => {
            let get =
                services::get_method(json!([["_return", { "$key/add": [{ format!("$e{name}"): [] }] }]]));
            let closure = json!({ "/state/scalar/ref/with": [[{ format!("$e{name}"): [] }], get] });
            // A tuple of numbers, each passed through a closure.
            json!({ format!("$e{name}/map"): { "op": closure } })
        }
        13 => services::after(expression(random, names, deeper), expression(random, names, deeper)),
        14 => json!([expression(random, names, deeper), expression(random, names, deeper)]),
        15 => json!({ "one": expression(random, names, deeper), "two": expression(random, names, deeper) }),
        16 | 17 => json!({ chain(random): [null] }),
        18 => json!({ chain(random): [null, expression(random, names, deeper)] }),
        19 => {
            json!({ "/app/kit/table": [random.choose(&["a", "b", "c"]), expression(random, names, deeper)] })
        }
        20 => json!({ "/state/scalar/ref/op/delete": ["/app/kit/table", random.choose(&["a", "b", "c"])] }),
        _ => json!({ "/app/kit/bump": {} }),
    }
}

/// A context of random entries; the last one uses all of them.
fn context(random: &mut Random) -> Value {
    let count = 1 + random.below(6);
    let mut entries: Vec<Value> = (0..count)
        .map(|i| {
            // The first is often a tuple, so that there is something to map over.
            let state = if i == 0 && random.one_in(2) { json!([1, 2, 3]) } else { expression(random, i, 0) };
            json!([format!("e{i}"), state])
        })
        .collect();
    let used: Vec<Value> = (0..count).map(|i| json!({ format!("$e{i}"): [] })).collect();
    entries.push(json!(["_return", used]));
    entries.into()
}

fn endless() -> Value {
    json!({ "/state/scalar/ref/while": [
        services::post_method(json!([["_return", { "$i/gte": [0] }]])),
        services::post_method(json!([["_return", { "i": { "$i/add": [1] } }]])),
        { "i": 0 },
    ] })
}

/// A random request; `now_ns` is the clock of the host.
pub fn random_request(random: &mut Random, now_ns: u64) -> Request {
    let spin = if random.one_in(4) { random.below(60) } else { 0 };
    let request = match random.below(24) {
        0..=5 => post("/app/kit/run", json!({ "op": services::post_method(context(random)) })),
        6..=8 => post("/transact/hypothetical", context(random)),
        9 | 10 => post(&format!("/app/hot/bump{}", random.below(REGISTERS)), json!({ "spin": spin })),
        11 => post("/app/hot/transfer01", json!({ "spin": spin, "amount": random.below(80) })),
        12 => post("/app/hot/transfer10", json!({ "spin": spin, "amount": random.below(80) })),
        13 => post("/app/hot/skew01", json!({ "spin": spin })),
        14 => post("/app/hot/push", json!({ "spin": spin, "item": value(random) })),
        15 => get("/app/hot/all"),
        16 => get(&format!("{}/chain", chain(random))),
        17 => put(&chain(random), value(random)),
        18 => request(Verb::Put, "/app/kit/put", json!(*random.choose(&["a", "b", "d"])), value(random)),
        19 => request(Verb::Delete, "/app/kit/delete", json!(*random.choose(&["a", "b", "d"])), Value::Null),
        20 => request(Verb::Get, "/app/kit/get", number(random), Value::Null),
        21 => post("/app/kit/fail", json!({})),
        22 => post("/app/left/pair", json!({ "item": random.below(9), "name": "x", "text": "y" })),
        _ => post("/transact/hypothetical", json!([["x", endless()]])),
    };
    match random.below(16) {
        // Most of these come too late for what they want, some are refused at once.
        0 => {
            with_id(request, TxnId::new(now_ns - random.below(20_000_000) as u64, 2 + random.below(9) as u16))
        }
        1 => {
            with_id(request, TxnId::new(now_ns + random.below(20_000_000) as u64, 2 + random.below(9) as u16))
        }
        _ => request,
    }
}
