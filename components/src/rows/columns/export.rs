//! Rows as JSON and CSV text, and columns as Arrow arrays for other programs.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, Field};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::native::Native;
use super::text::{Shown, is_plain, not_finite};
use super::{Column, Columns, codec, match_column};
use crate::rows::schema;
use crate::rows::schema::ColumnType;
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::number::NumberType;

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

/// What the metadata of a field says of it whose texts are the JSON of values.
const JSON_MARK: (&str, &str) = ("tinychain.encoding", "json");

/// The Arrow schema of some columns.
pub fn arrow_fields(columns: &[schema::Column]) -> arrow_schema::Schema {
    let field = |column: &schema::Column| {
        // Only these hold nothing.
        let is_nullable = matches!(column.class, ColumnType::None | ColumnType::Value);
        let field = Field::new(column.name.as_str(), arrow_type(column.class), is_nullable);
        let is_json = *field.data_type() == DataType::Utf8 && column.class != ColumnType::String;
        match is_json {
            true => field.with_metadata([JSON_MARK]),
            false => field,
        }
    };
    arrow_schema::Schema::new(columns.iter().map(field).collect::<Vec<_>>())
}

/// Whether the texts of an Arrow field are the JSON of values, as [`arrow_fields`] says it.
pub fn is_json_field(field: &Field) -> bool {
    field.metadata().get(JSON_MARK.0).is_some_and(|encoding| encoding == JSON_MARK.1)
}

/// Append the header of CSV: the names of the columns.
pub fn write_csv_header(columns: &[schema::Column], out: &mut Vec<u8>) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_field(out, column.name.as_str());
    }
    out.extend_from_slice(b"\r\n");
}

/// Append a text as a field of CSV: in quotes if it would be read as something else.
fn write_field(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| !matches!(byte, b',' | b'"' | b'\r' | b'\n');
    if !text.is_empty() && text.bytes().all(is_plain) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

impl Columns {
    /// A column as an Arrow array of [`arrow_type`], in the same memory where that is possible. Nothing ([`Value::None`])
    /// is null.
    ///
    /// # Errors
    /// As [`crate::value::json::to_json`], for the values that become JSON.
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
                let class = self.types[column];
                let json = |row: usize| match codec::value(contents.value(row)) {
                    Value::None => Ok(None),
                    value => match not_finite(&value) {
                        Some(word) => Ok(Some(word.to_string())),
                        None => {
                            serde_json::to_string(&Shown(class, &value)).map(Some).map_err(Error::bad_request)
                        }
                    },
                };
                Arc::new((0..contents.len()).map(json).collect::<Result<StringArray>>()?)
            }
        })
    }

    /// Append the JSON text of a value, which reads back as the same value; but what JSON has no form for, NaN and
    /// infinity, is null.
    ///
    /// # Errors
    /// 400 if it cannot be written. Part of it may have been appended.
    ///
    /// # Panics
    /// If there is no such column or row.
    pub fn write_json(&self, column: usize, row: usize, out: &mut Vec<u8>) -> Result<()> {
        fn number<T: Native>(out: &mut Vec<u8>, number: T) -> Result<()> {
            if !number.is_finite() {
                out.extend_from_slice(b"null");
                return Ok(());
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
            Column::Encoded(contents) => {
                write(out, &Shown(self.types[column], &codec::value(contents.value(row))))
            }
        )
    }

    /// Append a value as a field of CSV (RFC 4180), which reads back as the same value: text as it is, in quotes where it
    /// must be; bytes in base64; nothing for nothing, which is not the empty text; any other value as in JSON, but NaN and
    /// infinity have a form here. In a column of any value, text is as in JSON where it would be read as something else.
    ///
    /// # Errors
    /// As [`Self::write_json`].
    ///
    /// # Panics
    /// If there is no such column or row.
    pub fn write_csv(&self, column: usize, row: usize, out: &mut Vec<u8>) -> Result<()> {
        fn float<T: Native>(out: &mut Vec<u8>, float: T) -> Result<()> {
            match float.is_finite() {
                true => write(out, &float),
                false => {
                    out.extend_from_slice(float.number().to_string().as_bytes());
                    Ok(())
                }
            }
        }
        match &self.columns[column] {
            Column::F32(floats) => return float(out, floats[row]),
            Column::F64(floats) => return float(out, floats[row]),
            Column::String(texts) => write_field(out, texts.value(row)),
            Column::Encoded(contents) => match (self.types[column], codec::value(contents.value(row))) {
                (_, Value::None) => {}
                (ColumnType::Value, Value::String(text)) if is_plain(&text) => write_field(out, &text),
                (ColumnType::Id, Value::Id(id)) => write_field(out, id.as_str()),
                (ColumnType::Link, Value::Link(link)) => write_field(out, &link.to_string()),
                (class, value) => match not_finite(&value) {
                    Some(word) => out.extend_from_slice(word.as_bytes()),
                    None => {
                        let json =
                            serde_json::to_string(&Shown(class, &value)).map_err(Error::bad_request)?;
                        write_field(out, &json);
                    }
                },
            },
            Column::Bytes(contents) => {
                out.extend_from_slice(BASE64.encode(contents.value(row)).as_bytes());
            }
            _ => return self.write_json(column, row, out),
        }
        Ok(())
    }

    /// Append a row as a record of CSV, with the line break that ends it.
    ///
    /// # Errors
    /// As [`Self::write_csv`].
    ///
    /// # Panics
    /// If there is no such row.
    pub fn write_csv_row(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        for column in 0..self.columns.len() {
            if column > 0 {
                out.push(b',');
            }
            self.write_csv(column, row, out)?;
        }
        // A line of nothing is no record to many readers.
        if out.len() == start {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// All columns as a batch of an [`arrow_fields`] schema.
    ///
    /// # Errors
    /// As [`Self::array`].
    ///
    /// # Panics
    /// If the schema is another one.
    pub fn batch(&self, schema: &Arc<arrow_schema::Schema>) -> Result<RecordBatch> {
        let arrays = (0..self.columns.len()).map(|column| self.array(column)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.len));
        let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &options);
        Ok(batch.expect("arrays of the types of the schema"))
    }

    /// Append the JSON text of a row: a list of the values at some positions.
    ///
    /// # Errors
    /// As [`Self::write_json`].
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
