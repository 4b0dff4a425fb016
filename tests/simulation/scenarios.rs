//! What the seed promises about transactions, one promise at a time.

use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Request, TxnId};
use serde_json::{Value, json};
use world::{Input, Outputs};

use crate::machine::{
    Machine, MachineOptions, TICK_NS, answer, get, on_program_stack, post, put, request, with_id,
};
use crate::services;

const HYPOTHETICAL: &str = "/transact/hypothetical";

/// Longer than any test.
const FOREVER: i64 = 1_000_000_000;

fn machine(clusters: &Value) -> Machine {
    Machine::new(MachineOptions { durable_delay_max: 0, ..MachineOptions::new(1, clusters) })
}

fn skew(i: usize, j: usize, spin: i64) -> Request {
    post(&format!("/app/hot/skew{i}{j}"), json!({ "spin": spin }))
}

fn bump(i: usize, spin: i64) -> Request {
    post(&format!("/app/hot/bump{i}"), json!({ "spin": spin }))
}

/// One tick; the answers by request.
fn tick(machine: &mut Machine, events: Vec<Input>) -> Vec<(RequestId, u16, Value)> {
    let outputs: Outputs = machine.tick(events).expect("a disk without faults");
    assert_eq!(outputs.poisoned, None);
    let answered = |(id, reply): &(RequestId, _)| {
        let (status, body) = answer(reply);
        (*id, status, body)
    };
    outputs.replies.iter().map(answered).collect()
}

/// `skew01` is expected to write `r1` because it did so before; this time it only reads it, and writes `r0`. An older
/// transaction that has read `r0` before must not write `r1` afterwards.
#[test]
fn what_was_expected_to_be_written_but_was_only_read_counts_as_read() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        machine.call_all(vec![put("/app/hot/r0", json!(5)), put("/app/hot/r1", json!(1))]);
        assert_eq!(machine.call(skew(0, 1, 0)), (200, json!([5, 1])), "r1 := 6");
        let old = json!({
            "op": services::post_method(json!([
                ["seen", { "/app/hot/r0": [null] }],
                ["spun", services::after(json!({ "$seen": [] }), services::spin_from(json!(2_000)))],
                ["_return", services::after(
                    services::after(json!({ "$spun": [] }), json!({ "/app/hot/r1": [null, 100] })),
                    json!({ "$seen": [] }))],
            ])),
        });
        let (old_id, old) = machine.ask(post("/app/kit/run", old));
        assert_eq!(tick(&mut machine, vec![old]), []);
        // r0 is not more than r1, so it writes r0 := 7, and reads r1 only.
        let (new_id, new) = machine.ask(skew(0, 1, 0));
        let mut answers = machine.settle(vec![new]);
        answers.sort_by_key(|(id, ..)| *id);
        assert_eq!(answers[1], (new_id, 200, json!([5, 6])));
        assert_eq!(answers[0].0, old_id);
        // The new one has not seen what the old one writes, so the old one must see what the new one wrote.
        assert_eq!(answers[0].2, json!(7));
        assert_eq!(machine.value("/app/hot/r1"), json!(100));
    });
}

fn chosen_id(time_ns: u64) -> TxnId {
    TxnId::new(time_ns, 9)
}

#[test]
fn a_hypothetical_transaction_with_an_old_id_is_refused_not_a_defect() {
    on_program_stack(|| {
        let mut machine = machine(&services::hot());
        let before_ns = machine.now_ns;
        machine.call(put("/app/hot/r0", json!(1)));
        machine.call(put("/app/hot/r0", json!(2)));
        let read =
            with_id(post(HYPOTHETICAL, json!([["x", { "/app/hot/r0": [null] }]])), chosen_id(before_ns));
        let (status, body) = machine.call(read);
        assert_eq!(status, 409, "{body}");
        assert_eq!(machine.value("/app/hot/r0"), json!(2));
    });
}

#[test]
fn an_id_that_has_committed_cannot_commit_again() {
    on_program_stack(|| {
        let mut machine = machine(&services::hot());
        // As long as this one is open, old versions are kept.
        let (_, old) = machine.ask(bump(1, FOREVER));
        tick(&mut machine, vec![old]);
        let (id, write) = machine.ask(put("/app/hot/a0", json!(1)));
        let outputs = machine.tick(vec![write]).expect("a disk without faults");
        let used = outputs.ended.iter().find(|ended| ended.request == id).expect("it has committed").id;
        let mut answers = tick(&mut machine, vec![]);
        while answers.is_empty() {
            answers = tick(&mut machine, vec![]);
        }
        assert_eq!(answers, [(id, 200, Value::Null)]);
        let (again_id, again) = machine.ask(with_id(put("/app/hot/a0", json!(2)), used));
        let answers = tick(&mut machine, vec![again]);
        assert_eq!((answers[0].0, answers[0].1), (again_id, 409), "{}", answers[0].2);
    });
}

