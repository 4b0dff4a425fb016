//! Rows out of an Arrow IPC stream.

use std::collections::BTreeMap;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::root_as_message;
use arrow_schema::ArrowError;
use components::rows::columns::{Arrays, Columns, check_arrow_type, is_json_field};
use components::rows::schema::Schema;
use components::{Error, Result};

use super::arriving::{Arriving, Gathered};
use super::{json, positions};
use crate::http::budget::Charge;
use crate::log::without_panic;

/// What a message of a stream begins with, unless it is from before Arrow 0.15; then comes its length.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// What a stream ends with: a message of no length.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What is known of the messages of a stream before they are decoded.
struct Messages {
    /// Where the first one ends; at least one byte follows, if the stream has a mark of its end.
    first_end: usize,
    /// Whether the stream has a mark of its end.
    is_ended: bool,
}

/// Decode an Arrow IPC stream, of which the columns have the names of those of the schema, in any order. Arrays of the
/// types of the columns stay in the memory of the stream. `charge` is asked for any other memory, in bytes.
///
/// # Errors
/// 400 if it is malformed, compressed, of other columns or of a type that is not supported; as
/// [`Columns::from_arrays`].
pub fn arrow(
    schema: &Schema,
    mut bytes: Vec<u8>,
    charge: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Columns> {
    let Messages { first_end, is_ended } = check_messages(&bytes)?;
    if !is_ended {
        // The mark is optional, but the decoder does some of its work only when there is more.
        bytes.extend_from_slice(&END);
    }
    let mut stream = Buffer::from_vec(bytes);
    // The schema first, so that nothing is decoded that is not wanted. It is done at the first byte after its message.
    let schema_message = stream.slice_with_length(0, first_end + 1);
    stream.advance(schema_message.len());
    let mut batches = Batches::begin(schema, schema_message)?;
    let mut parts = Vec::new();
    while let Some(part) = batches.next(&mut stream, charge)? {
        parts.push(part);
    }
    batches.finish()?;
    Columns::concat(&schema.layouts()[0].types, parts, charge)
}

/// Decode an Arrow IPC stream as [`arrow`] does, message by message as they arrive, each of at most so many bytes.
///
/// # Errors
/// As [`arrow`]; 413 if a message is larger; of [`Gathered::push`].
pub(super) fn arrow_arriving(
    schema: &Schema,
    arriving: &mut Arriving,
    message_bytes_max: usize,
    gathered: &mut Gathered<'_>,
    held: &mut Charge,
) -> Result<()> {
    let mut held = Dictionaries { bytes: BTreeMap::new(), charge: held };
    let Message { mut bytes, .. } =
        read_message(arriving, Vec::new(), message_bytes_max, gathered, &mut held)?;
    let mut next = Vec::new();
    if !arriving.read_onto(&mut next, 1)? {
        next.push(END[0]);
    }
    bytes.extend_from_slice(&next);
    let mut batches = Batches::begin(schema, Buffer::from_vec(bytes))?;
    loop {
        let message = read_message(arriving, next, message_bytes_max, gathered, &mut held)?;
        let message_bytes = message.bytes.len();
        let mut bytes = Buffer::from_vec(message.bytes);
        bytes.advance(message.done);
        while let Some(part) = batches.next(&mut bytes, &mut |bytes| gathered.charge(bytes))? {
            let bytes = message_bytes.max(part.bytes());
            gathered.push(part, bytes)?;
        }
        if message.is_end {
            return batches.finish();
        }
        next = Vec::new();
    }
}

/// The memory of the dictionaries that a decoder keeps.
struct Dictionaries<'a> {
    /// How much each of them takes, in bytes.
    bytes: BTreeMap<i64, usize>,
    charge: &'a mut Charge,
}

impl Dictionaries<'_> {
    /// A dictionary has come, or more of one. Another one of the same number takes its place.
    fn add(&mut self, number: i64, is_more: bool, bytes: usize) -> Result<()> {
        let held = self.bytes.entry(number).or_default();
        // What is replaced is dropped once the new one is decoded; more of one is copied together with it.
        let replaced = if is_more { 0 } else { std::mem::take(held) };
        *held += bytes;
        self.charge.add(bytes)?;
        self.charge.remove(replaced);
        Ok(())
    }
}

