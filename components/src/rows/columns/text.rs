//! Values as text: what is written reads back as the same value. CSV and Arrow share it with rows in JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, Serializer};

use super::Cell;
use crate::rows::schema::ColumnType;
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::json::entry;
use crate::value::native::NativeClass;
use crate::value::number::{Number, NumberType};

/// The greatest integer up to which every integer is a float of 64 bits.
pub(super) const EXACT_INTEGER_MAX: u64 = 1 << 53;

/// Where a text comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TextOrigin {
    /// A field of CSV, where everything is text.
    Csv,
    /// A text of an Arrow array of which it is said that its texts are JSON.
    Json,
    /// Any other text of an Arrow array.
    Text,
}

/// Reads the JSON of a value.
pub type ReadJson = fn(&str) -> Result<Value>;

/// The value that a text stands for in a column of a class.
///
/// # Errors
/// 400 if it stands for none.
#[inline]
pub fn cell(class: ColumnType, text: &str, origin: TextOrigin, json: ReadJson) -> Result<Cell<'_>> {
    match class {
        ColumnType::String | ColumnType::Bytes => Ok(Cell::Text(text)),
        ColumnType::Number(class) => number(class, text, origin, json),
        class => other(class, text, origin, json),
    }
}

#[inline]
fn number(class: NumberType, text: &str, origin: TextOrigin, json: ReadJson) -> Result<Cell<'_>> {
    // Other numbers than these are parsed where text becomes a number.
    let is_integer = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    if is_integer && let Ok(integer) = text.parse::<i64>() {
        // The text of a large float looks like an integer that is none.
        if integer.unsigned_abs() <= EXACT_INTEGER_MAX || class.is_exact() {
            return Ok(Cell::Number(Number::I64(integer)));
        }
    }
    if text.is_empty() {
        return Err(Error::bad_request("an empty field is not a number"));
    }
    if origin == TextOrigin::Text {
        return match text.as_bytes()[0] {
            b'{' | b'[' => json(text).map(Cell::Value),
            _ => Ok(Cell::Text(text)),
        };
    }
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    let takes_flags = matches!(class, NumberType::Bool | NumberType::Number);
    Ok(match text.as_bytes()[0] {
        b'{' | b'[' => Cell::Value(json(text)?),
        b't' | b'T' if takes_flags && is("true") => Cell::Number(Number::Bool(true)),
        b'f' | b'F' if takes_flags && is("false") => Cell::Number(Number::Bool(false)),
        b'n' | b'N' if is("nan") => Cell::Number(Number::F64(f64::NAN)),
        b'i' | b'I' if is("inf") || is("infinity") => Cell::Number(Number::F64(f64::INFINITY)),
        b'+' if is("+inf") || is("+infinity") => Cell::Number(Number::F64(f64::INFINITY)),
        b'-' if is("-inf") || is("-infinity") => Cell::Number(Number::F64(f64::NEG_INFINITY)),
        _ => Cell::Text(text),
    })
}

#[inline(never)]
fn other(class: ColumnType, text: &str, origin: TextOrigin, json: ReadJson) -> Result<Cell<'_>> {
    Ok(match class {
        ColumnType::Tuple => Cell::Value(json(text)?),
        ColumnType::Id | ColumnType::Link if text.starts_with('{') => Cell::Value(json(text)?),
        ColumnType::None if text.is_empty() => Cell::Value(Value::None),
        ColumnType::Value => match (origin, not_finite_of(text)) {
            (TextOrigin::Text, _) => Cell::Text(text),
            (_, Some(float)) => Cell::Number(Number::F64(float)),
            (TextOrigin::Json, None) => Cell::Value(json(text)?),
            (TextOrigin::Csv, None) if text.is_empty() => Cell::Value(Value::None),
            // What only looks like JSON is text, as people write it.
            (TextOrigin::Csv, None) if looks_like_json(text) => match json(text) {
                Ok(value) => Cell::Value(value),
                Err(_) => Cell::Text(text),
            },
            (TextOrigin::Csv, None) => Cell::Text(text),
        },
        _ => Cell::Text(text),
    })
}

/// Whether a field of CSV in a column of any value may be read as the JSON of a value; then text is written as JSON too.
fn looks_like_json(text: &str) -> bool {
    match text.as_bytes().first() {
        Some(b'"' | b'[' | b'{') => true,
        Some(b'-' | b'0'..=b'9') => serde_json::from_str::<serde_json::Number>(text).is_ok(),
        Some(_) => matches!(text, "null" | "true" | "false"),
        None => false,
    }
}

/// Whether a text in a column of any value is written as a field of CSV as it is.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && !looks_like_json(text) && not_finite_of(text).is_none()
}

/// How numbers are written that JSON has no form for.
const NOT_FINITE: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

fn not_finite_of(text: &str) -> Option<f64> {
    NOT_FINITE.iter().find(|(word, _)| *word == text).map(|(_, float)| *float)
}

/// The word for a real number that JSON has no form for.
pub(super) fn not_finite(value: &Value) -> Option<&'static str> {
    let Value::Number(number @ (Number::F32(_) | Number::F64(_))) = value else { return None };
    let float = number.as_f64();
    let is_it = |other: f64| float == other || float.is_nan() && other.is_nan();
    NOT_FINITE.iter().find(|(_, other)| is_it(*other)).map(|(word, _)| *word)
}

/// A value of a row as JSON: what JSON has no form for is null.
pub(crate) struct Shown<'a>(pub(crate) ColumnType, pub(crate) &'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.1.serialize(serializer);
        }
        match (self.0, self.1) {
            // The column says which they are.
            (ColumnType::Number(NumberType::F32), Value::Number(number)) if number.is_finite() => {
                number.serialize(serializer)
            }
            (ColumnType::Bytes, bytes @ Value::Bytes(_)) => bytes.serialize(serializer),
            (_, Value::Number(Number::F32(float))) if float.is_finite() => {
                // All digits, or it would be read as another number.
                serializer.serialize_f64((*float).into())
            }
            (_, Value::Number(number)) if number.is_finite() => number.serialize(serializer),
            (_, Value::Number(number @ (Number::C32(_) | Number::C64(_)))) => {
                let parts = number.to_complex().map(|part| part.is_finite().then_some(part));
                entry(serializer, number.class().path(), &parts)
            }
            (_, Value::Number(_)) => serializer.serialize_unit(),
            (_, Value::Bytes(bytes)) => {
                let text = BASE64.encode(bytes);
                let path = NativeClass::Bytes.path();
                // In the literal, digits are hexadecimal unless base64 ends in padding.
                match hex::decode(&text) {
                    Ok(_) => entry(serializer, path, &**bytes),
                    Err(_) => entry(serializer, path, &text),
                }
            }
            (_, Value::Link(link)) => {
                let text = link.to_string();
                // With nothing in it, a class of values is the literal of an empty one.
                match NativeClass::from_path(&text) {
                    Some(_) => entry(serializer, NativeClass::Link.path(), &text),
                    None => self.1.serialize(serializer),
                }
            }
            (_, Value::Tuple(items)) => {
                serializer.collect_seq(items.iter().map(|item| Shown(ColumnType::Value, item)))
            }
            (_, Value::None | Value::Id(_) | Value::String(_)) => self.1.serialize(serializer),
        }
    }
}
