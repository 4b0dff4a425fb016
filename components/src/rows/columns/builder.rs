//! Rows become columns.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::ByteArrayType;
use arrow_array::{BinaryArray, GenericByteArray, StringArray};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, Buffer, OffsetBuffer, ScalarBuffer};

use super::{Column, Columns, codec, match_column};
use crate::rows::schema::{ColumnType, is_of};
use crate::value::Value;
use crate::value::number::{Number, NumberType};

/// Builds [`Columns`], row by row or run by run.
#[derive(Debug)]
pub struct ColumnsBuilder {
    types: Arc<[ColumnType]>,
    columns: Vec<Growing>,
    len: usize,
}

/// A column that is being built.
#[derive(Debug)]
pub(super) enum Growing {
    Bool(BooleanBufferBuilder),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    String(Contents),
    Bytes(Contents),
    Encoded(Contents),
}

/// Contents of any length, one after the other.
#[derive(Debug)]
pub(super) struct Contents {
    /// Where each one begins, and where the last one ends.
    offsets: Vec<i32>,
    pub(super) bytes: Vec<u8>,
}

impl Contents {
    fn new(capacity: usize) -> Self {
        let mut offsets = Vec::with_capacity(capacity + 1);
        offsets.push(0);
        Self { offsets, bytes: Vec::new() }
    }

    /// What was appended to the bytes is one content.
    pub(super) fn end(&mut self) {
        let end = i32::try_from(self.bytes.len()).expect("a column of at most 2 GiB");
        self.offsets.push(end);
    }

    pub(super) fn push(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.end();
    }

    fn push_range<T: ByteArrayType<Offset = i32>>(&mut self, from: &GenericByteArray<T>, rows: Range<usize>) {
        let offsets = &from.value_offsets()[rows.start..=rows.end];
        let (first, last) = (offsets[0], offsets[rows.len()]);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&from.value_data()[first as usize..last as usize]);
        i32::try_from(self.bytes.len()).expect("a column of at most 2 GiB");
        let start = start as i32;
        self.offsets.extend(offsets[1..].iter().map(|offset| offset - first + start));
    }

    fn push_rows<T: ByteArrayType<Offset = i32>>(&mut self, from: &GenericByteArray<T>, rows: &[usize]) {
        let (offsets, bytes) = (from.value_offsets(), from.value_data());
        for row in rows {
            self.push(&bytes[offsets[*row] as usize..offsets[*row + 1] as usize]);
        }
    }

    fn finish(self) -> (OffsetBuffer<i32>, Buffer) {
        (OffsetBuffer::new(ScalarBuffer::from(self.offsets)), Buffer::from_vec(self.bytes))
    }
}

impl Growing {
    pub(super) fn new(class: ColumnType, capacity: usize) -> Self {
        match class {
            ColumnType::Number(NumberType::Bool) => Self::Bool(BooleanBufferBuilder::new(capacity)),
            ColumnType::Number(NumberType::I16) => Self::I16(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::I32) => Self::I32(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::I64) => Self::I64(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::U8) => Self::U8(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::U16) => Self::U16(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::U32) => Self::U32(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::U64) => Self::U64(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::F32) => Self::F32(Vec::with_capacity(capacity)),
            ColumnType::Number(NumberType::F64) => Self::F64(Vec::with_capacity(capacity)),
            ColumnType::String => Self::String(Contents::new(capacity)),
            ColumnType::Bytes => Self::Bytes(Contents::new(capacity)),
            ColumnType::Number(_)
            | ColumnType::Id
            | ColumnType::Link
            | ColumnType::Tuple
            | ColumnType::None
            | ColumnType::Value => Self::Encoded(Contents::new(capacity)),
        }
    }

