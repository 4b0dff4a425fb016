//! The decoder of the `key` of a request (protocol page 01 §2.3).

use crate::language::cast;
use crate::value::Value;
use crate::value::cast::base64;
use crate::value::document::Document;
use crate::value::error::{Error, Result};
use crate::value::name::{Id, Link};
use crate::value::native::NativeClass;

use crate::value::limits::KEY_DEPTH_MAX;

/// Decode the `key` of a request.
///
/// # Errors
/// 400 that says what cannot be decoded.
pub fn key(document: Document) -> Result<Value> {
    key_at(document, 0)
}

fn key_at(document: Document, depth: usize) -> Result<Value> {
    if depth > KEY_DEPTH_MAX {
        return Err(Error::bad_request(format_args!("a key nests at most {KEY_DEPTH_MAX} levels")));
    }
    Ok(match document {
        Document::Null => Value::None,
        // A JSON integer of a key that is not negative is unsigned.
        Document::Number(number) => Value::Number(match (number, number.as_u64()) {
            (crate::Number::I64(_), Some(unsigned)) => crate::Number::U64(unsigned),
            _ => number,
        }),
        Document::String(text) => Value::String(text.into()),
        Document::Bytes(bytes) => Value::Bytes(bytes.into()),
        Document::List(items) => {
            Value::Tuple(items.iter().map(|item| key_at(*item, depth + 1)).collect::<Result<_>>()?)
        }
        Document::Map([(name, content)]) => key_entry(name, *content, depth)?,
        Document::Map(entries) => {
            return Err(Error::bad_request(format_args!(
                "an object in a key has one entry, not {}",
                entries.len()
            )));
        }
    })
}

/// Whether a value in a key is of exactly the JSON form of its class (page 01 §2.3).
fn is_key_form(class: NativeClass, operand: &Value) -> bool {
    match class {
        NativeClass::Number(_) => match operand {
            Value::Number(_) | Value::String(_) => true,
            Value::Tuple(parts) => {
                parts.len() == 2 && parts.iter().all(|part| matches!(part, Value::Number(_)))
            }
            _ => false,
        },
        NativeClass::Bytes => match operand {
            Value::String(_) | Value::Bytes(_) => true,
            // As bytes are shown whose base64 would be read as hexadecimal elsewhere.
            Value::Tuple(bytes) => bytes.iter().all(|byte| match byte {
                Value::Number(number) => {
                    number.is_integer() && number.as_u64().is_some_and(|byte| byte < 256)
                }
                _ => false,
            }),
            _ => false,
        },
        NativeClass::String | NativeClass::Id | NativeClass::Link => matches!(operand, Value::String(_)),
        NativeClass::None => matches!(operand, Value::None),
        NativeClass::ValueTuple => matches!(operand, Value::Tuple(_)),
        _ => false,
    }
}

fn key_entry(name: &str, content: Document, depth: usize) -> Result<Value> {
    if let Some(class) = NativeClass::from_path(name).filter(|class| class.is_castable())
        && !matches!(content, Document::Map([]))
        && !matches!(content, Document::List([]) if class != NativeClass::ValueTuple)
    {
        let operand = key_at(content, depth + 1)?;
        if !is_key_form(class, &operand) {
            return Err(Error::bad_request(format_args!(
                "{operand} is not how a {name} is written in a key"
            )));
        }
        if let (NativeClass::Bytes, Value::String(text)) = (class, &operand) {
            return Ok(Value::Bytes(base64(text)?));
        }
        let value = cast::cast(&operand.into(), class)?;
        return value
            .to_value()
            .ok_or_else(|| Error::bad_request(format_args!("a {name} cannot be (part of) a key")));
    }
    match content {
        Document::List([]) | Document::Map([]) if name.starts_with('/') || name.contains("://") => {
            Ok(Value::Link(Link::parse(name)?))
        }
        Document::List([]) => Ok(Value::Id(Id::parse(name)?)),
        other => Err(Error::bad_request(format_args!(
            "{name:?} with {} as its content is not a value, so it cannot be (part of) a key",
            other.kind()
        ))),
    }
}