/// The part of the world that transactions leave something in.
fn chains_of(machine: &mut Machine) -> Value {
    let query = |kind: &str| world::InspectQuery {
        kind: Some(kind.into()),
        limit: 1_000,
        has_values: true,
        ..Default::default()
    };
    let kinds = ["chain", "block", "lock", "transaction"];
    let mut shown: Vec<Value> = kinds
        .iter()
        .map(|kind| machine.host.inspect(&query(kind))["entities"][kind]["items"].take())
        .collect();
    // How often a block was looked at only says how long it stays in memory.
    for block in shown[1].as_array_mut().expect("blocks") {
        block.as_object_mut().expect("a block").remove("uses");
    }
    shown.into()
}

#[test]
fn hypothetical_queries_leave_no_trace() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        machine.call(post("/app/hot/push", json!({ "spin": 0, "item": 1 })));
        let before = chains_of(&mut machine);
        let asked = json!([
            ["pushed", { "/app/hot/push": { "spin": 0, "item": 2 } }],
            ["moved", services::after(json!({ "$pushed": [] }),
                json!({ "/app/hot/transfer01": { "spin": 0, "amount": 60 } }))],
            ["r0", services::after(json!({ "$moved": [] }), json!({ "/app/hot/r0": [null, 99] }))],
            ["all", services::after(json!({ "$r0": [] }), json!({ "/app/hot/all": [null] }))],
            ["history", services::after(json!({ "$all": [] }), json!({ "/app/hot/list/chain": [null] }))],
            ["_return", [{ "$all": [] }, { "$history": [] }]],
        ]);
        let (status, body) = machine.call(post(HYPOTHETICAL, asked));
        assert_eq!(status, 200, "{body}");
        assert_eq!(
            (&body[0]["list"], &body[0]["a0"], &body[0]["r0"]),
            (&json!([1, 2]), &json!(40), &json!(99))
        );
        assert_eq!(chains_of(&mut machine), before);
        assert_eq!(machine.value("/app/hot/list"), json!([1]));
    });
}

#[test]
fn hypothetical_queries_neither_wait_nor_make_others_wait() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        // The endless one has read r0 and would write it; the real ones come before, between and after.
        let endless = json!([["x", { "/app/hot/bump0": { "spin": FOREVER } }]]);
        let (_, hypothetical) = machine.ask(post(HYPOTHETICAL, endless));
        assert_eq!(tick(&mut machine, vec![hypothetical]), []);
        let (first, write) = machine.ask(put("/app/hot/r0", json!(5)));
        assert_eq!(tick(&mut machine, vec![write]), []);
        assert_eq!(tick(&mut machine, vec![]), [(first, 200, Value::Null)]);
        assert_eq!(machine.host.statistics().retried, 0);
        // A real transaction that holds r0 for ever does not hold up a hypothetical one.
        let (_, event) = machine.ask(post(
            "/app/kit/run",
            json!({ "op": services::post_method(json!([
            ["written", { "/app/hot/r0": [null, 6] }],
            ["_return", services::after(json!({ "$written": [] }), services::spin_from(json!(FOREVER)))],
        ])) }),
        ));
        assert_eq!(tick(&mut machine, vec![event]), []);
        let (id, event) =
            machine.ask(post(HYPOTHETICAL, json!([["x", { "/app/hot/bump0": { "spin": 0 } }]])));
        assert_eq!(tick(&mut machine, vec![event]), [(id, 200, json!(6))]);
    });
}

/// Begins a transaction that writes r0 and then never ends.
fn hold(machine: &mut Machine) -> RequestId {
    let op = services::post_method(json!([
        ["written", { "/app/hot/r0": [null, 1000] }],
        ["_return", services::after(json!({ "$written": [] }), services::spin_from(json!(FOREVER)))],
    ]));
    let (holder, event) = machine.ask(post("/app/kit/run", json!({ "op": op })));
    assert_eq!(tick(machine, vec![event]), []);
    holder
}

