//! What becomes of a value in a column (protocol page 02 §2.1).

use super::Row;
use super::declare::name;
use super::schema::{Column, ColumnType, Schema};
use crate::cast;
use crate::error::{Error, Result};
use crate::limits::check_stored_value;
use crate::number::{Number, NumberType};
use crate::state::State;
use crate::value::Value;

/// How much a value may differ from what its column holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rule {
    /// Keys that a BTree is given, and the values of an update.
    Lenient,
    /// Keys and values of a table, and every bound.
    Strict,
}

/// A state as the value that it is in a collection: a pair of bounds is a tuple there, and an object with a name and
/// nothing in it is an id, which is how ids are written.
///
/// # Errors
/// 400 if it is not a value.
pub fn value_of(state: &State) -> Result<Value> {
    match state {
        State::Range(items) | State::Tuple(items) => {
            Ok(Value::Tuple(items.iter().map(value_of).collect::<Result<_>>()?))
        }
        State::Map(map) if map.len() == 1 => name(state).map(Value::Id),
        other => other.to_value().ok_or_else(|| {
            Error::bad_request(format_args!("a {} cannot be in a collection", other.class().path()))
        }),
    }
}

/// A value that is written to a column, as the column holds it.
///
/// # Errors
/// 400 that names the column, if the value cannot be cast, is out of range, is too long or has a number that is not
/// finite; 501 for a number as bytes.
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
    check_stored_value(&value)?;
    Ok(value)
}

