//! Casts between classes (protocol page 01 §2.7).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Error, Result};
use crate::name::{Id, Link, Path};
use crate::native::NativeClass;
use crate::number::{Number, NumberType};
use crate::state::State;
use crate::value::Value;

/// Base64 with or without padding.
const BASE64_ANY: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn cannot(state: &State, class: NativeClass) -> Error {
    let from = state.class().path();
    match state {
        State::Value(value) => {
            Error::bad_request(format_args!("cannot cast {value} ({from}) into {}", class.path()))
        }
        _ => Error::bad_request(format_args!("cannot cast a {from} into {}", class.path())),
    }
}

/// Cast a resolved state into a class; the data of an instance is what is cast.
///
/// # Errors
/// 400 if there is no such cast, or the content does not allow it.
pub fn cast(state: &State, class: NativeClass) -> Result<State> {
    if let State::Instance(instance) = state {
        return cast(instance.data(), class);
    }
    let value = || state.to_value().ok_or_else(|| cannot(state, class));
    Ok(match class {
        NativeClass::State | NativeClass::Scalar => state.clone(),
        NativeClass::Value => State::Value(value()?),
        NativeClass::None => State::NONE,
        NativeClass::Number(into) => {
            let number = number(state).map_err(|cause| cannot(state, class).context(cause.message()))?;
            // No key at all stays the bool that it is where any number will do.
            number.cast(into).into()
        }
        NativeClass::String => State::string(value()?.to_string()),
        NativeClass::Bytes => Value::Bytes(bytes(&value()?).ok_or_else(|| cannot(state, class))?).into(),
        NativeClass::Id => match value()? {
            Value::String(text) => Value::Id(Id::parse(&text)?).into(),
            Value::Id(id) => Value::Id(id).into(),
            _ => return Err(cannot(state, class)),
        },
        NativeClass::Link => {
            link(&value()?).map_err(|cause| cannot(state, class).context(cause.message()))?.into()
        }
        NativeClass::ValueTuple => match value()? {
            Value::Tuple(items) => Value::Tuple(items).into(),
            _ => return Err(cannot(state, class)),
        },
        NativeClass::Tuple | NativeClass::ScalarTuple => match state {
            State::Map(map) => State::tuple(map.values().cloned().collect())?,
            _ => State::Tuple(state.to_tuple().ok_or_else(|| cannot(state, class))?),
        },
        NativeClass::Map | NativeClass::ScalarMap => match state {
            State::Map(map) => State::Map(map.clone()),
            _ => State::map(pairs(state).ok_or_else(|| cannot(state, class))??.into_iter().collect())?,
        },
        NativeClass::Range => match state.to_tuple() {
            Some(bounds) if bounds.len() == 2 => State::Range(bounds),
            _ => return Err(cannot(state, class)),
        },
        NativeClass::Cluster => match state {
            State::Cluster(path) => State::Cluster(path.clone()),
            _ => State::Cluster(link(&value()?)?.path().clone()),
        },
        _ => return Err(cannot(state, class)),
    })
}

/// A tuple of `[name, state]` pairs, if that is what the state is; a bad name is an error.
pub fn pairs(state: &State) -> Option<Result<Vec<(Id, State)>>> {
    let mut items = Vec::new();
    for pair in state.to_tuple()?.iter() {
        match pair.to_tuple().as_deref() {
            Some([name, item]) => match name.to_value().map(|name| to_id(&name)) {
                Some(Ok(name)) => items.push((name, item.clone())),
                Some(Err(error)) => return Some(Err(error)),
                None => return None,
            },
            _ => return None,
        }
    }
    Some(Ok(items))
}

/// Any state as a number: null is false, text is parsed, one item unwraps and two are complex.
///
/// # Errors
/// 400 if it is not a number in any of these ways.
pub fn number(state: &State) -> Result<Number> {
    let not_a_number = || Error::bad_request(format_args!("not a number: {}", describe(state)));
    match state {
        State::Value(Value::None) => Ok(Number::Bool(false)),
        State::Value(Value::Number(number)) => Ok(*number),
        State::Value(Value::String(text)) => Number::parse(text),
        State::Value(Value::Id(id)) => {
            id.as_str().trim().parse::<f64>().map(Number::F64).map_err(|_| not_a_number())
        }
        State::Instance(instance) => number(instance.data()),
        State::Row(_) | State::Tuple(_) | State::Value(Value::Tuple(_)) => {
            match state.to_tuple().as_deref() {
                Some([one]) => number(one),
                Some([re, im]) => {
                    let (re, im) = (number(re)?, number(im)?);
                    match (re, im) {
                        (Number::F32(re), Number::F32(im)) => Ok(Number::C32([re, im])),
                        (re, im) => Ok(Number::C64([re.as_f64(), im.as_f64()])),
                    }
                }
                _ => Err(not_a_number()),
            }
        }
        _ => Err(not_a_number()),
    }
}

/// What a state is, in few words, for messages.
pub fn describe(state: &State) -> String {
    match state {
        State::Value(value) => format!("{value} ({})", state.class().path()),
        _ => state.class().path().to_string(),
    }
}

