//! Methods of tuples and maps (protocol page 01 §5.5, §5.6; page 05 §1.1 for the names of newer clients).

use std::collections::BTreeMap;
use std::sync::Arc;

use components::language::cast;
use components::language::collection::{NamedRow, declare};
use components::{Error, Id, Map, Result, State, Tuple, Value};

use super::values::{argument, no_argument};
use super::{Call, Interpreter, common, key_value};
use crate::futures::{BoxFuture, join};

/// A parameter that must be there.
pub(crate) fn parameter<'m>(parameters: &'m Map, method: &Id, name: &str) -> Result<&'m State> {
    parameters
        .get(name)
        .ok_or_else(|| Error::bad_request(format_args!("{method} needs the parameter {name:?}")))
}

/// The parameters of a method that is called by POST only.
pub(crate) fn parameters(method: &Id, call: Call) -> Result<Map> {
    match call.or_post() {
        Call::Post(parameters) => Ok(parameters),
        call => Err(call.not_allowed(method)),
    }
}

/// The one parameter that `eq` takes.
fn eq_parameter(method: &Id, call: Call) -> Result<State> {
    let parameters = parameters(method, call)?;
    let other = parameter(&parameters, method, "eq")?;
    if parameters.len() > 1 {
        return Err(Error::bad_request(format_args!("{method} takes the parameter \"eq\" only")));
    }
    Ok(other.clone())
}

/// Equality of containers of values.
fn equal(this: &State, that: &State) -> Result<bool> {
    let not_a_value =
        |state: &State| Error::bad_request(format_args!("a {} has no equality", state.class().path()));
    match (this.as_map(), that.as_map()) {
        (Some(this), Some(that)) => {
            if this.len() != that.len() {
                return Ok(false);
            }
            this.iter().zip(that.iter()).try_fold(true, |so_far, ((name, this), (other, that))| {
                Ok(so_far & (name == other) & equal(this, that)?)
            })
        }
        (None, None) => match (this.to_tuple(), that.to_tuple()) {
            (Some(this), Some(that)) => {
                if this.len() != that.len() {
                    return Ok(false);
                }
                this.iter()
                    .zip(that.iter())
                    .try_fold(true, |so_far, (this, that)| Ok(so_far & equal(this, that)?))
            }
            (Some(_), None) | (None, Some(_)) => Ok(false),
            (None, None) => {
                let this = this.to_value().ok_or_else(|| not_a_value(this))?;
                Ok(this == that.to_value().ok_or_else(|| not_a_value(that))?)
            }
        },
        _ => Ok(false),
    }
}