    pub(super) fn push(&mut self, class: ColumnType, value: &Value) {
        match (self, value) {
            (Self::Bool(values), Value::Number(Number::Bool(x))) => values.append(*x),
            (Self::I16(values), Value::Number(Number::I16(x))) => values.push(*x),
            (Self::I32(values), Value::Number(Number::I32(x))) => values.push(*x),
            (Self::I64(values), Value::Number(Number::I64(x))) => values.push(*x),
            (Self::U8(values), Value::Number(Number::U8(x))) => values.push(*x),
            (Self::U16(values), Value::Number(Number::U16(x))) => values.push(*x),
            (Self::U32(values), Value::Number(Number::U32(x))) => values.push(*x),
            (Self::U64(values), Value::Number(Number::U64(x))) => values.push(*x),
            (Self::F32(values), Value::Number(Number::F32(x))) => values.push(*x),
            (Self::F64(values), Value::Number(Number::F64(x))) => values.push(*x),
            (Self::String(contents), Value::String(text)) => contents.push(text.as_bytes()),
            (Self::Bytes(contents), Value::Bytes(content)) => contents.push(content),
            (Self::Encoded(contents), value) if is_of(class, value) => {
                codec::encode_value(&mut contents.bytes, value);
                contents.end();
            }
            (_, value) => panic!("{value:?} in a column of type {class:?}"),
        }
    }

    fn push_range(&mut self, from: &Column, rows: Range<usize>) {
        match (self, from) {
            (Self::Bool(values), Column::Bool(from)) => {
                values.append_buffer(&from.slice(rows.start, rows.len()))
            }
            (Self::I16(values), Column::I16(from)) => values.extend_from_slice(&from[rows]),
            (Self::I32(values), Column::I32(from)) => values.extend_from_slice(&from[rows]),
            (Self::I64(values), Column::I64(from)) => values.extend_from_slice(&from[rows]),
            (Self::U8(values), Column::U8(from)) => values.extend_from_slice(&from[rows]),
            (Self::U16(values), Column::U16(from)) => values.extend_from_slice(&from[rows]),
            (Self::U32(values), Column::U32(from)) => values.extend_from_slice(&from[rows]),
            (Self::U64(values), Column::U64(from)) => values.extend_from_slice(&from[rows]),
            (Self::F32(values), Column::F32(from)) => values.extend_from_slice(&from[rows]),
            (Self::F64(values), Column::F64(from)) => values.extend_from_slice(&from[rows]),
            (Self::String(contents), Column::String(from)) => contents.push_range(from, rows),
            (Self::Bytes(contents), Column::Bytes(from))
            | (Self::Encoded(contents), Column::Encoded(from)) => contents.push_range(from, rows),
            (_, _) => panic!("a column of another type"),
        }
    }

    fn push_rows(&mut self, from: &Column, rows: &[usize]) {
        fn take<T: Copy>(values: &mut Vec<T>, from: &[T], rows: &[usize]) {
            values.extend(rows.iter().map(|row| from[*row]));
        }
        match (self, from) {
            (Self::Bool(values), Column::Bool(from)) => {
                rows.iter().for_each(|row| values.append(from.value(*row)))
            }
            (Self::I16(values), Column::I16(from)) => take(values, from, rows),
            (Self::I32(values), Column::I32(from)) => take(values, from, rows),
            (Self::I64(values), Column::I64(from)) => take(values, from, rows),
            (Self::U8(values), Column::U8(from)) => take(values, from, rows),
            (Self::U16(values), Column::U16(from)) => take(values, from, rows),
            (Self::U32(values), Column::U32(from)) => take(values, from, rows),
            (Self::U64(values), Column::U64(from)) => take(values, from, rows),
            (Self::F32(values), Column::F32(from)) => take(values, from, rows),
            (Self::F64(values), Column::F64(from)) => take(values, from, rows),
            (Self::String(contents), Column::String(from)) => contents.push_rows(from, rows),
            (Self::Bytes(contents), Column::Bytes(from))
            | (Self::Encoded(contents), Column::Encoded(from)) => contents.push_rows(from, rows),
            (_, _) => panic!("a column of another type"),
        }
    }

