//! Rows as JSON text, and columns as Arrow arrays for other programs.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, StringArray};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::native::Native;
use super::{Column, Columns, codec, match_column};
use crate::collection::schema::ColumnType;
use crate::error::{Error, Result};
use crate::number::NumberType;
use crate::value::Value;

/// The Arrow type of a column: that of its numbers, text or bytes; of any other, text, which is the JSON of its values.
pub fn arrow_type(class: ColumnType) -> DataType {
    match class {
        ColumnType::Number(NumberType::Bool) => DataType::Boolean,
        ColumnType::Number(NumberType::I16) => DataType::Int16,
        ColumnType::Number(NumberType::I32) => DataType::Int32,
        ColumnType::Number(NumberType::I64) => DataType::Int64,
        ColumnType::Number(NumberType::U8) => DataType::UInt8,
        ColumnType::Number(NumberType::U16) => DataType::UInt16,
        ColumnType::Number(NumberType::U32) => DataType::UInt32,
        ColumnType::Number(NumberType::U64) => DataType::UInt64,
        ColumnType::Number(NumberType::F32) => DataType::Float32,
        ColumnType::Number(NumberType::F64) => DataType::Float64,
        ColumnType::Bytes => DataType::Binary,
        ColumnType::String
        | ColumnType::Number(_)
        | ColumnType::Id
        | ColumnType::Link
        | ColumnType::Tuple
        | ColumnType::None
        | ColumnType::Value => DataType::Utf8,
    }
}

impl Columns {
    /// A column as an Arrow array of [`arrow_type`], in the same memory where that is possible. Nothing ([`Value::None`])
    /// is null.
    ///
    /// # Errors
    /// As [`crate::encode::to_json`], for the values that become JSON.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn array(&self, column: usize) -> Result<ArrayRef> {
        fn numbers<T: ArrowPrimitiveType>(values: &ScalarBuffer<T::Native>) -> ArrayRef {
            Arc::new(PrimitiveArray::<T>::new(values.clone(), None))
        }
        Ok(match &self.columns[column] {
            Column::Bool(values) => Arc::new(BooleanArray::new(values.clone(), None)),
            Column::I16(values) => numbers::<Int16Type>(values),
            Column::I32(values) => numbers::<Int32Type>(values),
            Column::I64(values) => numbers::<Int64Type>(values),
            Column::U8(values) => numbers::<UInt8Type>(values),
            Column::U16(values) => numbers::<UInt16Type>(values),
            Column::U32(values) => numbers::<UInt32Type>(values),
            Column::U64(values) => numbers::<UInt64Type>(values),
            Column::F32(values) => numbers::<Float32Type>(values),
            Column::F64(values) => numbers::<Float64Type>(values),
            Column::String(texts) => Arc::new(texts.clone()),
            Column::Bytes(contents) => Arc::new(contents.clone()),
            Column::Encoded(contents) => {
                let json = |row: usize| match codec::value(contents.value(row)) {
                    Value::None => Ok(None),
                    value => serde_json::to_string(&value).map(Some).map_err(Error::bad_request),
                };
                Arc::new((0..contents.len()).map(json).collect::<Result<StringArray>>()?)
            }
        })
    }

    /// Append the JSON text of a value, as [`crate::encode::to_json`] has it.
    ///
    /// # Errors
    /// 400 if it holds a number that JSON has no form for: NaN or infinity. Part of it may have been appended.
    ///
    /// # Panics
    /// If there is no such column or row.
    pub fn write_json(&self, column: usize, row: usize, out: &mut Vec<u8>) -> Result<()> {
        fn number<T: Native>(out: &mut Vec<u8>, number: T) -> Result<()> {
            if !number.is_finite() {
                return write(out, &number.number());
            }
            write(out, &number)
        }
        match_column!(Column, &self.columns[column],
            Native(values) => number(out, values[row]),
            Column::Bool(values) => write(out, &values.value(row)),
            Column::String(texts) => write(out, texts.value(row)),
            Column::Bytes(contents) => {
                let content = contents.value(row);
                let start = out.len() + 1;
                // Three bytes become four characters.
                out.resize(start + content.len().div_ceil(3) * 4, b'"');
                BASE64.encode_slice(content, &mut out[start..]).expect("as many characters");
                out.push(b'"');
                Ok(())
            }
            Column::Encoded(contents) => write(out, &codec::value(contents.value(row))),
        )
    }

    /// Append the JSON text of a row: a list of the values at some positions.
    ///
    /// # Errors
    /// 400 if one is a number that JSON has no form for: NaN or infinity. Part of it may have been appended.
    ///
    /// # Panics
    /// If there is no such column or row.
    pub fn write_json_row(&self, row: usize, positions: &[usize], out: &mut Vec<u8>) -> Result<()> {
        out.push(b'[');
        for (i, position) in positions.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.write_json(*position, row, out)?;
        }
        out.push(b']');
        Ok(())
    }
}

/// Append the JSON text of anything; that of native numbers and texts needs no memory of its own.
fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value).map_err(Error::bad_request)
}
