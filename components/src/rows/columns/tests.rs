use std::collections::BTreeMap;
use std::ops::Bound;

use super::codec::{decode_value, encode_value};
use super::*;
use crate::rows::bound::{Condition, ValueRange};
use crate::rows::key::KeyRange;
use crate::value::name::{Id, Link};
use crate::value::number::NumberType;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;
use bytes::Bytes;
use proptest::prelude::*;

/// One column type for each kind of column, and then those that share a kind.
pub(super) const TYPES: [ColumnType; 18] = [
    ColumnType::Number(NumberType::Bool),
    ColumnType::Number(NumberType::I16),
    ColumnType::Number(NumberType::I32),
    ColumnType::Number(NumberType::I64),
    ColumnType::Number(NumberType::U8),
    ColumnType::Number(NumberType::U16),
    ColumnType::Number(NumberType::U32),
    ColumnType::Number(NumberType::U64),
    ColumnType::Number(NumberType::F32),
    ColumnType::Number(NumberType::F64),
    ColumnType::String,
    ColumnType::Bytes,
    ColumnType::Number(NumberType::C64),
    ColumnType::Id,
    ColumnType::Link,
    ColumnType::Tuple,
    ColumnType::None,
    ColumnType::Value,
];

fn any_number() -> impl Strategy<Value = Number> {
    prop_oneof![
        (-3i64..3).prop_map(Number::I64),
        any::<u64>().prop_map(Number::U64),
        prop::num::f64::ANY.prop_map(Number::F64),
        (-3i16..3).prop_map(|x| Number::F32(f32::from(x) / 2.0)),
        (-2i16..2, -1i16..2).prop_map(|(re, im)| Number::C32([re.into(), im.into()])),
        [prop::num::f64::ANY, prop::num::f64::ANY].prop_map(Number::C64),
        prop::sample::select(vec![
            Number::I64(i64::MIN),
            Number::I64(i64::MAX),
            Number::F64(f64::NAN),
            Number::F64(-0.0),
            Number::F64(f64::NEG_INFINITY),
            Number::F32(f32::MAX),
        ]),
    ]
}

pub(super) fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c\u{0}\u{ff}é\u{10ffff}]{0,3}",
        ".{0,5}",
        // Longer than what statistics keep, with a character across the place where they cut.
        "(aaaaaaaaaaaaaaa){2}[aé\u{d7ff}\u{10ffff}]{0,4}",
    ]
}

pub(super) fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 254, 255]), 0..4),
        (30..40usize, 254u8..).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

pub(super) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::from),
        any_number().prop_map(Value::Number),
        any_text().prop_map(|text| Value::String(text.into())),
        any_bytes().prop_map(|bytes| Value::Bytes(bytes.into())),
        "[a-cé]{1,3}".prop_map(|name| Value::Id(Id::parse(&name).unwrap())),
        "(http://a:1)?/[a-c]{1,2}(/b)?".prop_map(|path| Value::Link(Link::parse(&path).unwrap())),
        Just(Value::Link(Link::parse("/").unwrap())),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop::collection::vec(inner, 0..3).prop_map(|items| Value::Tuple(items.into()))
    })
}

pub(super) fn any_value_of(class: ColumnType) -> BoxedStrategy<Value> {
    match class {
        ColumnType::Number(NumberType::Bool) => any::<bool>().prop_map(Value::from).boxed(),
        ColumnType::Number(NumberType::F32) => {
            prop_oneof![prop::num::f32::ANY, (-2i16..2).prop_map(f32::from), Just(-0.0)]
                .prop_map(Value::from)
                .boxed()
        }
        ColumnType::Number(class) => any_number().prop_map(move |x| Value::Number(x.cast(class))).boxed(),
        ColumnType::String => any_text().prop_map(|text| Value::String(text.into())).boxed(),
        ColumnType::Bytes => any_bytes().prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
        ColumnType::Id => "[a-cé]{1,3}".prop_map(|name| Value::Id(Id::parse(&name).unwrap())).boxed(),
        ColumnType::Link => "/[a-c]{1,2}".prop_map(|path| Value::Link(Link::parse(&path).unwrap())).boxed(),
        ColumnType::Tuple => {
            prop::collection::vec(any_value(), 0..3).prop_map(|items| Value::Tuple(items.into())).boxed()
        }
        ColumnType::None => Just(Value::None).boxed(),
        ColumnType::Value => any_value().boxed(),
    }
}

