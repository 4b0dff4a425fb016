//! The format of the log, and one segment of it.
//!
//! There are two segment files, `log-0` and `log-1`. Generation `g` of the log lives in file `g % 2`; generations
//! follow each other without gaps. All numbers are little endian.
//!
//! ```text
//!  the header of a segment, in its first 4,096 bytes
//!
//!   byte 0          8        12       16                32           40               48         56
//!        ┌──────────┬────────┬────────┬─────────────────┬────────────┬────────────────┬──────────┬──────┐
//!        │ TINYLOG\0│ version│ zero   │ disk id         │ generation │ first sequence │ checksum │ zero │
//!        └──────────┴────────┴────────┴─────────────────┴────────────┴────────────────┴──────────┴──────┘
//!                                            checksum: xxh3-64 of bytes 0 to 48
//!
//!  from byte 512, the note of what is durable: a sequence, and a checksum of 8 bytes that is seeded like those of records;
//!  without a valid one, nothing is known
//!
//!  a record; records follow each other from byte 4,096, each padded with zeros to a multiple of 8
//!
//!   byte 0          8         12     16          24                 32
//!        ┌──────────┬─────────┬──────┬───────────┬──────────────────┬───────────┬─────────┐
//!        │ checksum │ length  │ mark │ sequence  │ durable sequence │ payload … │ padding │
//!        └──────────┴─────────┴──────┴───────────┴──────────────────┴───────────┴─────────┘
//!          checksum: xxh3-64 of bytes 8 to 32 + length, seeded with disk id, generation and sequence
//!          length: of the payload in bytes         mark: derived from disk id and generation
//!          durable sequence: the last record that had been synced when this one was written
//!
//!  the payload of a record: one batch, or a part of one
//!
//!   byte 0       4          5      6            8              12
//!        ┌───────┬──────────┬──────┬────────────┬──────────────┬───────┬─────────┬───────────────
//!        │ count │ keyspace │ kind │ key length │ value length │ key … │ value … │ next write …
//!        └───────┴──────────┴──────┴────────────┴──────────────┴───────┴─────────┴───────────────
//!          count: of writes; its highest bit says that the batch goes on in the next record
//!          kind: 0 deletes, 1 puts
//! ```
//!
//! A batch is applied when all its records are there, or not at all.
//!
//! Sequences count records from 1 over all generations. Because generation and sequence seed the checksum, what
//! an earlier use left in a file never passes for a record. The mark only makes the search for records cheap; it is
//! not guessable, so nobody can plant bytes that make the search expensive.
//!
//! **Torn or corrupt?** The records of one commit become durable in any order, so after a crash the last of them
//! may be there without the first. What a valid record names as *durable* must be there, though: if it is not,
//! the log is corrupt. What is left is the last commit: that it was acknowledged can be seen in no other record. A moment
//! later it is noted in the header of the segment; only if it is damaged before that, it passes for one that tore.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::error::is_no_room;
use super::{DiskFile, DiskId, FORMAT_VERSION, FORMAT_VERSION_MIN, Keyspace, StorageError, Write};

/// The names of the two segment files; generation `g` is in file `g % 2`.
pub const SEGMENT_NAMES: [&str; 2] = ["log-0", "log-1"];

/// Where records begin.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;

/// Where the note of what is durable is, in a sector of its own.
const NOTE_OFFSET: u64 = 512;
const NOTE_BYTES: usize = 16;

/// The part of the header that is in use.
const HEADER_FIELDS_BYTES: usize = 56;
const HEADER_CHECKED_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"TINYLOG\0";

/// Where the mark of a record is.
const MARK_OFFSET: usize = 12;

/// The bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;

/// Records begin at multiples of this.
pub const RECORD_ALIGNMENT_BYTES: usize = 8;

/// Values of at least this size are written from where they are, without copying them into a buffer first.
const LARGE_VALUE_BYTES: usize = 16 * 1024;

/// How many times its size a segment may keep on the disk after a commit that was larger than it.
const KEPT_SEGMENTS: u64 = 4;

