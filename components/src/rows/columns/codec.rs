//! The stored form of a page, and the self-describing form of a value.
//!
//! ```text
//!  page    version: u8, 0, columns: u16, rows: u32     a header
//!          kind: u8, 0 0 0, contents: u32              for each column; how long its contents are together
//!          buffers                                     for each column, each from a multiple of 8 bytes on
//!  value   tag: u8, then a number in its width, a length and content, or a count and items
//! ```
//!
//! Integers are little-endian. A column of numbers is one buffer; any other one is the offsets of its contents, then
//! these. What is aligned in memory is not copied when a page is decoded.

use std::sync::Arc;

use arrow_array::GenericByteArray;
use arrow_array::types::{ByteArrayType, GenericBinaryType, GenericStringType};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, OffsetBuffer, ScalarBuffer};
use bytes::Bytes;

use super::{Column, Columns, match_column};
use crate::rows::schema::{ColumnType, is_of};
use crate::value::Value;
use crate::value::name::{Id, Link};
use crate::value::number::{Number, NumberType};

/// The version of the stored form.
const VERSION: u8 = 1;

/// Where buffers begin: at multiples of this, in bytes.
const ALIGNMENT: usize = 8;

const HEADER_BYTES: usize = 8;
const COLUMN_BYTES: usize = 8;

/// The deepest nesting of tuples that is read back; no state is deeper.
const VALUE_DEPTH_MAX: usize = crate::value::limits::STATE_DEPTH_MAX as usize;

const _: () = assert!(cfg!(target_endian = "little"), "buffers are stored as they are in memory");

impl Column {
    /// The stored number of this kind of column. Never reuse or renumber one.
    fn kind(&self) -> u8 {
        match self {
            Column::Bool(_) => 0,
            Column::I16(_) => 1,
            Column::I32(_) => 2,
            Column::I64(_) => 3,
            Column::U8(_) => 4,
            Column::U16(_) => 5,
            Column::U32(_) => 6,
            Column::U64(_) => 7,
            Column::F32(_) => 8,
            Column::F64(_) => 9,
            Column::String(_) => 10,
            Column::Bytes(_) => 11,
            Column::Encoded(_) => 12,
        }
    }

    /// How long the contents are together, in bytes; 0 for numbers.
    fn contents_bytes(&self) -> usize {
        let length = |offsets: &[i32]| (offsets[offsets.len() - 1] - offsets[0]) as usize;
        match self {
            Column::String(texts) => length(texts.value_offsets()),
            Column::Bytes(contents) | Column::Encoded(contents) => length(contents.value_offsets()),
            _ => 0,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match_column!(Column, self,
            Native(values) => put_buffer(out, values.inner().as_slice()),
            Column::Bool(values) => {
                let last = out.len() + values.len() / 8;
                put_buffer(out, &values.sliced().as_slice()[..values.len().div_ceil(8)]);
                if values.len() % 8 > 0 {
                    out[last] &= (1 << (values.len() % 8)) - 1;
                }
            }
            Column::String(texts) => put_contents(out, texts),
            Column::Bytes(contents) | Column::Encoded(contents) => put_contents(out, contents),
        )
    }
}

fn put_buffer(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

fn put_contents<T: ByteArrayType<Offset = i32>>(out: &mut Vec<u8>, contents: &GenericByteArray<T>) {
    let offsets = contents.value_offsets();
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    out.extend(offsets.iter().flat_map(|offset| (offset - first).to_le_bytes()));
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    put_buffer(out, &contents.value_data()[first as usize..last as usize]);
}

impl Columns {
    /// The stored form.
    ///
    /// # Panics
    /// If there are more than 65,535 columns or 2³² rows.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(
            HEADER_BYTES
                + self.bytes()
                + self.columns.len() * (COLUMN_BYTES + size_of::<i32>() + 2 * ALIGNMENT),
        );
        out.extend([VERSION, 0]);
        out.extend(u16::try_from(self.columns.len()).expect("at most 65,535 columns").to_le_bytes());
        out.extend(u32::try_from(self.len).expect("at most 2³² rows").to_le_bytes());
        for column in self.columns.iter() {
            out.extend([column.kind(), 0, 0, 0]);
            out.extend(u32::try_from(column.contents_bytes()).expect("at most 2 GiB").to_le_bytes());
        }
        self.columns.iter().for_each(|column| column.encode(&mut out));
        out.into()
    }

