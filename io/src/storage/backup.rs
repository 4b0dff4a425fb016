//! Backups: everything that is stored at one moment, as a stream that shows whether it is whole.
//!
//! ```text
//!  the header
//!
//!   byte 0          8        12     16           32         40
//!        ┌──────────┬────────┬──────┬────────────┬──────────┐
//!        │ TINYBAK\0│ version│ zero │ backup id  │ checksum │     checksum: xxh3-64 of bytes 0 to 32
//!        └──────────┴────────┴──────┴────────────┴──────────┘
//! ```
//!
//! Records of the log (`super::log`) follow, with the id of the backup as the id of the disk, generation 0, and
//! sequences from 1. Together they are one batch that puts all there is, keyspace after keyspace in order of keys: the
//! last record says that nothing follows, so a file that was cut off is noticed wherever that was.

use std::io::{self, Read};
use std::ops::ControlFlow;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::log::{self, RECORD_HEADER_BYTES, RecordKeys, Records};
use super::sealed::unseal;
use super::{DiskId, Keyspace, StorageError, Write};

const MAGIC: &[u8; 8] = b"TINYBAK\0";

/// The version of this format.
pub const BACKUP_VERSION: u32 = 1;

const HEADER_BYTES: usize = 40;
const HEADER_CHECKED_BYTES: usize = 32;

/// About how large the records of a backup are.
const RECORD_BYTES: usize = 256 * 1024;

/// Takes the bytes of a backup; an error ends it.
pub type Sink<'a> = dyn FnMut(Bytes) -> Result<(), StorageError> + 'a;

/// Writes a backup.
pub(super) struct BackupWriter<'a, 'b> {
    keys: RecordKeys,
    sequence: u64,
    entries: Vec<Write>,
    entries_bytes: usize,
    sink: &'a mut Sink<'b>,
}