/// A value that is compared with those of a column; it may be longer than any of them.
///
/// # Errors
/// As [`coerce`].
pub fn coerce_bound(column: &Column, value: &Value) -> Result<Value> {
    into_class(column.class, value, Rule::Strict).map_err(|cause| in_column(&cause, column))
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

/// The values of the key of a row that is looked for, which need not be finite.
///
/// # Errors
/// As [`btree_row`].
pub fn table_key(schema: &Schema, values: &[Value]) -> Result<Vec<Value>> {
    let columns = schema.key_columns();
    check_count("a key of this table", values.len(), columns.len())?;
    let sought = |(column, value): (&Column, &Value)| {
        into_column(column, value, Rule::Strict).map_err(|cause| in_column(&cause, column))
    };
    columns.iter().zip(values).map(sought).collect()
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
    Error::bad_request(format_args!("{} cannot be a {path}", cast::describe(&State::Value(value.clone()))))
}

fn into_class(class: ColumnType, value: &Value, rule: Rule) -> Result<Value> {
    let is_lenient = rule == Rule::Lenient;
    Ok(match (class, value) {
        (ColumnType::Value, value) => value.clone(),
        (ColumnType::None, _) => Value::None,
        (ColumnType::Number(class), Value::None) => Number::I64(0).cast(class).into(),
        (ColumnType::Number(class), value) => {
            let number =
                cast::number(&State::Value(value.clone())).map_err(|_| cannot_be(value, class.path()))?;
            Value::Number(into_number(class, number)?)
        }
        (ColumnType::String, Value::String(_)) => value.clone(),
        (ColumnType::String, Value::None) => return Err(cannot(value, class)),
        (ColumnType::String, Value::Bytes(_) | Value::Tuple(_)) if !is_lenient => {
            return Err(cannot(value, class));
        }
        (ColumnType::String, other) => Value::String(other.to_string().into()),
        (ColumnType::Id, value) => Value::Id(cast::to_id(value)?),
        (ColumnType::Bytes, Value::Bytes(_)) => value.clone(),
        (ColumnType::Bytes, Value::Number(_)) if !is_lenient => {
            return Err(Error::not_implemented("a number cannot be stored as bytes"));
        }
        (ColumnType::Bytes, Value::Tuple(items)) if is_lenient => {
            let byte = |item: &Value| match item {
                Value::Number(number) => number.as_u64().and_then(|byte| u8::try_from(byte).ok()),
                _ => None,
            };
            let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
            Value::Bytes(bytes.ok_or_else(|| cannot(value, class))?.into())
        }
        (ColumnType::Bytes, Value::String(_)) => {
            Value::Bytes(cast::bytes(value).ok_or_else(|| cannot(value, class))?)
        }
        (ColumnType::Bytes, Value::None) if is_lenient => Value::Bytes([].into()),
        (ColumnType::Link, Value::Link(_)) => value.clone(),
        (ColumnType::Link, Value::None | Value::Tuple(_)) if !is_lenient => return Err(cannot(value, class)),
        (ColumnType::Link, Value::Number(number)) => match number.as_u64() {
            Some(integer) => Value::Link(cast::link(&Number::U64(integer).into())?),
            None => return Err(cannot(value, class)),
        },
        (ColumnType::Link, value) => Value::Link(cast::link(value)?),
        (ColumnType::Tuple, Value::Tuple(_)) => value.clone(),
        (ColumnType::Bytes | ColumnType::Tuple, value) => return Err(cannot(value, class)),
    })
}

/// A number of another class: decimals are truncated, complex numbers lose their imaginary part, and what does not
/// fit is refused.
fn into_number(class: NumberType, number: Number) -> Result<Number> {
    let out_of_range = || Error::bad_request(format_args!("{number} is out of the range of {class}"));
    let cast = number.cast(class);
    if cast.is_integer() {
        let whole = match number {
            Number::F32(_) | Number::F64(_) | Number::C32(_) | Number::C64(_) => {
                Number::F64(number.as_f64().trunc())
            }
            integer => integer,
        };
        // Integers compare with floats by their exact values.
        return if whole == cast { Ok(cast) } else { Err(out_of_range()) };
    }
    if number.is_finite() && !cast.is_finite() {
        return Err(out_of_range());
    }
    Ok(cast)
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
    use crate::name::{Id, Link};

    fn column(class: ColumnType) -> Column {
        Column { name: Id::literal("c"), class, max_len: None }
    }

    fn text(class: ColumnType, value: &Value, rule: Rule) -> std::result::Result<String, u16> {
        match coerce(&column(class), value, rule) {
            Ok(value) => Ok(crate::encode::to_json(&State::Value(value)).unwrap()),
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
            (N(NumberType::U8), Value::None, good("0"), good("0")),
            (N(NumberType::Bool), Value::None, good("false"), good("false")),
            (N(NumberType::Number), Value::None, good("0"), good("0")),
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
            (C::String, bytes(&[1]), good("\"(1 bytes)\""), bad.clone()),
            (C::Id, "name".into(), good(r#"{"name":[]}"#), good(r#"{"name":[]}"#)),
            (C::Id, "a b".into(), bad.clone(), bad.clone()),
            (C::Id, 1i64.into(), bad.clone(), bad.clone()),
            (C::Bytes, "YWI=".into(), good("\"YWI=\""), good("\"YWI=\"")),
            (C::Bytes, "6162".into(), good("\"YWI=\""), good("\"YWI=\"")),
            (C::Bytes, tuple([97i64.into(), 98i64.into()]), good("\"YWI=\""), bad.clone()),
            (C::Bytes, tuple([300i64.into()]), bad.clone(), bad.clone()),
            (C::Bytes, Value::None, good("\"\""), bad.clone()),
            (C::Bytes, 1i64.into(), bad.clone(), Err(501)),
            (C::Link, "/a/b".into(), good(r#"{"/a/b":[]}"#), good(r#"{"/a/b":[]}"#)),
            (C::Link, 5i64.into(), good(r#"{"/5":[]}"#), good(r#"{"/5":[]}"#)),
            (C::Link, (-5i64).into(), bad.clone(), bad.clone()),
            (C::Link, Value::None, good(r#"{"/":[]}"#), bad.clone()),
            (C::Link, tuple([id("a"), id("b")]), good(r#"{"/a/b":[]}"#), bad.clone()),
            (C::Tuple, tuple([1i64.into()]), good("[1]"), good("[1]")),
            (C::Tuple, 1i64.into(), bad.clone(), bad.clone()),
            (C::None, "x".into(), good("null"), good("null")),
            (C::Value, "x".into(), good("\"x\""), good("\"x\"")),
            (C::Value, Value::None, good("null"), good("null")),
        ];
        for (class, value, lenient, strict) in cases {
            assert_eq!(text(class, &value, Rule::Lenient), lenient, "{value:?} in {class:?}");
            assert_eq!(text(class, &value, Rule::Strict), strict, "{value:?} in {class:?}, strictly");
        }
    }

    #[test]
    fn numbers_never_wrap() {
        let number = |class, number: Number| match into_number(class, number) {
            Ok(number) => number.to_string(),
            Err(error) => error.kind().status().to_string(),
        };
        for (class, value, expected) in [
            (NumberType::I32, Number::F64(4.9), "4"),
            (NumberType::I32, Number::F64(-4.9), "-4"),
            (NumberType::I32, Number::I64(4_294_967_299), "400"),
            (NumberType::U64, Number::I64(-1), "400"),
            (NumberType::U64, Number::U64(u64::MAX), "18446744073709551615"),
            (NumberType::I64, Number::U64(u64::MAX), "400"),
            (NumberType::I64, Number::F64(1e30), "400"),
            (NumberType::U64, Number::F64(-0.5), "0"),
            (NumberType::U64, Number::F64(18_446_744_073_709_551_616.0), "400"),
            (NumberType::I32, Number::F64(f64::NAN), "400"),
            (NumberType::U8, Number::C64([3.5, 1.0]), "3"),
            (NumberType::Bool, Number::F64(0.5), "true"),
            (NumberType::F32, Number::F64(1e300), "400"),
            (NumberType::F64, Number::F64(f64::INFINITY), "inf"),
            (NumberType::Int, Number::U64(u64::MAX), "400"),
            (NumberType::UInt, Number::I64(-1), "400"),
            (NumberType::Number, Number::I64(-1), "-1"),
        ] {
            assert_eq!(number(class, value), expected, "{value} as {class}");
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
                assert!(coerce_bound(&any, &value).is_ok(), "a bound may be infinite");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_again_is_not_written() {
        use crate::limits::{PATH_SEGMENTS_MAX, STORED_DEPTH_MAX};
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
        assert!(coerce_bound(&short, &"abc".into()).is_ok());
        let links = Column { max_len: Some(2), ..column(ColumnType::Link) };
        assert!(coerce(&links, &Value::Link(Link::parse("/abc").unwrap()), Rule::Strict).is_err());
    }
}
