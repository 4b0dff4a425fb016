//! The house: what may know what. Cargo keeps the crates in order; this keeps the rooms inside them.
//!
//! It reads the source. A *file* is a module with the modules inside its folder: those are one idea, in pieces. Of a crate
//! with rooms, no file may name anything in a room above its own, tests included. In every crate, files that name each
//! other in a circle are those of [`CIRCLES`], each with its reason, and no others.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Crate, functions, sources};

/// The rooms of a crate, from the bottom to the top.
const ROOMS: [(&str, &[&str]); 1] =
    [("components", &["value", "rows", "language", "hosting", "transaction"])];

/// Other folders that hold files, and not one idea in pieces.
const FOLDERS: [(&str, &str); 1] = [("io", "http")];

/// The crates, and the files of each that are one circle on purpose.
const CIRCLES: [(&str, &[&[&str]]); 4] = [
    (
        "components",
        &[
            // A state holds chains, collections, classes and ops, each of which holds states; and what is written in one
            // form may hold any other.
            &[
                "language::cast",
                "language::chain",
                "language::class",
                "language::collection",
                "language::decode",
                "language::encode",
                "language::op",
                "language::reference",
                "language::state",
                "language::tbon",
            ],
        ],
    ),
    ("systems", &[]),
    ("world", &[]),
    ("io", &[]),
];

#[test]
fn no_file_knows_a_room_above_its_own() {
    for (name, rooms) in ROOMS {
        let house = Crate::read(name);
        let floor = |module: &str| {
            let room = module.split("::").next().unwrap_or_default();
            rooms
                .iter()
                .position(|other| *other == room)
                .unwrap_or_else(|| panic!("{module} is in no room of {name}"))
        };
        let mut up = Vec::new();
        for reference in house.references().iter().filter(|reference| !reference.from.is_empty()) {
            if floor(&reference.to) > floor(&reference.from) {
                up.push(format!(
                    "{}:{}: {} knows {}",
                    reference.path, reference.line, reference.from, reference.to
                ));
            }
        }
        assert!(up.is_empty(), "what is below must not know what is above:\n{}", up.join("\n"));
    }
}

#[test]
fn files_know_each_other_in_a_circle_only_for_a_reason() {
    for (name, expected) in CIRCLES {
        let house = Crate::read(name);
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for reference in house.references().iter().filter(|reference| !reference.is_test) {
            let (from, to) = (house.file(&reference.from), house.file(&reference.to));
            if from != to && !from.is_empty() && !to.is_empty() {
                edges.entry(from).or_default().insert(to);
            }
        }
        let expected: BTreeSet<Vec<String>> =
            expected.iter().map(|circle| circle.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(circles(&edges), expected, "the circles of {name}");
    }
}

/// The largest sets of nodes each of which leads to every other.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        edges.keys().map(|from| (from, reachable(edges, from))).collect();
    let circle = |one: &&String| -> Vec<String> {
        let mutual =
            reach[*one].iter().filter(|other| reach.get(**other).is_some_and(|back| back.contains(one)));
        mutual.map(|other| other.to_string()).collect()
    };
    reach.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

fn reachable<'a>(edges: &'a BTreeMap<String, BTreeSet<String>>, from: &String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = edges.get(from).into_iter().flatten().collect();
    while let Some(one) = next.pop() {
        if seen.insert(one) {
            next.extend(edges.get(one).into_iter().flatten());
        }
    }
    seen
}

/// The most lines of a function: it can be seen as a whole.
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn functions_can_be_seen_as_a_whole() {
    let mut long = Vec::new();
    let mut seen = 0;
    for (name, _) in CIRCLES {
        for (path, source) in sources(name) {
            for (line, lines) in functions(&path, &source) {
                seen += 1;
                if lines > FUNCTION_LINES_MAX {
                    long.push(format!("{path}:{line}: {lines} lines"));
                }
            }
        }
    }
    assert!(seen > 1_000, "only {seen} functions");
    assert_eq!(long, Vec::<String>::new(), "a function has at most {FUNCTION_LINES_MAX} lines");
    let body = "        g();\n".repeat(80);
    let planted = format!("impl A {{\n    pub async fn f() {{\n{body}    }}\n}}\n");
    assert_eq!(functions("planted", &planted), [(2, 82)]);
}

#[test]
fn what_points_up_or_around_is_seen() {
    let house = Crate::of(
        "planted",
        &[
            ("lib.rs", "pub mod a; pub mod b; pub use b::Top;"),
            ("a.rs", "use crate::b::Top; pub mod inner;"),
            ("a/inner.rs", "use super::super::b::{self as other, Top}; fn f() -> super::A { crate::b::g() }"),
            (
                "b.rs",
                "pub struct Top; #[cfg(test)] mod tests { use super::*; use crate::a; } fn g(_: crate::Top) {}",
            ),
        ],
    );
    let found: BTreeSet<(String, String, bool)> =
        house.references().iter().map(|one| (one.from.clone(), one.to.clone(), one.is_test)).collect();
    let expect = |from: &str, to: &str, is_test| found.contains(&(from.to_string(), to.to_string(), is_test));
    assert!(expect("a", "b", false), "a use: {found:?}");
    assert!(expect("a::inner", "b", false), "a use by super, and a path");
    assert!(expect("a::inner", "a", false), "a path by super");
    assert!(expect("b", "a", true), "a test");
    assert_eq!(house.file("a::inner"), "a");
    let edges = [("a", "b"), ("b", "a"), ("c", "a")];
    let edges = edges.iter().map(|(from, to)| (from.to_string(), BTreeSet::from([to.to_string()]))).collect();
    assert_eq!(circles(&edges), BTreeSet::from([vec!["a".to_string(), "b".to_string()]]));
}