/// A message of a stream.
struct Message {
    bytes: Vec<u8>,
    /// How many of its bytes were read, and decoded, before.
    done: usize,
    is_end: bool,
}

/// Read and check the next message, of which some bytes may be here; at the end of a stream, the mark of that.
fn read_message(
    arriving: &mut Arriving,
    mut bytes: Vec<u8>,
    message_bytes_max: usize,
    gathered: &mut Gathered<'_>,
    held: &mut Dictionaries<'_>,
) -> Result<Message> {
    let ends_early = || malformed("it ends early");
    let done = bytes.len();
    let is_here = |is_here: bool| if is_here { Ok(()) } else { Err(ends_early()) };
    if arriving.is_at_end()? && bytes.len() <= 1 {
        // The mark is optional.
        return Ok(Message { bytes: END.to_vec(), done, is_end: true });
    }
    is_here(arriving.read_onto(&mut bytes, 4 - done)?)?;
    if bytes == CONTINUATION {
        is_here(arriving.read_onto(&mut bytes, 4)?)?;
    }
    let prefix_len = bytes.len();
    let metadata_len =
        u32::from_le_bytes(*bytes[prefix_len - 4..].first_chunk().expect("four bytes")) as usize;
    if metadata_len == 0 {
        return match arriving.is_at_end()? {
            true => Ok(Message { bytes, done, is_end: true }),
            false => Err(malformed("it goes on after its end")),
        };
    }
    let check_len = |len: usize| match len <= message_bytes_max {
        true => Ok(()),
        false => Err(Error::too_large(format_args!(
            "a batch of an Arrow stream has at most {message_bytes_max} bytes: send smaller ones"
        ))),
    };
    check_len(metadata_len)?;
    is_here(arriving.read_onto(&mut bytes, metadata_len)?)?;
    let message = root_as_message(&bytes[prefix_len..]).map_err(malformed)?;
    let body_len = usize::try_from(message.bodyLength()).map_err(|_| ends_early())?;
    check_len(body_len)?;
    let dictionary = message.header_as_dictionary_batch();
    match dictionary {
        Some(dictionary) => held.add(dictionary.id(), dictionary.isDelta(), metadata_len + body_len)?,
        None => gathered.charge(metadata_len + body_len)?,
    }
    let dictionary = dictionary.and_then(|dictionary| dictionary.data());
    if let Some(batch) = message.header_as_record_batch().or(dictionary) {
        check_batch(batch, body_len)?;
    }
    bytes.reserve_exact(body_len);
    is_here(arriving.read_onto(&mut bytes, body_len)?)?;
    Ok(Message { bytes, done, is_end: false })
}

/// Batches that are decoded, each as columns of a schema.
struct Batches<'a> {
    schema: &'a Schema,
    /// It checks all that it reads, offsets, texts and keys of dictionaries included.
    decoder: StreamDecoder,
    /// Where each array belongs.
    positions: Vec<usize>,
    /// Of each column, whether its texts are the JSON of values.
    are_json: Vec<bool>,
    rows: usize,
}

impl<'a> Batches<'a> {
    /// Decode what a stream begins with: the message of its schema, and a byte.
    fn begin(schema: &'a Schema, mut schema_message: Buffer) -> Result<Self> {
        let mut decoder = StreamDecoder::new();
        let batch = next(&mut decoder, &mut schema_message)?;
        let Some(sent) = decoder.schema().filter(|_| batch.is_none() && schema_message.is_empty()) else {
            return Err(malformed("it does not begin with a schema"));
        };
        let positions = positions(schema, sent.fields().iter().map(|field| field.name().as_str()))?;
        for field in sent.fields() {
            check_arrow_type(field.data_type())
                .map_err(|cause| cause.context(format_args!("column {}", field.name())))?;
        }
        let mut are_json = vec![false; positions.len()];
        for (position, field) in positions.iter().zip(sent.fields()) {
            are_json[*position] = is_json_field(field);
        }
        Ok(Self { schema, decoder, positions, are_json, rows: 0 })
    }