#[test]
fn cancelling_a_request_releases_its_locks_and_undoes_its_writes() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        let holder = hold(&mut machine);
        let (reader, event) = machine.ask(get("/app/hot/r0"));
        assert_eq!(tick(&mut machine, vec![event]), [], "it waits for the undecided write");
        let answers = tick(&mut machine, vec![Input::Cancel(holder)]);
        assert!(answers.contains(&(reader, 200, json!(0))), "{answers:?}");
        assert!(answers.iter().any(|(id, status, _)| (*id, *status) == (holder, 408)));
        assert_eq!(machine.host.open_requests(), 0);
    });
}

#[test]
fn a_request_ends_at_its_deadline_and_releases_its_locks() {
    on_program_stack(|| {
        let mut options = MachineOptions::new(1, &services::all());
        options.limits.request_ttl_ns = 10 * TICK_NS;
        let mut machine = Machine::new(options);
        let holder = hold(&mut machine);
        machine.wait(5 * TICK_NS);
        let (reader, event) = machine.ask(get("/app/hot/r0"));
        assert_eq!(tick(&mut machine, vec![event]), []);
        let outputs = machine.tick(vec![]).expect("a disk without faults");
        assert_eq!(outputs.next_deadline_ns, Some(11 * TICK_NS));
        machine.wait(3 * TICK_NS);
        let answers = tick(&mut machine, vec![]);
        assert!(answers.iter().any(|(id, status, _)| (*id, *status) == (holder, 408)), "{answers:?}");
        assert!(answers.contains(&(reader, 200, json!(0))), "{answers:?}");
        assert_eq!(machine.host.statistics().timeouts, 1);
    });
}

#[test]
fn time_limits_hold_whatever_is_done_to_the_clock_on_the_wall() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    on_program_stack(|| {
        for set in [|now_ns| now_ns - HOUR_NS, |now_ns| now_ns + HOUR_NS] {
            let mut options = MachineOptions::new(1, &services::all());
            options.limits.request_ttl_ns = 20 * TICK_NS;
            let mut machine = Machine::new(options);
            let holder = hold(&mut machine);
            let (_, event) = machine.ask(put("/app/hot/r0", json!(5)));
            assert_eq!(tick(&mut machine, vec![event]), [], "it waits for the lock");
            machine.now_ns = set(machine.now_ns);
            for _ in 0..10 {
                assert_eq!(tick(&mut machine, vec![]), [], "a clock that was set is no reason to give up");
            }
            // What comes now has an id like any other.
            for _ in 0..2 {
                machine.now_ns -= HOUR_NS / 2;
                let (reader, event) = machine.ask(get("/app/hot/r1"));
                assert_eq!(tick(&mut machine, vec![event]), [(reader, 200, json!(1))]);
            }
            let answers: Vec<_> = (0..10).flat_map(|_| tick(&mut machine, vec![])).collect();
            let answers: Vec<_> = answers.into_iter().map(|(id, status, _)| (id, status)).collect();
            assert_eq!(answers, [(holder, 408)], "after twenty ticks, whatever the clock says");
            machine.settle(vec![]);
            assert_eq!(machine.value("/app/hot/r0"), json!(5), "the lock went to the one that waited");
        }
    });
}

#[test]
fn endless_loops_do_not_hold_up_others() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        for _ in 0..8 {
            let (_, event) = machine.ask(bump(1, FOREVER));
            assert_eq!(tick(&mut machine, vec![event]), []);
        }
        for _ in 0..3 {
            let (id, event) = machine.ask(get("/app/hot/r0"));
            assert_eq!(tick(&mut machine, vec![event]), [(id, 200, json!(0))], "in the same tick");
        }
        assert_eq!(machine.host.open_requests(), 8);
    });
}

#[test]
fn nothing_remains_of_a_transaction_that_fails_after_its_writes() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        machine.call(put("/app/kit/number", json!(3)));
        let before = machine.value("/app/kit/number");
        let (id, event) = machine.ask(post("/app/kit/fail", json!({})));
        let outputs = machine.tick(vec![event]).expect("a disk without faults");
        assert!(outputs.batch.is_none(), "nothing is stored");
        assert_eq!((outputs.replies[0].0, answer(&outputs.replies[0].1).0), (id, 403));
        assert_eq!(machine.value("/app/kit/number"), before);
        let failed = request(Verb::Delete, "/app/kit/delete", json!("nothing"), Value::Null);
        assert_eq!(machine.call(failed).0, 404);
        assert_eq!(machine.value("/app/kit/table"), json!({ "a": 1, "b": 2 }));
    });
}

