use components::value::document::Document;
use components::value::limits::DOCUMENT_DEPTH_MAX;
use components::{ErrorKind, Number};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

/// The document as the value of another JSON library.
fn to_json(document: Document) -> Json {
    match document {
        Document::Null => Json::Null,
        Document::Number(Number::Bool(flag)) => flag.into(),
        Document::Number(Number::I64(number)) => number.into(),
        Document::Number(Number::U64(number)) => number.into(),
        Document::Number(Number::F64(number)) => number.into(),
        Document::String(text) => text.into(),
        Document::List(items) => items.iter().map(|item| to_json(*item)).collect(),
        Document::Map(entries) => {
            entries.iter().map(|(name, item)| (name.to_string(), to_json(*item))).collect()
        }
        other => panic!("JSON has no {}", other.kind()),
    }
}

fn parse(text: &str) -> Result<Json> {
    with_copy(text.as_bytes(), |document| Ok(to_json(document)))
}

fn message(text: &[u8]) -> String {
    let error = with_copy(text, |document| Ok(to_json(document))).expect_err("invalid");
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    error.message().to_string()
}

#[test]
fn integers_are_exact() {
    for (text, number) in [
        ("0", Number::I64(0)),
        ("9223372036854775807", Number::I64(i64::MAX)),
        ("-9223372036854775808", Number::I64(i64::MIN)),
        ("9223372036854775808", Number::U64(1 << 63)),
        ("18446744073709551615", Number::U64(u64::MAX)),
        ("999999999999999999", Number::I64(999_999_999_999_999_999)),
    ] {
        with_copy(text.as_bytes(), |document| {
            assert!(matches!(document, Document::Number(found) if found == number), "{text}: {document:?}");
            Ok(())
        })
        .unwrap();
    }
    for text in ["18446744073709551616", "[1,-9223372036854775809]", "99999999999999999999999999999"] {
        assert!(message(text.as_bytes()).contains("out of the range"), "{text}");
    }
}

#[test]
fn floats_are_floats() {
    for (text, float) in [("1.0", 1.0), ("1e5", 1e5), ("1E5", 1e5), ("-0.0", -0.0), ("5e-324", 5e-324)] {
        with_copy(text.as_bytes(), |document| {
            let Document::Number(Number::F64(found)) = document else { panic!("{text}: {document:?}") };
            assert_eq!(found.to_bits(), f64::to_bits(float), "{text}");
            Ok(())
        })
        .unwrap();
    }
    message(b"1e999");
}

#[test]
fn duplicates_and_order_are_kept() {
    with_copy(br#"{"b":1,"a":2,"b":3}"#, |document| {
        let Document::Map(entries) = document else { panic!("{document:?}") };
        assert_eq!(entries.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "a", "b"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn escapes_are_decoded() {
    let text = r#""\n\u00e9\ud83d\ude00\"\\\/""#;
    assert_eq!(parse(text).unwrap(), Json::from("\né😀\"\\/"));
}

#[test]
fn errors_say_what_and_where() {
    for (text, what) in [
        (&b"NaN"[..], "byte 0"),
        (b"[1, NaN]", "byte 4"),
        (b"[1, Infinity]", "byte 4"),
        (b"-Infinity", "byte 0"),
        (b"1 2", "byte 2: text after the value"),
        (b"{} x", "byte 3: text after"),
        (b"[1] 2", "byte 4: text after"),
        (b"[1,]", "byte 3: expected a value"),
        (b"[}", "byte 1: expected a value"),
        (b"[]]", "byte 2: text after"),
        (b"\"a\xff\"", "byte 2: not UTF-8"),
        (b"", "no value"),
        (b" \n", "no value"),
        (b"[1,", "ends early"),
        (b"\"a", "ends early"),
        (b"{\"a\" 1}", "byte 5: expected ':'"),
        (b"[01]", "byte 1"),
        (b"[1.]", "byte 1"),
        (b"{1:2}", "byte 1"),
        (b"\"\\x\"", "escape"),
        (b"nul", "byte 0: expected null"),
    ] {
        let found = message(text);
        assert!(found.contains(what), "{:?}: {found}", String::from_utf8_lossy(text));
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(parse(&nested(DOCUMENT_DEPTH_MAX)).is_ok());
    for levels in [DOCUMENT_DEPTH_MAX + 1, 1_000, 100_000, 1_000_000] {
        let found = message(nested(levels).as_bytes());
        assert!(found.contains(&format!("byte {DOCUMENT_DEPTH_MAX}: nested deeper")), "{found}");
    }
    message(&b"[".repeat(100_000));
    message(&br#"{"a":"#.repeat(100_000));
}

#[test]
fn values_are_limited() {
    assert!(check_values(b"[1,2,3]", 4).is_ok());
    assert!(check_values(b"[1,2,3,4,5]", 5).is_err());
    assert!(check_values(br#"",[,{,\",,,,:::""#, 3).is_ok());
    let error = with_document(&mut vec![b','; 2 * DOCUMENT_VALUES_MAX + 2], |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn a_reader_may_parse() {
    let outer = with_copy(b"[1]", |outer| {
        let inner = with_copy(b"[2]", |inner| Ok(to_json(inner)))?;
        Ok((to_json(outer), inner))
    });
    assert_eq!(outer.unwrap(), (serde_json::json!([1]), serde_json::json!([2])));
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO).prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn texts_of_another_library_round_trip(json in any_json()) {
        prop_assert_eq!(&parse(&json.to_string()).unwrap(), &json);
        prop_assert_eq!(&parse(&serde_json::to_string_pretty(&json).unwrap()).unwrap(), &json);
    }

    #[test]
    fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = with_copy(&bytes, |document| Ok(to_json(document)));
    }

    /// Texts of the right alphabet reach further than any bytes do; another library must agree.
    #[test]
    fn nearly_json_is_judged_as_by_another_library(text in "[\\[\\]{},:\"\\\\ntrueflas0-9.eE+ -]{0,24}") {
        let expected = serde_json::from_str::<Json>(&text);
        match (parse(&text), expected) {
            (Ok(found), Ok(expected)) => {
                // Integers beyond u64 and -0 differ by design; a text has either.
                prop_assert!(found == expected || text.contains("-0"), "{found} {expected}");
            }
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => prop_assert!(error.message().contains("out of the range"), "{error}"),
            (Ok(found), Err(error)) => prop_assert!(false, "{found} {error}"),
        }
    }
}

#[test]
fn a_text_is_weighed_as_it_is_decoded() {
    let weigh = |text: &str| {
        let Weight { values, states } = weigh(text.as_bytes());
        (values, states)
    };
    assert_eq!(weigh("1"), (1, 1));
    assert_eq!(weigh(r#"[1, "a,[{", null]"#), (4, 4));
    assert_eq!(weigh(r#"[[], {}, [ ], "\",\\"]"#), (5, 5));
    assert_eq!(weigh(r#"[{"a": 0}, {"a": 0, "b": [1, 2]}]"#), (8, 8));
    assert_eq!(weigh(r#"[{"$x": [1, 2, [3]]}, 4]"#), (8, 3), "a reference is one state, whatever it holds");
    assert_eq!(weigh(r#"[{"/state/scalar/op/post": [["a", 1]]}, {"height": 1}]"#), (8, 4));
    assert_eq!(weigh(r#"{"http://h/a": {"b": [1]}}"#).1, 1);
    for malformed in ["", "[", "\"", "\"\\", "]]]", "{\"a", "[{"] {
        assert!(super::weigh(malformed.as_bytes()).values <= 3, "{malformed}");
    }
}