    /// Decode until there are rows; none if the bytes have no more.
    fn next(
        &mut self,
        bytes: &mut Buffer,
        charge: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Option<Columns>> {
        while let Some(batch) = next(&mut self.decoder, bytes)? {
            if batch.num_rows() == 0 {
                continue;
            }
            let mut arrays: Vec<Option<ArrayRef>> = vec![None; self.positions.len()];
            for (position, array) in self.positions.iter().zip(batch.columns()) {
                arrays[*position] = Some(array.clone());
            }
            let arrays: Option<Vec<ArrayRef>> = arrays.into_iter().collect();
            let arrays = arrays.filter(|arrays| arrays.iter().all(|array| array.len() == batch.num_rows()));
            let arrays = arrays.ok_or_else(|| malformed("a batch is not of the columns of the stream"))?;
            let arrays = Arrays {
                arrays: &arrays,
                len: batch.num_rows(),
                are_json: &self.are_json,
                rows_before: self.rows,
                json: json::value,
            };
            let part = Columns::from_arrays(self.schema, &arrays, charge)?;
            self.rows = self.rows.saturating_add(part.len());
            return Ok(Some(part));
        }
        Ok(None)
    }

    /// The stream has ended.
    fn finish(mut self) -> Result<()> {
        unwinding(|| self.decoder.finish())
    }
}

/// Check that all messages of a stream are whole, and that what they say of their bodies is within these: the decoder
/// asserts that.
fn check_messages(stream: &[u8]) -> Result<Messages> {
    let ends_early = || malformed("it ends early");
    let (mut at, mut first_end, mut is_ended) = (0, None, false);
    while at < stream.len() {
        let rest = &stream[at..];
        let prefix_len = if rest.starts_with(&CONTINUATION) { 8 } else { 4 };
        let metadata_len = rest[prefix_len - 4..].first_chunk().ok_or_else(ends_early)?;
        let metadata_len = u32::from_le_bytes(*metadata_len) as usize;
        if metadata_len == 0 {
            is_ended = true;
            break;
        }
        let metadata = rest.get(prefix_len..prefix_len + metadata_len).ok_or_else(ends_early)?;
        let message = root_as_message(metadata).map_err(malformed)?;
        let body_start = at + prefix_len + metadata_len;
        let body_len = usize::try_from(message.bodyLength()).map_err(|_| ends_early())?;
        if body_len > stream.len() - body_start {
            return Err(ends_early());
        }
        let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        if let Some(batch) = message.header_as_record_batch().or(dictionary) {
            check_batch(batch, body_len)?;
        }
        at = body_start + body_len;
        first_end.get_or_insert(at);
    }
    Ok(Messages { first_end: first_end.ok_or_else(ends_early)?, is_ended })
}

fn check_batch(batch: arrow_ipc::RecordBatch, body_len: usize) -> Result<()> {
    let is_within = |buffer: &arrow_ipc::Buffer| {
        let range = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let (Ok(offset), Ok(len)) = range else { return false };
        offset.checked_add(len).is_some_and(|end| end <= body_len)
    };
    let is_counted =
        |node: &arrow_ipc::FieldNode| 0 <= node.null_count() && node.null_count() <= node.length();
    let are_within = batch.buffers().is_none_or(|buffers| buffers.iter().all(is_within));
    let are_counted = batch.nodes().is_none_or(|nodes| nodes.iter().all(is_counted));
    match batch.length() >= 0 && are_within && are_counted {
        true => Ok(()),
        false => Err(malformed("its lengths contradict each other")),
    }
}

fn next(decoder: &mut StreamDecoder, stream: &mut Buffer) -> Result<Option<RecordBatch>> {
    unwinding(|| decoder.decode(stream))
}

/// Some checks of the decoder are assertions, and not all of them are made in [`check_messages`]: a stream that fails one
/// is as malformed as any other. What was being decoded is dropped then.
fn unwinding<T>(decode: impl FnOnce() -> std::result::Result<T, ArrowError>) -> Result<T> {
    match without_panic(decode) {
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