    /// The rows in columns of these types whose stored form this is. What is aligned in memory is not copied, so the
    /// bytes are kept as long as the columns.
    ///
    /// # Errors
    /// What is wrong with the bytes. Whether rows are sorted is not checked.
    pub fn decode(types: &Arc<[ColumnType]>, bytes: Bytes) -> Result<Columns, String> {
        let header: [u8; HEADER_BYTES] = *bytes.first_chunk().ok_or("a page without a header")?;
        let [version, _, columns_low, columns_high, rows @ ..] = header;
        if version != VERSION {
            return Err(format!("a page of version {version}"));
        }
        let count = usize::from(u16::from_le_bytes([columns_low, columns_high]));
        if count != types.len() {
            return Err(format!("a page of {count} columns, not {}", types.len()));
        }
        let len = u32::from_le_bytes(rows) as usize;
        let mut reader = Reader { position: HEADER_BYTES + count * COLUMN_BYTES, bytes };
        if reader.position > reader.bytes.len() {
            return Err("a page that ends in its header".into());
        }
        let mut columns = Vec::with_capacity(count);
        for (i, class) in types.iter().enumerate() {
            let start = HEADER_BYTES + i * COLUMN_BYTES;
            let [kind, _, _, _, contents @ ..]: [u8; COLUMN_BYTES] =
                *reader.bytes[start..].first_chunk().expect("a whole header");
            let contents = u32::from_le_bytes(contents) as usize;
            let column =
                reader.column(*class, len, contents).map_err(|cause| format!("column {i}: {cause}"))?;
            if column.kind() != kind {
                return Err(format!("column {i}: of kind {kind}, not {}", column.kind()));
            }
            columns.push(column);
        }
        if reader.position != reader.bytes.len() {
            return Err("a page with more after its columns".into());
        }
        Ok(Columns::new(types.clone(), columns.into(), len))
    }
}

struct Reader {
    bytes: Bytes,
    position: usize,
}

impl Reader {
    /// The next buffer.
    fn take(&mut self, len: usize) -> Result<Bytes, String> {
        let left = self.bytes.len() - self.position;
        let padded = len.checked_next_multiple_of(ALIGNMENT).filter(|padded| *padded <= left);
        let padded = padded.ok_or_else(|| format!("a buffer of {len} bytes where {left} are left"))?;
        let taken = self.bytes.slice(self.position..self.position + len);
        self.position += padded;
        Ok(taken)
    }

    /// The next buffer, as numbers.
    fn natives<T: ArrowNativeType>(&mut self, len: usize) -> Result<ScalarBuffer<T>, String> {
        let bytes = self.take(len.checked_mul(size_of::<T>()).ok_or("too many rows")?)?;
        let is_aligned = bytes.as_ptr().align_offset(align_of::<T>()) == 0;
        let buffer = if is_aligned { Buffer::from(bytes) } else { Buffer::from(&bytes[..]) };
        Ok(ScalarBuffer::new(buffer, 0, len))
    }

    fn contents<T: ByteArrayType<Offset = i32>>(
        &mut self,
        len: usize,
        contents_bytes: usize,
    ) -> Result<GenericByteArray<T>, String> {
        let offsets: ScalarBuffer<i32> = self.natives(len + 1)?;
        let bytes = self.take(contents_bytes)?;
        let last = i32::try_from(contents_bytes).map_err(|_| "contents of more than 2 GiB")?;
        if offsets[0] != 0 || offsets[len] != last {
            return Err("offsets that do not span the contents".into());
        }
        // Of all rows at once, so that the comparisons need no branches.
        if !offsets.windows(2).fold(true, |ascending, pair| ascending & (pair[0] <= pair[1])) {
            return Err("offsets that descend".into());
        }
        GenericByteArray::try_new(OffsetBuffer::new(offsets), Buffer::from(bytes), None)
            .map_err(|cause| cause.to_string())
    }

