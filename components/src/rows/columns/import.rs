//! Rows come in from clients: as Arrow arrays, or one value after the other. All are checked as rows of a request are.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;

use super::builder::Growing;
use super::text::{EXACT_INTEGER_MAX, ReadJson, TextOrigin, cell};
use super::{Column, Columns, ColumnsBuilder, arrow_type};
use crate::rows::coerce::{Rule, check_count, into_column};
use crate::rows::schema;
use crate::rows::schema::{CollectionKind, ColumnType, Schema};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::number::{Number, NumberType};

/// How many bytes of memory are taken before they are charged.
const UNCHARGED_BYTES_MAX: usize = 64 * 1024;

/// What an array takes besides its values, in bytes, as it is charged.
const ARRAY_BYTES: usize = 512;

/// The most bytes of the texts of one column, which offsets of 32 bits reach.
const CONTENTS_BYTES_MAX: usize = i32::MAX as usize;

/// Takes memory, in bytes, for what comes in, or refuses it.
type Charge<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// One value as it comes in.
#[derive(Debug)]
pub enum Cell<'a> {
    /// A number or truth value.
    Number(Number),
    /// Unicode text.
    Text(&'a str),
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// Any value.
    Value(Value),
}

/// Rows of a collection that come in one value after the other.
#[derive(Debug)]
pub struct Import {
    schema: Arc<Schema>,
    columns: Vec<Growing>,
    /// How many rows came before these.
    rows_before: usize,
    len: usize,
    bytes: usize,
}

fn rule(schema: &Schema) -> Rule {
    match schema.kind() {
        CollectionKind::BTree => Rule::Lenient,
        CollectionKind::Table => Rule::Strict,
    }
}

fn in_row(cause: &Error, row: usize) -> Error {
    cause.clone().context(format_args!("row {}", row + 1))
}

fn in_cell(cause: &Error, row: usize, column: &schema::Column) -> Error {
    cause.clone().context(format_args!("row {}, column {}", row + 1, column.name))
}

fn too_long() -> Error {
    Error::too_large(format_args!("the values of one column have at most {CONTENTS_BYTES_MAX} bytes"))
}

impl Import {
    /// No rows yet.
    pub fn new(schema: Arc<Schema>) -> Self {
        Self::after(schema, 0)
    }

    /// No rows yet, of those that come after so many others: errors count these.
    pub fn after(schema: Arc<Schema>, rows_before: usize) -> Self {
        let columns = schema.columns().iter().map(|column| Growing::new(column.class, 0)).collect();
        Self { schema, columns, rows_before, len: 0, bytes: 0 }
    }

    /// What the rows are.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The memory that the rows so far take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows have ended.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no row has ended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A value of the row that comes in. Each column is given one, in any order, before the row ends; after an error
    /// nothing more is.
    ///
    /// # Errors
    /// As [`crate::rows::coerce::coerce`], and names the row, counted from 1, and the column; 413 if a column
    /// becomes too large.
    ///
    /// # Panics
    /// If there is no such column.
    #[inline]
    pub fn push(&mut self, column: usize, cell: Cell) -> Result<()> {
        let of = &self.schema.columns()[column];
        match push(&mut self.columns[column], of, rule(&self.schema), cell) {
            Ok(bytes) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(cause) => Err(in_cell(&cause, self.rows_before + self.len, of)),
        }
    }

    /// An error in a value of the row that comes in, with the row and the column.
    pub fn refused(&self, column: usize, cause: &Error) -> Error {
        match self.schema.columns().get(column) {
            Some(column) => in_cell(cause, self.rows_before + self.len, column),
            None => in_row(cause, self.rows_before + self.len),
        }
    }

    /// The row has ended, after so many values.
    ///
    /// # Errors
    /// 400 that names the row if it does not have a value for each column.
    #[inline]
    pub fn end_row(&mut self, values: usize) -> Result<()> {
        if values != self.columns.len() {
            let what = match self.schema.kind() {
                CollectionKind::BTree => "a key of this BTree",
                CollectionKind::Table => "a row of this table",
            };
            check_count(what, values, self.columns.len())
                .map_err(|cause| in_row(&cause, self.rows_before + self.len))?;
        }
        self.len += 1;
        Ok(())
    }

