//! Random concurrent transactions over a few hot values, and a serial execution that explains them.

use components::transaction::RequestId;
use components::{Reply, Request};
use serde_json::{Value, json};
use world::Input;

use crate::checker::{History, Model, Operation, check};
use crate::machine::{Machine, MachineOptions, answer, get, on_program_stack, post, put};
use crate::random::{Random, seeds};
use crate::rows_serializability::few_steps;
use crate::services::{self, ACCOUNTS, BALANCE, REGISTERS};

/// How many histories a run looks at; `SIMULATION_SEEDS` asks for more.
const SEEDS: u64 = 20;

/// How many operations a history has.
const OPERATIONS: usize = 80;

/// What one transaction does to the hot values.
#[derive(Clone, Debug)]
enum Action {
    ReadAll,
    Read(usize),
    Write(usize, i64),
    Bump(usize, i64),
    Skew(usize, usize, i64),
    Transfer(usize, usize, i64, i64),
    Push(i64, i64),
}

/// The hot values.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Hot {
    registers: Vec<i64>,
    accounts: Vec<i64>,
    list: Vec<i64>,
}

impl Hot {
    fn new() -> Self {
        Self {
            registers: (0..REGISTERS as i64).collect(),
            accounts: vec![BALANCE; ACCOUNTS],
            list: Vec::new(),
        }
    }
}

impl Model for Hot {
    type Action = Action;
    type Answer = (u16, Value);

    fn apply(&mut self, action: &Action) -> (u16, Value) {
        match *action {
            Action::ReadAll => {
                let mut all = serde_json::Map::new();
                all.extend(
                    self.registers.iter().enumerate().map(|(i, value)| (format!("r{i}"), json!(value))),
                );
                all.extend(
                    self.accounts.iter().enumerate().map(|(i, value)| (format!("a{i}"), json!(value))),
                );
                all.insert("list".into(), json!(self.list));
                (200, all.into())
            }
            Action::Read(i) => (200, json!(self.registers[i])),
            Action::Write(i, value) => {
                self.registers[i] = value;
                (200, Value::Null)
            }
            Action::Bump(i, _) => {
                self.registers[i] += 1;
                (200, json!(self.registers[i]))
            }
            Action::Skew(i, j, _) => {
                let (x, y) = (self.registers[i], self.registers[j]);
                if x > y {
                    self.registers[j] = x + 1;
                } else {
                    self.registers[i] = y + 1;
                }
                (200, json!([x, y]))
            }
            Action::Transfer(i, j, amount, _) => {
                if self.accounts[i] < amount {
                    return (400, Value::Null);
                }
                self.accounts[i] -= amount;
                self.accounts[j] += amount;
                (200, json!([self.accounts[i], self.accounts[j]]))
            }
            Action::Push(item, _) => {
                self.list.push(item);
                (200, json!(self.list))
            }
        }
    }

    fn blind_write(action: &Action) -> Option<(usize, i64)> {
        match *action {
            Action::Write(i, value) => Some((i, value)),
            _ => None,
        }
    }

    fn shows(action: &Action, answer: &(u16, Value), key: usize, value: i64) -> bool {
        match *action {
            Action::ReadAll => answer.1[format!("r{key}")] == json!(value),
            Action::Read(i) => i == key && answer.1 == json!(value),
            Action::Bump(i, _) => i == key && answer.1 == json!(value + 1),
            Action::Skew(i, j, _) => {
                (i == key && answer.1[0] == json!(value)) || (j == key && answer.1[1] == json!(value))
            }
            _ => false,
        }
    }
}

fn request(action: &Action) -> Request {
    match *action {
        Action::ReadAll => get("/app/hot/all"),
        Action::Read(i) => get(&format!("/app/hot/r{i}")),
        Action::Write(i, value) => put(&format!("/app/hot/r{i}"), json!(value)),
        Action::Bump(i, spin) => post(&format!("/app/hot/bump{i}"), json!({ "spin": spin })),
        Action::Skew(i, j, spin) => post(&format!("/app/hot/skew{i}{j}"), json!({ "spin": spin })),
        Action::Transfer(i, j, amount, spin) => {
            post(&format!("/app/hot/transfer{i}{j}"), json!({ "amount": amount, "spin": spin }))
        }
        Action::Push(item, spin) => post("/app/hot/push", json!({ "item": item, "spin": spin })),
    }
}

fn two(random: &mut Random, count: usize) -> (usize, usize) {
    let i = random.below(count);
    (i, (i + 1 + random.below(count - 1)) % count)
}

fn random_action(random: &mut Random, number: usize) -> Action {
    // Some take many ticks, so that what comes later overtakes them.
    let spin = if random.one_in(3) { random.below(24) as i64 } else { 0 };
    let unique = 1_000 * (number as i64 + 1);
    match random.below(16) {
        0 => Action::ReadAll,
        1 | 2 => Action::Read(random.below(REGISTERS)),
        3 => Action::Write(random.below(REGISTERS), unique),
        4..=6 => Action::Bump(random.below(REGISTERS), spin),
        7..=9 => {
            let (i, j) = two(random, REGISTERS);
            Action::Skew(i, j, spin)
        }
        10..=12 => {
            let (i, j) = two(random, ACCOUNTS);
            Action::Transfer(i, j, 1 + random.below(60) as i64, spin)
        }
        _ => Action::Push(unique, spin),
    }
}

/// What the client sees; the words of an error say nothing.
fn seen(reply: &Reply) -> (u16, Value) {
    match answer(reply) {
        (200, body) => (200, body),
        (status, _) => (status, Value::Null),
    }
}