    fn column(&mut self, class: ColumnType, len: usize, contents_bytes: usize) -> Result<Column, String> {
        Ok(match class {
            ColumnType::Number(NumberType::Bool) => {
                Column::Bool(BooleanBuffer::new(Buffer::from(self.take(len.div_ceil(8))?), 0, len))
            }
            ColumnType::Number(NumberType::I16) => Column::I16(self.natives(len)?),
            ColumnType::Number(NumberType::I32) => Column::I32(self.natives(len)?),
            ColumnType::Number(NumberType::I64) => Column::I64(self.natives(len)?),
            ColumnType::Number(NumberType::U8) => Column::U8(self.natives(len)?),
            ColumnType::Number(NumberType::U16) => Column::U16(self.natives(len)?),
            ColumnType::Number(NumberType::U32) => Column::U32(self.natives(len)?),
            ColumnType::Number(NumberType::U64) => Column::U64(self.natives(len)?),
            ColumnType::Number(NumberType::F32) => Column::F32(self.natives(len)?),
            ColumnType::Number(NumberType::F64) => Column::F64(self.natives(len)?),
            ColumnType::String => {
                Column::String(self.contents::<GenericStringType<i32>>(len, contents_bytes)?)
            }
            ColumnType::Bytes => Column::Bytes(self.contents::<GenericBinaryType<i32>>(len, contents_bytes)?),
            ColumnType::Number(_)
            | ColumnType::Id
            | ColumnType::Link
            | ColumnType::Tuple
            | ColumnType::None
            | ColumnType::Value => {
                let contents = self.contents::<GenericBinaryType<i32>>(len, contents_bytes)?;
                for row in 0..len {
                    let mut content = contents.value(row);
                    let value = decode_value(&mut content).filter(|value| is_of(class, value));
                    if value.is_none() || !content.is_empty() {
                        return Err(format!("row {row} has no value of type {class:?}"));
                    }
                }
                Column::Encoded(contents)
            }
        })
    }
}

/// The value of a row of a column.
pub(super) fn value(mut content: &[u8]) -> Value {
    decode_value(&mut content).expect("a value, for it was checked when it came in")
}

/// The tags of values. Never reuse or renumber one.
mod tag {
    pub const NONE: u8 = 0;
    pub const BOOL: u8 = 1;
    pub const U8: u8 = 2;
    pub const U16: u8 = 3;
    pub const U32: u8 = 4;
    pub const U64: u8 = 5;
    pub const I16: u8 = 6;
    pub const I32: u8 = 7;
    pub const I64: u8 = 8;
    pub const F32: u8 = 9;
    pub const F64: u8 = 10;
    pub const C32: u8 = 11;
    pub const C64: u8 = 12;
    pub const BYTES: u8 = 13;
    pub const ID: u8 = 14;
    pub const STRING: u8 = 15;
    pub const PATH: u8 = 16;
    pub const LINK: u8 = 17;
    pub const TUPLE: u8 = 18;
}

/// Append the self-describing form of a value: every width, sign and payload of NaN is kept.
pub fn encode_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => bytes.push(tag::NONE),
        Value::Number(number) => encode_number(bytes, *number),
        Value::Bytes(content) => put_content(bytes, tag::BYTES, content),
        Value::Id(id) => put_content(bytes, tag::ID, id.as_str().as_bytes()),
        Value::String(text) => put_content(bytes, tag::STRING, text.as_bytes()),
        Value::Link(link) => {
            let path = link.path().to_string();
            match link.origin() {
                None => put_content(bytes, tag::PATH, path.as_bytes()),
                Some(origin) => {
                    put_content(bytes, tag::LINK, origin.as_bytes());
                    put_length(bytes, path.len());
                    bytes.extend_from_slice(path.as_bytes());
                }
            }
        }
        Value::Tuple(items) => {
            bytes.push(tag::TUPLE);
            put_length(bytes, items.len());
            items.iter().for_each(|item| encode_value(bytes, item));
        }
    }
}

