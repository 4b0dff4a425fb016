//! The services that simulations call, as the text of their configurations.

use serde_json::{Value, json};

/// How many registers [`hot`] has.
pub const REGISTERS: usize = 3;

/// How many accounts [`hot`] has.
pub const ACCOUNTS: usize = 3;

/// What is on each account at first.
pub const BALANCE: i64 = 100;

/// A GET method.
pub fn get_method(body: Value) -> Value {
    json!({ "/state/scalar/op/get": ["key", body] })
}

/// A POST method or op.
pub fn post_method(body: Value) -> Value {
    json!({ "/state/scalar/op/post": body })
}

/// `second` after `first`.
pub fn after(first: Value, second: Value) -> Value {
    json!({ "/state/scalar/ref/after": [first, second] })
}

/// One of two branches.
pub fn choose(condition: Value, then: Value, or_else: Value) -> Value {
    json!({ "/state/scalar/ref/if": [condition, then, or_else] })
}

/// A loop that does nothing as often as the number named `spin` says.
pub fn spin() -> Value {
    spin_from(json!({ "$spin": [] }))
}

/// A loop that does nothing so often.
pub fn spin_from(times: Value) -> Value {
    json!({ "/state/scalar/ref/while": [
        post_method(json!([["_return", { "$i/gt": [0] }]])),
        post_method(json!([["_return", { "i": { "$i/sub": [1] } }]])),
        { "i": times },
    ] })
}

/// The value of a member.
fn read(member: &str) -> Value {
    json!({ format!("$self/{member}"): [null] })
}

/// Set a member to a named state.
fn write(member: &str, name: &str) -> Value {
    json!({ format!("$self/{member}"): [null, { format!("${name}"): [] }] })
}

fn named(name: &str) -> Value {
    json!({ format!("${name}"): [] })
}

/// The members that every read of everything shows.
pub fn hot_members() -> Vec<String> {
    let registers = (0..REGISTERS).map(|i| format!("r{i}"));
    registers.chain((0..ACCOUNTS).map(|i| format!("a{i}"))).chain(["list".to_string()]).collect()
}

/// Hot values: registers, accounts, and a list; each method reads first, spins, and then writes.
pub fn hot() -> Value {
    let mut members = serde_json::Map::new();
    for i in 0..REGISTERS {
        members.insert(format!("r{i}"), json!({ "/state/chain/sync": [i] }));
        let bump = json!([
            ["old", read(&format!("r{i}"))],
            ["spun", spin()],
            ["new", { "$old/add": [1] }],
            ["_return", after(json!([named("new"), named("spun")]),
                after(write(&format!("r{i}"), "new"), named("new")))],
        ]);
        members.insert(format!("bump{i}"), post_method(bump));
        for j in (0..REGISTERS).filter(|j| *j != i) {
            // Which one it writes depends on what it reads.
            let skew = json!([
                ["x", read(&format!("r{i}"))],
                ["y", read(&format!("r{j}"))],
                ["spun", spin()],
                ["more_x", { "$x/add": [1] }],
                ["more_y", { "$y/add": [1] }],
                ["is_more", { "$x/gt": [named("y")] }],
                ["written", after(json!([named("spun"), named("is_more")]),
                    choose(named("is_more"), write(&format!("r{j}"), "more_x"), write(&format!("r{i}"), "more_y")))],
                ["_return", after(named("written"), json!([named("x"), named("y")]))],
            ]);
            members.insert(format!("skew{i}{j}"), post_method(skew));
        }
    }
    for i in 0..ACCOUNTS {
        members.insert(format!("a{i}"), json!({ "/state/chain/block": [BALANCE] }));
        for j in (0..ACCOUNTS).filter(|j| *j != i) {
            let (from, to) = (format!("a{i}"), format!("a{j}"));
            let transfer = json!([
                ["source", read(&from)],
                ["target", read(&to)],
                ["spun", spin()],
                ["new_source", { "$source/sub": [named("amount")] }],
                ["new_target", { "$target/add": [named("amount")] }],
                ["is_enough", { "$source/gte": [named("amount")] }],
                ["result", after(json!([write(&from, "new_source"), write(&to, "new_target")]),
                    json!([named("new_source"), named("new_target")]))],
                ["_return", after(named("spun"), choose(named("is_enough"),
                    named("result"), json!({ "/error/bad_request": ["not enough"] })))],
            ]);
            members.insert(format!("transfer{i}{j}"), post_method(transfer));
        }
    }
    members.insert("list".into(), json!({ "/state/chain/block": [[]] }));
    let push = json!([
        ["old", read("list")],
        ["spun", spin()],
        ["new", { "$old/append": [[named("item")]] }],
        ["_return", after(json!([named("new"), named("spun")]), after(write("list", "new"), named("new")))],
    ]);
    members.insert("push".into(), post_method(push));
    let all: serde_json::Map<_, _> =
        hot_members().into_iter().map(|name| (name.clone(), read(&name))).collect();
    members.insert("all".into(), get_method(json!([["_return", all]])));
    json!({ "/app/hot": members })
}

