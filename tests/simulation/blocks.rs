//! The history of a chain, which is in storage alone.

use components::hosting::storage::{Keyspace, Write};
use components::language::chain::{Block, Blocks, Chain, HistorySnapshot, Links, Mutation};
use components::language::reference::Verb;
use components::{Request, State};
use serde_json::json;
use world::history::HistoryReader;

use crate::machine::{Machine, MachineOptions, get, on_program_stack, post, put, request};
use crate::services;

/// So that four of them fill a block.
const TEXT_BYTES: usize = 300_000;

/// Enough for three closed blocks and an open one.
const TEXTS: usize = 13;

fn text(i: usize) -> String {
    char::from(b'a' + i as u8).to_string().repeat(TEXT_BYTES)
}

/// A machine with a long history in `/app/kit/text`.
fn with_history() -> Machine {
    let mut machine = Machine::new(MachineOptions::new(3, &services::kit()));
    for i in 0..TEXTS {
        assert_eq!(machine.call(put("/app/kit/text", json!(text(i)))).0, 200);
    }
    machine
}

/// The blocks of a chain in a reply.
pub fn history(state: &State) -> (State, State, Vec<Block>) {
    let State::Chain(Chain::Content(content)) = state else { panic!("not a chain: {state:?}") };
    let Blocks::Known(blocks) = &content.blocks else { panic!("not read: {content:?}") };
    (content.schema.clone(), content.subject.clone(), blocks.clone())
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

/// The previous hashes, and how many transactions each block has.
fn outline(blocks: &[Block]) -> Vec<(Vec<u8>, usize)> {
    blocks.iter().map(|block| (block.previous.clone(), block.transactions.len())).collect()
}

/// A history as it was shown, before anybody has read it.
fn unread(machine: &mut Machine, request: Request) -> State {
    machine.leaves_streams = true;
    let (id, event) = machine.ask(request);
    let mut events = vec![event];
    loop {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        if let Some((_, reply)) = outputs.replies.into_iter().find(|(answered, _)| *answered == id) {
            return reply.expect("a good answer");
        }
    }
}

fn stored(state: &State) -> HistorySnapshot {
    match state {
        State::Chain(Chain::Content(content)) => match &content.blocks {
            Blocks::Stored(history) => (**history).clone(),
            known => panic!("not left in storage: {known:?}"),
        },
        other => panic!("not a chain: {other:?}"),
    }
}

#[test]
fn a_history_is_read_out_of_storage_as_it_was_when_it_was_asked_for() {
    on_program_stack(|| {
        let mut machine = with_history();
        let shown = unread(&mut machine, get("/app/kit/text/chain"));
        let before = HistoryReader::new(stored(&shown).into()).blocks(&machine.reader(), u64::MAX).unwrap();
        assert_eq!(before.iter().map(|block| block.transactions.len()).sum::<usize>(), TEXTS);
        for i in 0..TEXTS {
            assert_eq!(machine.call(put("/app/kit/text", json!(text(i)))).0, 200);
        }
        let after = HistoryReader::new(stored(&shown).into()).blocks(&machine.reader(), u64::MAX).unwrap();
        assert_eq!(outline(&before), outline(&after), "what came later is not in it");
        machine.leaves_streams = false;
        let whole = machine.read(get("/app/kit/text/chain"));
        check_history(&whole);
        let (.., blocks) = history(&whole);
        assert_eq!(blocks.iter().map(|block| block.transactions.len()).sum::<usize>(), 2 * TEXTS);
    });
}

#[test]
fn what_the_reader_has_recorded_itself_comes_last() {
    on_program_stack(|| {
        let mut machine = with_history();
        let read = json!([["w", { "/app/kit/text": [null, "mine"] }], ["r", { "/state/scalar/ref/after": [{ "$w": [] }, { "/app/kit/text/chain": [null] }] }]]);
        let shown = machine.read(post("/transact/hypothetical", read));
        check_history(&shown);
        let (.., blocks) = history(&shown);
        let transactions = blocks.iter().map(|block| block.transactions.len()).sum::<usize>();
        assert_eq!(transactions, TEXTS + 1);
        let (.., committed) = history(&machine.read(get("/app/kit/text/chain")));
        assert_eq!(committed.iter().map(|block| block.transactions.len()).sum::<usize>(), TEXTS);
    });
}

#[test]
fn blocks_are_read_by_their_numbers() {
    on_program_stack(|| {
        let mut machine = with_history();
        let (.., all) = history(&machine.read(get("/app/kit/text/chain")));
        assert!(all.len() > 3, "only {} blocks", all.len());
        let mut some = |key: serde_json::Value| {
            let asked = request(Verb::Get, "/app/kit/text/chain", key, json!(null));
            match machine.read(asked) {
                State::Chain(Chain::Blocks(shown)) => match &shown.blocks {
                    Blocks::Known(blocks) => (shown.is_one, outline(blocks)),
                    other => panic!("not read: {other:?}"),
                },
                other => panic!("not blocks: {other:?}"),
            }
        };
        for i in 0..all.len() {
            assert_eq!(some(json!(i)), (true, outline(&all[i..=i])));
        }
        assert_eq!(some(json!([1, 3])), (false, outline(&all[1..3])));
        assert_eq!(some(json!([["ex", 1], null])), (false, outline(&all[2..])));
        assert_eq!(some(json!([7, 99])), (false, outline(&[])));
    });
}

#[test]
fn a_damaged_block_is_an_error_of_who_reads_it() {
    on_program_stack(|| {
        let mut machine = with_history();
        let shown = stored(&unread(&mut machine, get("/app/kit/text/chain")));
        let all = HistoryReader::new(shown.clone().into()).blocks(&machine.reader(), u64::MAX).unwrap();
        let (id, _) = all[1].transactions[1];
        let keys = machine.stored_keys(Keyspace::Blocks);
        let key = keys.into_iter().find(|key| key.ends_with(&id.to_bytes())).unwrap();
        let kept = machine.reader().get(Keyspace::Blocks, &key).unwrap().unwrap();
        let mut damage = |value: Option<Vec<u8>>| {
            let write = Write { keyspace: Keyspace::Blocks, key: key.clone(), value: value.map(Into::into) };
            machine.store(vec![write]);
            let mut text = Vec::new();
            let mut reader = HistoryReader::new(shown.clone().into());
            loop {
                match reader.write_json(&machine.reader(), &mut text, usize::MAX) {
                    Ok(true) => return Ok(text),
                    Ok(false) => {}
                    Err(cause) => return Err(cause),
                }
            }
        };
        assert!(damage(Some(kept.to_vec())).is_ok());
        let cut = kept[..kept.len() - 1].to_vec();
        let mut other = kept.to_vec();
        *other.iter_mut().rev().find(|byte| byte.is_ascii_lowercase()).unwrap() ^= 1;
        for value in [None, Some(vec![]), Some(cut), Some(other)] {
            let cause = damage(value).unwrap_err();
            assert_eq!(cause.kind(), components::ErrorKind::Internal);
            assert!(cause.message().contains("block 1"), "{cause}");
        }
        assert!(damage(Some(kept.to_vec())).is_ok());
        assert_eq!(machine.call(put("/app/kit/text", json!("on"))).0, 200);
    });
}