fn encode_number(bytes: &mut Vec<u8>, number: Number) {
    fn put<const N: usize>(bytes: &mut Vec<u8>, tag: u8, number: [u8; N]) {
        bytes.push(tag);
        bytes.extend_from_slice(&number);
    }
    match number {
        Number::Bool(x) => put(bytes, tag::BOOL, [x.into()]),
        Number::U8(x) => put(bytes, tag::U8, x.to_le_bytes()),
        Number::U16(x) => put(bytes, tag::U16, x.to_le_bytes()),
        Number::U32(x) => put(bytes, tag::U32, x.to_le_bytes()),
        Number::U64(x) => put(bytes, tag::U64, x.to_le_bytes()),
        Number::I16(x) => put(bytes, tag::I16, x.to_le_bytes()),
        Number::I32(x) => put(bytes, tag::I32, x.to_le_bytes()),
        Number::I64(x) => put(bytes, tag::I64, x.to_le_bytes()),
        Number::F32(x) => put(bytes, tag::F32, x.to_le_bytes()),
        Number::F64(x) => put(bytes, tag::F64, x.to_le_bytes()),
        Number::C32([re, im]) => {
            put(bytes, tag::C32, re.to_le_bytes());
            bytes.extend(im.to_le_bytes());
        }
        Number::C64([re, im]) => {
            put(bytes, tag::C64, re.to_le_bytes());
            bytes.extend(im.to_le_bytes());
        }
    }
}

fn put_content(bytes: &mut Vec<u8>, tag: u8, content: &[u8]) {
    bytes.push(tag);
    put_length(bytes, content.len());
    bytes.extend_from_slice(content);
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// Take one value from the front of the bytes; none if there is none.
pub fn decode_value(bytes: &mut &[u8]) -> Option<Value> {
    take_value(bytes, 0)
}

fn take_value(bytes: &mut &[u8], depth: usize) -> Option<Value> {
    let [tag] = take(bytes)?;
    Some(match tag {
        tag::NONE => Value::None,
        tag::BOOL => Value::from(match take(bytes)? {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
        tag::U8 => Value::from(u8::from_le_bytes(take(bytes)?)),
        tag::U16 => Value::from(u16::from_le_bytes(take(bytes)?)),
        tag::U32 => Value::from(u32::from_le_bytes(take(bytes)?)),
        tag::U64 => Value::from(u64::from_le_bytes(take(bytes)?)),
        tag::I16 => Value::from(i16::from_le_bytes(take(bytes)?)),
        tag::I32 => Value::from(i32::from_le_bytes(take(bytes)?)),
        tag::I64 => Value::from(i64::from_le_bytes(take(bytes)?)),
        tag::F32 => Value::from(f32::from_le_bytes(take(bytes)?)),
        tag::F64 => Value::from(f64::from_le_bytes(take(bytes)?)),
        tag::C32 => {
            let mut part = || take(bytes).map(f32::from_le_bytes);
            Value::Number(Number::C32([part()?, part()?]))
        }
        tag::C64 => {
            let mut part = || take(bytes).map(f64::from_le_bytes);
            Value::Number(Number::C64([part()?, part()?]))
        }
        tag::BYTES => Value::Bytes(take_content(bytes)?.into()),
        tag::ID => Value::Id(Id::parse(take_text(bytes)?).ok()?),
        tag::STRING => Value::String(take_text(bytes)?.into()),
        tag::PATH => Value::Link(take_path(bytes)?.into()),
        tag::LINK => {
            let origin = take_text(bytes)?;
            Value::Link(Link::new(Some(origin.into()), take_path(bytes)?))
        }
        tag::TUPLE => {
            if depth >= VALUE_DEPTH_MAX {
                return None;
            }
            let count = take_length(bytes)?;
            // Each item has a byte at least.
            let mut items = Vec::with_capacity(count.min(bytes.len()));
            for _ in 0..count {
                items.push(take_value(bytes, depth + 1)?);
            }
            Value::Tuple(items.into())
        }
        _ => return None,
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0_u64;
    for shift in (0..63).step_by(7) {
        let [byte] = take(bytes)?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return length.try_into().ok();
        }
    }
    None
}

fn take_content<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(bytes)?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_content(bytes)?).ok()
}

/// A path is not parsed as one of a request is: one of more segments may have been made in the language.
fn take_path(bytes: &mut &[u8]) -> Option<crate::value::name::Path> {
    match take_text(bytes)?.strip_prefix('/')? {
        "" => Some(crate::value::name::Path::root()),
        segments => segments.split('/').map(|segment| Id::parse(segment).ok()).collect(),
    }
}
