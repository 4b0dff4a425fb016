//! What all requests together may take of a host, and that it is whole again afterwards.

use serde_json::{Value, json};
use world::{Input, Limits};

use crate::machine::{Machine, MachineOptions, answer, get, on_program_stack, post};
use crate::services;

/// Longer than any test.
const FOREVER: i64 = 1_000_000_000;

fn machine(limits: Limits) -> Machine {
    let options = MachineOptions { durable_delay_max: 0, ..MachineOptions::new(1, &services::all()) };
    Machine::new(MachineOptions { limits, ..options })
}

/// Tick so often; the answers, by the place of their requests.
fn answers(
    machine: &mut Machine,
    requests: Vec<components::Request>,
    ticks: usize,
) -> Vec<Option<(u16, Value)>> {
    let (ids, mut events): (Vec<_>, Vec<Input>) =
        requests.into_iter().map(|request| machine.ask(request)).unzip();
    let mut answered = vec![None; ids.len()];
    for _ in 0..ticks {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        for (id, reply) in &outputs.replies {
            let at = ids.iter().position(|known| known == id).expect("a request");
            answered[at] = Some(answer(reply));
        }
    }
    answered
}

/// Let everything that is open run out of time.
fn expire(machine: &mut Machine) {
    machine.wait(2 * Limits::default().request_ttl_ns);
    machine.settle(vec![]);
    assert_eq!(machine.host.open_requests(), 0);
}

#[test]
fn requests_beyond_those_that_may_be_open_are_answered_503_at_once() {
    on_program_stack(|| {
        let mut machine = machine(Limits { transactions_max: 3, ..Limits::default() });
        let endless = |i: usize| post(&format!("/app/hot/bump{i}"), json!({ "spin": FOREVER }));
        let requests = vec![endless(0), endless(1), endless(2), get("/app/hot/a0")];
        let answered = answers(&mut machine, requests, 3);
        assert_eq!(answered[..3], [None, None, None], "those that were let in run");
        let (status, why) = answered[3].clone().expect("an answer");
        assert_eq!(status, 503, "{why}");
        expire(&mut machine);
        assert_eq!(machine.value("/app/hot/a0"), json!(100), "there is room again");
    });
}

/// A program that doubles a tuple so often, and then takes its time.
fn hoard(doublings: i64) -> components::Request {
    let doubled = json!({ "/state/scalar/ref/while": [
        services::post_method(json!([["_return", { "$i/gt": [0] }]])),
        services::post_method(json!([
            ["_return", { "i": { "$i/sub": [1] }, "items": [{ "$items": [] }, { "$items": [] }] }]])),
        { "i": doublings, "items": ["0123456789abcdef", "0123456789abcdef"] },
    ] });
    let op = services::post_method(json!([
        ["held", doubled],
        ["spun", services::after(json!({ "$held": [] }), services::spin_from(json!(FOREVER)))],
        ["_return", services::after(json!({ "$spun": [] }), json!({ "$held": [] }))],
    ]));
    post("/app/kit/run", json!({ "op": op }))
}

#[test]
fn when_all_hold_too_much_the_youngest_are_refused_and_the_oldest_goes_on() {
    on_program_stack(|| {
        // Each holds more than a MiB (32 bytes, doubled 14 times, and the tuples), all may hold 4.
        let limits = Limits { transactions_bytes_max: 4 << 20, ..Limits::default() };
        let mut machine = machine(limits);
        let answered = answers(&mut machine, (0..8).map(|_| hoard(14)).collect(), 200);
        assert_eq!(answered[0], None, "the oldest one goes on: {:?}", answered[0]);
        let refused = answered.iter().flatten().filter(|(status, _)| *status == 503).count();
        assert!(refused > 0, "nobody was refused: {answered:?}");
        let is_youngest_first = answered.is_sorted_by_key(Option::is_some);
        assert!(is_youngest_first, "an older one was refused before a younger one: {answered:?}");
        expire(&mut machine);
        let (status, body) = machine.call(get("/app/hot/a0"));
        assert_eq!((status, body), (200, json!(100)), "what they held is free");
    });
}
