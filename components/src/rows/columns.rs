//! The content of a page: rows in columns (struct of arrays), immutable, over shared memory.
//!
//! ```text
//!  builder  rows become columns                 search  keys are found
//!  codec    the stored form, and its values     filter  conditions, all rows at once; statistics to skip pages by
//!  fold     changes become new pages; sorting   export  JSON and Arrow
//!  import   Arrow arrays and other values from clients, checked
//!  text     values as text, and back
//! ```
//!
//! Numbers of one width, text and bytes are Arrow buffers; any other value is a few self-describing bytes ([`codec`]).

mod builder;
pub mod codec;
mod export;
mod filter;
mod fold;
mod import;
mod native;
mod search;
#[cfg(test)]
mod tests;
mod text;

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, BinaryArray, StringArray};
use arrow_buffer::{BooleanBuffer, ScalarBuffer};

use super::key::Key;
use super::schema::{ColumnType, Layout};
use super::{Row, key};
use crate::value::Value;
use crate::value::number::Number;

pub use builder::ColumnsBuilder;
pub use codec::{decode_value, encode_value};
pub use export::{arrow_fields, arrow_type, is_json_field, write_csv_header};
pub use filter::{STATISTICS_TEXT_BYTES, Selection, may_match};
pub use fold::{PAGE_BYTES, PAGE_ROWS, PageSize, cut, fold, sort};
pub use import::{Arrays, Cell, Import, check_arrow_type};
pub(crate) use text::Shown;
pub use text::{ReadJson, TextOrigin, cell};

use native::Native;

/// Rows in columns: immutable, cheap to clone and to slice. In a page they are sorted by key, and keys are unique.
#[derive(Clone, Debug)]
pub struct Columns {
    types: Arc<[ColumnType]>,
    columns: Arc<[Column]>,
    len: usize,
}

/// The values of one column.
#[derive(Clone, Debug)]
enum Column {
    Bool(BooleanBuffer),
    I16(ScalarBuffer<i16>),
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    U8(ScalarBuffer<u8>),
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
    U64(ScalarBuffer<u64>),
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
    String(StringArray),
    Bytes(BinaryArray),
    /// Values of any other type, each as [`codec`] encodes it.
    Encoded(BinaryArray),
}

/// A match on the kind of a column (or of what builds one), with one arm for all kinds of native numbers.
macro_rules! match_column {
    ($kind:ident, $column:expr, Native($values:ident) => $native:expr, $($arms:tt)*) => {
        match $column {
            $kind::I16($values) => $native,
            $kind::I32($values) => $native,
            $kind::I64($values) => $native,
            $kind::U8($values) => $native,
            $kind::U16($values) => $native,
            $kind::U32($values) => $native,
            $kind::U64($values) => $native,
            $kind::F32($values) => $native,
            $kind::F64($values) => $native,
            $($arms)*
        }
    };
}
use match_column;

impl Column {
    fn len(&self) -> usize {
        match_column!(Column, self,
            Native(values) => values.len(),
            Column::Bool(values) => values.len(),
            Column::String(texts) => texts.len(),
            Column::Bytes(contents) | Column::Encoded(contents) => contents.len(),
        )
    }

    /// The memory that a run of rows takes, in bytes.
    fn bytes(&self, rows: Range<usize>) -> usize {
        fn of_contents(offsets: &[i32], rows: Range<usize>) -> usize {
            size_of::<i32>() * rows.len() + (offsets[rows.end] - offsets[rows.start]) as usize
        }
        fn of_natives<T: Native>(_: &ScalarBuffer<T>, rows: Range<usize>) -> usize {
            size_of::<T>() * rows.len()
        }
        match_column!(Column, self,
            Native(values) => of_natives(values, rows),
            Column::Bool(_) => rows.len().div_ceil(8),
            Column::String(texts) => of_contents(texts.value_offsets(), rows),
            Column::Bytes(contents) | Column::Encoded(contents) => of_contents(contents.value_offsets(), rows),
        )
    }

    fn slice(&self, start: usize, len: usize) -> Column {
        match self {
            Column::Bool(values) => Column::Bool(values.slice(start, len)),
            Column::I16(values) => Column::I16(values.slice(start, len)),
            Column::I32(values) => Column::I32(values.slice(start, len)),
            Column::I64(values) => Column::I64(values.slice(start, len)),
            Column::U8(values) => Column::U8(values.slice(start, len)),
            Column::U16(values) => Column::U16(values.slice(start, len)),
            Column::U32(values) => Column::U32(values.slice(start, len)),
            Column::U64(values) => Column::U64(values.slice(start, len)),
            Column::F32(values) => Column::F32(values.slice(start, len)),
            Column::F64(values) => Column::F64(values.slice(start, len)),
            Column::String(texts) => Column::String(texts.slice(start, len)),
            Column::Bytes(contents) => Column::Bytes(contents.slice(start, len)),
            Column::Encoded(contents) => Column::Encoded(contents.slice(start, len)),
        }
    }