/// What a machine did, and how.
struct Recorded {
    history: History<Hot>,
    retried: u64,
}

/// Ask random things of a machine, a few in each tick, and record what comes back.
fn record(seed: u64) -> Recorded {
    let mut random = Random::new(seed);
    let mut options = MachineOptions::new(seed, &services::hot());
    options.durable_delay_max = random.below(5);
    options.limits.fuel_per_tick = 20 + random.below(60) as u64;
    options.limits.steps_per_tick = few_steps(seed);
    let per_tick = 1 + random.below(3);
    let mut machine = Machine::new(options);
    let mut history: History<Hot> = Vec::new();
    let mut ids: Vec<RequestId> = Vec::new();
    let mut cancelled = Vec::new();
    while ids.len() < OPERATIONS || machine.has_work() {
        let mut events = Vec::new();
        for _ in 0..random.below(per_tick + 1).min(OPERATIONS - ids.len()) {
            let action = random_action(&mut random, ids.len());
            let (id, event) = machine.ask(request(&action));
            ids.push(id);
            events.push(event);
            history.push(Operation { invoked: machine.ticks + 1, answered: None, action });
        }
        if random.one_in(20) && !ids.is_empty() {
            let at = random.below(ids.len());
            if history[at].answered.is_none() {
                cancelled.push(at);
                events.push(Input::Cancel(ids[at]));
            }
        }
        let outputs = machine.tick(events).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        for (id, reply) in &outputs.replies {
            let at = ids.iter().position(|known| known == id).expect("a request");
            assert!(history[at].answered.is_none(), "one answer each");
            history[at].answered = Some((machine.ticks, seen(reply)));
        }
        assert!(machine.ticks < 20_000, "the host does not come to rest");
    }
    for (at, operation) in history.iter_mut().enumerate() {
        let (_, (status, _)) = operation.answered.as_ref().expect("everything is answered");
        assert!(matches!(status, 200 | 400 | 408), "{operation:?}");
        if *status == 408 {
            assert!(cancelled.contains(&at), "only what was cancelled ends early");
            // Nobody waited for it: for the client it is open whether it has happened.
            operation.answered = None;
        }
    }
    let retried = machine.host.statistics().retried;
    // The last read of everything, after all the rest.
    let invoked = machine.ticks + 1;
    let last = machine.call(get("/app/hot/all"));
    history.push(Operation { invoked, answered: Some((machine.ticks, last)), action: Action::ReadAll });
    Recorded { history, retried }
}

#[test]
fn every_history_has_a_serial_explanation() {
    on_program_stack(|| {
        let mut retried = 0;
        for seed in seeds("SIMULATION_SEEDS", SEEDS) {
            let recorded = record(seed);
            retried += recorded.retried;
            for operation in &recorded.history {
                if let (Action::ReadAll, Some((_, (_, all)))) = (&operation.action, &operation.answered) {
                    let total: i64 = (0..ACCOUNTS).map(|i| all[format!("a{i}")].as_i64().unwrap()).sum();
                    assert_eq!(
                        total,
                        BALANCE * ACCOUNTS as i64,
                        "seed {seed}: money is neither made nor lost"
                    );
                }
            }
            if let Err(why) = check(&Hot::new(), &recorded.history) {
                panic!("seed {seed}: {why}");
            }
        }
        assert!(retried > 0, "no conflict was retried: the load tests nothing");
    });
}

/// A history without an explanation must be found out.
#[test]
fn the_checker_complains_about_corrupted_histories() {
    on_program_stack(|| {
        let Recorded { history, .. } = record(1);
        check(&Hot::new(), &history).expect("the history as it was");

        let pushes = |history: &History<Hot>| -> Vec<usize> {
            let is_push =
                |i: &usize| matches!(history[*i].action, Action::Push(..)) && history[*i].answered.is_some();
            (0..history.len()).filter(is_push).collect()
        };
        let mut swapped = history.clone();
        let [first, .., last] = pushes(&swapped)[..] else { panic!("too few pushes") };
        let answer = swapped[first].answered.clone();
        swapped[first].answered = swapped[last].answered.clone();
        swapped[last].answered = answer;
        check(&Hot::new(), &swapped).expect_err("two answers were swapped");

        let mut lost = history.clone();
        lost.remove(pushes(&lost)[0]);
        check(&Hot::new(), &lost).expect_err("an item came from nowhere");

        let mut stale = history.clone();
        let read = stale.last_mut().expect("the last read");
        let (_, (_, all)) = read.answered.as_mut().expect("an answer");
        all["list"].as_array_mut().expect("a list").pop();
        check(&Hot::new(), &stale).expect_err("the last update was lost");
    });
}

fn done(invoked: u64, answered: u64, action: Action, body: Value) -> Operation<Action, (u16, Value)> {
    Operation { invoked, answered: Some((answered, (200, body))), action }
}

#[test]
fn the_checker_knows_about_time_and_write_skew() {
    let in_time = vec![done(1, 2, Action::Write(0, 7), Value::Null), done(2, 3, Action::Read(0), json!(0))];
    check(&Hot::new(), &in_time).expect("they overlap");
    let too_late = vec![done(1, 2, Action::Write(0, 7), Value::Null), done(3, 4, Action::Read(0), json!(0))];
    check(&Hot::new(), &too_late).expect_err("the read came after the write was answered");

    let skewed = vec![
        done(1, 9, Action::Skew(0, 1, 0), json!([0, 1])),
        done(1, 9, Action::Skew(1, 0, 0), json!([1, 0])),
    ];
    check(&Hot::new(), &skewed).expect_err("each has read what was there before the other");
}
