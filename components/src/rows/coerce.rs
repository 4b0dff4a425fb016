//! What becomes of a value in a column (protocol page 02 §2.1).

use super::Row;
use super::bound::Place;
use super::schema::{Column, ColumnType, Schema};
use crate::value::Value;
use crate::value::cast::shown_bytes;
use crate::value::error::{Error, Result};
use crate::value::number::{Number, NumberType};

/// How much a value may differ from what its column holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rule {
    /// Keys that a BTree is given, and the values of an update.
    Lenient,
    /// Keys and values of a table, and every bound.
    Strict,
}

/// A value that is written to a column, as the column holds it.
///
/// # Errors
/// 400 that names the column, if the value cannot be cast, is out of range, is too long or has a number that is not
/// finite.
pub fn coerce(column: &Column, value: &Value, rule: Rule) -> Result<Value> {
    into_column(column, value, rule)
        .and_then(|value| check_finite(&value).map(|()| value))
        .map_err(|cause| in_column(&cause, column))
}

fn in_column(cause: &Error, column: &Column) -> Error {
    cause.clone().context(format_args!("the column {}", column.name))
}

fn check_finite(value: &Value) -> Result<()> {
    match value {
        Value::Number(number) => number.to_store().map(drop),
        Value::Tuple(items) => items.iter().try_for_each(check_finite),
        _ => Ok(()),
    }
}

/// As [`coerce`], but the errors do not name the column, and numbers need not be finite: Arrow has a form for those that
/// are not.
pub(super) fn into_column(column: &Column, value: &Value, rule: Rule) -> Result<Value> {
    let value = into_class(column.class, value, rule).and_then(|value| check_len(column, value))?;
    value.check_stored()?;
    Ok(value)
}

/// Where a value is among those that a column can hold; it may be longer than any of them.
///
/// # Errors
/// As [`coerce`], but any number can be compared with those of a column of numbers.
pub fn place(column: &Column, value: &Value) -> Result<Place> {
    let place = match (column.class, value) {
        // Nothing comes before all numbers.
        (ColumnType::Number(_), Value::None) => Ok(Place::First),
        (ColumnType::Number(class), value) => number(class, value).map(|number| place_of(class, number)),
        (class, value) => into_class(class, value, Rule::Strict).map(Place::At),
    };
    place.map_err(|cause| in_column(&cause, column))
}

/// Where a number is among those of a class.
fn place_of(class: NumberType, number: Number) -> Place {
    let (held, is_rounded) = match class {
        // Keys of these columns have the exact values of all numbers.
        NumberType::Number
        | NumberType::Int
        | NumberType::UInt
        | NumberType::Float
        | NumberType::Complex
        | NumberType::C64 => return Place::At(number.into()),
        // What is written is rounded.
        NumberType::C32 => return Place::At(number.exactly(class).unwrap_or(number).into()),
        NumberType::F32 => (number.at_most(class), matches!(number, Number::F64(_) | Number::C64(_))),
        _ => (number.at_most(class), false),
    };
    match held {
        None => Place::First,
        Some(held) if held.collate(&number).is_eq() => Place::At(held.into()),
        Some(held) if is_rounded && number.exactly(class).is_some() => Place::At(held.into()),
        Some(held) => Place::Above(held.into()),
    }
}

/// A row of a BTree: a value for each column.
///
/// # Errors
/// 400 if there are more or fewer; as [`coerce`].
pub fn btree_row(schema: &Schema, values: &[Value]) -> Result<Row> {
    let columns = schema.columns();
    check_count("a key of this BTree", values.len(), columns.len())?;
    columns.iter().zip(values).map(|(column, value)| coerce(column, value, Rule::Lenient)).collect()
}

