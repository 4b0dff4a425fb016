//! Collections: sorted rows in columns (protocol page 02).
//!
//! ```text
//!  BTree   one tree, its key is the whole row
//!  Table   tree 0 (primary): rows by their key columns; tree i: index i, its columns and then the rest of the key
//! ```
//!
//! A tree is a map of rows in the order of their encoded keys ([`key`]). What a row looks like is in [`schema`], how
//! a schema is written in [`declare`]; what may be written into a column in [`coerce`], what a bound may be in
//! [`range`]; which entries the change of a row changes in [`change`]. A [`view`] or [`stream`] only says what to read.

pub mod bound;
pub mod bulk;
pub mod change;
pub mod coerce;
pub mod columns;
pub mod count;
pub mod declare;
pub mod delta;
pub mod key;
pub mod local;
pub mod merge;
pub mod page;
pub mod range;
pub mod runs;
pub mod scan;
pub mod schema;
pub mod seen;
pub mod snapshot;
pub mod staged;
pub mod stored;
pub mod stream;
pub mod view;

use std::sync::Arc;

use crate::cluster::ChainId;
use crate::name::Id;
use crate::value::Value;
use local::LocalCollection;
use schema::{Column, Schema};

/// A row: one value for each column of its tree, in order.
pub type Row = Arc<[Value]>;

/// What a row takes in memory, in bytes.
pub fn row_bytes(row: &[Value]) -> u64 {
    row.iter().map(|value| crate::State::Value(value.clone()).bytes()).sum()
}

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

/// A collection in a chain of this host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HostedCollection {
    /// The chain.
    pub chain: ChainId,
    /// Which of the collections in its subject.
    pub slot: u16,
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