    /// The memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        match_column!(Growing, self,
            Native(values) => size_of_val(values.as_slice()),
            Growing::Bool(values) => values.len().div_ceil(8),
            Growing::String(contents) | Growing::Bytes(contents) | Growing::Encoded(contents) => {
                size_of_val(contents.offsets.as_slice()) - size_of::<i32>() + contents.bytes.len()
            }
        )
    }

    pub(super) fn finish(self) -> Column {
        match self {
            Self::Bool(values) => Column::Bool(BooleanBuffer::from(values)),
            Self::I16(values) => Column::I16(values.into()),
            Self::I32(values) => Column::I32(values.into()),
            Self::I64(values) => Column::I64(values.into()),
            Self::U8(values) => Column::U8(values.into()),
            Self::U16(values) => Column::U16(values.into()),
            Self::U32(values) => Column::U32(values.into()),
            Self::U64(values) => Column::U64(values.into()),
            Self::F32(values) => Column::F32(values.into()),
            Self::F64(values) => Column::F64(values.into()),
            Self::String(contents) => {
                let (offsets, bytes) = contents.finish();
                // SAFETY: the offsets are ascending and within the bytes, and between any two of them is a text, because
                // only whole texts were pushed: as values, or out of another column of strings.
                Column::String(unsafe { StringArray::new_unchecked(offsets, bytes, None) })
            }
            Self::Bytes(contents) => {
                let (offsets, bytes) = contents.finish();
                Column::Bytes(BinaryArray::new(offsets, bytes, None))
            }
            Self::Encoded(contents) => {
                let (offsets, bytes) = contents.finish();
                Column::Encoded(BinaryArray::new(offsets, bytes, None))
            }
        }
    }
}

impl ColumnsBuilder {
    /// No rows yet, in columns of these types.
    pub fn new(types: &Arc<[ColumnType]>) -> Self {
        Self::with_capacity(types, 0)
    }

    /// No rows yet, but room for so many.
    pub fn with_capacity(types: &Arc<[ColumnType]>, rows: usize) -> Self {
        let columns = types.iter().map(|class| Growing::new(*class, rows)).collect();
        Self { types: types.clone(), columns, len: 0 }
    }

    /// How many rows there are so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows so far.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory that the rows so far take, in bytes.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Growing::bytes).sum()
    }

    /// Append a row.
    ///
    /// # Panics
    /// If there is not one value for each column, or one is not of the type of its column, or the texts of one column
    /// come to more than 2 GiB.
    pub fn push(&mut self, row: &[Value]) {
        assert_eq!(row.len(), self.columns.len(), "a value for each column");
        for ((column, class), value) in self.columns.iter_mut().zip(self.types.iter()).zip(row) {
            column.push(*class, value);
        }
        self.len += 1;
    }

    /// Append a row of other columns.
    ///
    /// # Panics
    /// As [`Self::push_range`].
    pub fn push_from(&mut self, from: &Columns, row: usize) {
        self.push_range(from, row..row + 1);
    }

    /// Append a run of rows of other columns.
    ///
    /// # Panics
    /// If the columns have other types, or not so many rows, or the texts of one come to more than 2 GiB.
    pub fn push_range(&mut self, from: &Columns, rows: Range<usize>) {
        assert_eq!(self.columns.len(), from.columns.len(), "the same columns");
        for (column, from) in self.columns.iter_mut().zip(from.columns.iter()) {
            column.push_range(from, rows.clone());
        }
        self.len += rows.len();
    }

    /// Append the rows of other columns at these places, in this order.
    ///
    /// # Panics
    /// As [`Self::push_range`].
    pub fn push_rows(&mut self, from: &Columns, rows: &[usize]) {
        assert_eq!(self.columns.len(), from.columns.len(), "the same columns");
        for (column, from) in self.columns.iter_mut().zip(from.columns.iter()) {
            column.push_rows(from, rows);
        }
        self.len += rows.len();
    }

    /// The rows, as they were pushed.
    pub fn finish(self) -> Columns {
        Columns::new(self.types, self.columns.into_iter().map(Growing::finish).collect(), self.len)
    }
}