impl<'a, 'b> BackupWriter<'a, 'b> {
    /// A backup with this id, which must be random.
    pub fn begin(id: DiskId, sink: &'a mut Sink<'b>) -> Result<Self, StorageError> {
        let mut header = vec![0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&BACKUP_VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&id);
        let checksum = xxh3_64(&header[..HEADER_CHECKED_BYTES]);
        header[HEADER_CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        sink(header.into())?;
        Ok(Self { keys: RecordKeys::new(id, 0), sequence: 0, entries: Vec::new(), entries_bytes: 0, sink })
    }

    /// Adds an entry.
    pub fn put(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Bytes) -> Result<(), StorageError> {
        self.entries_bytes += key.len() + value.len();
        self.entries.push(Write { keyspace, key, value: Some(value) });
        if self.entries_bytes >= RECORD_BYTES {
            self.flush(true)?;
        }
        Ok(())
    }

    /// Adds an entry as the checkpoint has it.
    pub fn put_sealed(&mut self, keyspace: Keyspace, key: &[u8], sealed: &[u8]) -> Result<(), StorageError> {
        self.put(keyspace, key.to_vec(), unseal(keyspace, key, Bytes::copy_from_slice(sealed))?)
    }

    fn flush(&mut self, more_follows: bool) -> Result<(), StorageError> {
        self.sequence += 1;
        let mut records = Records::default();
        self.keys.encode(&mut records, self.sequence, 0, (&self.entries, more_follows));
        self.entries.clear();
        self.entries_bytes = 0;
        (self.sink)(records.to_vec().into())
    }

    /// Says that this was all.
    pub fn end(mut self) -> Result<(), StorageError> {
        self.flush(false)
    }
}

/// Reads a backup.
pub struct BackupReader<R> {
    input: R,
    keys: RecordKeys,
    sequence: u64,
    is_ended: bool,
}

fn damaged(reason: impl Into<String>) -> StorageError {
    StorageError::DamagedBackup { reason: reason.into() }
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    pub fn begin(mut input: R) -> Result<Self, StorageError> {
        let mut header = [0; HEADER_BYTES];
        fill(&mut input, &mut header)?;
        if &header[..8] != MAGIC {
            return Err(damaged("it does not begin like a backup"));
        }
        let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        if header[HEADER_CHECKED_BYTES..] != xxh3_64(&header[..HEADER_CHECKED_BYTES]).to_le_bytes() {
            return Err(damaged("its header does not match its checksum"));
        }
        if version != BACKUP_VERSION {
            return Err(StorageError::UnknownVersion { location: "the backup".into(), found: version });
        }
        let mut id = DiskId::default();
        id.copy_from_slice(&header[16..32]);
        Ok(Self { input, keys: RecordKeys::new(id, 0), sequence: 0, is_ended: false })
    }

    /// The next entries; none after the last.
    pub fn next_entries(&mut self) -> Result<Option<Vec<Write>>, StorageError> {
        if self.is_ended {
            let mut byte = [0];
            return match self.input.read(&mut byte) {
                Ok(0) => Ok(None),
                Ok(_) => Err(damaged("there is more after its end")),
                Err(error) => Err(StorageError::io("read the backup")(error)),
            };
        }
        self.sequence += 1;
        let mut header = [0; RECORD_HEADER_BYTES];
        fill(&mut self.input, &mut header)?;
        let wrong = || damaged(format!("record {} does not match its checksum", self.sequence));
        let payload_bytes = self.keys.payload_bytes(&header).ok_or_else(wrong)?;
        // A length that is damaged is not trusted with memory: what is not there is not read.
        let mut record = header.to_vec();
        let rest_bytes = log::record_bytes(payload_bytes) - RECORD_HEADER_BYTES;
        let read = (&mut self.input).take(rest_bytes as u64).read_to_end(&mut record);
        read.map_err(StorageError::io("read the backup"))?;
        if record.len() < RECORD_HEADER_BYTES + rest_bytes {
            return Err(damaged("it is cut off"));
        }
        let record = Bytes::from(record);
        let found = self.keys.record_at(&record, 0).filter(|found| found.sequence == self.sequence);
        let found = found.ok_or_else(wrong)?;
        let payload = record.slice(found.payload_start..found.payload_end);
        let (entries, more_follows) = log::decode_batch(&payload).ok_or_else(wrong)?;
        self.is_ended = !more_follows;
        Ok(Some(entries))
    }
}

/// Fills the buffer; what is missing was cut off.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), StorageError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => StorageError::io("read the backup")(error),
    })
}

/// What a scan in a backup goes on with.
pub(super) const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |chunk: Bytes| {
            bytes.extend_from_slice(&chunk);
            Ok(())
        };
        let mut writer = BackupWriter::begin([3; 16], &mut sink).unwrap();
        for number in 0..40_u8 {
            let length = if number == 20 { 2 * RECORD_BYTES } else { 100 };
            writer.put(Keyspace::Values, vec![number], vec![number; length].into()).unwrap();
        }
        writer.end().unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Write>, StorageError> {
        let mut reader = BackupReader::begin(bytes)?;
        let mut entries = Vec::new();
        while let Some(mut more) = reader.next_entries()? {
            entries.append(&mut more);
        }
        Ok(entries)
    }

    #[test]
    fn a_backup_is_read_back_only_as_it_was_written() {
        let bytes = backup();
        let entries = read(&bytes).unwrap();
        assert_eq!(entries.len(), 40);
        assert!((0..40_u8).zip(&entries).all(|(number, entry)| entry.key == [number]));
        let small = (0..400).chain((400..bytes.len()).step_by(9_973)).chain(bytes.len() - 400..bytes.len());
        for position in small {
            let mut damaged = bytes.clone();
            damaged[position] ^= 4;
            if let Ok(found) = read(&damaged) {
                // The padding after a record means nothing.
                assert!(bytes[position] == 0 && found == entries, "byte {position}");
            }
            assert!(read(&bytes[..position]).is_err(), "length {position}");
        }
        assert!(read(&[&bytes[..], &[0]].concat()).is_err());
    }
}