    fn value(&self, row: usize) -> Value {
        match_column!(Column, self,
            Native(values) => Value::Number(values[row].number()),
            Column::Bool(values) => Value::Number(Number::Bool(values.value(row))),
            Column::String(texts) => Value::String(texts.value(row).into()),
            Column::Bytes(contents) => Value::Bytes(contents.value(row).into()),
            Column::Encoded(contents) => codec::value(contents.value(row)),
        )
    }

    /// Append what [`key::encode`] appends for the value.
    fn encode_key(&self, class: ColumnType, row: usize, bytes: &mut Vec<u8>) {
        match_column!(Column, self,
            Native(values) => values[row].encode_key(bytes),
            Column::Bool(values) => bytes.push(values.value(row).into()),
            Column::String(texts) => key::encode_bytes(bytes, texts.value(row).as_bytes()),
            Column::Bytes(contents) => key::encode_bytes(bytes, contents.value(row)),
            Column::Encoded(contents) => key::encode(bytes, class, &codec::value(contents.value(row))),
        )
    }
}

impl Columns {
    /// Rows in columns of these types, in the order that they come in.
    ///
    /// # Panics
    /// As [`ColumnsBuilder::push`].
    pub fn from_rows<'a>(types: &Arc<[ColumnType]>, rows: impl IntoIterator<Item = &'a [Value]>) -> Self {
        let rows = rows.into_iter();
        let mut builder = ColumnsBuilder::with_capacity(types, rows.size_hint().0);
        rows.for_each(|row| builder.push(row));
        builder.finish()
    }

    /// No rows.
    pub fn empty(types: &Arc<[ColumnType]>) -> Self {
        ColumnsBuilder::new(types).finish()
    }

    fn new(types: Arc<[ColumnType]>, columns: Arc<[Column]>, len: usize) -> Self {
        assert_eq!(types.len(), columns.len(), "a type for each column");
        assert!(columns.iter().all(|column| column.len() == len), "columns have equally many rows");
        Self { types, columns, len }
    }

    /// The types of the columns.
    pub fn types(&self) -> &Arc<[ColumnType]> {
        &self.types
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory that these rows take, in bytes. Of a slice, its own share of what it keeps in memory.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.bytes(0..self.len)).sum()
    }

    /// The memory that one row takes, in bytes.
    pub fn row_bytes(&self, row: usize) -> usize {
        self.columns.iter().map(|column| column.bytes(row..row + 1)).sum()
    }

    /// One value.
    ///
    /// # Panics
    /// If there is no such column or row.
    pub fn value(&self, column: usize, row: usize) -> Value {
        self.columns[column].value(row)
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Row {
        self.columns.iter().map(|column| column.value(row)).collect()
    }

    /// Some of the rows, in the same memory.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.len, "{rows:?} of {} rows", self.len);
        let columns = self.columns.iter().map(|column| column.slice(rows.start, rows.len())).collect();
        Self { types: self.types.clone(), columns, len: rows.len() }
    }

    /// A copy that keeps nothing in memory but these rows.
    pub fn compact(&self) -> Self {
        let mut builder = ColumnsBuilder::with_capacity(&self.types, self.len);
        builder.push_range(self, 0..self.len);
        builder.finish()
    }

    /// The columns at these positions, in this order and in the same memory.
    ///
    /// # Panics
    /// If there is no column at a position.
    pub fn project(&self, positions: &[usize]) -> Self {
        Self {
            types: positions.iter().map(|position| self.types[*position]).collect(),
            columns: positions.iter().map(|position| self.columns[*position].clone()).collect(),
            len: self.len,
        }
    }

    /// The rows at these places, in this order.
    ///
    /// # Panics
    /// If there is no row at a place.
    pub fn take(&self, rows: &[usize]) -> Self {
        let mut builder = ColumnsBuilder::with_capacity(&self.types, rows.len());
        builder.push_rows(self, rows);
        builder.finish()
    }

    /// Append the encoded key of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn encode_key(&self, layout: &Layout, row: usize, bytes: &mut Vec<u8>) {
        for (class, column) in layout.types.iter().zip(self.columns.iter()).take(layout.key_len) {
            column.encode_key(*class, row, bytes);
        }
    }

    /// The key of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn key(&self, layout: &Layout, row: usize) -> Key {
        let mut bytes = Vec::with_capacity(layout.key_len * 12);
        self.encode_key(layout, row, &mut bytes);
        bytes.into()
    }
}
