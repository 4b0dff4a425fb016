//! An id that was ever given out or seen is nobody else's.

use std::collections::BTreeSet;

use components::language::reference::Verb;
use components::{Request, TxnId};
use serde_json::{Value, json};
use world::{InspectQuery, Limits};

use crate::machine::{
    Machine, MachineOptions, START_NS, answer, get, on_program_stack, post, put, request, with_id,
};
use crate::rows::{self, Action, Cell, Query, Step};
use crate::services;

const HYPOTHETICAL: &str = "/transact/hypothetical";

fn clusters() -> Value {
    let mut clusters = services::all();
    let all = clusters.as_object_mut().expect("clusters");
    all.extend(rows::services().as_object().expect("clusters").clone());
    clusters
}

fn machine() -> Machine {
    let limits = Limits { fuel_per_tick: 40, ..Limits::default() };
    Machine::new(MachineOptions { limits, ..MachineOptions::new(1, &clusters()) })
}

/// A row of a table with two indices, or of one that keeps its history.
fn row(collection: usize, qty: i64) -> Action {
    let row = match collection {
        0 => vec![Cell::Int(1), Cell::Text("red".into()), Cell::Int(qty)],
        1 => vec![Cell::Text("who".into()), Cell::Int(1), Cell::Int(qty)],
        other => panic!("no row for {other}"),
    };
    Action::Direct(Step::Upsert(collection, row))
}

/// Every way to use an id.
fn ways(qty: i64) -> Vec<Request> {
    let hypothetical = post(HYPOTHETICAL, json!([["x", { "/app/hot/r0": [null, qty] }]]));
    let bulk = Action::Bulk(0, vec![vec![Cell::Int(1), Cell::Text("blue".into()), Cell::Int(qty)]]);
    vec![
        row(0, qty).request(),
        row(1, qty).request(),
        bulk.request(),
        Action::Direct(Step::Get(0, vec![Cell::Int(1)])).request(),
        Action::Direct(Step::Delete(0, vec![Cell::Int(1)])).request(),
        Action::Program(vec![Step::Count(Query::all(0).with(1, Cell::Text("red".into())))]).request(),
        put("/app/hot/r0", json!(qty)),
        put("/app/hot/a0", json!(qty)),
        get("/app/hot/a0"),
        get("/app/hot/a0/chain"),
        request(Verb::Get, "/state/scalar/value/string", json!("x"), json!(null)),
        post("/app/hot/bump0", json!({ "spin": 100 })),
        post("/app/hot/bump0", json!({ "spin": 1 })),
        post("/app/kit/fail", json!({})),
        hypothetical,
    ]
}

/// Ask, and tick until all is answered; every id that is seen in the world, those of attempts that came to nothing
/// included, and the statuses of the answers.
fn ask_all(machine: &mut Machine, requests: Vec<Request>) -> (BTreeSet<TxnId>, Vec<u16>) {
    let query = InspectQuery { kind: Some("transaction".into()), limit: usize::MAX, ..Default::default() };
    let (mut ids, mut statuses) = (BTreeSet::new(), Vec::new());
    let count = requests.len();
    let mut events: Vec<_> = requests.into_iter().map(|request| machine.ask(request).1).collect();
    while statuses.len() < count {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        ids.extend(outputs.ended.iter().map(|ended| ended.id));
        statuses.extend(outputs.replies.iter().map(|(_, reply)| answer(reply).0));
        let shown = machine.host.inspect(&query);
        let open = shown["entities"]["transaction"]["items"].as_array().expect("transactions");
        let id = |item: &Value| item["id"].as_str().expect("an id").parse::<TxnId>().expect("an id");
        ids.extend(open.iter().map(id));
    }
    (ids, statuses)
}

#[test]
fn an_id_that_was_used_is_a_conflict_for_whoever_uses_it_again() {
    on_program_stack(|| {
        let mut machine = machine();
        let retried = machine.host.statistics().retried;
        // In the second round one that stays open keeps versions and marks.
        for is_old_open in [false, true] {
            if is_old_open {
                let (_, endless) = machine.ask(post("/app/hot/bump2", json!({ "spin": 1_000_000_000 })));
                machine.tick(vec![endless]).expect("a disk without faults");
            }
            let now_ns = machine.now_ns;
            let chosen = ways(1).into_iter().zip(1..);
            let chosen = chosen.map(|(way, i)| with_id(way, TxnId::new(now_ns + i, 9))).collect();
            let mut ids: BTreeSet<TxnId> = [TxnId::new(START_NS, 0), TxnId::new(START_NS - 1_000, 3)].into();
            for requests in [ways(2), chosen, [ways(3), ways(4), ways(5)].concat()] {
                ids.append(&mut ask_all(&mut machine, requests).0);
            }
            assert!(ids.len() > 5 * ways(0).len());
            for id in ids {
                let requests: Vec<Request> = ways(77).into_iter().map(|way| with_id(way, id)).collect();
                let count = requests.len();
                assert_eq!(ask_all(&mut machine, requests).1, vec![409; count], "{id}");
            }
            for path in ["/app/hot/r0", "/app/hot/a0"] {
                let (status, body) = call(&mut machine, get(path));
                assert!(status == 200 && body != json!(77), "{status} {body}");
            }
        }
        assert!(machine.host.statistics().retried > retried, "no id of an attempt that came to nothing");
    });
}

fn call(machine: &mut Machine, request: Request) -> (u16, Value) {
    let (id, event) = machine.ask(request);
    let mut events = vec![event];
    loop {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        if let Some((_, reply)) = outputs.replies.iter().find(|(answered, _)| *answered == id) {
            return answer(reply);
        }
    }
}