/// How much of the buffer of large records is kept for the next ones.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// A batch is cut into records of about this size, so that no buffer grows with it. A larger value has a record for itself.
const RECORD_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

const BATCH_HEADER_BYTES: usize = 4;
/// Set in the count of a record whose batch goes on in the next one.
const MORE_FOLLOWS: u32 = 1 << 31;
const WRITE_HEADER_BYTES: usize = 8;
const KIND_DELETE: u8 = 0;
const KIND_PUT: u8 = 1;

/// The name of the file that holds a generation.
pub(crate) fn segment_name(generation: u64) -> &'static str {
    SEGMENT_NAMES[(generation % 2) as usize]
}

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    /// The version of the format that the segment was begun with.
    pub version: u32,
    pub disk_id: DiskId,
    pub generation: u64,
    pub first_sequence: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_FIELDS_BYTES] {
        let mut bytes = [0; HEADER_FIELDS_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.disk_id);
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = xxh3_64(&bytes[..HEADER_CHECKED_BYTES]);
        bytes[48..56].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the start of a file; `None` when it was never written whole.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Option<SegmentHeader>, StorageError> {
        if bytes.len() < HEADER_FIELDS_BYTES || &bytes[0..8] != MAGIC {
            return Ok(None);
        }
        // A torn write leaves the low byte of the version either old or new, so 0 is a header that tore.
        let version = read_u32(bytes, 8);
        if version != 0 && !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(StorageError::UnknownVersion {
                location: format!("the log file {name}"),
                found: version,
            });
        }
        if version == 0 || read_u64(bytes, HEADER_CHECKED_BYTES) != xxh3_64(&bytes[..HEADER_CHECKED_BYTES]) {
            return Ok(None);
        }
        let mut disk_id = DiskId::default();
        disk_id.copy_from_slice(&bytes[16..32]);
        let generation = read_u64(bytes, 32);
        let first_sequence = read_u64(bytes, 40);
        Ok(Some(SegmentHeader { version, disk_id, generation, first_sequence }))
    }

    /// The keys to the records of this segment.
    pub fn record_keys(&self) -> RecordKeys {
        RecordKeys::new(self.disk_id, self.generation)
    }
}

/// What ties records to their disk and generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordKeys {
    seed: u64,
    mark: u32,
}

impl RecordKeys {
    pub fn new(disk_id: DiskId, generation: u64) -> RecordKeys {
        let seed = xxh3_64_with_seed(&disk_id, generation);
        // Never zero: the rest of a segment is zeros.
        let mark = (xxh3_64_with_seed(b"mark", seed) as u32) | 1;
        RecordKeys { seed, mark }
    }

    fn checksum_seed(&self, sequence: u64) -> u64 {
        xxh3_64_with_seed(&sequence.to_le_bytes(), self.seed)
    }

    /// Appends a record with this batch, or this part of one.
    pub fn encode(
        &self,
        records: &mut Records,
        sequence: u64,
        durable_sequence: u64,
        (batch, more_follows): (&[Write], bool),
    ) {
        let (start, length_before) = (records.end(), records.bytes());
        debug_assert!(length_before.is_multiple_of(RECORD_ALIGNMENT_BYTES));
        let payload_bytes = payload_bytes(batch);
        let payload_length = u32::try_from(payload_bytes).expect("a value is limited to less than 4 GiB");
        let buffer = &mut records.buffer;
        buffer.extend_from_slice(&[0; CHECKSUM_BYTES]);
        buffer.extend_from_slice(&payload_length.to_le_bytes());
        buffer.extend_from_slice(&self.mark.to_le_bytes());
        buffer.extend_from_slice(&sequence.to_le_bytes());
        buffer.extend_from_slice(&durable_sequence.to_le_bytes());
        records.encode_batch(batch, more_follows);
        let checked_bytes = RECORD_HEADER_BYTES + payload_bytes;
        assert_eq!(records.bytes(), length_before + checked_bytes, "the payload has its length");

        let mut hasher = Xxh3::with_seed(self.checksum_seed(sequence));
        records
            .pieces(Position { buffer: start.buffer + CHECKSUM_BYTES, ..start }, |piece| {
                hasher.update(piece);
                Ok::<_, Infallible>(())
            })
            .unwrap_or_else(|never| match never {});
        let buffer = &mut records.buffer;
        buffer[start.buffer..start.buffer + CHECKSUM_BYTES].copy_from_slice(&hasher.digest().to_le_bytes());
        buffer.resize(buffer.len() + record_bytes(payload_bytes) - checked_bytes, 0);
    }

