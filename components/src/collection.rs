//! Collections: sorted rows in columns (protocol page 02).
//!
//! ```text
//!  BTree   one tree, its key is the whole row
//!  Table   tree 0 (primary): rows by their key columns; tree i: index i, its columns and then the rest of the key
//! ```
//!
//! A tree is a map of rows in the order of their encoded keys ([`key`]). What a row looks like is in [`schema`].

pub mod bound;
pub mod key;
pub mod schema;

use std::sync::Arc;

use crate::value::Value;

/// A row: one value for each column of its tree, in order.
pub type Row = Arc<[Value]>;
