//! Sorted rows (protocol page 02): how they are compared, kept in columns and pages, changed, scanned, merged.
//!
//! ```text
//!  BTree   one tree, its key is the whole row
//!  Table   tree 0 (primary): rows by their key columns; tree i: index i, its columns and then the rest of the key
//! ```
//!
//! A tree is a map of rows in the order of their encoded keys ([`key`]). What a row looks like is in [`schema`]; what may
//! be written into a column in [`coerce`]; which entries the change of a row changes in [`change`]. A tree of a host is cut
//! into [`page`]s of [`columns`], each with a [`delta`] of what came later; [`scan`] reads them, and [`seen`] says what one
//! transaction sees. Many rows come as [`bulk`], and are [`merge`]d, in parts ([`staged`]) and by [`runs`] if they do not
//! fit in memory. What lives in a transaction is [`packed`]; many rows that a
//! program writes one by one become pages before their commit ([`rewrite`]).
//!
//! Here are values only: nothing knows a program, a chain or a lock.

pub mod bound;
pub mod bulk;
pub mod change;
pub mod coerce;
pub mod columns;
pub mod count;
pub mod delta;
pub mod key;
pub mod merge;
pub mod packed;
pub mod page;
pub mod rewrite;
pub mod runs;
pub mod scan;
pub mod schema;
pub mod seen;
pub mod sorter;
pub mod staged;
pub mod stored;

use std::sync::Arc;

use crate::value::Value;

/// A row: one value for each column of its tree, in order.
pub type Row = Arc<[Value]>;

/// What a row takes in memory, in bytes.
pub fn row_bytes(row: &[Value]) -> u64 {
    row.iter().map(Value::bytes).sum()
}