    /// Sequence and checksum.
    fn encode_note(&self, sequence: u64) -> [u8; NOTE_BYTES] {
        let mut note = [0; NOTE_BYTES];
        note[..8].copy_from_slice(&sequence.to_le_bytes());
        // No record has this seed.
        let checksum = xxh3_64_with_seed(b"durable", self.checksum_seed(sequence));
        note[8..].copy_from_slice(&checksum.to_le_bytes());
        note
    }

    /// The last sequence that was noted to be durable in this segment; 0 if there is no valid note.
    pub fn noted_sequence(&self, segment: &[u8]) -> u64 {
        let start = NOTE_OFFSET as usize;
        let Some(note) = segment.get(start..start + NOTE_BYTES) else { return 0 };
        let sequence = read_u64(note, 0);
        if note == self.encode_note(sequence) { sequence } else { 0 }
    }

    /// How long the payload is that follows this, if it is the header of a record.
    pub fn payload_bytes(&self, header: &[u8; RECORD_HEADER_BYTES]) -> Option<usize> {
        (read_u32(header, MARK_OFFSET) == self.mark).then(|| read_u32(header, 8) as usize)
    }

    /// The valid record at this offset of a segment, whatever its sequence.
    pub fn record_at(&self, segment: &[u8], offset: usize) -> Option<Record> {
        let header = segment.get(offset..offset.checked_add(RECORD_HEADER_BYTES)?)?;
        if read_u32(header, MARK_OFFSET) != self.mark {
            return None;
        }
        let payload_start = offset + RECORD_HEADER_BYTES;
        let payload_end = payload_start.checked_add(read_u32(header, 8) as usize)?;
        let checked = segment.get(offset + CHECKSUM_BYTES..payload_end)?;
        let sequence = read_u64(header, 16);
        if read_u64(header, 0) != xxh3_64_with_seed(checked, self.checksum_seed(sequence)) {
            return None;
        }
        let end = offset + record_bytes(payload_end - payload_start);
        Some(Record { sequence, durable_sequence: read_u64(header, 24), payload_start, payload_end, end })
    }

    /// The first valid record at or after an offset that passes the test.
    pub fn find_record(&self, segment: &[u8], from: usize, test: impl Fn(&Record) -> bool) -> Option<usize> {
        let from = from.next_multiple_of(RECORD_ALIGNMENT_BYTES);
        // Most of a segment is zeros, which are passed over many at a time: the mark is none.
        let mark = self.mark.to_le_bytes();
        let finder = memmem::Finder::new(&mark);
        let mut offset = from;
        while let Some(skipped) = segment.get(offset + MARK_OFFSET..).and_then(|marks| finder.find(marks)) {
            offset += skipped;
            if offset.is_multiple_of(RECORD_ALIGNMENT_BYTES)
                && self.record_at(segment, offset).is_some_and(|record| test(&record))
            {
                return Some(offset);
            }
            offset += 1;
        }
        None
    }
}

/// Where a valid record is, and what its header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub sequence: u64,
    pub durable_sequence: u64,
    pub payload_start: usize,
    pub payload_end: usize,
    /// Where the next record begins.
    pub end: usize,
}

fn write_bytes(write: &Write) -> usize {
    WRITE_HEADER_BYTES + write.key.len() + write.value.as_ref().map_or(0, Bytes::len)
}

/// The length of a batch in a record.
fn payload_bytes(batch: &[Write]) -> usize {
    BATCH_HEADER_BYTES + batch.iter().map(write_bytes).sum::<usize>()
}

