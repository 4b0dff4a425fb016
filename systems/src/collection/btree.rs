//! Methods of BTrees and their slices (protocol page 02 §4).

use components::language::cast;
use components::language::collection::range::btree_range;
use components::language::collection::stream::{Stream, StreamSource};
use components::language::collection::view::Rowset;
use components::language::collection::{Collection, value_of};
use components::rows::Row;
use components::rows::key::Key;
use components::rows::schema::CollectionKind;
use components::{Error, Id, Number, Result, State, Value};

use std::collections::BTreeMap;
use std::sync::Arc;

use super::in_row;
use crate::scalar::{Call, Interpreter, no_argument};

/// The keys of a tree that are in a range.
fn slice(rows: &Rowset, range: &State) -> Result<Rowset> {
    if range.is_none() {
        return Ok(rows.clone());
    }
    let conditions = btree_range(rows.columns(), range)?;
    Ok(Rowset::View(Arc::new(rows.filtered(conditions)?)))
}

/// A range without the nulls at its end, which leave the columns open that they are for.
fn closed(range: &State) -> Result<State> {
    match range.to_tuple() {
        Some(items) if items.last().is_some_and(is_null) => {
            let len = items.iter().rposition(|item| !is_null(item)).map_or(0, |last| last + 1);
            State::tuple(items[..len].to_vec())
        }
        _ => Ok(range.clone()),
    }
}

fn is_null(state: &State) -> bool {
    matches!(state, State::Value(Value::None))
}

fn no_table() -> Error {
    Error::bad_request("a table cannot be inserted into a BTree")
}

/// The collection that can be written, which a slice cannot.
fn writable(rows: &Rowset) -> Result<&Collection> {
    match rows {
        Rowset::Collection(collection) => Ok(collection),
        Rowset::View(_) => Err(Error::bad_request("a slice cannot be written, only the BTree itself")),
    }
}

impl Interpreter {
    pub(super) async fn call_btree(&self, rows: &Rowset, call: Call, depth: u32) -> Result<State> {
        match call.or_get() {
            Call::Get(range) => Ok(slice(rows, &range)?.to_state()),
            Call::Post(parameters) => {
                let none = State::NONE;
                let range = parameters.get(&Id::literal("range")).unwrap_or(&none);
                let mut view = rows.filtered(btree_range(rows.columns(), &closed(range)?)?)?;
                let reverse = parameters.get(&Id::literal("reverse")).unwrap_or(&none);
                if to_flag("reverse", reverse)? {
                    view = Rowset::View(Arc::new(view)).reversed()?;
                }
                Ok(State::View(Arc::new(view)))
            }
            Call::Put(key, value) => {
                let collection = writable(rows)?;
                if !key.is_none() {
                    return Err(Error::bad_request(
                        "a key is inserted with PUT without a key: it is the value",
                    ));
                }
                match Rowset::of(&value) {
                    Some(source) if source.kind() == CollectionKind::BTree => {
                        self.copy(collection, &value, depth).await?;
                    }
                    Some(_) => return Err(no_table()),
                    None => match &value {
                        State::Content(rows) if rows.schema.kind() == CollectionKind::BTree => {
                            self.copy(collection, &value, depth).await?;
                        }
                        State::Content(_) => return Err(no_table()),
                        value => {
                            let row = value_of(value)?;
                            let inserted = self.insert(collection, &row).await;
                            inserted.map_err(|cause| match &row {
                                Value::Tuple(values) => in_row(&cause, values),
                                _ => cause,
                            })?;
                        }
                    },
                }
                Ok(State::NONE)
            }
            Call::Delete(range) => {
                let collection = writable(rows)?;
                let mut doomed = self.open_rows(&slice(rows, &range)?).await?;
                let layout = &collection.schema.layouts()[0];
                while let Some(chunk) = self.next_rows(&mut doomed).await? {
                    for row in chunk {
                        self.write(collection, &Key::of_row(layout, &row), None).await?;
                    }
                }
                Ok(State::NONE)
            }
            Call::Either => unreachable!("decided above"),
        }
    }

    pub(super) async fn btree_method(&self, rows: &Rowset, name: &Id, call: Call) -> Result<State> {
        match name.as_str() {
            "count" => {
                let rows = slice(rows, &key_of(name, call)?)?;
                Ok(Number::U64(self.count_rows(&rows).await?).into())
            }
            "keys" => {
                let rows = slice(rows, &key_of(name, call)?)?;
                Ok(State::Stream(Arc::new(Stream::new(StreamSource::Rows(rows))?)))
            }
            "first" => {
                no_argument(name, call)?;
                let first = self.first_row(rows).await?;
                let first = first.ok_or_else(|| Error::not_found("there is no key"))?;
                by_name(rows, &first)
            }
            "reverse" => {
                no_argument(name, call)?;
                Ok(State::View(Arc::new(rows.reversed()?)))
            }
            _ => self.shared_method(rows, name, call).await,
        }
    }

    /// The methods that BTrees and tables have alike.
    pub(super) async fn shared_method(&self, rows: &Rowset, name: &Id, call: Call) -> Result<State> {
        match name.as_str() {
            "schema" => no_argument(name, call).map(|()| rows.schema().to_value().into()),
            "is_empty" => {
                no_argument(name, call)?;
                Ok(self.first_row(rows).await?.is_none().into())
            }
            "explain" => {
                no_argument(name, call)?;
                self.explain(rows).await
            }
            _ => Err(Error::not_found(format_args!("a {} has no {name}", rows.schema().class().path()))),
        }
    }
}

/// The key of a method that is called by GET only.
pub(super) fn key_of(method: &Id, call: Call) -> Result<State> {
    match call.or_get() {
        Call::Get(key) => Ok(key),
        call => Err(call.not_allowed(method)),
    }
}

/// A truth value; nothing is false.
pub(super) fn to_flag(name: &str, state: &State) -> Result<bool> {
    match state {
        State::Value(Value::None) => Ok(false),
        State::Value(Value::Number(Number::Bool(flag))) => Ok(*flag),
        other => Err(Error::bad_request(format_args!("{name} is a bool, not {}", cast::describe(other)))),
    }
}

/// A row as a map.
fn by_name(rows: &Rowset, row: &Row) -> Result<State> {
    let names = rows.columns().iter().map(|column| column.name.clone());
    let values = row.iter().cloned().map(State::Value);
    State::map(names.zip(values).collect::<BTreeMap<Id, State>>())
}
