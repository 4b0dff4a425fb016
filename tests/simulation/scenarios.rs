//! What the seed promises about transactions, one promise at a time.

use components::reference::Verb;
use components::transaction::RequestId;
use components::{Request, TxnId};
use serde_json::{Value, json};
use world::{Input, Outputs};

use crate::machine::{
    Machine, MachineOptions, START_NS, TICK_NS, answer, get, on_program_stack, post, put, request, with_id,
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

/// A method that reads register 0 and then never ends.
fn endless() -> Request {
    bump(0, FOREVER)
}

#[test]
fn a_hypothetical_transaction_with_an_old_id_is_refused_not_a_defect() {
    on_program_stack(|| {
        let mut machine = machine(&services::hot());
        let before_ns = machine.now_ns;
        machine.call(put("/app/hot/r0", json!(1)));
        machine.call(put("/app/hot/r0", json!(2)));
        let read = with_id(post(HYPOTHETICAL, json!([["x", { "/app/hot/r0": [null] }]])), chosen_id(before_ns));
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
        let mut answers = tick(&mut machine, vec![write]);
        while answers.is_empty() {
            answers = tick(&mut machine, vec![]);
        }
        assert_eq!(answers, [(id, 200, Value::Null)]);
        // A hypothetical read is not noted, so that only the write is in the way.
        let history = json!([["x", { "/app/hot/a0/chain": [null] }]]);
        let (read_id, read) = machine.ask(post(HYPOTHETICAL, history));
        let answers = tick(&mut machine, vec![read]);
        assert_eq!((answers[0].0, answers[0].1), (read_id, 200));
        let blocks = &answers[0].2["/state/chain/block"][1];
        let used: TxnId = blocks[0][1].as_object().unwrap().keys().next().unwrap().parse().unwrap();
        let (again_id, again) = machine.ask(with_id(put("/app/hot/a0", json!(2)), used));
        let answers = tick(&mut machine, vec![again]);
        assert_eq!((answers[0].0, answers[0].1), (again_id, 409), "{}", answers[0].2);
    });
}