/// The values of the key of a row that is looked for, which need not be finite; none if no row can have them.
///
/// # Errors
/// As [`btree_row`], and as [`place`].
pub fn table_key(schema: &Schema, values: &[Value]) -> Result<Option<Vec<Value>>> {
    check_key(schema, values)?;
    let mut key = Vec::with_capacity(values.len());
    let mut can_be = true;
    for (column, value) in schema.key_columns().iter().zip(values) {
        match place(column, value)? {
            Place::At(value) => {
                check_len(column, value.clone()).map_err(|cause| in_column(&cause, column))?;
                key.push(value);
            }
            Place::Above(_) | Place::First => can_be = false,
        }
    }
    Ok(can_be.then_some(key))
}

/// Check that there are as many values as the key of a table has.
///
/// # Errors
/// 400 if there are more or fewer.
pub fn check_key(schema: &Schema, values: &[Value]) -> Result<()> {
    check_count("a key of this table", values.len(), schema.key_len())
}

/// A row of a table.
///
/// # Errors
/// As [`btree_row`].
pub fn table_row(schema: &Schema, values: &[Value]) -> Result<Row> {
    let columns = schema.columns();
    check_count("a row of this table", values.len(), columns.len())?;
    columns.iter().zip(values).map(|(column, value)| coerce(column, value, Rule::Strict)).collect()
}

pub(super) fn check_count(what: &str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::bad_request(format_args!("{what} has {expected} values, not {actual}")))
}

fn cannot(value: &Value, class: ColumnType) -> Error {
    cannot_be(value, class.class().path())
}

fn cannot_be(value: &Value, path: &str) -> Error {
    Error::bad_request(format_args!("{} cannot be a {path}", value.describe()))
}

fn into_class(class: ColumnType, value: &Value, rule: Rule) -> Result<Value> {
    let is_lenient = rule == Rule::Lenient;
    Ok(match (class, value) {
        (ColumnType::Value, value) => of_any_class(value),
        (ColumnType::None, _) => Value::None,
        (ColumnType::Number(class), value) => Value::Number(into_number(class, number(class, value)?)?),
        // No other column holds nothing.
        (_, Value::None) => return Err(cannot(value, class)),
        (ColumnType::String, Value::String(_)) => value.clone(),
        (ColumnType::String, Value::Bytes(_)) => return Err(cannot(value, class)),
        (ColumnType::String, Value::Tuple(_)) if !is_lenient => return Err(cannot(value, class)),
        (ColumnType::String, other) => Value::String(other.to_string().into()),
        (ColumnType::Id, value) => Value::Id(value.to_id()?),
        (ColumnType::Bytes, Value::Bytes(_)) => value.clone(),
        (ColumnType::Bytes, Value::Tuple(items)) if is_lenient => {
            let byte = |item: &Value| match item {
                Value::Number(Number::Bool(_)) => None,
                Value::Number(number) => number.as_u64().and_then(|byte| u8::try_from(byte).ok()),
                _ => None,
            };
            let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
            Value::Bytes(bytes.ok_or_else(|| cannot(value, class))?.into())
        }
        (ColumnType::Bytes, Value::String(text)) => {
            Value::Bytes(shown_bytes(text).ok_or_else(|| cannot(value, class))?)
        }
        (ColumnType::Link, Value::Link(_)) => value.clone(),
        (ColumnType::Link, Value::Tuple(_)) if !is_lenient => return Err(cannot(value, class)),
        (ColumnType::Link, Value::Number(number)) => match number.as_u64() {
            Some(integer) if number.is_integer() => Value::Link(Value::from(integer).to_link()?),
            _ => return Err(cannot(value, class)),
        },
        (ColumnType::Link, value) => Value::Link(value.to_link()?),
        (ColumnType::Tuple, Value::Tuple(_)) => of_any_class(value),
        (ColumnType::Bytes | ColumnType::Tuple, value) => return Err(cannot(value, class)),
    })
}

/// A value that is stored among those of other classes.
fn of_any_class(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(number.widened()),
        Value::Tuple(items) => Value::Tuple(items.iter().map(of_any_class).collect()),
        other => other.clone(),
    }
}