#[test]
fn increments_of_one_hot_value_share_a_tick_and_a_batch() {
    on_program_stack(|| {
        const CLIENTS: i64 = 64;
        let mut machine = machine(&services::hot());
        // Before anybody knows what they write, they refuse one another, and that may take more than a tick.
        let answers = machine.call_all((0..CLIENTS).map(|_| bump(0, 0)).collect());
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        for round in 1..4 {
            let requests: Vec<_> = (0..CLIENTS).map(|_| bump(0, 0)).collect();
            let (ids, events): (Vec<_>, Vec<_>) = requests.into_iter().map(|one| machine.ask(one)).unzip();
            let before = machine.host.statistics();
            let outputs = machine.tick(events).expect("a disk without faults");
            assert!(outputs.replies.is_empty(), "every answer waits for the disk");
            assert!(outputs.batch.is_some() && !outputs.is_busy, "all of them in one tick");
            let answers = tick(&mut machine, vec![]);
            let values: Vec<i64> = answers.iter().map(|(_, _, body)| body.as_i64().unwrap()).collect();
            let first = round * CLIENTS + 1;
            assert_eq!(answers.len(), ids.len());
            let mut sorted = values.clone();
            sorted.sort();
            assert_eq!(sorted, (first..first + CLIENTS).collect::<Vec<_>>());
            let after = machine.host.statistics();
            assert_eq!(after.committed - before.committed, CLIENTS as u64);
            assert_eq!(after.retried, before.retried, "once it is known what they write, they queue up");
        }
    });
}

#[test]
fn conflicts_are_retried_inside_unless_the_caller_chose_the_id() {
    on_program_stack(|| {
        let mut machine = machine(&services::hot());
        // It reads r0 at once, and wants to write it after something newer has.
        let (slow, event) = machine.ask(bump(0, 20_000));
        let now_ns = machine.now_ns;
        let fixed = with_id(bump(1, 20_000), chosen_id(now_ns));
        let (fixed, fixed_event) = machine.ask(fixed);
        assert_eq!(tick(&mut machine, vec![event, fixed_event]), []);
        let events =
            [put("/app/hot/r0", json!(50)), put("/app/hot/r1", json!(60))].map(|one| machine.ask(one).1);
        let answers = machine.settle(events.into());
        let of = |id| {
            answers.iter().find(|(answered, ..)| *answered == id).map(|(_, status, body)| (*status, body))
        };
        assert_eq!(of(slow), Some((200, &json!(51))));
        assert_eq!(of(fixed).map(|(status, _)| status), Some(409));
        assert_eq!((machine.value("/app/hot/r0"), machine.value("/app/hot/r1")), (json!(51), json!(60)));
        let statistics = machine.host.statistics();
        assert_eq!((statistics.retried, statistics.conflicts), (1, 1));
    });
}

#[test]
fn what_was_read_must_be_durable_before_the_answer_leaves() {
    on_program_stack(|| {
        let mut machine = machine(&services::all());
        let (write, write_event) = machine.ask(put("/app/hot/r0", json!(5)));
        // Also what fails, and what is only hypothetical, tells what it has read.
        let failing = json!([
            ["x", { "/app/hot/r0": [null] }],
            ["_return", services::after(json!({ "$x": [] }), json!({ "/error/forbidden": [{ "$x": [] }] }))],
        ]);
        let run = json!({ "op": services::post_method(failing.clone()) });
        let asked =
            [get("/app/hot/r0"), post("/app/kit/run", run), post(HYPOTHETICAL, failing), get("/app/hot/r1")];
        assert_eq!(tick(&mut machine, vec![write_event]), []);
        // The machine reports the batch with the next tick, so this one asks the host alone.
        let (ids, events): (Vec<_>, Vec<_>) = asked.into_iter().map(|one| machine.ask(one)).unzip();
        let outputs = machine.host.tick(machine.inputs(events));
        let answered: Vec<_> = outputs.replies.iter().map(|(id, _)| *id).collect();
        assert_eq!(answered, [ids[3]], "only this one has read nothing new");
        let answers = tick(&mut machine, vec![]);
        let mut statuses: Vec<_> = answers.iter().map(|(id, status, _)| (*id, *status)).collect();
        statuses.sort();
        assert_eq!(statuses, [(write, 200), (ids[0], 200), (ids[1], 403), (ids[2], 403)]);
    });
}
