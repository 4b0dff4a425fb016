//! Rows out of an Arrow IPC stream.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::ArrowError;
use components::collection::columns::{Columns, check_arrow_type};
use components::collection::schema::Schema;
use components::{Error, Result};

use super::positions;

/// What a message of a stream begins with, unless it is from before Arrow 0.15; then comes its length.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Decode an Arrow IPC stream, of which the columns have the names of those of the schema, in any order. Arrays of the
/// types of the columns stay in the memory of the stream. `charge` is asked for any other memory, in bytes.
///
/// # Errors
/// 400 if it is malformed, compressed, of other columns or of a type that is not supported; as
/// [`Columns::from_arrays`].
pub fn arrow(
    schema: &Schema,
    bytes: Vec<u8>,
    charge: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Columns> {
    let mut stream = Buffer::from_vec(bytes);
    // It checks all that it reads, offsets, texts and keys of dictionaries included.
    let mut decoder = StreamDecoder::new();
    // The schema first, so that nothing is decoded that is not wanted. It is done at the first byte after its message.
    let mut schema_message = stream.slice_with_length(0, schema_len(&stream).min(stream.len()));
    stream.advance(schema_message.len());
    let batch = next(&mut decoder, &mut schema_message)?;
    let Some(sent) = decoder.schema().filter(|_| batch.is_none() && schema_message.is_empty()) else {
        return Err(malformed("it does not begin with a schema"));
    };
    let positions = positions(schema, sent.fields().iter().map(|field| field.name().as_str()))?;
    for field in sent.fields() {
        check_arrow_type(field.data_type())
            .map_err(|cause| cause.context(format_args!("column {}", field.name())))?;
    }
    let (mut parts, mut rows) = (Vec::new(), 0_usize);
    while let Some(batch) = next(&mut decoder, &mut stream)? {
        if batch.num_rows() == 0 {
            continue;
        }
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; positions.len()];
        for (position, array) in positions.iter().zip(batch.columns()) {
            arrays[*position] = Some(array.clone());
        }
        let arrays: Option<Vec<ArrayRef>> = arrays.into_iter().collect();
        let arrays = arrays.filter(|arrays| arrays.iter().all(|array| array.len() == batch.num_rows()));
        let arrays = arrays.ok_or_else(|| malformed("a batch is not of the columns of the stream"))?;
        let part = Columns::from_arrays(schema, &arrays, batch.num_rows(), rows, charge)?;
        rows = rows.saturating_add(part.len());
        parts.push(part);
    }
    unwinding(|| decoder.finish())?;
    Columns::concat(&schema.layouts()[0].types, parts, charge)
}

/// The length of the first message, and one byte.
fn schema_len(stream: &[u8]) -> usize {
    let (prefix_len, len) = match stream.strip_prefix(&CONTINUATION) {
        Some(rest) => (8, rest.first_chunk()),
        None => (4, stream.first_chunk()),
    };
    let len = len.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    len.saturating_add(prefix_len + 1)
}

fn next(decoder: &mut StreamDecoder, stream: &mut Buffer) -> Result<Option<RecordBatch>> {
    unwinding(|| decoder.decode(stream))
}

/// Some checks of the decoder are assertions: a stream that fails one is as malformed as any other. What was being
/// decoded is dropped then.
fn unwinding<T>(decode: impl FnOnce() -> std::result::Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(|cause| match cause.to_string() {
            why if why.contains("decompression requires") => malformed("send it without compression"),
            why => malformed(why),
        }),
        Err(_) => Err(malformed("its lengths contradict each other")),
    }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::bad_request(format_args!("the Arrow stream cannot be read: {why}"))
}