/// Bytes from text in hexadecimal or base64, or from a tuple of numbers.
pub(crate) fn bytes(value: &Value) -> Option<Arc<[u8]>> {
    match value {
        Value::None => Some([].into()),
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::String(text) if text.ends_with('=') => BASE64_ANY.decode(&**text).ok().map(Into::into),
        Value::String(text) => {
            hex::decode(&**text).or_else(|_| BASE64_ANY.decode(&**text)).ok().map(Into::into)
        }
        Value::Tuple(items) => items
            .iter()
            .map(|item| match number(&State::Value(item.clone())).ok()?.cast(NumberType::U8) {
                Number::U8(byte) => Some(byte),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// Bytes from text as collections show them, which is base64 with padding. Any other text is hexadecimal, or base64
/// without padding.
pub(crate) fn shown_bytes(text: &str) -> Option<Arc<[u8]>> {
    let shown = STANDARD.decode(text).ok();
    shown.or_else(|| hex::decode(text).ok()).or_else(|| BASE64_ANY.decode(text).ok()).map(Into::into)
}

/// Bytes from base64 text, padded or not.
pub fn base64(text: &str) -> Result<Arc<[u8]>> {
    BASE64_ANY
        .decode(text)
        .map(Into::into)
        .map_err(|cause| Error::bad_request(format_args!("not base64: {cause}")))
}

/// A value as a link.
pub(crate) fn link(value: &Value) -> Result<Link> {
    match value {
        Value::None => Ok(Path::root().into()),
        Value::Number(Number::U8(_) | Number::U16(_) | Number::U32(_) | Number::U64(_)) => {
            Link::parse(&format!("/{value}"))
        }
        Value::String(text) => Link::parse(text),
        Value::Id(id) => Ok(Path::root().append(id.clone()).into()),
        Value::Link(link) => Ok(link.clone()),
        Value::Tuple(items) => {
            let path: Path = items.iter().map(|item| Id::parse(&item.to_string())).collect::<Result<_>>()?;
            Ok(path.into())
        }
        Value::Bytes(_) | Value::Number(_) => Err(Error::bad_request(format_args!("{value} is not a link"))),
    }
}

/// A value as a name: an id, or text that is one.
///
/// # Errors
/// 400 if it is not.
pub fn to_id(value: &Value) -> Result<Id> {
    match value {
        Value::Id(id) => Ok(id.clone()),
        Value::String(text) => Id::parse(text),
        other => Err(Error::bad_request(format_args!("{other} is not a name"))),
    }
}

/// A value as an index below `len`: anything castable to a number, truncated.
///
/// # Errors
/// 400 if it is not a number; 404 if it is out of range.
pub fn to_index(value: &Value, len: usize) -> Result<usize> {
    match number(&State::Value(value.clone()))?.cast(NumberType::U64) {
        Number::U64(i) if i < len as u64 => Ok(i as usize),
        _ => Err(Error::not_found(format_args!("no item {value} in a tuple of {len}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::to_json;

    fn cast_json(state: State, class: &str) -> Result<String> {
        cast(&state, NativeClass::from_path(class).unwrap()).and_then(|state| to_json(&state))
    }

    fn tuple(items: impl IntoIterator<Item = Value>) -> State {
        State::tuple(items.into_iter().map(State::Value).collect()).unwrap()
    }

    #[test]
    fn casts_follow_the_table() {
        let string = "/state/scalar/value/string";
        let link = "/state/scalar/value/link";
        let bytes = "/state/scalar/value/bytes";
        let number = "/state/scalar/value/number";
        let cases = [
            (State::NONE, string, r#""None""#),
            (State::from(true), string, r#""true""#),
            (tuple([1i64.into(), 2i64.into()]), string, r#""(1, 2)""#),
            (tuple([]), string, r#""()""#),
            (State::NONE, link, r#"{"/":[]}"#),
            (tuple(["a".into(), "b".into()]), link, r#"{"/a/b":[]}"#),
            (State::Value(5u64.into()), link, r#"{"/5":[]}"#),
            (State::string("YWI="), bytes, r#""YWI=""#),
            (State::string("YWJj"), bytes, r#""YWJj""#),
            (State::string("6162"), bytes, r#""YWI=""#),
            (tuple([97i64.into(), 98i64.into()]), bytes, r#""YWI=""#),
            (State::NONE, bytes, r#""""#),
            (State::string(" 5 "), number, "5"),
            (tuple([5i64.into()]), number, "5"),
            (
                tuple([1i64.into(), 2i64.into()]),
                number,
                r#"{"/state/scalar/value/number/complex/64":[1.0,2.0]}"#,
            ),
            (State::NONE, number, "false"),
            (State::Value(300i64.into()), "/state/scalar/value/number/uint/8", "44"),
            (State::string("abc"), "/state/scalar/value/id", r#"{"abc":[]}"#),
            (State::string("abc"), "/state/scalar/value/none", "null"),
        ];
        for (state, class, expected) in cases {
            assert_eq!(cast_json(state.clone(), class).unwrap(), expected, "{state:?} into {class}");
        }
    }

    #[test]
    fn what_the_table_does_not_allow_is_a_bad_request() {
        let cases = [
            (State::string("foo"), "/state/scalar/value/link"),
            (State::Value((-5i64).into()), "/state/scalar/value/link"),
            (State::Value(5i64.into()), "/state/scalar/value/id"),
            (State::string("a b"), "/state/scalar/value/id"),
            (State::string("x"), "/state/scalar/value/number"),
            (State::string("x"), "/state/scalar/value/tuple"),
            (tuple([]), "/state/scalar/value/number"),
            (State::string("!"), "/state/scalar/value/bytes"),
        ];
        for (state, class) in cases {
            let error = cast_json(state.clone(), class).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::BadRequest, "{state:?} into {class}");
        }
    }

    #[test]
    fn indices_are_truncated_and_bounded() {
        assert_eq!(to_index(&Value::from(1.9), 2).unwrap(), 1);
        assert_eq!(to_index(&"1".into(), 2).unwrap(), 1);
        assert_eq!(to_index(&Value::from(-1i64), 2).unwrap_err().kind(), crate::ErrorKind::NotFound);
        assert_eq!(to_index(&"x".into(), 2).unwrap_err().kind(), crate::ErrorKind::BadRequest);
    }
}