/// The parts of a batch that have a record each, with whether more follow.
pub(crate) fn parts(batch: &[Write]) -> impl Iterator<Item = (&[Write], bool)> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let mut bytes = BATCH_HEADER_BYTES;
        let fits = |write: &&Write| {
            bytes += write_bytes(write);
            bytes <= RECORD_PAYLOAD_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let part;
        (part, rest) = rest.split_at(count);
        (!part.is_empty()).then_some((part, !rest.is_empty()))
    })
}

/// How many bytes a batch takes in the log.
pub(crate) fn batch_bytes(batch: &[Write]) -> usize {
    parts(batch).map(|(part, _)| record_bytes(payload_bytes(part))).sum()
}

/// The length of a record with a payload of this length.
pub(crate) fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

/// Records on their way into a segment.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Everything but the large values.
    buffer: Vec<u8>,
    /// The large values, each with the length of the buffer when its place came.
    large_values: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

/// A place between the bytes of [`Records`].
#[derive(Clone, Copy)]
struct Position {
    buffer: usize,
    large_value: usize,
}

impl Records {
    /// How many bytes they take in the segment.
    pub fn bytes(&self) -> usize {
        self.buffer.len() + self.large_bytes
    }

    /// All the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        self.pieces(Position { buffer: 0, large_value: 0 }, |piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        bytes
    }

    /// Forgets all records, and the memory of large ones.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        self.large_values = Vec::new();
        self.large_bytes = 0;
    }

    fn end(&self) -> Position {
        Position { buffer: self.buffer.len(), large_value: self.large_values.len() }
    }

    fn encode_batch(&mut self, batch: &[Write], more_follows: bool) {
        let length_of = |length: usize| u32::try_from(length).expect("a value is limited to less than 4 GiB");
        let more_follows = if more_follows { MORE_FOLLOWS } else { 0 };
        self.buffer.extend_from_slice(&(length_of(batch.len()) | more_follows).to_le_bytes());
        for write in batch {
            let (kind, value) = match &write.value {
                Some(value) => (KIND_PUT, value.as_ref()),
                None => (KIND_DELETE, [].as_slice()),
            };
            let key_length = u16::try_from(write.key.len()).expect("the length of a key is checked before");
            self.buffer.extend_from_slice(&[write.keyspace.number(), kind]);
            self.buffer.extend_from_slice(&key_length.to_le_bytes());
            self.buffer.extend_from_slice(&length_of(value.len()).to_le_bytes());
            self.buffer.extend_from_slice(&write.key);
            match &write.value {
                Some(value) if value.len() >= LARGE_VALUE_BYTES => {
                    self.large_values.push((self.buffer.len(), value.clone()));
                    self.large_bytes += value.len();
                }
                _ => self.buffer.extend_from_slice(value),
            }
        }
    }

    /// Visits the bytes from here on, in order.
    fn pieces<E>(&self, from: Position, mut visit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut start = from.buffer;
        for (place, value) in &self.large_values[from.large_value..] {
            visit(&self.buffer[start..*place])?;
            visit(value)?;
            start = *place;
        }
        visit(&self.buffer[start..])
    }
}

/// Whether more of the batch of a record follows in the next one; `None` when the payload is not a batch.
pub(crate) fn more_follows(payload: &[u8]) -> Option<bool> {
    Some(read_u32(payload.get(..BATCH_HEADER_BYTES)?, 0) & MORE_FOLLOWS != 0)
}