/// A value as the number that it is or spells: text is parsed, one item unwraps and two are complex. Nothing is lost.
fn number(class: NumberType, value: &Value) -> Result<Number> {
    let not_a_number = || cannot_be(value, class.path());
    let number = match value {
        Value::Number(number) => *number,
        Value::String(text) => parse(class, text).map_err(|cause| not_a_number().context(cause.message()))?,
        Value::Id(id) => parse(class, id.as_str()).map_err(|_| not_a_number())?,
        Value::Tuple(items) => match &**items {
            [one] => number(class, one)?,
            [re, im] => {
                let part = |part: &Value| match number(NumberType::F64, part)? {
                    Number::F32(part) => Ok(Number::F32(part)),
                    part => part.exactly(NumberType::F64).ok_or_else(not_a_number),
                };
                Number::complex(part(re)?, part(im)?)
            }
            _ => return Err(not_a_number()),
        },
        Value::None | Value::Bytes(_) | Value::Link(_) => return Err(not_a_number()),
    };
    Ok(number)
}

/// The number that a text spells. A float may be spelled by the digits that a cast to a string gives, which are those of
/// another integer if there are many.
fn parse(class: NumberType, text: &str) -> Result<Number> {
    let number = Number::parse(text)?;
    if !class.is_exact() && number.exactly(NumberType::F64).is_none() {
        return Ok(Number::parse_whole_float(text).map_or(number, Number::F64));
    }
    Ok(number)
}

/// A number as one of a class that can hold exactly its value; a float may be rounded to a narrower one.
fn into_number(class: NumberType, number: Number) -> Result<Number> {
    if let Some(held) = number.exactly(class) {
        if matches!(held, Number::C32(_) | Number::C64(_)) {
            // No form of rows has one that is not finite.
            held.to_store()?;
        }
        // Of floats without a width, those of 64 bits are stored.
        let is_any = matches!(class, NumberType::Number | NumberType::Float);
        return Ok(if is_any { held.widened() } else { held });
    }
    let is_float = !class.is_exact();
    let is_real = number.exactly(NumberType::C64).is_none() || number.exactly(NumberType::F64).is_some();
    let is_flag = matches!(number, Number::Bool(_)) || class == NumberType::Bool;
    Err(if is_flag || !is_real || !number.is_finite() {
        cannot_be(&number.into(), class.path())
    } else if !is_float && number.as_f64().fract() != 0.0 {
        Error::bad_request(format_args!("{number} is not a whole number, as a {class} is"))
    } else if is_float && number.is_integer() {
        Error::bad_request(format_args!("no {class} is exactly {number}"))
    } else {
        Error::bad_request(format_args!("{number} is out of the range of {class}"))
    })
}

