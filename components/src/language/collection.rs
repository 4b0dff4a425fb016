//! Collections as programs see them (protocol page 02).
//!
//! How a schema is written is in [`declare`], what a bound may be in [`range`]. A [`view`] or [`stream`] only says what to
//! read; a [`snapshot`] is what a reply is read from while it is sent. What is not hosted lives in the transaction
//! ([`local`]).

pub mod declare;
pub mod local;
pub mod range;
pub mod snapshot;
pub mod stream;
pub mod view;

use std::sync::Arc;

use crate::rows::Row;
use crate::rows::schema::{Column, Schema};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::ids::HostedCollection;
use crate::value::name::Id;

use super::state::State;
use declare::name;
use local::LocalCollection;

/// A BTree or Table: a name for something that changes, wherever it is held.
#[derive(Clone, Debug)]
pub struct Collection {
    /// What its rows are.
    pub schema: Arc<Schema>,
    /// Where they are.
    pub source: Source,
}

/// Where the rows of a collection are.
#[derive(Clone, Debug)]
pub enum Source {
    /// Nowhere: this is a declaration.
    Declared,
    /// In the transaction.
    Local(Arc<LocalCollection>),
    /// In a chain of this host.
    Hosted(HostedCollection),
}

/// A row that knows the names of its columns: fetched by key, it answers by position and by name.
#[derive(Clone, Debug)]
pub struct NamedRow {
    /// The columns, in the order of the values.
    pub columns: Arc<[Column]>,
    /// The values.
    pub values: Row,
}

impl NamedRow {
    /// The value of a column.
    pub fn get(&self, name: &Id) -> Option<&Value> {
        self.columns.iter().position(|column| column.name == *name).map(|i| &self.values[i])
    }
}

/// The rows of a collection or view, read as a whole: what a reply shows.
#[derive(Clone, Debug)]
pub struct CollectionContent {
    /// What the rows are.
    pub schema: Arc<Schema>,
    /// The columns in the order of the rows.
    pub columns: Arc<[Column]>,
    /// Whether only the rows are shown, as of a stream.
    pub is_list: bool,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// What they take in memory, in bytes.
    pub bytes: u64,
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
