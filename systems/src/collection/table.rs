//! Methods of tables and their views (protocol page 02 §5).

use std::sync::Arc;

use components::language::cast;
use components::language::collection::declare::{columns_value, name};
use components::language::collection::range::table_bounds;
use components::language::collection::stream::{Stream, StreamSource};
use components::language::collection::view::{Rowset, View};
use components::language::collection::{Collection, NamedRow, value_of};
use components::rows::Row;
use components::rows::bound::{Condition, ValueRange};
use components::rows::coerce::{Rule, check_key, coerce, table_key, table_row};
use components::rows::key::Key;
use components::{Error, Id, Map, Number, Result, State, Value};

use super::btree::{key_of, to_flag};
use super::in_row;
use crate::scalar::{Call, Interpreter, no_argument};

/// The parameter of a call that is a view of the rows within bounds.
const BOUNDS: &str = "bounds";

/// The collection that can be written, which a view cannot.
fn writable(rows: &Rowset) -> Result<&Collection> {
    match rows {
        Rowset::Collection(collection) => Ok(collection),
        Rowset::View(_) => Err(Error::bad_request("a view cannot be written, only the table itself")),
    }
}

/// The values of a list of values.
fn values(state: &State, what: &str) -> Result<Arc<[Value]>> {
    match value_of(state) {
        Ok(Value::Tuple(values)) => Ok(values),
        _ => {
            Err(Error::bad_request(format_args!("{what} is a list of values, not {}", cast::describe(state))))
        }
    }
}

/// The position of a column, or 404.
fn position(rows: &Rowset, column: &Id) -> Result<usize> {
    let position = rows.columns().iter().position(|one| one.name == *column);
    position.ok_or_else(|| Error::not_found(format_args!("there is no column {column}")))
}

fn names(state: &State, what: &str) -> Result<Vec<Id>> {
    match state.to_tuple() {
        Some(items) => items.iter().map(name).collect(),
        None if state.is_none() => Ok(Vec::new()),
        None => Err(Error::bad_request(format_args!(
            "{what} takes a list of columns, not {}",
            cast::describe(state)
        ))),
    }
}

fn view(view: View) -> State {
    State::View(Arc::new(view))
}

fn stream(rows: Rowset) -> Result<State> {
    Ok(State::Stream(Arc::new(Stream::new(StreamSource::Rows(rows))?)))
}

fn within(rows: &Rowset, bounds: &State) -> Result<View> {
    rows.filtered(table_bounds(rows.columns(), bounds)?)
}

impl Interpreter {
    pub(super) async fn call_table(&self, rows: &Rowset, call: Call, depth: u32) -> Result<State> {
        match call.or_get() {
            Call::Get(key) if key.is_none() => Ok(rows.to_state()),
            Call::Get(key) => Ok(match self.find(rows, &key).await? {
                Some(values) => State::Row(Arc::new(NamedRow { columns: rows.columns().clone(), values })),
                None => State::NONE,
            }),
            Call::Post(parameters) => {
                let bounds = parameters
                    .get(&Id::literal(BOUNDS))
                    .ok_or_else(|| Error::bad_request("a table is called with the parameter \"bounds\""))?;
                within(rows, bounds).map(view)
            }
            Call::Put(key, value) => {
                let collection = writable(rows)?;
                if key.is_none() {
                    self.insert_rows(collection, &value, depth).await?;
                    return Ok(State::NONE);
                }
                let key = values(&key, "the key of a row")?;
                let in_row = |cause: Error| in_row(&cause, &key);
                match (value.as_map(), value.to_tuple()) {
                    (Some(changes), _) => self.update(collection, &key, changes).await.map_err(in_row)?,
                    (None, Some(_)) => {
                        check_key(&collection.schema, &key)?;
                        let mut row = key.to_vec();
                        row.extend(values(&value, "what is written")?.iter().cloned());
                        let row = table_row(&collection.schema, &row).map_err(in_row)?;
                        let key = Key::of_row(&collection.schema.layouts()[0], &row);
                        self.write(collection, &key, Some(row)).await?;
                    }
                    (None, None) => {
                        return Err(Error::bad_request(format_args!(
                            "a row is a list of values, or an object of the columns to change, not {}",
                            cast::describe(&value)
                        )));
                    }
                }
                Ok(State::NONE)
            }
            Call::Delete(key) => {
                let collection = writable(rows)?;
                if key.is_none() {
                    return Err(Error::bad_request("a row is deleted by its key"));
                }
                if let Some(key) = table_key(&collection.schema, &values(&key, "the key of a row")?)? {
                    let key = Key::of_prefix(&collection.schema.layouts()[0], &key);
                    self.write(collection, &key, None).await?;
                }
                Ok(State::NONE)
            }
            Call::Either => unreachable!("decided above"),
        }
    }