fn check_len(column: &Column, value: Value) -> Result<Value> {
    let Some(max_len) = column.max_len else {
        return Ok(value);
    };
    let (len, unit) = match &value {
        Value::String(text) => (text.chars().count(), "characters"),
        Value::Id(id) => (id.as_str().chars().count(), "characters"),
        Value::Link(link) => (link.to_string().chars().count(), "characters"),
        Value::Bytes(bytes) => (bytes.len(), "bytes"),
        Value::Tuple(items) => (items.len(), "items"),
        Value::None | Value::Number(_) => return Ok(value),
    };
    if len as u64 > max_len {
        return Err(Error::bad_request(format_args!("{len} {unit} are more than {max_len}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::bound::ValueRange;
    use crate::value::name::{Id, Link};
    use proptest::prelude::*;

    fn column(class: ColumnType) -> Column {
        Column { name: Id::literal("c"), class, max_len: None }
    }

    fn text(class: ColumnType, value: &Value, rule: Rule) -> std::result::Result<String, u16> {
        match coerce(&column(class), value, rule) {
            Ok(value) => Ok(crate::value::json::to_json(&value).unwrap()),
            Err(error) => Err(error.kind().status()),
        }
    }

    fn tuple(items: impl IntoIterator<Item = Value>) -> Value {
        Value::Tuple(items.into_iter().collect())
    }

    #[test]
    fn values_are_coerced_as_the_table_says() {
        use ColumnType as C;
        const N: fn(NumberType) -> ColumnType = ColumnType::Number;
        let link = || Value::Link(Link::parse("/a/b").unwrap());
        let id = |text: &str| Value::Id(Id::parse(text).unwrap());
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.into());
        let (good, bad) = (|text: &str| std::result::Result::<_, u16>::Ok(text.to_string()), Err(400));
        // class, value, lenient, strict
        let cases = [
            (N(NumberType::U8), 5i64.into(), good("5"), good("5")),
            (N(NumberType::U8), Value::None, bad.clone(), bad.clone()),
            (N(NumberType::Bool), Value::None, bad.clone(), bad.clone()),
            (N(NumberType::Number), Value::None, bad.clone(), bad.clone()),
            (N(NumberType::U8), true.into(), bad.clone(), bad.clone()),
            (N(NumberType::F64), true.into(), bad.clone(), bad.clone()),
            (N(NumberType::Complex), true.into(), bad.clone(), bad.clone()),
            (N(NumberType::Number), true.into(), good("true"), good("true")),
            (N(NumberType::Bool), true.into(), good("true"), good("true")),
            (N(NumberType::Bool), 1i64.into(), good("true"), good("true")),
            (N(NumberType::Bool), 0.0.into(), good("false"), good("false")),
            (N(NumberType::Bool), 2i64.into(), bad.clone(), bad.clone()),
            (N(NumberType::I64), tuple([Value::None]), bad.clone(), bad.clone()),
            (N(NumberType::I64), tuple([true.into()]), bad.clone(), bad.clone()),
            (N(NumberType::I64), tuple([1i64.into(), 2i64.into()]), bad.clone(), bad.clone()),
            (N(NumberType::I64), "1.5".into(), bad.clone(), bad.clone()),
            (N(NumberType::I64), "2.0".into(), good("2"), good("2")),
            (N(NumberType::F64), "9007199254740993".into(), bad.clone(), bad.clone()),
            (N(NumberType::F64), "100000000000000000000".into(), good("1e+20"), good("1e+20")),
            (
                N(NumberType::F64),
                "1234567890123456800".into(),
                good("1.2345678901234568e+18"),
                good("1.2345678901234568e+18"),
            ),
            (N(NumberType::I64), "12".into(), good("12"), good("12")),
            (N(NumberType::I64), tuple([7i64.into()]), good("7"), good("7")),
            (N(NumberType::I64), "x".into(), bad.clone(), bad.clone()),
            (N(NumberType::I64), tuple([]), bad.clone(), bad.clone()),
            (C::String, "x".into(), good("\"x\""), good("\"x\"")),
            (C::String, Value::None, bad.clone(), bad.clone()),
            (C::String, 5i64.into(), good("\"5\""), good("\"5\"")),
            (C::String, id("i"), good("\"i\""), good("\"i\"")),
            (C::String, link(), good("\"/a/b\""), good("\"/a/b\"")),
            (C::String, tuple([1i64.into(), 2i64.into()]), good("\"(1, 2)\""), bad.clone()),
            (C::String, bytes(&[1]), bad.clone(), bad.clone()),
            (C::Id, "name".into(), good(r#"{"name":[]}"#), good(r#"{"name":[]}"#)),
            (C::Id, "a b".into(), bad.clone(), bad.clone()),
            (C::Id, 1i64.into(), bad.clone(), bad.clone()),
            (C::Bytes, "YWI=".into(), good("\"YWI=\""), good("\"YWI=\"")),
            // What could be base64 is, as the host shows it so.
            (C::Bytes, "6162".into(), good("\"6162\""), good("\"6162\"")),
            (C::Bytes, "616263".into(), good("\"YWJj\""), good("\"YWJj\"")),
            (C::Bytes, "YWI".into(), good("\"YWI=\""), good("\"YWI=\"")),
            (C::Bytes, tuple([97i64.into(), 98i64.into()]), good("\"YWI=\""), bad.clone()),
            (C::Bytes, tuple([300i64.into()]), bad.clone(), bad.clone()),
            (C::Bytes, Value::None, bad.clone(), bad.clone()),
            (C::Bytes, tuple([true.into()]), bad.clone(), bad.clone()),
            (C::Bytes, 1i64.into(), bad.clone(), bad.clone()),
            (C::Link, "/a/b".into(), good(r#"{"/a/b":[]}"#), good(r#"{"/a/b":[]}"#)),
            (C::Link, 5i64.into(), good(r#"{"/5":[]}"#), good(r#"{"/5":[]}"#)),
            (C::Link, (-5i64).into(), bad.clone(), bad.clone()),
            (C::Link, Value::None, bad.clone(), bad.clone()),
            (C::Link, tuple([id("a"), id("b")]), good(r#"{"/a/b":[]}"#), bad.clone()),
            (C::Tuple, tuple([1i64.into()]), good("[1]"), good("[1]")),
            (C::Tuple, 1i64.into(), bad.clone(), bad.clone()),
            (C::None, "x".into(), good("null"), good("null")),
            (C::None, Value::None, good("null"), good("null")),
            (C::Value, "x".into(), good("\"x\""), good("\"x\"")),
            (C::Value, Value::None, good("null"), good("null")),
        ];
        for (class, value, lenient, strict) in cases {
            assert_eq!(text(class, &value, Rule::Lenient), lenient, "{value:?} in {class:?}");
            assert_eq!(text(class, &value, Rule::Strict), strict, "{value:?} in {class:?}, strictly");
        }
    }

    #[test]
    fn a_number_is_stored_only_as_itself() {
        let number = |class, number: Number| match into_number(class, number) {
            Ok(number) => number.to_string(),
            Err(error) => error.kind().status().to_string(),
        };
        for (class, value, expected) in [
            (NumberType::I32, Number::F64(4.9), "400"),
            (NumberType::I32, Number::F64(-4.0), "-4"),
            (NumberType::I32, Number::I64(4_294_967_299), "400"),
            (NumberType::U64, Number::I64(-1), "400"),
            (NumberType::U64, Number::U64(u64::MAX), "18446744073709551615"),
            (NumberType::I64, Number::U64(u64::MAX), "400"),
            (NumberType::I64, Number::F64(1e30), "400"),
            (NumberType::I64, Number::F64(9_223_372_036_854_775_808.0), "400"),
            (NumberType::I64, Number::F64(-9_223_372_036_854_775_808.0), "-9223372036854775808"),
            (NumberType::U64, Number::F64(-0.0), "0"),
            (NumberType::U64, Number::F64(18_446_744_073_709_551_616.0), "400"),
            (NumberType::I32, Number::F64(f64::NAN), "400"),
            (NumberType::U8, Number::C64([3.0, 0.0]), "3"),
            (NumberType::U8, Number::C64([3.0, 1.0]), "400"),
            (NumberType::F64, Number::C64([3.5, 1.0]), "400"),
            (NumberType::F64, Number::C64([3.5, -0.0]), "3.5"),
            (NumberType::Bool, Number::F64(0.5), "400"),
            (NumberType::F32, Number::F64(1e300), "400"),
            (NumberType::F32, Number::F64(0.1), "0.1"),
            (NumberType::F32, Number::F64(1e-300), "0"),
            (NumberType::F32, Number::I64(16_777_216), "16777216"),
            (NumberType::F32, Number::I64(16_777_217), "400"),
            (NumberType::F64, Number::I64((1 << 53) + 1), "400"),
            (NumberType::F64, Number::U64(u64::MAX), "400"),
            (NumberType::F64, Number::U64(1 << 63), "9223372036854776000"),
            (NumberType::C64, Number::I64((1 << 53) + 1), "400"),
            (NumberType::C32, Number::C64([0.1, -0.1]), "0.1-0.1i"),
            (NumberType::C32, Number::C64([0.1, 1e300]), "400"),
            (NumberType::F64, Number::F64(f64::INFINITY), "inf"),
            (NumberType::Int, Number::U64(u64::MAX), "400"),
            (NumberType::Int, Number::F32(3e9), "3000000000"),
            (NumberType::Int, Number::F64(2.5), "400"),
            (NumberType::UInt, Number::I64(-1), "400"),
            (NumberType::Float, Number::I32(16_777_217), "16777217"),
            (NumberType::Float, Number::F32(0.1), "0.1"),
            (NumberType::Number, Number::I64(-1), "-1"),
        ] {
            assert_eq!(number(class, value), expected, "{value} as {class}");
        }
    }

    fn any_number() -> impl Strategy<Value = Number> {
        let edges = (0..=64u32, -2i128..=2, any::<bool>()).prop_map(|(bit, more, is_negative)| {
            let integer = ((1i128 << bit) + more) * if is_negative { -1 } else { 1 };
            match (i64::try_from(integer), u64::try_from(integer)) {
                (Ok(integer), _) => Number::I64(integer),
                (_, Ok(integer)) => Number::U64(integer),
                _ => Number::F64(integer as f64),
            }
        });
        prop_oneof![
            4 => edges,
            1 => any::<bool>().prop_map(Number::Bool),
            2 => (-600i32..600).prop_map(|x| Number::F64(f64::from(x) / 2.0)),
            2 => any::<f64>().prop_map(Number::F64),
            1 => any::<f32>().prop_map(|x| Number::F64(x.into())),
            1 => prop::sample::select(vec![
                f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e39, -1e39, -0.0, 0.1, f64::MIN_POSITIVE,
            ]).prop_map(Number::F64),
            1 => (-3i8..3, -1i8..2).prop_map(|(re, im)| Number::C64([re.into(), im.into()])),
        ]
    }

    const WIDTHS: [NumberType; 12] = [
        NumberType::Bool,
        NumberType::U8,
        NumberType::U16,
        NumberType::U32,
        NumberType::U64,
        NumberType::I16,
        NumberType::I32,
        NumberType::I64,
        NumberType::F32,
        NumberType::F64,
        NumberType::C32,
        NumberType::C64,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// The oracle is the order of numbers by their exact values, but a float is rounded as it is where it is stored.
        #[test]
        fn a_column_holds_what_a_bound_says_by_value(
            class in prop::sample::select(WIDTHS.to_vec()),
            bound in any_number(),
            beside in any_number(),
        ) {
            let rounded = match bound {
                Number::F64(_) | Number::C64(_) => bound.exactly(class).filter(|held| !held.is_integer()),
                _ => None,
            };
            let compared = rounded.unwrap_or(bound);
            let place = place(&column(ColumnType::Number(class)), &bound.into()).unwrap();
            let end = |is_in: bool| match is_in {
                true => std::ops::Bound::Included(place.clone()),
                false => std::ops::Bound::Excluded(place.clone()),
            };
            let open = std::ops::Bound::Unbounded::<Place>;
            let around = bound.as_f64();
            let near = [around, around.next_up(), around.next_down(), around + 1.0, around - 1.0];
            for held in near.map(Number::F64).into_iter().chain([beside, bound]) {
                let held = held.cast(class);
                let order = held.collate(&compared);
                let (held, says) = (Value::from(held), format!("{held} beside {bound} in {class}"));
                prop_assert_eq!(ValueRange::equal_to(place.clone()).contains(&held), order.is_eq(), "= {}", says);
                prop_assert_eq!(ValueRange::between(end(true), open.clone()).contains(&held), order.is_ge(), ">= {}", says);
                prop_assert_eq!(ValueRange::between(end(false), open.clone()).contains(&held), order.is_gt(), "> {}", says);
                prop_assert_eq!(ValueRange::between(open.clone(), end(true)).contains(&held), order.is_le(), "<= {}", says);
                prop_assert_eq!(ValueRange::between(open.clone(), end(false)).contains(&held), order.is_lt(), "< {}", says);
            }
        }

        #[test]
        fn what_is_stored_is_what_was_written(
            class in prop::sample::select(NumberType::ALL.to_vec()),
            number in any_number(),
        ) {
            let is_float = |number: Number| !number.is_integer() && !matches!(number, Number::Bool(_));
            if let Ok(stored) = into_number(class, number) {
                let is_same = stored.collate(&number).is_eq();
                prop_assert!(is_same || is_float(stored) && is_float(number) && stored == number, "{} as {}", number, stored);
                let is_flag = |number| matches!(number, Number::Bool(_));
                prop_assert!(is_flag(stored) || !is_flag(number));
                prop_assert_eq!(stored.is_finite(), number.is_finite());
            } else {
                // No number of the class has this value.
                let is_held = number.cast(class).collate(&number).is_eq();
                let is_refused = matches!(number, Number::Bool(_)) || !number.is_finite();
                prop_assert!(!is_held || is_refused, "{} as {}", number, class);
            }
        }
    }

    #[test]
    fn what_json_cannot_show_is_not_written() {
        let any = column(ColumnType::Value);
        for number in
            [Number::F64(f64::INFINITY), Number::F32(f32::NAN), Number::C64([0.0, f64::NEG_INFINITY])]
        {
            for value in [number.into(), tuple([Value::None, tuple([number.into()])])] {
                for rule in [Rule::Lenient, Rule::Strict] {
                    let error = coerce(&any, &value, rule).unwrap_err();
                    assert!(error.message().contains("the column c"), "{error}");
                    assert!(error.message().contains("cannot be stored"), "{error}");
                }
                assert!(place(&any, &value).is_ok(), "a bound may be infinite");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_again_is_not_written() {
        use crate::value::limits::{PATH_SEGMENTS_MAX, STORED_DEPTH_MAX};
        let nested = |levels: u32| (0..levels).fold(Value::None, |inner, _| tuple([inner]));
        let link = |segments: usize| {
            Value::Link((0..segments).map(|_| Id::literal("a")).collect::<crate::Path>().into())
        };
        for (class, good, bad) in [
            (ColumnType::Value, nested(STORED_DEPTH_MAX), nested(STORED_DEPTH_MAX + 1)),
            (ColumnType::Tuple, nested(STORED_DEPTH_MAX), nested(STORED_DEPTH_MAX + 1)),
            (ColumnType::Value, link(PATH_SEGMENTS_MAX), link(PATH_SEGMENTS_MAX + 1)),
            (ColumnType::Link, link(PATH_SEGMENTS_MAX), link(PATH_SEGMENTS_MAX + 1)),
        ] {
            for rule in [Rule::Lenient, Rule::Strict] {
                assert!(coerce(&column(class), &good, rule).is_ok());
                assert_eq!(coerce(&column(class), &bad, rule).unwrap_err().kind().status(), 400);
            }
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let short = Column { max_len: Some(2), ..column(ColumnType::String) };
        assert!(coerce(&short, &"éé".into(), Rule::Strict).is_ok());
        let error = coerce(&short, &"abc".into(), Rule::Lenient).unwrap_err();
        assert!(error.message().contains("the column c"), "{error}");
        assert!(place(&short, &"abc".into()).is_ok());
        let links = Column { max_len: Some(2), ..column(ColumnType::Link) };
        assert!(coerce(&links, &Value::Link(Link::parse("/abc").unwrap()), Rule::Strict).is_err());
    }
}
