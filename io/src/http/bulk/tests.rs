use std::sync::{Arc, LazyLock};

use arrow_array::{ArrayRef, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use components::Value;
use components::hosting::cluster::ClusterConfig;
use components::language::chain::ChainAddress;
use components::language::collection::value_of;
use components::language::decode;
use components::rows::bulk::BulkRows;
use components::rows::coerce::{btree_row, table_row};
use components::rows::columns::Columns;
use components::rows::key::KeyRange;
use components::value::ids::ChainId;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::http::budget::{Account, Budget};
use crate::http::request::{self, LastPath};

/// `/shop/items` is a table, `/shop/tags` a BTree, `/shop/both` one of each, `/shop/names` a map, `/shop/odd` a table of
/// all the other types.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let config = r#"{"/shop": {
        "items": {"/state/chain/sync": [{"/state/collection/table": [[
            [[["sku", {"/state/scalar/value/number/uint/64": {}}]],
             [["color", {"/state/scalar/value/string": {}}, 8], ["qty", {"/state/scalar/value/number/int/32": {}}]]],
            []]]}]},
        "tags": {"/state/chain/sync": [{"/state/collection/btree": [[
            ["tag", {"/state/scalar/value/string": {}}, 40], ["n", {"/state/scalar/value/number/int/64": {}}]]]}]},
        "both": {"/state/chain/block": [[
            {"/state/collection/table": [[[[["k", {"/state/scalar/value/string": {}}, 40]], []], []]]},
            {"/state/collection/btree": [[["k", {"/state/scalar/value/string": {}}, 40]]]}]]},
        "odd": {"/state/chain/sync": [{"/state/collection/table": [[
            [[["k", {"/state/scalar/value": {}}, 100]],
             [["f", {"/state/scalar/value/number/float/64": {}}], ["b", {"/state/scalar/value/number/bool": {}}],
              ["i", {"/state/scalar/value/id": {}}, 100], ["l", {"/state/scalar/value/link": {}}, 100],
              ["raw", {"/state/scalar/value/bytes": {}}, 100], ["t", {"/state/scalar/value/tuple": {}}, 100],
              ["any", {"/state/scalar/value": {}}, 100]]],
            []]]}]},
        "names": {"/state/chain/sync": [{"a": 1}]}
    }}"#;
    let clusters = crate::json::with_copy(config.as_bytes(), ClusterConfig::decode).unwrap();
    let mut catalog = Catalog::new("http://127.0.0.1:8702", [0; 32]);
    for cluster in clusters {
        let chains: Vec<ChainAddress> = cluster.chains().map(|spec| spec.address).collect();
        let number = |address: &ChainAddress| {
            ChainId(chains.iter().position(|one| one == address).unwrap().try_into().unwrap())
        };
        catalog.add(cluster, [0; 32], number).unwrap();
    }
    catalog
});

fn schema(path: &str) -> Arc<Schema> {
    collection(&CATALOG, Path::parse(path).unwrap().segments()).unwrap().0
}

fn free(_: usize) -> Result<()> {
    Ok(())
}

/// What becomes of a request.
fn sent(verb: Verb, target: &str, content_type: &str, body: &[u8]) -> Result<Option<State>> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    let head = request::head(verb, &target.parse().unwrap(), &LastPath::default())?;
    let media_type = MediaType::of(&headers)?;
    let expected = match media_type {
        MediaType::Json => expected_json(&CATALOG, &head, body),
        _ => expected(&CATALOG, media_type, &head)?,
    };
    let Some(expected) = expected else { return Ok(None) };
    let mut charge = Charge::new(&Account::new(&Arc::new(Budget::new(1 << 20))));
    Ok(expected.decode(body.to_vec(), &mut charge)?.ok())
}

fn rows(columns: &Columns) -> String {
    let positions: Vec<usize> = (0..columns.types().len()).collect();
    let mut text = Vec::new();
    for row in 0..columns.len() {
        columns.write_json_row(row, &positions, &mut text).unwrap();
    }
    String::from_utf8(text).unwrap()
}

/// The rows that a request writes, in order of key.
fn written(target: &str, content_type: &str, body: impl AsRef<[u8]>) -> std::result::Result<String, String> {
    match sent(Verb::Put, target, content_type, body.as_ref()) {
        Ok(Some(State::Bulk(bulk))) => match bulk.rows() {
            BulkRows::Resident(columns) => Ok(rows(columns)),
            BulkRows::Spilled(_) => unreachable!("a body that is here is decoded in memory"),
        },
        Ok(Some(_)) => unreachable!("rows are rows"),
        Ok(None) => Ok("ordinary".to_string()),
        Err(error) => Err(format!("{} {}", error.kind().status(), error.message())),
    }
}