impl Interpreter {
    pub(super) async fn route_tuple(
        &self,
        subject: &State,
        tuple: &Tuple,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let Some((name, rest)) = path.split_first() else {
            return match call.or_get() {
                Call::Get(key) if key.is_none() => Ok(subject.clone()),
                Call::Get(key) => Ok(tuple[key_value(&key)?.to_index(tuple.len())?].clone()),
                call => Err(call.not_allowed("a tuple")),
            };
        };
        if name.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
            let item = name.as_str().parse().ok().and_then(|i: usize| tuple.get(i));
            let item = item.ok_or_else(|| {
                Error::not_found(format_args!("no item {name} in a tuple of {}", tuple.len()))
            })?;
            return self.route(item.clone(), rest, call, depth).await;
        }
        if !rest.is_empty() {
            return common(subject, path, call);
        }
        match name.as_str() {
            "append" | "extend" => {
                let other = argument(name, call)?;
                self.concatenate(tuple, &other).await
            }
            "concatenate" => {
                let parameters = parameters(name, call)?;
                self.concatenate(tuple, parameter(&parameters, name, "r")?).await
            }
            "zip" => self.zip(tuple, &argument(name, call)?).await,
            // A tuple that came as a key is compared like any other value, by GET.
            "eq" | "ne" => {
                let other = match call {
                    Call::Get(key) => key,
                    call => eq_parameter(name, call)?,
                };
                self.step_through(subject).await;
                Ok((equal(subject, &other)? == (name.as_str() == "eq")).into())
            }
            "len" => no_argument(name, call).map(|()| components::Number::U64(tuple.len() as u64).into()),
            "map" | "for_each" => {
                let parameters = parameters(name, call)?;
                let op = parameter(&parameters, name, "op")?;
                self.step(tuple.len()).await;
                let results = join(tuple.iter().map(|item| -> BoxFuture<Result<State>> {
                    Box::pin(self.apply(op, item.clone(), depth))
                }))
                .await?;
                if name.as_str() == "map" { State::tuple(results) } else { Ok(State::NONE) }
            }
            "fold" => self.fold(tuple, name, call, depth).await,
            _ => common(subject, path, call),
        }
    }

    /// Pairs of the items of two tuples.
    async fn zip(&self, tuple: &Tuple, other: &State) -> Result<State> {
        let other = other.to_tuple().ok_or_else(|| Error::bad_request("zip takes a tuple"))?;
        if other.len() != tuple.len() {
            return Err(Error::bad_request(format_args!(
                "zip takes a tuple of {} items, not {}",
                tuple.len(),
                other.len()
            )));
        }
        self.step(tuple.len()).await;
        let pairs = tuple.iter().zip(other.iter());
        let pair = |(this, that): (&State, &State)| State::tuple(vec![this.clone(), that.clone()]);
        State::tuple(pairs.map(pair).collect::<Result<_>>()?)
    }

    /// Call a row that knows its columns: by name, else like any other tuple.
    pub(super) async fn route_row(
        &self,
        row: &Arc<NamedRow>,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let subject = State::Row(row.clone());
        self.step(row.values.len()).await;
        if let ([], Call::Get(key)) = (path, &call)
            && let Ok(name) = declare::name(key)
            && let Some(value) = row.get(&name)
        {
            return Ok(State::Value(value.clone()));
        }
        let tuple = subject.to_tuple().expect("a row is a tuple of values");
        self.route_tuple(&subject, &tuple, path, call, depth).await
    }

    async fn concatenate(&self, tuple: &Tuple, other: &State) -> Result<State> {
        let other = other.to_tuple().ok_or_else(|| {
            Error::bad_request(format_args!("only a tuple can be appended, not {}", cast::describe(other)))
        })?;
        self.step(tuple.len() + other.len()).await;
        State::tuple(tuple.iter().chain(other.iter()).cloned().collect())
    }

    async fn fold(&self, tuple: &Tuple, name: &Id, call: Call, depth: u32) -> Result<State> {
        let parameters = parameters(name, call)?;
        let op = parameter(&parameters, name, "op")?;
        let mut state = parameter(&parameters, name, "value")?.clone();
        // Newer clients name the item, and pass on a map of parameters.
        let item_name = parameters.get("item_name").map(|name| key_value(name)?.to_id()).transpose()?;
        for item in tuple.iter() {
            let argument = match &item_name {
                None => [(Id::literal("item"), item.clone()), (Id::literal("state"), state)].into(),
                Some(item_name) => {
                    let map = state.as_map().ok_or_else(|| {
                        Error::bad_request("the state of a fold with a named item must be a map")
                    })?;
                    self.step(map.len()).await;
                    let mut argument = map.to_items();
                    argument.insert(item_name.clone(), item.clone());
                    argument
                }
            };
            state = self.apply(op, State::map(argument)?, depth).await?;
        }
        Ok(state)
    }

    pub(super) async fn route_map(&self, map: &Map, path: &[Id], call: Call, depth: u32) -> Result<State> {
        let subject = State::Map(map.clone());
        let Some((name, rest)) = path.split_first() else {
            return match call.or_get() {
                Call::Get(key) if key.is_none() => Ok(subject),
                Call::Get(key) => {
                    let name = key_value(&key)?.to_id()?;
                    map.get(&name).cloned().ok_or_else(|| Error::not_found(format_args!("no entry {name}")))
                }
                call => Err(call.not_allowed("a map")),
            };
        };
        if let Some(member) = map.get(name) {
            return self.route(member.clone(), rest, call, depth).await;
        }
        match (name.as_str(), rest) {
            ("eq" | "ne", []) => {
                let other = eq_parameter(name, call)?;
                self.step_through(&subject).await;
                Ok((equal(&subject, &other)? == (name.as_str() == "eq")).into())
            }
            ("len", []) => no_argument(name, call).map(|()| components::Number::U64(map.len() as u64).into()),
            _ => common(&subject, path, call),
        }
    }
}

/// Parameters from a state: a map, or a tuple of pairs (page 01 §4.4).
///
/// # Errors
/// 400 if it is neither.
pub(super) fn to_parameters(state: &State) -> Result<BTreeMap<Id, State>> {
    if let Some(map) = state.as_map() {
        return Ok(map.to_items());
    }
    match state {
        State::Value(Value::None) => Ok(BTreeMap::new()),
        _ => match cast::pairs(state) {
            Some(pairs) => Ok(pairs?.into_iter().collect()),
            None => Err(Error::bad_request(format_args!(
                "the parameters of a POST are a map, not {}",
                cast::describe(state)
            ))),
        },
    }
}
