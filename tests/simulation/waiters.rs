//! Many requests that wait for one lock: what that costs grows as they do, and no tick does much, whatever ends.

use components::Request;
use serde_json::{Value, json};
use world::{Input, Limits};

use crate::machine::{Machine, MachineOptions, answer, on_program_stack, post};
use crate::rows::{self, Action, Cell, Query, Step};
use crate::services::{self, after, post_method, spin_from};

/// How many steps a tick has in these tests.
const STEPS: usize = 100;

const ITEMS: usize = 0;

fn machine() -> Machine {
    let mut clusters = services::all();
    let all = clusters.as_object_mut().expect("clusters");
    all.extend(rows::services().as_object().expect("clusters").clone());
    let limits = Limits { steps_per_tick: STEPS, ..Limits::default() };
    Machine::new(MachineOptions { limits, durable_delay_max: 0, ..MachineOptions::new(1, &clusters) })
}

fn item(sku: i64) -> Step {
    Step::Upsert(ITEMS, vec![Cell::Int(sku), Cell::Text("red".into()), Cell::Int(0)])
}

/// A transaction that writes first, and takes its time then.
fn slow(path: &str, body: Value) -> Request {
    let op = post_method(json!([
        ["written", { path: body }],
        ["spun", after(json!({ "$written": [] }), spin_from(json!(10_000)))],
        ["_return", { "$spun": [] }],
    ]));
    post("/app/kit/run", json!({ "op": op }))
}

/// What is waited for: its name, who holds it, and what those that wait want.
type Case = (&'static str, Request, fn(i64) -> Request);

fn cases() -> [Case; 6] {
    let row = json!([[1], ["red", 0]]);
    [
        ("a value", slow("/app/hot/r0", json!([null, 1])), |_| post("/app/hot/bump0", json!({ "spin": 0 }))),
        ("a block value", slow("/app/hot/a0", json!([null, 1_000_000])), |_| {
            post("/app/hot/transfer01", json!({ "amount": 1, "spin": 0 }))
        }),
        ("a row", slow("/app/shop/items", row.clone()), |_| {
            Action::Program(vec![Step::Add(ITEMS, vec![Cell::Int(1)], 1)]).request()
        }),
        ("a range that is read", slow("/app/shop/items", row.clone()), |_| {
            Action::Program(vec![Step::Count(Query::all(ITEMS))]).request()
        }),
        ("a range that is read, then a row", slow("/app/shop/items", row.clone()), |i| {
            Action::Program(vec![Step::Count(Query::all(ITEMS)), item(10 + i)]).request()
        }),
        ("a tree of rows", slow("/app/shop/items", row), |i| {
            Action::Bulk(ITEMS, vec![vec![Cell::Int(10 + i), Cell::Text("red".into()), Cell::Int(0)]])
                .request()
        }),
    ]
}

/// How those that wait end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// They get what they want.
    Turn,
    /// All hang up at once, and the one that holds it too.
    Hangup,
    /// All run out of time at once.
    Deadline,
}

/// What a number of waiters costs, in locks looked at, polls and restarts; no tick does more than its share.
fn cost(case: usize, count: i64, end: End) -> [u64; 3] {
    let (name, holder, waiter) = cases().into_iter().nth(case).expect("a case");
    let mut machine = machine();
    let (holder_id, event) = machine.ask(holder);
    let outputs = machine.tick(vec![event]).expect("no fault");
    assert!(outputs.replies.is_empty(), "{name}: {:?}", outputs.replies);
    let before = machine.host.statistics();
    let asked: Vec<_> = (0..count).map(|i| machine.ask(waiter(i))).collect();
    let (ids, mut events): (Vec<_>, Vec<Input>) = asked.into_iter().unzip();
    let mut statuses = Vec::new();
    let mut last = before;
    let mut is_ended = false;
    while statuses.len() < ids.len() + 1 {
        let mut tick = |machine: &mut Machine, events: Vec<Input>| {
            let outputs = machine.tick(events).expect("no fault");
            assert_eq!(outputs.poisoned, None);
            statuses.extend(outputs.replies.iter().map(|(_, reply)| answer(reply).0));
            let now = machine.host.statistics();
            let ended = |of: &world::Statistics| of.committed + of.failed + of.read_only + of.retried;
            // Each stage may take a few more once the steps are spent, and ends what has begun.
            let steps_max = 2 * STEPS as u64 + 100;
            assert!(ended(&now) - ended(&last) <= steps_max, "{name}: {} ended", ended(&now) - ended(&last));
            assert!(now.polls - last.polls <= steps_max, "{name}: {} polls", now.polls - last.polls);
            last = now;
        };
        tick(&mut machine, std::mem::take(&mut events));
        if !is_ended && machine.host.statistics().begun > count as u64 {
            is_ended = true;
            for _ in 0..5 {
                tick(&mut machine, vec![]);
            }
            match end {
                End::Turn => {}
                End::Hangup => {
                    events.extend(ids.iter().chain([&holder_id]).map(|id| Input::Cancel(*id)));
                }
                End::Deadline => machine.wait(Limits::default().request_ttl_ns),
            }
        }
    }
    let expected = match end {
        End::Turn => 200,
        End::Hangup | End::Deadline => 408,
    };
    assert_eq!(statuses, vec![expected; ids.len() + 1], "{name}");
    machine.settle(vec![]);
    assert_eq!(machine.host.open_requests(), 0);
    let after = machine.host.statistics();
    [
        after.locks_looked_at - before.locks_looked_at,
        after.polls - before.polls,
        after.retried - before.retried,
    ]
}

#[test]
fn what_waiters_cost_grows_as_they_do() {
    on_program_stack(|| {
        for case in 0..cases().len() {
            let costs = [100, 200, 400].map(|count| cost(case, count, End::Turn));
            for (i, what) in ["locks", "polls", "restarts"].into_iter().enumerate() {
                let [one, two, four] = costs.map(|cost| cost[i]);
                // A little more than twice as much, for the height of the trees; and polls of the one that is slow.
                let is_sound = 10 * two <= 27 * one + 2_000 && 10 * four <= 27 * two + 2_000;
                assert!(is_sound, "{}: {one}, {two}, {four} {what}", cases()[case].0);
            }
        }
    });
}

#[test]
fn many_that_end_at_once_are_spread_over_ticks() {
    on_program_stack(|| {
        for end in [End::Hangup, End::Deadline] {
            for case in 0..cases().len() {
                let costs = [200, 400].map(|count| cost(case, count, end)[0]);
                assert!(10 * costs[1] <= 25 * costs[0] + 1_000, "{}: {costs:?} locks", cases()[case].0);
            }
        }
    });
}
