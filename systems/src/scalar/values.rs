//! Methods of values and numbers (protocol page 01 §5.2, §5.3; page 05 §5.2 for the names of newer clients).

use components::language::cast;
use components::{Error, Id, Number, Result, State, Value};

use super::{Call, Interpreter, common};

/// The one argument of a method that newer clients call by POST.
const RIGHT: &str = "r";

/// The argument of a binary method: the key of a GET, or the parameter `r` of a POST.
pub(super) fn argument(name: &Id, call: Call) -> Result<State> {
    match call.or_get() {
        Call::Get(key) => Ok(key),
        Call::Post(parameters) if parameters.len() == 1 && parameters.contains_key(RIGHT) => {
            Ok(parameters[RIGHT].clone())
        }
        call => Err(call.not_allowed(name)),
    }
}

/// No argument.
pub(crate) fn no_argument(name: &Id, call: Call) -> Result<()> {
    match call.or_get() {
        Call::Get(key) if key.is_none() => Ok(()),
        Call::Get(_) => Err(Error::bad_request(format_args!("{name} takes no key"))),
        call => Err(call.not_allowed(name)),
    }
}

impl Interpreter {
    pub(super) async fn route_value(&self, value: &Value, path: &[Id], call: Call) -> Result<State> {
        let subject = State::Value(value.clone());
        let [name] = path else {
            return common(&subject, path, call);
        };
        if !matches!(value, Value::None | Value::Number(_)) {
            self.step_through(&subject).await;
        }
        match (name.as_str(), value) {
            ("eq", _) => Ok(equal(value, &argument(name, call)?).into()),
            ("ne", _) => Ok((!equal(value, &argument(name, call)?)).into()),
            (_, Value::Number(number)) => match number_method(*number, name, call) {
                Ok(result) => result,
                Err(call) => common(&subject, path, call),
            },
            ("render", Value::String(template)) => self.render(template, call).await,
            _ => common(&subject, path, call),
        }
    }
}

fn equal(value: &Value, other: &State) -> bool {
    other.to_value().is_some_and(|other| *value == other)
}

/// A method of a number, or the call again if there is none of this name.
fn number_method(number: Number, name: &Id, call: Call) -> std::result::Result<Result<State>, Call> {
    let arithmetic: fn(Number, Number) -> Result<Number> = match name.as_str() {
        "add" => Number::add,
        "sub" => Number::sub,
        "mul" => Number::mul,
        "div" => Number::div,
        "pow" => Number::pow,
        "and" => |this, that| Ok(this.and(that)),
        "or" => |this, that| Ok(this.or(that)),
        "xor" => |this, that| Ok(this.xor(that)),
        "gt" => |this, that| Ok(this.gt(that).into()),
        "gte" | "ge" => |this, that| Ok(this.gte(that).into()),
        "lt" => |this, that| Ok(this.lt(that).into()),
        "lte" | "le" => |this, that| Ok(this.lte(that).into()),
        "abs" => return Ok(no_argument(name, call).and_then(|()| number.abs()).map(State::from)),
        "not" => return Ok(no_argument(name, call).map(|()| number.not().into())),
        _ => return Err(call),
    };
    let operand = argument(name, call).and_then(|operand| {
        cast::number(&operand).map_err(|cause| cause.context(format_args!("the argument of {name}")))
    });
    Ok(operand.and_then(|operand| arithmetic(number, operand)).map(State::from))
}