fn stream(batches: &[Vec<(&str, ArrayRef)>]) -> Vec<u8> {
    let batches: Vec<RecordBatch> =
        batches.iter().map(|columns| RecordBatch::try_from_iter(columns.clone()).unwrap()).collect();
    let mut bytes = Vec::new();
    let schema = batches.first().map_or_else(
        || RecordBatch::try_from_iter(items(&[], &[], &[])).unwrap().schema(),
        RecordBatch::schema,
    );
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn items(skus: &[u64], colors: &[&str], quantities: &[i32]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("sku", Arc::new(UInt64Array::from(skus.to_vec()))),
        ("color", Arc::new(StringArray::from(colors.to_vec()))),
        ("qty", Arc::new(Int32Array::from(quantities.to_vec()))),
    ]
}

const ARROW: &str = "application/vnd.apache.arrow.stream";
const CSV: &str = "text/csv";
const JSON: &str = "application/json";

#[test]
fn the_same_rows_come_in_every_form() {
    let expected = Ok(r#"[3,"ochre",-1][7,"teal",2]"#.to_string());
    let batch = items(&[7, 3], &["teal", "ochre"], &[2, -1]);
    assert_eq!(written("/shop/items", ARROW, stream(&[batch])), expected);
    assert_eq!(written("/shop/items", CSV, "qty,sku,color\n2,7,teal\r\n-1,3,ochre\n"), expected);
    assert_eq!(written("/shop/items", JSON, r#" [[7, "teal", 2], [3,"ochre" ,-1]] "#), expected);
    // Of equal keys the last one remains.
    assert_eq!(
        written("/shop/items", "Text/CSV; charset=utf-8", "sku,color,qty\n7,red,1\n3,ochre,-1\n7,teal,2"),
        expected
    );
}

#[test]
fn only_a_put_without_a_key_at_a_hosted_collection_writes_rows() {
    let csv = "k\na\n";
    assert_eq!(written("/shop/both/0", CSV, csv), Ok(r#"["a"]"#.to_string()));
    assert_eq!(written("/shop/both/1", CSV, csv), Ok(r#"["a"]"#.to_string()));
    assert_eq!(written("/shop/both/0?key=null", CSV, csv), Ok(r#"["a"]"#.to_string()));
    for target in
        ["/shop/both", "/shop/both/2", "/shop/both/x", "/shop/names", "/shop/items/0", "/shop", "/state", "/"]
    {
        let error = written(target, CSV, csv).unwrap_err();
        assert!(
            error.starts_with("415 ") && error.contains("is not a hosted collection"),
            "{target}: {error}"
        );
        assert_eq!(written(target, JSON, "[[1]]"), Ok("ordinary".to_string()));
    }
    assert!(written("/shop/items?key=[1]", CSV, "x").unwrap_err().contains("this PUT has a key"));
    assert_eq!(written("/shop/items?key=[1]", JSON, "[[1]]"), Ok("ordinary".to_string()));
    assert!(sent(Verb::Post, "/shop/items", ARROW, b"").unwrap_err().message().contains("this is no PUT"));
    assert!(sent(Verb::Post, "/shop/items", JSON, b"[[1]]").unwrap().is_none());
    let row = r#"[[7, "teal", 2]]"#;
    assert_eq!(written("/shop/items", "text/plain", row), written("/shop/items", JSON, row));
}

#[test]
fn what_is_no_list_of_lists_is_an_ordinary_body() {
    let ordinary = Ok("ordinary".to_string());
    for body in [
        r#"["Oslo", 5]"#,
        r#"[["Oslo"], 5]"#,
        r#"[["Oslo", 1], {"a": [1]}]"#,
        "[]",
        "null",
        "",
        "{}",
        "7",
        "[[1],]",
    ] {
        assert_eq!(written("/shop/tags", JSON, body), ordinary, "{body}");
    }
    assert_eq!(written("/shop/tags", JSON, "[[\"Oslo\", 5]]"), Ok(r#"["Oslo",5]"#.to_string()));
    assert_eq!(written("/shop/items", JSON, " [ ] "), Ok(String::new()));
    assert_eq!(written("/shop/items", JSON, b"[[1, \"\xff\", 1]]"), ordinary);
}

#[test]
fn errors_name_the_row_and_the_column() {
    let json = |body: &str| written("/shop/items", JSON, body).unwrap_err();
    for (body, expected) in [
        (
            r#"[[1, "a", 1], [2, "a", 3000000000]]"#,
            "400 in the body: row 2, column qty: 3000000000 is out of the range",
        ),
        (r#"[[1, "a", 1], [2, "a"]]"#, "400 in the body: row 2: a row of this table has 3 values, not 2"),
        (r#"[[1, "a", 1, 4]]"#, "400 in the body: row 1: a row of this table has 3 values, not 4"),
        (r#"[[1, "123456789", 1]]"#, "400 in the body: row 1, column color: 9 characters are more than 8"),
        (r#"[[-1, "a", 1]]"#, "400 in the body: row 1, column sku: -1 is out of the range"),
        (
            r#"[[1, null, 1]]"#,
            "400 in the body: row 1, column color: None (/state/scalar/value/none) cannot be",
        ),
        (r#"[[1, "a", 1] [2]]"#, "400 in the body: invalid JSON at byte 13: expected ',' or ']', found '['"),
        (
            r#"[[1, "a", x]]"#,
            "400 in the body: row 1, column qty: invalid JSON at byte 10: expected a value, found 'x'",
        ),
        (r#"[[1, "a", 1]"#, "400 in the body: invalid JSON at byte 12: the text ends early"),
        (r#"[[1, "a"#, "400 in the body: row 1, column color: invalid JSON at byte 7: the text ends early"),
        (r#"[[1, "a", 01]]"#, "400 in the body: row 1, column qty: in the value at byte 10: invalid JSON"),
        (
            r#"[[1, "a", 1], 7]"#,
            "400 in the body: row 2: invalid JSON at byte 14: expected a row, which is a list",
        ),
        (r#"[[1, "a", 1]] 5"#, "400 in the body: invalid JSON at byte 14: text after the value"),
    ] {
        assert!(json(body).starts_with(expected), "{body}: {}", json(body));
    }
    let csv = |body: &str| written("/shop/items", CSV, body).unwrap_err();
    for (body, expected) in [
        ("", "400 in the body: the CSV has no header"),
        ("sku,color\n", "400 in the body: the column qty is missing"),
        ("sku,color,sku\n", "400 in the body: the column sku occurs twice"),
        ("sku,color,qty,x\n", "400 in the body: there is no column \"x\" in this table"),
        ("sku,color,x\n", "400 in the body: the column qty is missing, and there is no column \"x\""),
        (
            "sku,color,qty\n1,a,1\n2,a,\n",
            "400 in the body: row 2, column qty: an empty field is not a number",
        ),
        ("sku,color,qty\n1,a,1\n2,a\n", "400 in the body: row 2: a row of this table has 3 values, not 2"),
        ("sku,color,qty\n1,a,x\n", "400 in the body: row 1, column qty: "),
        ("sku,color,qty\n1,\"a,1\n", "400 in the body: the CSV ends within quotes"),
    ] {
        assert!(csv(body).starts_with(expected), "{body}: {}", csv(body));
    }
    let not_utf8 = written("/shop/items", CSV, b"sku,color,qty\n1,\xff,1\n").unwrap_err();
    assert_eq!(not_utf8, "400 in the body: the CSV is not UTF-8 at byte 16");
    let arrow =
        |batches: &[Vec<(&str, ArrayRef)>]| written("/shop/items", ARROW, stream(batches)).unwrap_err();
    let good = || items(&[1, 2], &["a", "b"], &[1, 2]);
    assert!(
        arrow(&[good(), items(&[3], &["123456789"], &[1])])
            .starts_with("400 in the body: row 3, column color: 9")
    );
    let mut renamed = good();
    renamed[0].0 = "id";
    assert!(arrow(&[renamed]).contains("there is no column \"id\" in this table"));
    assert!(arrow(&[good()[..2].to_vec()]).contains("the column qty is missing"));
    let mut null = good();
    null[2].1 = Arc::new(Int32Array::from(vec![Some(1), None]));
    assert!(arrow(&[null]).contains("row 2, column qty: null"));
}

#[test]
fn csv_has_quotes_and_empty_texts() {
    let text = "sku,color,qty\n1,\"a,\"\"b\",1\n2,,2\n3,\"x\ny\",3\n";
    assert_eq!(written("/shop/items", CSV, text), Ok(r#"[1,"a,\"b",1][2,"",2][3,"x\ny",3]"#.to_string()));
    assert_eq!(
        written("/shop/items", CSV, "\u{feff}sku,color,qty\n1,a,1\n"),
        Ok(r#"[1,"a",1]"#.to_string()),
        "a byte order mark is no part of a name"
    );
    let odd = "k,f,b,i,l,raw,t,any\n1,0.5,true,x,/a,YWI=,,\n";
    let error = written("/shop/odd", CSV, odd).unwrap_err();
    assert!(error.contains("row 1, column t"), "{error}");
}

#[test]
fn arrow_batches_are_widened_and_joined() {
    let narrow: Vec<(&str, ArrayRef)> = vec![
        ("qty", Arc::new(Int8Array::from(vec![-1]))),
        ("color", Arc::new(StringArray::from(vec!["red"]))),
        ("sku", Arc::new(Int64Array::from(vec![5]))),
    ];
    let expected = Ok(r#"[5,"red",-1][5,"red",-1]"#.replacen(r#"[5,"red",-1]"#, "", 1));
    assert_eq!(written("/shop/items", ARROW, stream(&[narrow.clone(), narrow])), expected);
    let none = items(&[], &[], &[]);
    assert_eq!(written("/shop/items", ARROW, stream(&[none])), Ok(String::new()));
    // The mark of the end may be missing: the body ends instead.
    let whole = stream(&[items(&[1], &["a"], &[1])]);
    assert_eq!(written("/shop/items", ARROW, &whole[..whole.len() - 8]), Ok(r#"[1,"a",1]"#.to_string()));
    let schema = stream(&[]);
    assert_eq!(written("/shop/items", ARROW, &schema[..schema.len() - 8]), Ok(String::new()));
    assert!(written("/shop/items", ARROW, [&whole[..], b"more"].concat()).unwrap_err().starts_with("400 "));
}

#[test]
fn a_truncated_stream_is_malformed() {
    let whole = stream(&[items(&[1, 2], &["a", "b"], &[1, 2])]);
    // Up to the mark of the end, which takes eight bytes.
    for len in 0..whole.len() - 8 {
        match written("/shop/items", ARROW, &whole[..len]) {
            Err(error) => assert!(error.starts_with("400 "), "{len}: {error}"),
            // All that is there is whole.
            Ok(rows) => assert_eq!(rows, "", "{len}"),
        }
    }
}

#[test]
fn rows_that_take_too_much_memory_are_refused() {
    let mut text = String::from("sku,color,qty\n");
    (0..30_000).for_each(|sku| text.push_str(&format!("{sku},a,1\n")));
    assert!(written("/shop/items", CSV, text).unwrap_err().starts_with("413 "));
}

/// The rows as an ordinary body has them.
fn ordinary(schema: &Schema, text: &str) -> Result<Columns> {
    let body = crate::json::with_copy(text.as_bytes(), decode::state)?;
    let Value::Tuple(rows) = value_of(&body)? else { panic!("{text} is a list") };
    let rows = rows.iter().map(|row| match (row, schema.kind()) {
        (Value::Tuple(row), CollectionKind::Table) => table_row(schema, row),
        (Value::Tuple(row), CollectionKind::BTree) => btree_row(schema, row),
        (other, _) => panic!("{other} is a list"),
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    Ok(Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..])))
}

fn any_json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<i64>().prop_map(|x| x.to_string()),
        any::<u64>().prop_map(|x| x.to_string()),
        (-5i8..5).prop_map(|x| x.to_string()),
        any::<f64>().prop_filter("JSON has no such number", |x| x.is_finite()).prop_map(|x| format!("{x:e}")),
        (-1e6..1e6).prop_map(|x: f64| x.to_string()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        Just("-0".to_string()),
        Just("-0.0".to_string()),
    ];
    let text =
        prop_oneof![".{0,4}", "[a-z\"\\\\\n]{0,4}"].prop_map(|text| serde_json::to_string(&text).unwrap());
    let leaf = prop_oneof![
        3 => number,
        3 => text,
        1 => prop::sample::select(vec![
            "null", "true", "false", r#""\u00e9\ud83d\ude00""#, r#""\ud800""#, r#"{"/a/b": []}"#, r#"{"x": []}"#,
            r#"{"/state/scalar/value/id": "a"}"#, r#"{"/state/scalar/value/bytes": "YWI="}"#, "{}", "[]",
            r#"{"/state/scalar/value/number/int/16": 5}"#, r#"{"$x": []}"#, r#""YWI=""#, r#""/a""#,
        ]).prop_map(String::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop::collection::vec(inner, 0..3).prop_map(|items| format!("[ {} ]", items.join(" , ")))
    })
}

fn any_json_rows() -> impl Strategy<Value = (&'static str, String)> {
    prop::sample::select(vec!["/shop/items", "/shop/tags", "/shop/odd", "/shop/both/0"]).prop_flat_map(
        |path| {
            let columns = schema(path).columns().len();
            let row = prop_oneof![
                9 => prop::collection::vec(any_json(), columns),
                1 => prop::collection::vec(any_json(), 0..4),
            ];
            let row = row.prop_map(|row| format!("[{}]", row.join(",")));
            (Just(path), prop::collection::vec(row, 1..3).prop_map(|rows| format!("[{}]", rows.join(","))))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn json_rows_are_what_the_ordinary_decoder_makes_of_them((path, text) in any_json_rows()) {
        let schema = schema(path);
        match (json(&schema, text.as_bytes(), &mut free), ordinary(&schema, &text)) {
            (Ok(Some(actual)), Ok(expected)) => {
                let all = |columns: &Columns| -> Vec<String> {
                    (0..columns.len()).map(|row| format!("{:?}", columns.row(row))).collect()
                };
                prop_assert_eq!(all(&actual), all(&expected), "{}", text);
            }
            (Err(actual), Err(expected)) => prop_assert_eq!(actual.kind(), expected.kind(), "{} {}", text, actual),
            (actual, expected) => prop_assert!(false, "{actual:?}, not {expected:?}: {text}"),
        }
    }

    #[test]
    fn broken_json_rows_never_panic(
        (path, text) in any_json_rows(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"[]{}\",:\\0-x \xff".to_vec()),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = text.into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let schema = schema(path);
        let _ = json(&schema, &bytes, &mut free);
        let _ = json(&schema, &bytes[..end.index(bytes.len())], &mut free);
    }

    #[test]
    fn any_bytes_are_rows_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for content_type in [ARROW, CSV, JSON] {
            let _ = written("/shop/items", content_type, &bytes);
        }
    }

    #[test]
    fn damaged_streams_are_rows_or_an_error(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        words in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::sample::select(vec![-1i64, i64::MIN, i64::MAX, 1 << 31, 1 << 40, 0])),
            0..2,
        ),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        is_dictionary in any::<bool>(),
    ) {
        let mut batch = items(&[1, 2, 3], &["a", "b", "c"], &[1, 2, 3]);
        if is_dictionary {
            let colors: arrow_array::DictionaryArray<arrow_array::types::Int8Type> = ["x", "y", "x"].into_iter().collect();
            batch[1].1 = Arc::new(colors);
        }
        let mut bytes = stream(&[batch]);
        for (word, value) in words {
            let at = word.index(bytes.len() / 8) * 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let len = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
        if let Err(error) = written("/shop/items", ARROW, &bytes[..len]) {
            prop_assert!(error.starts_with("400 ") || error.starts_with("413 "), "{}", error);
        }
    }
}

/// The rows that a body writes which arrives in pieces of so many bytes, in order of key, and whether they went to the
/// workspace.
fn arrived(
    target: &str,
    content_type: &str,
    body: &[u8],
    (piece_bytes, memory_bytes): (usize, usize),
    is_complete: bool,
) -> std::result::Result<(String, bool), String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    let head = request::head(Verb::Put, &target.parse().unwrap(), &LastPath::default()).unwrap();
    let expected = expected(&CATALOG, MediaType::of(&headers).unwrap(), &head).unwrap().unwrap();
    assert!(expected.is_unbounded());
    let directory = tempfile::tempdir().unwrap();
    let workspace = Workspace::within(directory.path().to_path_buf(), memory_bytes, Arc::default());
    let account = Account::new(&Arc::new(Budget::new(1 << 20)));
    let (mut charge, mut held) = (Charge::new(&account), Charge::new(&account));
    let (first, rest) = body.split_at(piece_bytes.min(body.len()));
    let (sender, pieces) = tokio::sync::mpsc::channel(body.len() + 1);
    for piece in rest.chunks(piece_bytes) {
        sender.try_send(Piece::Bytes(piece.to_vec().into())).unwrap();
    }
    if is_complete {
        sender.try_send(Piece::End).unwrap();
    }
    drop(sender);
    let charges = (&mut charge, &mut held);
    let state = expected.decode_arriving(first.to_vec(), (pieces, None), &workspace, 1 << 16, charges);
    let state = state.map_err(|error| format!("{} {}", error.kind().status(), error.message()))?;
    let State::Bulk(bulk) = state else { unreachable!("rows are rows") };
    match bulk.rows() {
        BulkRows::Resident(columns) => Ok((rows(columns), false)),
        BulkRows::Spilled(runs) => {
            let columns = runs.gather(&bulk.schema().layouts()[0], &KeyRange::all()).unwrap();
            Ok((rows(&columns), true))
        }
    }
}

/// Batches of rows of which some have the same key.
fn many_items(batches: u64) -> Vec<Vec<(&'static str, ArrayRef)>> {
    let batch = |i: u64| {
        let skus: Vec<u64> = (0..50).map(|n| (i * 50 + n) * 7_919 % 1_000).collect();
        let colors: Vec<String> = (0..50).map(|n| format!("c{i} {n}")).collect();
        let colors: Vec<&str> = colors.iter().map(String::as_str).collect();
        items(&skus, &colors, &[i as i32; 50])
    };
    (0..batches).map(batch).collect()
}

#[test]
fn rows_that_arrive_in_pieces_are_those_of_the_whole_body() {
    let arrow = stream(&many_items(20));
    let mut unmarked = arrow.clone();
    unmarked.truncate(arrow.len() - 8);
    let mut csv = "sku,color,qty\n".to_string();
    for i in 0..1_000 {
        csv.push_str(&format!("{},\"c\"\"{i}\",{i}\n", i * 7_919 % 300));
    }
    for (content_type, body) in [(ARROW, &arrow[..]), (ARROW, &unmarked[..]), (CSV, csv.as_bytes())] {
        let whole = written("/shop/items", content_type, body).unwrap();
        for (piece_bytes, memory_bytes) in
            [(1, 1_000), (7, 3_000), (1_000, 5_000), (1 << 20, 1), (64, 1 << 20)]
        {
            let (rows, is_spilled) =
                arrived("/shop/items", content_type, body, (piece_bytes, memory_bytes), true).unwrap();
            assert_eq!(rows, whole, "{content_type} in pieces of {piece_bytes} bytes");
            assert_eq!(is_spilled, memory_bytes < 1 << 20);
        }
    }
}

#[test]
fn errors_count_the_rows_of_the_whole_body() {
    let mut batches = many_items(20);
    batches.push(items(&[1, 2], &["fine", "far too long"], &[1, 2]));
    let why = |content_type, body: &[u8], is_complete| {
        arrived("/shop/items", content_type, body, (100, 1_000), is_complete).unwrap_err()
    };
    let expected = "400 in the body: row 1002, column color: ";
    assert!(why(ARROW, &stream(&batches), true).starts_with(expected));
    let lines: String = (0..1_001).map(|i| format!("{i},c,1\n")).collect();
    let csv = |last: &str| format!("sku,color,qty\n{lines}{last}\n");
    assert!(why(CSV, csv("7,far too long,1").as_bytes(), true).starts_with(expected));
    assert!(why(CSV, csv("7,c").as_bytes(), true).contains("row 1002: "));
    let not_utf8 = [csv("").as_bytes(), b"7,\xff,1\n"].concat();
    assert!(why(CSV, &not_utf8, true).contains("row 1002, column color: it is not UTF-8"));
    assert!(why(CSV, csv("\"7,c,1").as_bytes(), true).starts_with("400 "));
    let endless = csv(&format!("\"{}", "x".repeat(1 << 17)));
    assert!(why(CSV, endless.as_bytes(), true).starts_with("413 "));
    let huge = stream(&[items(&[1], &["x".repeat(1 << 17).as_str()], &[1])]);
    assert!(why(ARROW, &huge, true).starts_with("413 "));
    let whole = stream(&many_items(20));
    for end in [0, 1, 5, 8, 100, whole.len() / 2, whole.len() - 9, whole.len() - 7] {
        assert!(why(ARROW, &whole[..end], true).starts_with("400 "), "{end}");
    }
    assert!(why(ARROW, &[&whole[..], b"more"].concat(), true).starts_with("400 "));
    // Whoever goes away has not sent everything, even if it looks so.
    for (content_type, body) in [(ARROW, &whole[..]), (CSV, csv("5,c,5").as_bytes())] {
        assert!(why(content_type, body, false).contains("did not arrive"));
    }
}

proptest! {
    #[test]
    fn no_stream_that_arrives_makes_the_decoder_panic(
        at in 0usize..10_000, byte in any::<u8>(), end in 0usize..100_000, piece_bytes in 1usize..2_000,
    ) {
        let mut bytes = stream(&many_items(3));
        bytes.truncate(end);
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        if let Err(error) = arrived("/shop/items", ARROW, &bytes, (piece_bytes, 500), true) {
            prop_assert!(!error.starts_with("500 "), "{}", error);
        }
    }
}

#[test]
fn dictionaries_that_are_replaced_take_no_memory() {
    // Together they take more than a request may; each of them does not.
    let colors = |i: u64| (0..500).map(move |n| format!("{i:03} {n:03}"));
    let batch = |i: u64| -> Vec<(&'static str, ArrayRef)> {
        let texts: Vec<String> = colors(i).collect();
        let dictionary: arrow_array::DictionaryArray<arrow_array::types::Int32Type> =
            texts.iter().map(|text| Some(&text[..])).collect();
        let skus: Vec<u64> = (0..500).map(|n| i * 500 + n).collect();
        let mut batch = items(&skus, &vec![""; 500], &[1; 500]);
        batch[1].1 = Arc::new(dictionary);
        batch
    };
    let body = stream(&(0..300).map(batch).collect::<Vec<_>>());
    assert!(body.len() > 2 << 20);
    let expected: String =
        (0..300).flat_map(colors).enumerate().map(|(sku, color)| format!("[{sku},\"{color}\",1]")).collect();
    let (rows, _) = arrived("/shop/items", ARROW, &body, (10_000, 50_000), true).unwrap();
    assert!(rows == expected);
}

mod round_trip {
    use std::ops::RangeInclusive;

    use components::rows::coerce::{Rule, coerce};
    use components::rows::columns::{arrow_fields, encode_value, write_csv_header};
    use components::rows::schema::{Column, ColumnType};
    use components::{Id, Link, Number, NumberType};

    use super::*;

    fn classes() -> Vec<ColumnType> {
        let numbers = NumberType::ALL.into_iter().map(ColumnType::Number);
        let others = [
            ColumnType::String,
            ColumnType::Bytes,
            ColumnType::Id,
            ColumnType::Link,
            ColumnType::Tuple,
            ColumnType::None,
            ColumnType::Value,
        ];
        numbers.chain(others).collect()
    }

    fn any_number() -> BoxedStrategy<Number> {
        const AROUND: RangeInclusive<i128> = -2..=2;
        let edge = (0..=64u32, AROUND, any::<bool>()).prop_map(|(bit, more, is_negative)| {
            let integer = ((1i128 << bit) + more) * if is_negative { -1 } else { 1 };
            match (i64::try_from(integer), u64::try_from(integer)) {
                (Ok(integer), _) => Number::I64(integer),
                (_, Ok(integer)) => Number::U64(integer),
                _ => Number::F64(integer as f64),
            }
        });
        let special = prop::sample::select(vec![
            0.0,
            -0.0,
            0.1,
            1e20,
            1e21,
            1e300,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            1e-7,
            123_456_789_012_345_680.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ]);
        let float = prop_oneof![any::<f64>(), special, (-9i8..9).prop_map(|x| f64::from(x) / 4.0)].boxed();
        prop_oneof![
            3 => edge,
            1 => any::<bool>().prop_map(Number::Bool),
            1 => any::<u8>().prop_map(Number::U8),
            1 => any::<i16>().prop_map(Number::I16),
            1 => any::<f32>().prop_map(Number::F32),
            3 => float.clone().prop_map(Number::F64),
            1 => [float.clone(), float].prop_map(Number::C64),
            1 => [any::<f32>(), any::<f32>()].prop_map(Number::C32),
        ]
        .boxed()
    }

    fn any_text() -> BoxedStrategy<String> {
        let like_something = prop::sample::select(vec![
            "",
            " ",
            "1",
            "-1",
            "1.5",
            "1e5",
            "01",
            "-",
            "null",
            "true",
            "True",
            "NaN",
            "nan",
            "inf",
            "Infinity",
            "-Infinity",
            "[1]",
            "[",
            "{\"a\":[]}",
            "{",
            "\"",
            "\"x\"",
            "x\"",
            "a,b",
            "\r",
            "\n",
            "\r\n",
            "\0",
            "\u{feff}",
            "YWI=",
            "abcd",
            "6162",
            "1+2i",
            "2026-01-01",
            "/a/b",
            "$x",
            "é",
            "😀",
            "99999999999999999999",
            "\\",
            "#",
        ]);
        prop_oneof![3 => like_something.prop_map(str::to_string), 1 => ".{0,6}", 1 => "[0-9a-f]{0,8}"].boxed()
    }

    fn any_bytes() -> BoxedStrategy<Vec<u8>> {
        // The base64 of some looks hexadecimal.
        let hexadecimal =
            "([0-9a-f]{4}){1,3}".prop_map(|text| components::value::cast::base64(&text).unwrap().to_vec());
        prop_oneof![hexadecimal, prop::collection::vec(any::<u8>(), 0..8)].boxed()
    }

    fn any_link() -> BoxedStrategy<Link> {
        prop::sample::select(vec![
            "/",
            "/a",
            "/a/b",
            "http://h:1",
            "http://h:1/a",
            "/state",
            "/state/scalar/value",
            "/state/scalar/value/string",
            "/state/scalar/value/tuple",
            "/state/scalar/value/number/int/64",
            "/state/scalar/value/bytes",
            "/state/tuple",
            "/state/scalar/op/post",
            "/state/scalar/ref/if",
            "/state/collection/btree",
            "/state/chain/sync",
        ])
        .prop_map(|text| Link::parse(text).unwrap())
        .boxed()
    }

    fn any_value() -> BoxedStrategy<Value> {
        let leaf = prop_oneof![
            1 => Just(Value::None),
            3 => any_number().prop_map(Value::Number),
            3 => any_text().prop_map(|text| Value::String(text.into())),
            2 => any_bytes().prop_map(|bytes| Value::Bytes(bytes.into())),
            1 => "[a-zé0-9.\\-]{1,3}".prop_filter_map("a name", |name| Id::parse(&name).ok()).prop_map(Value::Id),
            1 => any_link().prop_map(Value::Link),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(|items| Value::Tuple(items.into()))
        })
        .boxed()
    }

    /// A value as a column of a class holds it.
    fn any_value_of(column: Column) -> BoxedStrategy<Value> {
        let value = match column.class {
            ColumnType::Number(_) => any_number().prop_map(Value::Number).boxed(),
            ColumnType::String => any_text().prop_map(|text| Value::String(text.into())).boxed(),
            ColumnType::Bytes => any_bytes().prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
            ColumnType::Id => "[a-zé0-9.\\-]{1,3}"
                .prop_filter_map("a name", |name| Id::parse(&name).ok())
                .prop_map(Value::Id)
                .boxed(),
            ColumnType::Link => any_link().prop_map(Value::Link).boxed(),
            ColumnType::Tuple => {
                prop::collection::vec(any_value(), 0..4).prop_map(|items| Value::Tuple(items.into())).boxed()
            }
            ColumnType::None | ColumnType::Value => any_value(),
        };
        value
            .prop_map(move |value| {
                let value = match (column.class, value) {
                    (ColumnType::Number(class), Value::Number(number)) => number.cast(class).into(),
                    (_, value) => value,
                };
                // Binary forms and CSV carry reals that are not finite; nothing has them as parts of anything else.
                let is_special = match &value {
                    Value::Number(Number::F32(float)) => !float.is_finite(),
                    Value::Number(Number::F64(float)) => !float.is_finite(),
                    _ => false,
                };
                let none = match column.class {
                    ColumnType::Number(class) => Number::I64(0).cast(class).into(),
                    ColumnType::Tuple => Value::Tuple([].into()),
                    _ => Value::None,
                };
                match is_special {
                    true if column.class == ColumnType::None => Value::None,
                    true => widened(column.class, value),
                    false => coerce(&column, &value, Rule::Strict).unwrap_or(none),
                }
            })
            .boxed()
    }

    /// A float that is not finite, as it is stored in a column of a class.
    fn widened(class: ColumnType, float: Value) -> Value {
        match (class, float) {
            (ColumnType::Number(NumberType::F32), float) => float,
            (_, Value::Number(float)) => float.as_f64().into(),
            (_, other) => other,
        }
    }

    fn any_table() -> impl Strategy<Value = (Arc<Schema>, Vec<Vec<Value>>)> {
        let column = prop::sample::select(classes());
        (any::<bool>(), prop::collection::vec(column, 1..5)).prop_flat_map(|(is_tree, classes)| {
            let columns: Vec<Column> = classes
                .into_iter()
                .enumerate()
                .map(|(i, class)| Column { name: Id::parse(&format!("c{i}")).unwrap(), class, max_len: None })
                .collect();
            let row = columns.iter().cloned().map(any_value_of).collect::<Vec<_>>();
            let (kind, key_len) = match is_tree {
                true => (CollectionKind::BTree, columns.len()),
                false => (CollectionKind::Table, 1),
            };
            let schema = Arc::new(Schema::new(kind, columns.into(), key_len, [].into()));
            (Just(schema), prop::collection::vec(row, 0..5))
        })
    }

    /// What the values are, bit for bit; but of integers only their values, as nothing shows their widths where they may
    /// have any.
    fn told(rows: &Columns) -> Vec<Vec<u8>> {
        fn plain(value: &Value) -> Value {
            match value {
                Value::Number(number) if number.is_integer() => match number.as_i64() {
                    Some(integer) => integer.into(),
                    None => value.clone(),
                },
                // There is one NaN only.
                Value::Number(number) if number.is_nan() => f64::NAN.into(),
                Value::Tuple(items) => Value::Tuple(items.iter().map(plain).collect()),
                other => other.clone(),
            }
        }
        let row = |row: usize| {
            let mut bytes = Vec::new();
            rows.row(row).iter().for_each(|value| encode_value(&mut bytes, &plain(value)));
            bytes
        };
        (0..rows.len()).map(row).collect()
    }

    proptest! {
        /// `PROPTEST_CASES` says how many tables are tried.
        #[test]
        fn any_table_comes_back_in_every_form((schema, rows) in any_table()) {
            let rows = Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..]));
            let mut text = Vec::new();
            write_csv_header(schema.columns(), &mut text);
            for row in 0..rows.len() {
                rows.write_csv_row(row, &mut text).unwrap();
            }
            let shown = String::from_utf8_lossy(&text).into_owned();
            let back = csv(&schema, &text, &mut free);
            prop_assert!(back.is_ok(), "{:?} of {}", back, shown);
            prop_assert_eq!(told(&back.unwrap()), told(&rows), "{}", shown);

            let fields = Arc::new(arrow_fields(schema.columns()));
            let mut stream = StreamWriter::try_new(Vec::new(), &fields).unwrap();
            stream.write(&rows.batch(&fields).unwrap()).unwrap();
            stream.finish().unwrap();
            let back = arrow(&schema, std::mem::take(stream.get_mut()), &mut free);
            prop_assert!(back.is_ok(), "{:?}", back);
            prop_assert_eq!(told(&back.unwrap()), told(&rows));

            let positions: Vec<usize> = (0..schema.columns().len()).collect();
            let is_finite = |value: &Value| !matches!(value, Value::Number(number) if !number.is_finite());
            let finite: Vec<usize> = (0..rows.len()).filter(|row| rows.row(*row).iter().all(is_finite)).collect();
            let (finite, mut text) = (rows.take(&finite), vec![b'[']);
            for row in 0..finite.len() {
                if row > 0 {
                    text.push(b',');
                }
                finite.write_json_row(row, &positions, &mut text).unwrap();
            }
            text.push(b']');
            if !finite.is_empty() {
                let shown = String::from_utf8_lossy(&text).into_owned();
                let back = json(&schema, &text, &mut free);
                prop_assert!(matches!(back, Ok(Some(_))), "{:?} of {}", back, shown);
                prop_assert_eq!(told(&back.unwrap().unwrap()), told(&finite), "{}", shown);
            }
        }
    }
}