    /// The rows, as they came in.
    ///
    /// # Panics
    /// If a column was not given a value for each row.
    pub fn finish(self) -> Columns {
        let types = self.schema.layouts()[0].types.clone();
        Columns::new(types, self.columns.into_iter().map(Growing::finish).collect(), self.len)
    }
}

/// Append a value; how many bytes that takes.
#[inline]
fn push(growing: &mut Growing, column: &schema::Column, rule: Rule, cell: Cell) -> Result<usize> {
    /// An integer of another width, if it fits; whatever does not is left to the general way, which knows why.
    macro_rules! integer {
        ($values:ident, $number:expr) => {
            if let Some(number) = match $number {
                Number::I64(number) => number.try_into().ok(),
                Number::U64(number) => number.try_into().ok(),
                _ => None,
            } {
                $values.push(number);
                return Ok(size_of_val(&number));
            }
        };
    }
    match (&mut *growing, &cell) {
        (Growing::I64(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::U64(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::I32(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::U32(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::I16(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::U16(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::U8(values), Cell::Number(number)) => integer!(values, *number),
        (Growing::F64(values), Cell::Number(Number::I64(number)))
            if number.unsigned_abs() <= EXACT_INTEGER_MAX =>
        {
            values.push(*number as f64);
            return Ok(size_of::<f64>());
        }
        (Growing::F64(values), Cell::Number(Number::F64(number))) => {
            values.push(*number);
            return Ok(size_of::<f64>());
        }
        (Growing::String(contents), Cell::Text(text)) if fits(column, text) => {
            if contents.bytes.len() + text.len() > CONTENTS_BYTES_MAX {
                return Err(too_long());
            }
            contents.push(text.as_bytes());
            return Ok(size_of::<i32>() + text.len());
        }
        (Growing::Bytes(contents), Cell::Bytes(content))
            if column.max_len.is_none_or(|max_len| content.len() as u64 <= max_len) =>
        {
            if contents.bytes.len() + content.len() > CONTENTS_BYTES_MAX {
                return Err(too_long());
            }
            contents.push(content);
            return Ok(size_of::<i32>() + content.len());
        }
        _ => {}
    }
    push_value(growing, column, rule, cell)
}

/// Append a value that is not of the type of its column, or that is refused.
#[inline(never)]
fn push_value(growing: &mut Growing, column: &schema::Column, rule: Rule, cell: Cell) -> Result<usize> {
    let value = match cell {
        Cell::Number(number) => Value::Number(number),
        Cell::Text(text) => Value::String(text.into()),
        Cell::Bytes(content) => Value::Bytes(content.into()),
        Cell::Value(value) => value,
    };
    let value = into_column(column, &value, rule)?;
    let contents_len = |growing: &Growing| match growing {
        Growing::String(contents) | Growing::Bytes(contents) | Growing::Encoded(contents) => {
            contents.bytes.len()
        }
        _ => 0,
    };
    let before = contents_len(growing);
    match (&mut *growing, &value) {
        (Growing::String(contents), Value::String(text))
            if contents.bytes.len() + text.len() > CONTENTS_BYTES_MAX =>
        {
            return Err(too_long());
        }
        (Growing::Bytes(contents), Value::Bytes(content))
            if contents.bytes.len() + content.len() > CONTENTS_BYTES_MAX =>
        {
            return Err(too_long());
        }
        (Growing::Encoded(contents), value) => {
            super::encode_value(&mut contents.bytes, value);
            if contents.bytes.len() > CONTENTS_BYTES_MAX {
                return Err(too_long());
            }
            contents.end();
        }
        (growing, value) => growing.push(column.class, value),
    }
    Ok(size_of::<u64>() + contents_len(growing) - before)
}

/// Whether a text is not longer than its column allows.
#[inline]
fn fits(column: &schema::Column, text: &str) -> bool {
    // A character takes at least one byte.
    column
        .max_len
        .is_none_or(|max_len| text.len() as u64 <= max_len || text.chars().count() as u64 <= max_len)
}

/// Check that arrays of a type can be imported: numbers, truth values, text and bytes, also in dictionaries, and nulls.
///
/// # Errors
/// 400 that says what can be sent instead.
pub fn check_arrow_type(data_type: &DataType) -> Result<()> {
    let hint = match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => return Ok(()),
        // Dictionaries in dictionaries would only multiply.
        DataType::Dictionary(_, values) if !matches!(**values, DataType::Dictionary(..)) => {
            return check_arrow_type(values);
        }
        data_type if data_type.is_temporal() => "send times and dates as integers or text",
        DataType::Float16 | DataType::Decimal32(..) | DataType::Decimal64(..) => {
            "send floats of 32 or 64 bits"
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => "send floats of 64 bits, or text",
        _ => "send numbers, truth values, text or bytes",
    };
    Err(Error::bad_request(format_args!("the Arrow type {data_type} is not supported: {hint}")))
}

/// Arrow arrays that come in: one for each column of a schema and in its order.
#[derive(Clone, Copy, Debug)]
pub struct Arrays<'a> {
    /// The arrays.
    pub arrays: &'a [ArrayRef],
    /// How many values each of them has.
    pub len: usize,
    /// Of each, whether its texts are the JSON of values ([`super::is_json_field`]).
    pub are_json: &'a [bool],
    /// How many rows came before, which errors count.
    pub rows_before: usize,
    /// Reads the JSON of a value.
    pub json: ReadJson,
}

impl Columns {
    /// Rows in columns out of Arrow arrays: in the same memory where the array is of [`arrow_type`], else as values that come in one after the other. `charge` is asked for the memory
    /// that is not that of the arrays.
    ///
    /// Null is a value only in columns of nothing and of any value.
    ///
    /// # Errors
    /// As [`Import::push`]; of [`check_arrow_type`]; of `charge`.
    ///
    /// # Panics
    /// If there is not one array for each column, with `len` values each.
    pub fn from_arrays(schema: &Schema, from: &Arrays, charge: &mut Charge) -> Result<Self> {
        let &Arrays { arrays, len, are_json, .. } = from;
        assert_eq!(arrays.len(), schema.columns().len(), "an array for each column");
        let rule = rule(schema);
        let import = |((column, array), is_json): ((&schema::Column, &ArrayRef), &bool)| {
            assert_eq!(array.len(), len, "arrays have equally many values");
            check_arrow_type(array.data_type())
                .map_err(|cause| cause.context(format_args!("column {}", column.name)))?;
            charge(ARRAY_BYTES)?;
            match same_memory(column, array) {
                Some(column) => Ok(column),
                None => {
                    let origin = if *is_json { TextOrigin::Json } else { TextOrigin::Text };
                    converted(column, array, (rule, origin), from, charge)
                }
            }
        };
        assert_eq!(are_json.len(), arrays.len(), "each array is JSON or not");
        let columns = schema.columns().iter().zip(arrays).zip(are_json).map(import).collect::<Result<_>>()?;
        Ok(Self::new(schema.layouts()[0].types.clone(), columns, len))
    }

    /// The rows of all parts, one after the other; of a single part in the same memory.
    ///
    /// # Errors
    /// 413 if a column becomes too large; of `charge`.
    ///
    /// # Panics
    /// If the parts have other types.
    pub fn concat(types: &Arc<[ColumnType]>, mut parts: Vec<Self>, charge: &mut Charge) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        for column in 0..types.len() {
            let bytes: usize = parts.iter().map(|part| part.columns[column].bytes(0..part.len)).sum();
            charge(bytes)?;
            let is_contents = parts.first().is_some_and(|part| {
                matches!(part.columns[column], Column::String(_) | Column::Bytes(_) | Column::Encoded(_))
            });
            if is_contents && bytes > CONTENTS_BYTES_MAX {
                return Err(too_long());
            }
        }
        let mut builder = ColumnsBuilder::with_capacity(types, parts.iter().map(Self::len).sum());
        for part in parts {
            builder.push_range(&part, 0..part.len());
        }
        Ok(builder.finish())
    }
}

/// An array as a column in the same memory, if all of its values are values of the column as they are.
fn same_memory(column: &schema::Column, array: &ArrayRef) -> Option<Column> {
    fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef) -> ScalarBuffer<T::Native> {
        array.as_primitive::<T>().values().clone()
    }
    // Of other classes arrow_type is that of their JSON, which is no value of them.
    let is_plain = matches!(column.class, ColumnType::Number(_) | ColumnType::String | ColumnType::Bytes);
    if !is_plain || *array.data_type() != arrow_type(column.class) || array.null_count() > 0 {
        return None;
    }
    Some(match column.class {
        ColumnType::Number(NumberType::Bool) => Column::Bool(array.as_boolean().values().clone()),
        ColumnType::Number(NumberType::I16) => Column::I16(numbers::<Int16Type>(array)),
        ColumnType::Number(NumberType::I32) => Column::I32(numbers::<Int32Type>(array)),
        ColumnType::Number(NumberType::I64) => Column::I64(numbers::<Int64Type>(array)),
        ColumnType::Number(NumberType::U8) => Column::U8(numbers::<UInt8Type>(array)),
        ColumnType::Number(NumberType::U16) => Column::U16(numbers::<UInt16Type>(array)),
        ColumnType::Number(NumberType::U32) => Column::U32(numbers::<UInt32Type>(array)),
        ColumnType::Number(NumberType::U64) => Column::U64(numbers::<UInt64Type>(array)),
        ColumnType::Number(NumberType::F32) => Column::F32(numbers::<Float32Type>(array)),
        ColumnType::Number(NumberType::F64) => Column::F64(numbers::<Float64Type>(array)),
        ColumnType::String => {
            let texts = array.as_string::<i32>();
            let are_short = column.max_len.is_none_or(|max_len| {
                let offsets = texts.value_offsets();
                let longest = offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
                longest as u64 <= max_len || texts.iter().flatten().all(|text| fits(column, text))
            });
            // The array may have a mask of nulls without any null.
            are_short.then(|| {
                let (offsets, bytes, _) = texts.clone().into_parts();
                // SAFETY: they are the parts of an array of texts.
                Column::String(unsafe { arrow_array::StringArray::new_unchecked(offsets, bytes, None) })
            })?
        }
        ColumnType::Bytes => {
            let contents = array.as_binary::<i32>();
            let are_short = column.max_len.is_none_or(|max_len| {
                contents.value_offsets().windows(2).all(|ends| (ends[1] - ends[0]) as u64 <= max_len)
            });
            are_short.then(|| {
                let (offsets, bytes, _) = contents.clone().into_parts();
                Column::Bytes(arrow_array::BinaryArray::new(offsets, bytes, None))
            })?
        }
        // Numbers without one width, as they have other Arrow types than these.
        _ => return None,
    })
}

/// An array as a column of another type.
fn converted(
    column: &schema::Column,
    array: &ArrayRef,
    (rule, origin): (Rule, TextOrigin),
    from: &Arrays,
    charge: &mut Charge,
) -> Result<Column> {
    // The length is only what the sender says where the values take no memory.
    charge(array.len().saturating_mul(size_of::<u64>()))?;
    if let Some(column) = integers(column.class, array) {
        return Ok(column);
    }
    let reader = reader(array);
    let mut growing = Growing::new(column.class, array.len());
    let mut uncharged_bytes = 0;
    for row in 0..array.len() {
        let refused = |cause: Error| in_cell(&cause, from.rows_before + row, column);
        let cell = match reader(row) {
            Some(Cell::Text(text)) => cell(column.class, text, origin, from.json).map_err(refused)?,
            Some(cell) => cell,
            None if matches!(column.class, ColumnType::None | ColumnType::Value) => Cell::Value(Value::None),
            None => return Err(refused(Error::bad_request("null is no value of this column"))),
        };
        uncharged_bytes += push(&mut growing, column, rule, cell).map_err(refused)?;
        if uncharged_bytes > UNCHARGED_BYTES_MAX {
            charge(uncharged_bytes)?;
            uncharged_bytes = 0;
        }
    }
    charge(uncharged_bytes)?;
    Ok(growing.finish())
}

/// Integers of another width, if all fit.
fn integers(class: ColumnType, array: &ArrayRef) -> Option<Column> {
    fn cast<S: ArrowPrimitiveType, T: TryFrom<S::Native> + Default>(array: &ArrayRef) -> Option<Vec<T>> {
        let mut all_fit = true;
        let cast = array.as_primitive::<S>().values().iter().map(|value| {
            let number = T::try_from(*value);
            all_fit &= number.is_ok();
            number.unwrap_or_default()
        });
        let numbers = cast.collect();
        all_fit.then_some(numbers)
    }
    macro_rules! from_any {
        ($kind:ident) => {
            Column::$kind(
                match array.data_type() {
                    DataType::Int8 => cast::<Int8Type, _>(array),
                    DataType::Int16 => cast::<Int16Type, _>(array),
                    DataType::Int32 => cast::<Int32Type, _>(array),
                    DataType::Int64 => cast::<Int64Type, _>(array),
                    DataType::UInt8 => cast::<UInt8Type, _>(array),
                    DataType::UInt16 => cast::<UInt16Type, _>(array),
                    DataType::UInt32 => cast::<UInt32Type, _>(array),
                    DataType::UInt64 => cast::<UInt64Type, _>(array),
                    _ => None,
                }?
                .into(),
            )
        };
    }
    if array.null_count() > 0 {
        return None;
    }
    let ColumnType::Number(class) = class else { return None };
    Some(match class {
        NumberType::I16 => from_any!(I16),
        NumberType::I32 => from_any!(I32),
        NumberType::I64 => from_any!(I64),
        NumberType::U8 => from_any!(U8),
        NumberType::U16 => from_any!(U16),
        NumberType::U32 => from_any!(U32),
        NumberType::U64 => from_any!(U64),
        _ => return None,
    })
}

/// Reads a row of an array; none where that is null.
type Reader<'a> = Box<dyn Fn(usize) -> Option<Cell<'a>> + 'a>;

/// The values of an array of a type that has been checked.
fn reader(array: &ArrayRef) -> Reader<'_> {
    fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef, number: fn(T::Native) -> Number) -> Reader<'_> {
        let array = array.as_primitive::<T>();
        Box::new(move |row| Some(Cell::Number(number(array.value(row)))))
    }
    fn dictionary<K: ArrowDictionaryKeyType>(array: &ArrayRef) -> Reader<'_> {
        let dictionary = array.as_dictionary::<K>();
        let value = reader(dictionary.values());
        Box::new(move |row| value(dictionary.key(row)?))
    }
    let read: Reader = match array.data_type() {
        DataType::Int8 => numbers::<Int8Type>(array, |number| Number::I16(number.into())),
        DataType::Int16 => numbers::<Int16Type>(array, Number::I16),
        DataType::Int32 => numbers::<Int32Type>(array, Number::I32),
        DataType::Int64 => numbers::<Int64Type>(array, Number::I64),
        DataType::UInt8 => numbers::<UInt8Type>(array, Number::U8),
        DataType::UInt16 => numbers::<UInt16Type>(array, Number::U16),
        DataType::UInt32 => numbers::<UInt32Type>(array, Number::U32),
        DataType::UInt64 => numbers::<UInt64Type>(array, Number::U64),
        DataType::Float32 => numbers::<Float32Type>(array, Number::F32),
        DataType::Float64 => numbers::<Float64Type>(array, Number::F64),
        DataType::Boolean => Box::new(|row| Some(Cell::Number(Number::Bool(array.as_boolean().value(row))))),
        DataType::Utf8 => Box::new(|row| Some(Cell::Text(array.as_string::<i32>().value(row)))),
        DataType::LargeUtf8 => Box::new(|row| Some(Cell::Text(array.as_string::<i64>().value(row)))),
        DataType::Utf8View => Box::new(|row| Some(Cell::Text(array.as_string_view().value(row)))),
        DataType::Binary => Box::new(|row| Some(Cell::Bytes(array.as_binary::<i32>().value(row)))),
        DataType::LargeBinary => Box::new(|row| Some(Cell::Bytes(array.as_binary::<i64>().value(row)))),
        DataType::BinaryView => Box::new(|row| Some(Cell::Bytes(array.as_binary_view().value(row)))),
        DataType::FixedSizeBinary(_) => {
            Box::new(|row| Some(Cell::Bytes(array.as_fixed_size_binary().value(row))))
        }
        DataType::Dictionary(keys, _) => match **keys {
            DataType::Int8 => dictionary::<Int8Type>(array),
            DataType::Int16 => dictionary::<Int16Type>(array),
            DataType::Int32 => dictionary::<Int32Type>(array),
            DataType::Int64 => dictionary::<Int64Type>(array),
            DataType::UInt8 => dictionary::<UInt8Type>(array),
            DataType::UInt16 => dictionary::<UInt16Type>(array),
            DataType::UInt32 => dictionary::<UInt32Type>(array),
            DataType::UInt64 => dictionary::<UInt64Type>(array),
            ref other => unreachable!("a dictionary with keys of type {other}"),
        },
        DataType::Null => Box::new(|_| None),
        other => unreachable!("{other} has been checked"),
    };
    match array.nulls() {
        Some(nulls) if nulls.null_count() > 0 => {
            Box::new(move |row| if nulls.is_null(row) { None } else { read(row) })
        }
        _ => read,
    }
}

#[cfg(test)]
mod tests;