fn any_row(types: &[ColumnType]) -> impl Strategy<Value = Row> + use<> {
    types.iter().map(|class| any_value_of(*class)).collect::<Vec<_>>().prop_map(Row::from)
}

fn any_types() -> impl Strategy<Value = Arc<[ColumnType]>> {
    prop::collection::vec(prop::sample::select(TYPES.to_vec()), 1..4).prop_map(Arc::from)
}

/// Rows in no order, some of which may have equal keys, and the layout that they have.
fn any_rows() -> impl Strategy<Value = (Layout, Vec<Row>)> {
    any_types().prop_flat_map(|types| {
        let layout = (1..=types.len(), Just(types.clone())).prop_map(|(key_len, types)| Layout {
            columns: (0..types.len()).collect(),
            types,
            key_len,
        });
        (layout, prop::collection::vec(any_row(&types), 0..80))
    })
}

fn any_range(class: ColumnType) -> impl Strategy<Value = ValueRange> {
    let bound = || {
        prop_oneof![
            Just(Bound::Unbounded),
            any_value_of(class).prop_map(Bound::Included),
            any_value_of(class).prop_map(Bound::Excluded),
        ]
    };
    prop_oneof![
        (bound(), bound()).prop_map(|(start, end)| ValueRange { start, end }),
        any_value_of(class).prop_map(ValueRange::equal),
    ]
}

fn any_conditions(types: &[ColumnType]) -> impl Strategy<Value = Vec<Condition>> + use<> {
    let types = types.to_vec();
    let condition = (0..types.len()).prop_flat_map(move |column| {
        any_range(types[column]).prop_map(move |range| Condition { column, range })
    });
    prop::collection::vec(condition, 0..4)
}

fn columns_of(layout: &Layout, rows: &[Row]) -> Columns {
    Columns::from_rows(&layout.types, rows.iter().map(|row| &row[..]))
}

/// Exactly what a value is: its width, its sign if it is zero, and NaN.
fn exact(row: &[Value]) -> String {
    format!("{row:?}")
}

fn rows_of(columns: &Columns) -> Vec<String> {
    (0..columns.len()).map(|row| exact(&columns.row(row))).collect()
}

fn exact_rows<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<String> {
    rows.into_iter().map(|row| exact(row)).collect()
}

/// The rows by key; of equal keys the last one.
fn model(layout: &Layout, rows: &[Row]) -> BTreeMap<Key, Row> {
    rows.iter().map(|row| (Key::of_row(layout, row), row.clone())).collect()
}

fn sorted(layout: &Layout, rows: &[Row]) -> Columns {
    sort(layout, columns_of(layout, rows))
}

fn layout(types: &[ColumnType], key_len: usize) -> Layout {
    Layout { types: types.into(), columns: (0..types.len()).collect(), key_len }
}

const I32: ColumnType = ColumnType::Number(NumberType::I32);

/// Rows of a number and a text of so many bytes.
fn wide_rows(numbers: impl Iterator<Item = i32>, text_bytes: usize) -> Vec<Row> {
    numbers.map(|x| Row::from([x.into(), Value::String("x".repeat(text_bytes).into())])).collect()
}