/// Two lists that always say the same, one in each kind of chain, a table of long texts, and a count.
pub fn pairs() -> Value {
    let pair = json!([
        ["old_left", { "/app/left/items": [null] }],
        ["old_right", { "/app/right/items": [null] }],
        ["old_count", { "/app/right/count": [null] }],
        ["new_left", { "$old_left/append": [[named("item")]] }],
        ["new_right", { "$old_right/append": [[named("item")]] }],
        ["new_count", { "$old_count/add": [1] }],
        ["_return", after(json!([
            { "/app/left/items": [null, named("new_left")] },
            { "/app/right/items": [null, named("new_right")] },
            { "/app/right/count": [null, named("new_count")] },
            { "/app/left/table": [named("name"), named("text")] },
            { "/app/right/table": [named("name"), named("text")] },
        ]), named("new_count"))],
    ]);
    json!({
        "/app/left": {
            "items": { "/state/chain/block": [[]] },
            "table": { "/state/chain/block": [{ "first": 0 }] },
            "pair": post_method(pair),
        },
        "/app/right": {
            "items": { "/state/chain/sync": [[]] },
            "count": { "/state/chain/sync": [0] },
            "table": { "/state/chain/sync": [{ "first": 0 }] },
        },
    })
}

/// A service with a method of every verb, and one that runs any op.
pub fn kit() -> Value {
    json!({
        "/app/kit": {
            "number": { "/state/chain/sync": [0] },
            "text": { "/state/chain/block": ["nothing"] },
            "table": { "/state/chain/block": [{ "a": 1, "b": 2 }] },
            "get": get_method(json!([["_return", { "$key/add": [{ "$self/number": [null] }] }]])),
            "put": { "/state/scalar/op/put": ["key", "value",
                [["_return", { "$self/table": [named("key"), named("value")] }]]] },
            "delete": { "/state/scalar/op/delete": ["key",
                [["_return", { "/state/scalar/ref/op/delete": [{ "$self/table": [] }, named("key")] }]]] },
            "bump": post_method(json!([
                ["new", { "$self/number/add": [1] }],
                ["_return", after(write("number", "new"), named("new"))],
            ])),
            "fail": post_method(json!([
                ["written", { "$self/number": [null, 1000] }],
                ["_return", after(named("written"), json!({ "/error/forbidden": ["after the work was done"] }))],
            ])),
            "run": post_method(json!([["_return", { "$op": {} }]])),
        },
    })
}

/// Everything.
pub fn all() -> Value {
    let mut clusters = serde_json::Map::new();
    for some in [hot(), pairs(), kit()] {
        clusters.extend(some.as_object().expect("clusters").clone());
    }
    clusters.into()
}
