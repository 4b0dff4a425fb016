//! The history of a chain that is larger than what may stay in memory.

use components::chain::{Block, Links, Mutation};
use components::{Request, State};
use serde_json::json;
use world::Input;

use crate::machine::{Machine, MachineOptions, get, on_program_stack, post, put};
use crate::services;

/// So that four of them fill a block.
const TEXT_BYTES: usize = 300_000;

/// Enough for three closed blocks and an open one.
const TEXTS: usize = 13;

/// A cache that holds no block at all.
const CACHE_BYTES: u64 = 5_000;

fn text(i: usize) -> String {
    char::from(b'a' + i as u8).to_string().repeat(TEXT_BYTES)
}

/// A machine with a long history in `/app/kit/text`.
pub fn with_history() -> Machine {
    let mut options = MachineOptions::new(3, &services::kit());
    options.limits.cache_bytes = CACHE_BYTES;
    let mut machine = Machine::new(options);
    for i in 0..TEXTS {
        assert_eq!(machine.call(put("/app/kit/text", json!(text(i)))).0, 200);
    }
    machine
}

/// The blocks of a chain in a reply.
pub fn history(state: &State) -> (State, State, Vec<Block>) {
    let State::Chain(components::chain::Chain::Content(content)) = state else {
        panic!("not a chain: {state:?}")
    };
    (content.schema.clone(), content.subject.clone(), content.blocks.clone())
}

/// Check that the whole history, replayed from the initial value, gives the subject.
pub fn check_history(state: &State) {
    let (schema, subject, blocks) = history(state);
    let mut links = Links::default();
    blocks
        .iter()
        .try_for_each(|block| links.verify(block))
        .expect("each block names the hash of the one before");
    let mutations = blocks.iter().flat_map(|block| &block.transactions).flat_map(|(_, all)| all);
    let replayed =
        mutations.fold(schema, |state, next: &Mutation| next.apply(&state).expect("a sound history"));
    let json = |state: &State| serde_json::to_string(state).expect("a state has a JSON form");
    assert!(json(&replayed) == json(&subject), "the history does not lead to the subject");
}

/// Tick until a request is answered, within so many ticks; the state that is answered.
fn answered(machine: &mut Machine, request: Request, ticks_max: usize) -> State {
    let (id, event) = machine.ask(request);
    let mut events = vec![event];
    for _ in 0..ticks_max {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        assert_eq!(outputs.poisoned, None);
        for (answered, reply) in outputs.replies {
            if answered == id {
                return reply.expect("a good answer");
            }
        }
    }
    panic!("no answer after {ticks_max} ticks");
}

#[test]
fn a_history_larger_than_the_cache_is_read_block_by_block() {
    on_program_stack(|| {
        let mut machine = with_history();
        let first = answered(&mut machine, get("/app/kit/text/chain"), 50);
        let (.., blocks) = history(&first);
        assert!(blocks.len() > 3, "only {} blocks", blocks.len());
        assert_eq!(blocks.iter().map(|block| block.transactions.len()).sum::<usize>(), TEXTS);
        check_history(&first);
        // Once it was read, it does not stay.
        machine.settle(vec![]);
        let shown = machine.host.inspect(&world::InspectQuery {
            kind: Some("block".into()),
            limit: 100,
            ..Default::default()
        });
        let blocks = shown["entities"]["block"]["items"].as_array().unwrap();
        let resident = blocks.iter().filter(|block| {
            block["resident"] == json!(true) && block["bytes"].as_u64().unwrap() > CACHE_BYTES
        });
        assert!(resident.count() <= 1, "only the open block stays in memory");
    });
}

#[test]
fn a_reader_that_went_away_holds_no_blocks() {
    on_program_stack(|| {
        let mut machine = with_history();
        let read = json!([["x", { "/app/kit/text/chain": [null] }]]);
        let (id, event) = machine.ask(post("/transact/hypothetical", read));
        machine.tick(vec![event]).expect("a disk without faults");
        let answers = machine.settle(vec![Input::Cancel(id)]);
        assert_eq!((answers[0].0, answers[0].1), (id, 408));
        let shown = machine.host.inspect(&world::InspectQuery {
            kind: Some("block".into()),
            limit: 100,
            ..Default::default()
        });
        let blocks = shown["entities"]["block"]["items"].as_array().unwrap();
        let resident = blocks.iter().filter(|block| {
            block["resident"] == json!(true) && block["bytes"].as_u64().unwrap() > CACHE_BYTES
        });
        assert!(resident.count() <= 1, "only the open block stays in memory");
    });
}