/// The writes of a record, and whether more of the batch follow; `None` when the payload is not a batch. Values share
/// the memory of the payload.
pub(crate) fn decode_batch(payload: &Bytes) -> Option<(Vec<Write>, bool)> {
    let count = read_u32(payload.get(..BATCH_HEADER_BYTES)?, 0);
    let more_follows = count & MORE_FOLLOWS != 0;
    let count = (count & !MORE_FOLLOWS) as usize;
    let mut offset = BATCH_HEADER_BYTES;
    let mut take = |length: usize| {
        let start = offset;
        offset = start.checked_add(length).filter(|end| *end <= payload.len())?;
        Some(payload.slice(start..offset))
    };
    // The count is not trusted with memory.
    let mut batch = Vec::with_capacity(count.min(payload.len() / WRITE_HEADER_BYTES));
    for _ in 0..count {
        let header = take(WRITE_HEADER_BYTES)?;
        let keyspace = Keyspace::from_number(header[0])?;
        let key = take(usize::from(u16::from_le_bytes([header[2], header[3]])))?.to_vec();
        let value = take(read_u32(&header, 4) as usize)?;
        let value = match header[1] {
            KIND_DELETE if value.is_empty() => None,
            KIND_PUT => Some(value),
            _ => return None,
        };
        batch.push(Write { keyspace, key, value });
    }
    (offset == payload.len()).then_some((batch, more_follows))
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The segment that commits are appended to.
pub(crate) struct Segment {
    file: Arc<dyn DiskFile>,
    name: &'static str,
    header: SegmentHeader,
    /// Where the next commit goes.
    end: u64,
    /// Where the next record of a commit goes that is being written.
    written_end: u64,
    /// How far the file is written, with records or zeros.
    allocated_bytes: u64,
}

impl Segment {
    /// Starts a generation in a file whose records the checkpoint holds. Durable on `Ok`.
    pub fn start(
        file: Arc<dyn DiskFile>,
        header: SegmentHeader,
        segment_bytes: u64,
        growth_bytes: u64,
    ) -> Result<Segment, StorageError> {
        let name = segment_name(header.generation);
        let length = file.length().map_err(StorageError::io(format!("read the length of {name}")))?;
        let end = SEGMENT_HEADER_BYTES;
        let mut segment = Segment { file, name, header, end, written_end: end, allocated_bytes: length };
        // Give back what one very large commit took, but not what a few large ones in a row would take again.
        if length > KEPT_SEGMENTS * segment_bytes.next_multiple_of(growth_bytes) {
            segment.file.truncate(segment_bytes).map_err(StorageError::io(format!("truncate {name}")))?;
            segment.allocated_bytes = segment_bytes;
        }
        segment.reserve(0, growth_bytes)?;
        segment.file.write_at(0, &header.encode()).map_err(StorageError::io(format!("write to {name}")))?;
        segment.sync()?;
        Ok(segment)
    }

    /// Goes on in a segment of which the records up to `end` were found. Durable on `Ok`.
    ///
    /// They are written once more, as they may come from a cache after a sync that failed; what is behind them is void.
    pub fn resume(
        file: Arc<dyn DiskFile>,
        header: SegmentHeader,
        contents: &[u8],
        end: usize,
    ) -> Result<Segment, StorageError> {
        let (name, allocated_bytes) = (segment_name(header.generation), contents.len() as u64);
        rewrite(&*file, name, &contents[..end])?;
        let end = end as u64;
        let mut segment = Segment { file, name, header, end, written_end: end, allocated_bytes };
        segment.void()?;
        Ok(segment)
    }

    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub fn into_file(self) -> Arc<dyn DiskFile> {
        self.file
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many more bytes of records certainly have room.
    pub fn room_bytes(&self) -> u64 {
        self.allocated_bytes - self.end.min(self.allocated_bytes)
    }

    /// Gives records of this length room, or changes nothing that matters.
    ///
    /// The room is theirs before the first is written, so that a full disk refuses all of them or none. What records
    /// take themselves needs no zeros; what is left of a step is filled with them, and the sync of the commit makes
    /// the zeros durable, too.
    pub fn reserve(&mut self, records_bytes: u64, growth_bytes: u64) -> Result<(), StorageError> {
        let end = self.end + records_bytes;
        if end <= self.allocated_bytes {
            return Ok(());
        }
        let grow = || StorageError::io_or_no_room(format!("grow {}", self.name));
        let length = end.next_multiple_of(growth_bytes);
        let length = match self.file.reserve(self.allocated_bytes, length) {
            Err(error) if is_no_room(&error) && length > end => {
                self.file.reserve(self.allocated_bytes, end).map_err(grow())?;
                end
            }
            result => result.map(|()| length).map_err(grow())?,
        };
        self.file.allocate(end, length).map_err(grow())?;
        self.allocated_bytes = length;
        Ok(())
    }

    /// Writes records behind those that were written since the last commit. There must be room for them.
    pub fn write(&mut self, records: &Records) -> Result<(), StorageError> {
        assert!(records.bytes().is_multiple_of(RECORD_ALIGNMENT_BYTES));
        let end = &mut self.written_end;
        assert!(*end + records.bytes() as u64 <= self.allocated_bytes, "records have room");
        let file = &self.file;
        records
            .pieces(Position { buffer: 0, large_value: 0 }, |piece| {
                file.write_at(*end, piece)?;
                *end += piece.len() as u64;
                Ok(())
            })
            .map_err(StorageError::io(format!("write to {}", self.name)))
    }

    /// Makes what was written durable.
    pub fn commit(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        self.end = self.written_end;
        Ok(())
    }

    /// Notes beside the records that everything up to this sequence is durable, and becomes so with the next sync. So
    /// it is noticed when the last records are gone.
    pub fn note_durable(&self, sequence: u64) -> Result<(), StorageError> {
        let note = self.header.record_keys().encode_note(sequence);
        self.file.write_at(NOTE_OFFSET, &note).map_err(StorageError::io(format!("write to {}", self.name)))
    }

    /// Makes what was written since the last commit void for ever, durable on `Ok`.
    pub fn void(&mut self) -> Result<(), StorageError> {
        // The record that failed may have come a part of the way.
        let failed = StorageError::io(format!("void what was written to {}", self.name));
        let voided = self.file.allocate(self.end, self.allocated_bytes).and_then(|()| self.file.sync());
        voided.map_err(failed)?;
        self.written_end = self.end;
        Ok(())
    }

    /// Makes what was written, or noted, durable.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync().map_err(StorageError::io(format!("sync {}", self.name)))
    }
}

/// Writes what was found in a segment once more, and syncs.
pub(crate) fn rewrite(file: &dyn DiskFile, name: &str, contents: &[u8]) -> Result<(), StorageError> {
    file.write_at(0, contents).map_err(StorageError::io(format!("write to {name}")))?;
    file.sync().map_err(StorageError::io(format!("sync {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Write> {
        vec![
            Write { keyspace: Keyspace::Values, key: b"a".to_vec(), value: Some(Bytes::from_static(b"one")) },
            Write { keyspace: Keyspace::Outcomes, key: b"b".to_vec(), value: None },
            Write { keyspace: Keyspace::Meta, key: b"c".to_vec(), value: Some(Bytes::new()) },
        ]
    }

    /// The bytes as they come into the file.
    fn whole(records: &Records) -> Vec<u8> {
        let bytes = records.to_vec();
        assert_eq!(bytes.len(), records.bytes());
        bytes
    }

    #[test]
    fn large_values_are_in_their_places() {
        let put = |key: &[u8], length: usize| {
            let value = Some(Bytes::from(vec![key[0]; length]));
            Write { keyspace: Keyspace::Pages, key: key.to_vec(), value }
        };
        let batches = [
            vec![put(b"a", LARGE_VALUE_BYTES)],
            vec![put(b"b", 5), put(b"c", LARGE_VALUE_BYTES + 3), put(b"d", LARGE_VALUE_BYTES), put(b"e", 1)],
            vec![put(b"f", LARGE_VALUE_BYTES - 1)],
            vec![put(b"g", 2 * LARGE_VALUE_BYTES + 1)],
        ];
        let keys = RecordKeys::new([7; 16], 3);
        let mut records = Records::default();
        for (sequence, batch) in (1..).zip(&batches) {
            keys.encode(&mut records, sequence, 0, (batch, false));
        }
        let bytes = Bytes::from(whole(&records));
        let mut offset = 0;
        for batch in &batches {
            let record = keys.record_at(&bytes, offset).unwrap();
            let payload = bytes.slice(record.payload_start..record.payload_end);
            assert_eq!(decode_batch(&payload).unwrap(), (batch.clone(), false));
            offset = record.end;
        }
        assert_eq!(offset, bytes.len());
        records.clear();
        assert!(whole(&records).is_empty());
    }

    #[test]
    fn a_large_batch_is_cut_into_records_of_bounded_size() {
        let put = |length: usize| {
            let value = Some(Bytes::from(vec![1; length]));
            Write { keyspace: Keyspace::Blocks, key: b"k".to_vec(), value }
        };
        let half = RECORD_PAYLOAD_BYTES / 2;
        let lengths =
            |batch: &[Write]| parts(batch).map(|(part, more)| (part.len(), more)).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), []);
        assert_eq!(lengths(&[put(1), put(2)]), [(2, false)]);
        assert_eq!(lengths(&[put(half), put(half)]), [(1, true), (1, false)]);
        assert_eq!(lengths(&[put(2 * half), put(1), put(1)]), [(1, true), (2, false)]);
        assert_eq!(lengths(&[put(1), put(2 * half), put(1)]), [(1, true), (1, true), (1, false)]);
        let batch = [put(half), put(half), put(3)];
        let keys = RecordKeys::new([7; 16], 3);
        let mut records = Records::default();
        parts(&batch).for_each(|part| keys.encode(&mut records, 1, 0, part));
        assert_eq!(records.bytes(), batch_bytes(&batch));
    }

    #[test]
    fn a_record_is_read_back_only_as_it_was_written() {
        let keys = RecordKeys::new([7; 16], 3);
        let mut records = Records::default();
        keys.encode(&mut records, 9, 8, (&batch(), true));
        let buffer = whole(&records);
        let record = keys.record_at(&buffer, 0).unwrap();
        assert_eq!((record.sequence, record.durable_sequence, record.end), (9, 8, buffer.len()));
        let payload = Bytes::from(buffer.clone()).slice(record.payload_start..record.payload_end);
        assert_eq!(decode_batch(&payload).unwrap(), (batch(), true));

        assert!(RecordKeys::new([7; 16], 4).record_at(&buffer, 0).is_none(), "another generation");
        assert!(RecordKeys::new([8; 16], 3).record_at(&buffer, 0).is_none(), "another disk");
        for position in 0..record.payload_end {
            let mut damaged = buffer.clone();
            damaged[position] ^= 0x01;
            assert!(keys.record_at(&damaged, 0).is_none(), "byte {position}");
        }
        for length in 0..record.payload_end {
            assert!(keys.record_at(&buffer[..length], 0).is_none(), "length {length}");
        }
    }

    #[test]
    fn records_are_found_wherever_they_are() {
        let keys = RecordKeys::new([7; 16], 3);
        let mut records = Records::default();
        keys.encode(&mut records, 9, 8, (&batch(), false));
        let record = whole(&records);
        let mark = keys.mark.to_le_bytes();
        for gap in (0..200).step_by(RECORD_ALIGNMENT_BYTES) {
            let mut segment = vec![0; gap];
            // What looks like a mark beside the places of marks hides none.
            segment.iter_mut().zip(mark.iter().cycle()).for_each(|(byte, mark)| *byte = *mark);
            segment.extend_from_slice(&record);
            segment.resize(segment.len() + 100, 0);
            assert_eq!(keys.find_record(&segment, 0, |record| record.sequence == 9), Some(gap));
            assert_eq!(keys.find_record(&segment, gap, |_| true), Some(gap));
            assert_eq!(keys.find_record(&segment, gap + 1, |_| true), None);
            assert_eq!(keys.find_record(&segment, 0, |record| record.sequence == 8), None);
        }
    }

    #[test]
    fn no_payload_panics_the_decoder() {
        let mut records = Records::default();
        records.encode_batch(&batch(), false);
        let payload = whole(&records);
        for position in 0..payload.len() {
            for value in [0, 1, 2, 0x7F, 0xFF] {
                let mut damaged = payload.clone();
                damaged[position] = value;
                decode_batch(&Bytes::from(damaged));
            }
            assert!(decode_batch(&Bytes::copy_from_slice(&payload[..position])).is_none());
        }
    }
}