    /// The row with a key.
    async fn find(&self, rows: &Rowset, key: &State) -> Result<Option<Row>> {
        let Some(key) = table_key(rows.schema(), &values(key, "the key of a row")?)? else {
            return Ok(None);
        };
        match rows {
            Rowset::Collection(collection) => {
                self.row(collection, &Key::of_prefix(&collection.schema.layouts()[0], &key)).await
            }
            Rowset::View(_) => {
                let condition = |(column, value): (&components::rows::schema::Column, Value)| {
                    Ok(Condition { column: position(rows, &column.name)?, range: ValueRange::equal(value) })
                };
                let key_columns = rows.schema().key_columns();
                let conditions = key_columns.iter().zip(key).map(condition).collect::<Result<_>>()?;
                self.first_row(&Rowset::View(Arc::new(rows.filtered(conditions)?))).await
            }
        }
    }

    /// Change some columns of the row with this key, if there is one.
    async fn update(&self, collection: &Collection, key: &[Value], changes: &Map) -> Result<()> {
        let schema = &collection.schema;
        let key = table_key(schema, key)?;
        let mut changed = Vec::with_capacity(changes.len());
        for (name, value) in changes.iter() {
            let position = schema
                .position(name.as_str())
                .ok_or_else(|| Error::bad_request(format_args!("there is no column {name}")))?;
            if position < schema.key_len() {
                return Err(Error::bad_request(format_args!("the column {name} is in the key of the row")));
            }
            let value = value_of(value).map_err(|cause| cause.context(format_args!("the column {name}")))?;
            changed.push((position, coerce(&schema.columns()[position], &value, Rule::Lenient)?));
        }
        let Some(key) = key.filter(|_| !changed.is_empty()) else {
            return Ok(());
        };
        let key = Key::of_prefix(&schema.layouts()[0], &key);
        let Some(row) = self.row(collection, &key).await? else {
            return Ok(());
        };
        let mut row = row.to_vec();
        for (position, value) in changed {
            row[position] = value;
        }
        self.write(collection, &key, Some(row.into())).await
    }

    pub(super) async fn table_method(&self, rows: &Rowset, name: &Id, call: Call) -> Result<State> {
        match name.as_str() {
            "contains" => Ok(self.find(rows, &key_of(name, call)?).await?.is_some().into()),
            "count" => {
                no_argument(name, call)?;
                Ok(Number::U64(self.count_rows(rows).await?).into())
            }
            "rows" => match call {
                Call::Post(bounds) => stream(Rowset::View(Arc::new(within(rows, &State::Map(bounds))?))),
                call => no_argument(name, call).and_then(|()| stream(rows.clone())),
            },
            "limit" => {
                let key = key_of(name, call)?;
                let limit = match &key {
                    State::Value(Value::Number(number)) if number.is_integer() => number.as_u64(),
                    _ => None,
                };
                let limit = limit.ok_or_else(|| {
                    Error::bad_request(format_args!(
                        "a limit is an integer that is not negative, not {}",
                        cast::describe(&key)
                    ))
                })?;
                rows.limited(limit).map(view)
            }
            "order" => {
                let (columns, is_reversed) = order(&key_of(name, call)?)?;
                let mut positions = Vec::with_capacity(columns.len());
                for column in columns {
                    let position =
                        position(rows, &column).map_err(|cause| Error::bad_request(cause.message()))?;
                    if !positions.contains(&position) {
                        positions.push(position);
                    }
                }
                rows.ordered(&positions, is_reversed).map(view)
            }
            "select" => {
                let key = key_of(name, call)?;
                let columns = names(&key, "select")?;
                let mut positions = Vec::with_capacity(columns.len());
                for column in columns {
                    let position = position(rows, &column)?;
                    if positions.contains(&position) {
                        return Err(Error::bad_request(format_args!(
                            "the column {column} is selected twice"
                        )));
                    }
                    positions.push(position);
                }
                rows.selected(&positions).map(view)
            }
            "columns" => no_argument(name, call).map(|()| columns_value(rows.columns()).into()),
            "key_columns" => {
                no_argument(name, call).map(|()| columns_value(rows.schema().key_columns()).into())
            }
            "key_names" => no_argument(name, call).map(|()| {
                let names = rows.schema().key_columns().iter().map(|column| Value::Id(column.name.clone()));
                Value::Tuple(names.collect()).into()
            }),
            _ => self.shared_method(rows, name, call).await,
        }
    }
}

/// `[columns, reverse]` or `columns`: the columns of an order, and whether it is reversed.
fn order(key: &State) -> Result<(Vec<Id>, bool)> {
    let parts = key.to_tuple();
    match parts.as_deref() {
        Some([columns]) if columns.to_tuple().is_some() => Ok((names(columns, "order")?, false)),
        Some([columns, reverse]) if columns.to_tuple().is_some() || columns.is_none() => {
            Ok((names(columns, "order")?, to_flag("reverse", reverse)?))
        }
        _ => Ok((names(key, "order")?, false)),
    }
}