/// The JSON of a row, as it is shown.
fn shown(types: &[ColumnType], values: &[Value]) -> String {
    let cells: Vec<Shown> = types.iter().zip(values).map(|(class, value)| Shown(*class, value)).collect();
    serde_json::to_string(&cells).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_come_out_as_they_went_in((layout, rows) in any_rows()) {
        prop_assert_eq!(rows_of(&columns_of(&layout, &rows)), exact_rows(&rows));
    }

    #[test]
    fn keys_are_those_of_the_rows((layout, rows) in any_rows()) {
        let columns = columns_of(&layout, &rows);
        for (i, row) in rows.iter().enumerate() {
            prop_assert_eq!(columns.key(&layout, i), Key::of_row(&layout, row));
        }
    }

    #[test]
    fn slices_projections_and_picks_have_the_rows_that_they_name(
        (layout, rows) in any_rows(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let columns = columns_of(&layout, &rows);
        let (a, b) = (from.index(rows.len() + 1), to.index(rows.len() + 1));
        let range = a.min(b)..a.max(b);
        let slice = columns.slice(range.clone());
        prop_assert_eq!(rows_of(&slice), exact_rows(&rows[range.clone()]));
        prop_assert_eq!(rows_of(&slice.compact()), exact_rows(&rows[range.clone()]));
        prop_assert_eq!(slice.bytes(), slice.compact().bytes());
        prop_assert_eq!(rows_of(&Columns::decode(&layout.types, slice.encode()).unwrap()), rows_of(&slice));
        prop_assert_eq!(slice.encode(), slice.compact().encode());

        let backwards: Vec<usize> = (0..layout.types.len()).rev().collect();
        let projected = rows[range].iter().map(|row| exact(&row.iter().rev().cloned().collect::<Vec<_>>()));
        prop_assert_eq!(rows_of(&slice.project(&backwards)), projected.collect::<Vec<_>>());

        if !rows.is_empty() {
            let picks: Vec<usize> = picks.iter().map(|pick| pick.index(rows.len())).collect();
            let picked: Vec<Row> = picks.iter().map(|pick| rows[*pick].clone()).collect();
            prop_assert_eq!(rows_of(&columns.take(&picks)), exact_rows(&picked));
        }
    }

    #[test]
    fn sorted_rows_are_in_order_of_key_and_the_last_of_equal_ones_remains((layout, rows) in any_rows()) {
        let columns = sorted(&layout, &rows);
        prop_assert_eq!(rows_of(&columns), exact_rows(model(&layout, &rows).values()));
        prop_assert_eq!(rows_of(&sort(&layout, columns.clone())), rows_of(&columns));
    }

    #[test]
    fn keys_are_found_where_a_linear_search_finds_them(
        ((layout, rows), probe, cut) in any_rows().prop_flat_map(|(layout, rows)| {
            let probe = any_row(&layout.types);
            (Just((layout, rows)), probe, any::<prop::sample::Index>())
        }),
        garbage in prop::collection::vec(prop::sample::select(vec![0u8, 1, 127, 128, 254, 255]), 0..12),
    ) {
        let columns = sorted(&layout, &rows);
        let keys: Vec<Key> = (0..columns.len()).map(|row| columns.key(&layout, row)).collect();
        let probe = Key::of_row(&layout, &probe);
        let beginning = Key::from(&probe[..cut.index(probe.len() + 1)]);
        let longer = Key::from([&probe[..], &garbage].concat());
        let mut probes = vec![probe, longer, Key::from(garbage)];
        probes.extend(beginning.successor());
        probes.push(beginning);
        probes.extend(keys.iter().flat_map(|key| [Some(key.clone()), key.successor()]).flatten());
        for probe in probes {
            let expected = keys.iter().position(|key| *key >= probe).unwrap_or(keys.len());
            prop_assert_eq!(columns.lower_bound(&layout, &probe), expected, "{:?}", probe);
            prop_assert_eq!(columns.find(&layout, &probe), keys.iter().position(|key| *key == probe));
        }
    }

    #[test]
    fn selected_rows_are_those_whose_values_are_in_range(
        (layout, rows, conditions) in any_rows().prop_flat_map(|(layout, rows)| {
            let conditions = any_conditions(&layout.types);
            (Just(layout), Just(rows), conditions)
        }),
        from in any::<prop::sample::Index>(),
    ) {
        let columns = columns_of(&layout, &rows);
        let range = from.index(rows.len() + 1)..rows.len();
        let selection = columns.select(&conditions, range.clone());
        let meets = |row: &usize| {
            conditions.iter().all(|condition| condition.range.contains(&rows[*row][condition.column]))
        };
        let expected: Vec<usize> = range.clone().filter(meets).collect();
        prop_assert_eq!(selection.rows().collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(selection.runs().flatten().collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(selection.count(), expected.len());
        prop_assert_eq!(selection.is_empty(), expected.is_empty());
        prop_assert_eq!(selection.range(), range.clone());
        prop_assert!(range.clone().all(|row| selection.contains(row) == meets(&row)));
        let filtered = columns.filter(&selection);
        prop_assert_eq!(rows_of(&filtered), exact_rows(expected.iter().map(|row| &rows[*row])));
    }

    #[test]
    fn no_page_with_a_matching_row_is_skipped(
        (layout, rows, conditions) in any_rows().prop_flat_map(|(layout, rows)| {
            let conditions = any_conditions(&layout.types);
            (Just(layout), Just(rows), conditions)
        }),
    ) {
        let columns = columns_of(&layout, &rows);
        let statistics = columns.statistics();
        for (column, range) in statistics.iter().enumerate() {
            if let Some(range) = range {
                prop_assert!(rows.iter().all(|row| range.contains(&row[column])), "{:?}", range);
            }
        }
        if !columns.select(&conditions, 0..rows.len()).is_empty() {
            prop_assert!(may_match(&statistics, &conditions));
        }
    }

    #[test]
    fn what_is_stored_is_read_back((layout, rows) in any_rows(), shift in 0usize..9) {
        let columns = columns_of(&layout, &rows);
        let stored = columns.encode();
        prop_assert_eq!(rows_of(&Columns::decode(&layout.types, stored.clone()).unwrap()), exact_rows(&rows));
        // Wherever it is in memory.
        let shifted = Bytes::from([&vec![0; shift][..], &stored].concat()).slice(shift..);
        let decoded = Columns::decode(&layout.types, shifted).unwrap();
        prop_assert_eq!(rows_of(&decoded), exact_rows(&rows));
        prop_assert_eq!(decoded.encode(), stored);
    }

    #[test]
    fn damaged_pages_are_refused_or_read(
        (layout, rows) in any_rows(), end in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8), 1..4),
    ) {
        let stored = columns_of(&layout, &rows).encode();
        let end = end.index(stored.len());
        prop_assert!(Columns::decode(&layout.types, stored.slice(..end)).is_err());
        prop_assert!(Columns::decode(&layout.types, Bytes::from([&stored[..], &[0; 8]].concat())).is_err());
        let mut flipped = stored.to_vec();
        for (place, bit) in flips {
            flipped[place.index(stored.len())] ^= 1u8 << bit;
        }
        if let Ok(columns) = Columns::decode(&layout.types, flipped.into()) {
            for row in 0..columns.len() {
                columns.key(&layout, row);
                let _ = columns.write_json_row(row, &layout.columns, &mut Vec::new());
            }
            columns.statistics();
            columns.lower_bound(&layout, &[1, 2, 3]);
            sort(&layout, columns);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(
        types in any_types(), mut bytes in prop::collection::vec(any::<u8>(), 0..100), rows in 0u8..5,
    ) {
        if let Some(header) = bytes.first_chunk_mut() {
            *header = [1, 0, types.len() as u8, 0, rows, 0, 0, 0];
        }
        let _ = Columns::decode(&types, bytes.into());
    }

    #[test]
    fn values_are_read_back_from_their_bytes(value in any_value(), rest in any_bytes()) {
        let mut bytes = Vec::new();
        encode_value(&mut bytes, &value);
        bytes.extend(&rest);
        let mut left = &bytes[..];
        let decoded = decode_value(&mut left).unwrap();
        prop_assert_eq!(exact(&[decoded]), exact(&[value]));
        prop_assert_eq!(left, rest);
    }

    #[test]
    fn any_bytes_are_a_value_or_none(bytes in prop::collection::vec(prop_oneof![0u8..20, any::<u8>()], 0..40)) {
        let _ = decode_value(&mut &bytes[..]);
    }

    #[test]
    fn rows_are_written_as_their_values_are((layout, rows) in any_rows()) {
        let columns = columns_of(&layout, &rows);
        let types: Vec<ColumnType> = layout.types.iter().rev().copied().collect();
        for (i, row) in rows.iter().enumerate() {
            let expected = Ok(shown(&types, &row.iter().rev().cloned().collect::<Vec<_>>()).into_bytes());
            let positions: Vec<usize> = (0..row.len()).rev().collect();
            let mut written = Vec::new();
            let result = columns.write_json_row(i, &positions, &mut written).map(|()| written);
            prop_assert_eq!(result, expected);
        }
    }

    #[test]
    fn arrow_arrays_have_the_values((layout, rows) in any_rows()) {
        let columns = columns_of(&layout, &rows);
        for (i, class) in layout.types.iter().enumerate() {
            let array = columns.array(i).unwrap();
            prop_assert_eq!(array.data_type(), &arrow_type(*class));
            prop_assert_eq!(array.len(), rows.len());
            for (j, row) in rows.iter().enumerate() {
                match (array.data_type(), &row[i]) {
                    (_, Value::None) => prop_assert!(array.is_null(j)),
                    (DataType::Utf8, Value::String(text)) if *class == ColumnType::String => {
                        prop_assert_eq!(array.as_string::<i32>().value(j), &**text)
                    }
                    (DataType::Utf8, value) => match (array.as_string::<i32>().value(j), value) {
                        ("NaN", Value::Number(number)) => prop_assert!(number.is_nan()),
                        ("Infinity" | "-Infinity", Value::Number(number)) => prop_assert!(!number.is_finite()),
                        (text, value) => {
                            prop_assert_eq!(format!("[{text}]"), shown(&[*class], std::slice::from_ref(value)))
                        }
                    },
                    (DataType::Binary, Value::Bytes(content)) => {
                        prop_assert_eq!(array.as_binary::<i32>().value(j), &**content)
                    }
                    (DataType::Int16, Value::Number(Number::I16(x))) => {
                        prop_assert_eq!(array.as_primitive::<arrow_array::types::Int16Type>().value(j), *x)
                    }
                    (_, _) => prop_assert!(!array.is_null(j)),
                }
            }
        }
    }

    #[test]
    fn a_folded_page_is_what_a_map_would_be(
        (layout, rows, changes) in any_rows().prop_flat_map(|(layout, rows)| {
            let row = (any_row(&layout.types), any::<bool>());
            (Just(layout), Just(rows), prop::collection::vec(row, 0..40))
        }),
        touched in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..20),
    ) {
        let mut expected = model(&layout, &rows);
        let base = sorted(&layout, &rows);
        let mut changed: BTreeMap<Key, Option<Row>> = changes
            .into_iter()
            .map(|(row, is_put)| (Key::of_row(&layout, &row), is_put.then_some(row)))
            .collect();
        for (place, is_put) in touched.into_iter().filter(|_| !rows.is_empty()) {
            let row = &rows[place.index(rows.len())];
            changed.insert(Key::of_row(&layout, row), is_put.then(|| row.clone()));
        }
        for (key, row) in &changed {
            match row {
                Some(row) => expected.insert(key.clone(), row.clone()),
                None => expected.remove(key),
            };
        }
        let changes: Vec<_> = changed.into_iter().collect();
        let base = Some(&base).filter(|base| !base.is_empty());
        let pages = fold(&layout, base, &changes, PageSize::default());
        prop_assert_eq!(pages.len(), usize::from(!expected.is_empty()), "a single page");
        let folded: Vec<String> = pages.iter().flat_map(rows_of).collect();
        prop_assert_eq!(folded, exact_rows(expected.values()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn pages_are_cut_within_their_limits_and_none_is_a_tiny_rest(
        rows in 0..3 * PAGE_ROWS, text_bytes in 0usize..300, changes in prop::collection::btree_map(0..20_000i32, any::<bool>(), 0..500),
    ) {
        let layout = layout(&[I32, ColumnType::String], 1);
        let base = columns_of(&layout, &wide_rows((0..rows as i32).map(|x| x * 2), text_bytes));
        let mut expected: BTreeMap<i32, ()> = (0..rows as i32).map(|x| (x * 2, ())).collect();
        let changes: Vec<(Key, Option<Row>)> = changes.into_iter().map(|(x, is_put)| {
            let row = wide_rows([x].into_iter(), text_bytes).remove(0);
            if is_put { expected.insert(x, ()); } else { expected.remove(&x); }
            (Key::of_row(&layout, &row), is_put.then_some(row))
        }).collect();
        let pages = fold(&layout, Some(&base), &changes, PageSize::default());
        let folded = pages.iter().flat_map(|page| (0..page.len()).map(|row| page.value(0, row)));
        prop_assert!(folded.eq(expected.keys().map(|x| Value::from(*x))));
        prop_assert!(pages.iter().all(|page| page.len() <= PAGE_ROWS && page.bytes() <= PAGE_BYTES));
        let (least, most) = (pages.iter().map(Columns::len).min(), pages.iter().map(Columns::len).max());
        if let Some((least, most)) = least.zip(most) {
            prop_assert!(most <= 2 * least + 1, "pages of {} to {} rows", least, most);
            let total = expected.len() * (8 + text_bytes);
            let needed = total.div_ceil(PAGE_BYTES).max(expected.len().div_ceil(PAGE_ROWS));
            prop_assert!(pages.len() <= needed + 1, "{} pages where {} do", pages.len(), needed);
        }
    }
}

#[test]
fn a_row_that_is_larger_than_a_page_is_one_of_its_own() {
    let layout = layout(&[I32, ColumnType::String], 1);
    let mut rows = wide_rows(0..10, 10);
    rows[5] = wide_rows([5].into_iter(), 3 * PAGE_BYTES).remove(0);
    let pages = cut(&columns_of(&layout, &rows));
    assert_eq!(pages.iter().map(Columns::len).sum::<usize>(), 10);
    assert!(pages.iter().all(|page| page.bytes() <= PAGE_BYTES || page.len() == 1));
}

#[test]
fn a_page_is_left_when_everything_in_it_is_deleted() {
    let layout = layout(&[I32], 1);
    let rows: Vec<Row> = (0..3i32).map(|x| Row::from([x.into()])).collect();
    let changes: Vec<_> = rows.iter().map(|row| (Key::of_row(&layout, row), None)).collect();
    assert!(fold(&layout, Some(&columns_of(&layout, &rows)), &changes, PageSize::default()).is_empty());
    assert!(fold(&layout, None, &[], PageSize::default()).is_empty());
}

#[test]
fn floats_are_selected_as_keys_are_ordered() {
    let layout = layout(&[ColumnType::Number(NumberType::F64)], 1);
    let floats = [f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f64::INFINITY, f64::NAN, -f64::NAN];
    let rows: Vec<Row> = floats.iter().map(|x| Row::from([Value::from(*x)])).collect();
    let columns = columns_of(&layout, &rows);
    let count = |start: Bound<f64>, end: Bound<f64>| {
        let range = ValueRange { start: start.map(Value::from), end: end.map(Value::from) };
        columns.select(&[Condition { column: 0, range }], 0..columns.len()).count()
    };
    assert_eq!(count(Bound::Included(0.0), Bound::Included(0.0)), 2);
    assert_eq!(count(Bound::Excluded(-0.0), Bound::Unbounded), 4);
    assert_eq!(count(Bound::Excluded(f64::INFINITY), Bound::Unbounded), 2);
    assert_eq!(count(Bound::Unbounded, Bound::Excluded(f64::NAN)), 6);
    assert_eq!(count(Bound::Excluded(f64::NAN), Bound::Unbounded), 0);
    assert_eq!(count(Bound::Unbounded, Bound::Excluded(f64::NEG_INFINITY)), 0);
}

#[test]
fn statistics_skip_what_cannot_match() {
    let layout = layout(&[I32, ColumnType::String], 1);
    let statistics = columns_of(&layout, &wide_rows(10..20, 50)).statistics();
    let may = |column: usize, range: ValueRange| may_match(&statistics, &[Condition { column, range }]);
    assert!(may(0, ValueRange::equal(19.into())) && !may(0, ValueRange::equal(20.into())));
    assert!(!may(0, ValueRange { start: Bound::Unbounded, end: Bound::Excluded(10.into()) }));
    assert!(!may(1, ValueRange::equal("y".into())) && !may(1, ValueRange::equal("w".into())));
    assert!(may(1, ValueRange::equal("x".repeat(50).as_str().into())));
    let Some(ValueRange { start: Bound::Included(Value::String(start)), end: Bound::Excluded(_) }) =
        &statistics[1]
    else {
        panic!("{statistics:?}")
    };
    assert_eq!(start.len(), 32);
}

#[test]
fn the_rows_between_two_keys_are_found() {
    let layout = layout(&[I32, ColumnType::String], 2);
    let rows: Vec<Row> =
        (0..100i32).map(|x| Row::from([(x / 10).into(), x.to_string().as_str().into()])).collect();
    let columns = columns_of(&layout, &rows);
    let keys = KeyRange::of(
        &layout,
        &[3.into()],
        &ValueRange { start: Bound::Excluded("31".into()), end: Bound::Unbounded },
    );
    let start = columns.lower_bound(&layout, &keys.start);
    let end = columns.lower_bound(&layout, &keys.end.unwrap());
    assert_eq!(start..end, 32..40);
}

#[test]
fn aligned_pages_are_read_where_they_are() {
    let types: Arc<[ColumnType]> = [I32, ColumnType::String].into();
    let stored = Columns::from_rows(&types, wide_rows(0..100, 10).iter().map(|row| &row[..])).encode();
    let memory = stored.as_ptr_range();
    let columns = Columns::decode(&types, stored).unwrap();
    let Column::I32(numbers) = &columns.columns[0] else { panic!("{columns:?}") };
    assert!(memory.contains(&numbers.as_ptr().cast()));
}

#[test]
fn deep_values_are_read_back() {
    let deepest =
        (0..crate::value::limits::STATE_DEPTH_MAX).fold(Value::None, |inner, _| Value::Tuple([inner].into()));
    let mut bytes = Vec::new();
    encode_value(&mut bytes, &deepest);
    assert!(decode_value(&mut &bytes[..]).is_some());
    assert!(decode_value(&mut &[18, 1].repeat(1_000_000)[..]).is_none());
}

#[test]
#[should_panic(expected = "in a column of type")]
fn a_value_of_another_type_is_a_defect() {
    Columns::from_rows(&[ColumnType::Id].into(), [&["a".into()][..]]);
}
