//! Whether the arena helps: `cargo bench -p io --bench json`.
//!
//! Each text is parsed into our arena documents, into simd-json's own values (borrowed and owned, with reused
//! buffers), into an owned document built from the same tape, and into serde_json's; then with the state decoder
//! behind it, as a request does.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use components::language::decode;
use io::json::with_document;
use simd_json::{Buffers, Node, StaticNode, Tape};

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(60);

/// What our document would be without an arena.
#[allow(dead_code, reason = "only built and dropped")]
enum Owned<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    String(&'a str),
    List(Vec<Owned<'a>>),
    Map(Vec<(&'a str, Owned<'a>)>),
}

fn owned<'a>(nodes: &mut std::slice::Iter<'_, Node<'a>>) -> Owned<'a> {
    match *nodes.next().unwrap() {
        Node::Static(StaticNode::Null) => Owned::Null,
        Node::Static(StaticNode::Bool(flag)) => Owned::Bool(flag),
        Node::Static(StaticNode::I64(number)) => Owned::Integer(number),
        Node::Static(StaticNode::U64(number)) => Owned::Unsigned(number),
        Node::Static(StaticNode::F64(number)) => Owned::Float(number),
        Node::String(text) => Owned::String(text),
        Node::Array { len, .. } => Owned::List((0..len).map(|_| owned(nodes)).collect()),
        Node::Object { len, .. } => Owned::Map(
            (0..len)
                .map(|_| {
                    let Some(Node::String(name)) = nodes.next() else { unreachable!() };
                    (*name, owned(nodes))
                })
                .collect(),
        ),
    }
}

/// The best of some rounds, in nanoseconds for one text.
fn time(text: &str, mut parse: impl FnMut(&mut [u8])) -> f64 {
    let mut copy = text.as_bytes().to_vec();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (mut count, start) = (0_u32, Instant::now());
        while start.elapsed() < ROUND {
            // Parsing destroys the text; every contender pays for the copy.
            copy.copy_from_slice(text.as_bytes());
            parse(&mut copy);
            count += 1;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    best
}

fn main() {
    let call = r#"{"$self/parcels": [[{"$id": []}], [{"$city": []}, {"$grams": []}]]}"#;
    let op = format!(
        r#"[["a", 2], ["b", {{"$a/add": [3]}}], {}, ["_return", {{"/state/scalar/ref/if": [{{"$a/gt": [1]}}, {call}, 0]}}]]"#,
        vec![format!(r#"["step", {call}]"#); 10].join(", ")
    );
    let rows = |count: usize| {
        let row =
            |i: usize| format!(r#"{{"id": {i}, "city": "Oslo \u00e9", "grams": {i}.5, "tags": ["a", "b"]}}"#);
        format!("[{}]", (0..count).map(row).collect::<Vec<_>>().join(","))
    };
    let numbers = format!("[{}]", (0..100_000).map(|i| i.to_string()).collect::<Vec<_>>().join(","));
    let texts: HashMap<_, _> = [
        ("1 key", r#""Hello""#.to_string()),
        ("2 call", r#"{"id":12,"city":"Oslo","grams":750}"#.to_string()),
        ("3 op", op),
        ("4 rows", rows(1_000)),
        ("5 more rows", rows(20_000)),
        ("6 numbers", numbers),
    ]
    .into();
    let mut names: Vec<_> = texts.keys().copied().collect();
    names.sort_unstable();
    println!("microseconds for one text (best of {ROUNDS} rounds); 'arena' is what the server uses\n");
    println!(
        "{:<12} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "text",
        "bytes",
        "arena",
        "tape+heap",
        "simd borrow",
        "simd owned",
        "serde_json",
        "arena+state",
        "decode alone"
    );
    for name in names {
        let text = &texts[name];
        let arena = time(text, |text| {
            with_document(text, |document| {
                black_box(document);
                Ok(())
            })
            .unwrap()
        });
        let state = time(text, |text| drop(black_box(with_document(text, decode::state).unwrap())));
        let (mut buffers, mut kept) = (Buffers::default(), Some(Tape(Vec::new())));
        let heap = time(text, |text| {
            let mut tape = kept.take().unwrap().reset();
            simd_json::fill_tape(text, &mut buffers, &mut tape).unwrap();
            drop(black_box(owned(&mut tape.0.iter())));
            kept = Some(tape.reset());
        });
        let borrowed = time(text, |text| {
            drop(black_box(simd_json::to_borrowed_value_with_buffers(text, &mut buffers).unwrap()));
        });
        let owned = time(text, |text| {
            drop(black_box(simd_json::to_owned_value_with_buffers(text, &mut buffers).unwrap()));
        });
        let serde = time(text, |text| {
            drop(black_box(serde_json::from_slice::<serde_json::Value>(text).unwrap()));
        });
        let us = |ns: f64| format!("{:.2}", ns / 1000.0);
        println!(
            "{name:<12} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
            text.len(),
            us(arena),
            us(heap),
            us(borrowed),
            us(owned),
            us(serde),
            us(state),
            us(state - arena)
        );
    }
}
