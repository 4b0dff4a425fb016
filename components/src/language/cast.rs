//! Casts between classes (protocol page 01 §2.7).

use super::state::State;
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::name::Id;
use crate::value::native::NativeClass;
use crate::value::number::Number;

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
        NativeClass::Bytes => Value::Bytes(value()?.to_bytes().ok_or_else(|| cannot(state, class))?).into(),
        NativeClass::Id => match value()? {
            Value::String(text) => Value::Id(Id::parse(&text)?).into(),
            Value::Id(id) => Value::Id(id).into(),
            _ => return Err(cannot(state, class)),
        },
        NativeClass::Link => {
            value()?.to_link().map_err(|cause| cannot(state, class).context(cause.message()))?.into()
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
            _ => State::Cluster(value()?.to_link()?.path().clone()),
        },
        _ => return Err(cannot(state, class)),
    })
}

/// A tuple of `[name, state]` pairs, if that is what the state is; a bad name is an error.
pub fn pairs(state: &State) -> Option<Result<Vec<(Id, State)>>> {
    let mut items = Vec::new();
    for pair in state.to_tuple()?.iter() {
        match pair.to_tuple().as_deref() {
            Some([name, item]) => match name.to_value().map(|name| name.to_id()) {
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
        State::Value(value) => value.to_number(),
        State::Instance(instance) => number(instance.data()),
        State::Row(_) | State::Tuple(_) => match state.to_tuple().as_deref() {
            Some([one]) => number(one),
            Some([re, im]) => Ok(Number::complex(number(re)?, number(im)?)),
            _ => Err(not_a_number()),
        },
        _ => Err(not_a_number()),
    }
}

/// What a state is, in few words, for messages.
pub fn describe(state: &State) -> String {
    match state {
        State::Value(value) => value.describe(),
        _ => state.class().path().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::encode::to_json;

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
}
