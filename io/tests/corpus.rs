//! Every text of `tests/corpus`, and any text that looks like the language, goes through each parser and each
//! decoder: none may panic, hang or overflow.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bumpalo::Bump;
use components::language::{decode, encode, tbon};
use components::value::document::Document;
use proptest::prelude::*;

/// Half of what a thread of the server has.
const STACK_BYTES: usize = io::http::THREAD_STACK_BYTES / 2;

/// No text of the corpus takes longer, even on a busy machine and without optimisation.
const TEXT_TIMEOUT: Duration = Duration::from_secs(20);

fn decode_all(document: Document) {
    if let Ok(state) = decode::state(document) {
        let _ = encode::to_json(&state);
        let _ = decode::context(&state);
    }
    let _ = decode::scalar(document).map(|state| encode::to_json(&state));
    let _ = decode::key(document).map(|key| key.to_string());
}

#[test]
fn nasty_texts_are_values_or_errors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut failed = Vec::new();
    let mut texts: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    texts.sort();
    assert!(texts.len() > 80, "the corpus is missing");
    for path in texts {
        let text = std::fs::read(&path).unwrap();
        let (done, finished) = mpsc::channel();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ = io::json::with_copy(&text, |document| {
                decode_all(document);
                Ok(())
            });
            let arena = Bump::new();
            if let Ok(document) = tbon::parse(&text, &arena) {
                decode_all(document);
            }
            done.send(()).unwrap();
        });
        drop(thread.unwrap());
        if let Err(error) = finished.recv_timeout(TEXT_TIMEOUT) {
            failed.push(format!("{}: {error}", path.file_name().unwrap().display()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The classes that the decoders know.
const CLASSES: &str = "
    /state/map /state/tuple /state/closure /state/stream /state/class /state/object/class
    /state/object/instance /state/chain /state/chain/sync /state/chain/block /state/collection/btree
    /state/collection/table /state/collection/tensor/dense /state/collection/tensor/sparse /state/scalar
    /state/scalar/map /state/scalar/tuple /state/scalar/range /state/scalar/cluster /state/scalar/op
    /state/scalar/op/get /state/scalar/op/put /state/scalar/op/post /state/scalar/op/delete
    /state/scalar/ref /state/scalar/ref/after /state/scalar/ref/before /state/scalar/ref/case
    /state/scalar/ref/id /state/scalar/ref/if /state/scalar/ref/new /state/scalar/ref/while
    /state/scalar/ref/with /state/scalar/ref/op/get /state/scalar/ref/op/put /state/scalar/ref/op/post
    /state/scalar/ref/op/delete /state/scalar/value /state/scalar/value/none /state/scalar/value/bytes
    /state/scalar/value/id /state/scalar/value/link /state/scalar/value/string /state/scalar/value/tuple
    /state/scalar/value/number /state/scalar/value/number/bool /state/scalar/value/number/int
    /state/scalar/value/number/int/16 /state/scalar/value/number/int/64 /state/scalar/value/number/uint
    /state/scalar/value/number/uint/8 /state/scalar/value/number/uint/64
    /state/scalar/value/number/float /state/scalar/value/number/float/32
    /state/scalar/value/number/complex /state/scalar/value/number/complex/64
";

/// JSON whose names are those of the language, so that it reaches every branch of the decoders.
fn any_program() -> impl Strategy<Value = serde_json::Value> {
    let name = prop_oneof![
        4 => prop::sample::select(CLASSES.split_whitespace().collect::<Vec<_>>()),
        1 => prop::sample::select(vec!["$x", "$self/a", "a", "_return", "/a/b", "http://[::1]:80/a", "", "$", "x y"]),
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        prop::sample::select(vec!["", "x", "$x", "/a", "5", "1e999", "YWI=", "NaN", "é"])
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(8, 60, 4, move |inner| {
        let entry = (name.clone(), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(serde_json::Value::from),
            entry.clone().prop_map(|(name, item)| serde_json::json!({ name: item })),
            prop::collection::vec(entry, 0..3).prop_map(|entries| {
                entries.into_iter().map(|(name, item)| (name.to_string(), item)).collect()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn programs_are_values_or_errors(program in any_program()) {
        let _ = io::json::with_copy(program.to_string().as_bytes(), |document| {
            decode_all(document);
            Ok(())
        });
        let _ = tbon::parse(&tbon::encode(&program), &Bump::new()).map(decode_all);
    }

    #[test]
    fn any_bytes_are_values_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = tbon::parse(&bytes, &Bump::new()).map(decode_all);
    }
}
