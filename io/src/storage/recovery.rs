//! Opening: what the checkpoint holds, plus what the log adds to it.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::log::{
    self, RecordKeys, SEGMENT_HEADER_BYTES, SEGMENT_NAMES, Segment, SegmentHeader, segment_name,
};
use super::{
    Change, CheckpointStore, Disk, DiskFile, DiskId, FORMAT_VERSION, FORMAT_VERSION_MIN, Overlay,
    StorageError, StoreOptions, Write,
};

/// What the checkpoint knows about itself.
///
/// ```text
///   byte 0         4         20                       28               36         44
///        ┌─────────┬─────────┬────────────────────────┬────────────────┬──────────┐
///        │ version │ disk id │ checkpointed sequence  │ log generation │ checksum │
///        └─────────┴─────────┴────────────────────────┴────────────────┴──────────┘
///                                          checksum: xxh3-64 of bytes 0 to 36
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Metadata {
    pub disk_id: DiskId,
    /// The last record whose changes the checkpoint holds.
    pub checkpointed_sequence: u64,
    /// A generation that the log has durably reached, so that it is corrupt without it. 0 before the first.
    pub log_generation: u64,
}

const METADATA_BYTES: usize = 44;
const METADATA_CHECKED_BYTES: usize = 36;

impl Metadata {
    pub fn encode(&self) -> [u8; METADATA_BYTES] {
        let mut bytes = [0; METADATA_BYTES];
        bytes[0..4].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[4..20].copy_from_slice(&self.disk_id);
        bytes[20..28].copy_from_slice(&self.checkpointed_sequence.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.log_generation.to_le_bytes());
        let checksum = xxh3_64(&bytes[..METADATA_CHECKED_BYTES]);
        bytes[36..44].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Metadata, StorageError> {
        let corrupt = |reason| StorageError::CorruptMetadata { reason };
        let version = bytes.first_chunk().ok_or(corrupt("it is too short"))?;
        let version = u32::from_le_bytes(*version);
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(StorageError::UnknownVersion { location: "the checkpoint".into(), found: version });
        }
        let bytes: &[u8; METADATA_BYTES] = bytes.try_into().map_err(|_| corrupt("its length is wrong"))?;
        let number =
            |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"));
        if number(METADATA_CHECKED_BYTES) != xxh3_64(&bytes[..METADATA_CHECKED_BYTES]) {
            return Err(corrupt("its checksum does not match"));
        }
        let mut disk_id = DiskId::default();
        disk_id.copy_from_slice(&bytes[4..20]);
        Ok(Metadata { disk_id, checkpointed_sequence: number(20), log_generation: number(28) })
    }
}

/// A store ready for its first commit.
pub(crate) struct Recovered {
    pub checkpoint: Arc<dyn CheckpointStore>,
    pub active: Segment,
    pub other_file: Arc<dyn DiskFile>,
    pub last_sequence: u64,
    /// What the checkpoint has no room for.
    pub kept: Option<Kept>,
}

/// Changes that stay in the log, and in memory, until the checkpoint has room for them.
pub(crate) struct Kept {
    /// Those in the active segment.
    pub active: Overlay,
    /// Those in the other segment, and what the checkpoint says when it has them.
    pub frozen: Option<(Overlay, Metadata)>,
}

/// One of the two segment files as it was found.
struct Found {
    name: &'static str,
    /// All of it, or the header if the checkpoint holds everything else.
    bytes: Bytes,
    header: Option<SegmentHeader>,
}

impl Found {
    fn corrupt(&self, offset: usize, reason: impl Into<String>) -> StorageError {
        StorageError::CorruptLog { file: self.name.into(), offset: offset as u64, reason: reason.into() }
    }
}

/// Brings the checkpoint up to date with the log, and starts a new generation of the log.
///
/// A crash on the way changes nothing: the log is only overwritten when the checkpoint holds all of it. The new
/// generation makes sure that the unacknowledged records behind a torn tail never come back.
pub(crate) fn recover(disk: &dyn Disk, options: &StoreOptions) -> Result<Recovered, StorageError> {
    let checkpoint = disk.open_checkpoint(options.map_bytes)?;
    let metadata = checkpoint.metadata()?.map(|bytes| Metadata::decode(&bytes)).transpose()?;

    let (mut files, found) = read_segments(disk, metadata.as_ref())?;
    let metadata = match metadata {
        Some(metadata) => metadata,
        None => begin(&*checkpoint, options, &found)?,
    };

    // A log that the checkpoint knows of has both files.
    if metadata.log_generation > 0
        && let Some(position) = files.iter().position(Option::is_none)
    {
        return Err(found[position].corrupt(0, "the file is missing"));
    }

    let replayed = replay(&metadata, &found)?;
    let log_generation = metadata.log_generation;
    let mut metadata = Metadata { checkpointed_sequence: replayed.last_sequence, ..metadata };
    if !replayed.is_empty() {
        tracing::debug!(last_sequence = replayed.last_sequence, "replays the log into the checkpoint");
        // This also makes durable what was read from a cache and is not on the disk yet. So it must be one
        // transaction: the log may not have the rest of a batch the next time.
        let changes: Vec<_> = replayed.changes().collect();
        match checkpoint.apply(&changes, Some(&metadata.encode())) {
            Err(error) if error.is_no_room() => {
                tracing::warn!("the log stays as it is until there is room for a checkpoint: {error}");
                drop(changes);
                let metadata = Metadata { log_generation, ..metadata };
                return keep(checkpoint, metadata, replayed, &found, files);
            }
            result => result?,
        }
    }

    for (file, name) in files.iter_mut().zip(SEGMENT_NAMES) {
        if file.is_none() {
            *file = Some(disk.create_file(name).map_err(StorageError::io(format!("create {name}")))?);
        }
    }
    // Also when both files were there: who created them may have died before this.
    disk.sync_directory().map_err(StorageError::io("sync the data directory"))?;
    let [even, odd] = <[_; 2]>::try_from(files.into_iter().flatten().collect::<Vec<_>>())
        .unwrap_or_else(|_| unreachable!("both files exist now"));

    write_newest_again(&found, [&even, &odd], replayed.generation)?;
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        disk_id: metadata.disk_id,
        generation: replayed.generation + 1,
        first_sequence: replayed.last_sequence + 1,
    };
    let (file, other_file) =
        if segment_name(header.generation) == SEGMENT_NAMES[0] { (even, odd) } else { (odd, even) };
    let active = Segment::start(file, header, options.segment_bytes, options.growth_bytes)?;
    // With this, a log that loses its newest segment is found out.
    metadata.log_generation = header.generation;
    match checkpoint.apply(&[], Some(&metadata.encode())) {
        // The next checkpoint says so.
        Err(error) if error.is_no_room() => {}
        result => result?,
    }
    checkpoint.check_again()?;
    Ok(Recovered { checkpoint, active, other_file, last_sequence: replayed.last_sequence, kept: None })
}

/// The files of the log, and what is in them.
fn read_segments(disk: &dyn Disk, metadata: Option<&Metadata>) -> Result<(Files, Vec<Found>), StorageError> {
    let mut files = Vec::with_capacity(SEGMENT_NAMES.len());
    let mut found = Vec::with_capacity(SEGMENT_NAMES.len());
    for name in SEGMENT_NAMES {
        let file = disk.open_file(name).map_err(StorageError::io(format!("open {name}")))?;
        let head = file.as_ref().map(|file| read(&**file, name, SEGMENT_HEADER_BYTES)).transpose()?;
        let bytes = head.unwrap_or_default();
        let header = SegmentHeader::decode(name, &bytes)?;
        files.push(file);
        found.push(Found { name, bytes, header });
    }
    // Of a segment whose records the checkpoint holds, nothing but the header is looked at.
    let newest = found.iter().filter_map(|segment| segment.header).max_by_key(|header| header.generation);
    let is_spent = |header: &SegmentHeader| {
        let (Some(metadata), Some(newest)) = (metadata, newest) else { return false };
        header.generation < newest.generation && newest.first_sequence <= metadata.checkpointed_sequence + 1
    };
    for (segment, file) in found.iter_mut().zip(&files) {
        if let Some(file) = file.as_ref().filter(|_| !segment.header.as_ref().is_some_and(is_spent)) {
            segment.bytes = read(&**file, segment.name, u64::MAX)?;
        }
    }
    Ok((files, found))
}

/// The files of the log, as far as they are there.
type Files = Vec<Option<Arc<dyn DiskFile>>>;

/// Begin a new directory.
fn begin(
    checkpoint: &dyn CheckpointStore,
    options: &StoreOptions,
    found: &[Found],
) -> Result<Metadata, StorageError> {
    // The checkpoint comes first in a new directory, so a log without it has lost it.
    if let Some(segment) = found.iter().find(|segment| segment.header.is_some()) {
        return Err(segment.corrupt(0, "the log is there, but the checkpoint that it continues is missing"));
    }
    let disk_id = match options.new_disk_id {
        Some(disk_id) => disk_id,
        None => random_disk_id()?,
    };
    let metadata = Metadata { disk_id, checkpointed_sequence: 0, log_generation: 0 };
    checkpoint.apply(&[], Some(&metadata.encode()))?;
    Ok(metadata)
}

/// Make the header of the newest segment durable.
fn write_newest_again(
    found: &[Found],
    files: [&Arc<dyn DiskFile>; 2],
    generation: u64,
) -> Result<(), StorageError> {
    // The next header overwrites the segment before the newest, so the newest must be durable by now. It may have
    // been read from a cache after a sync that failed, which only writing it again puts right.
    let newest = found
        .iter()
        .zip(files)
        .find(|(segment, _)| segment.header.is_some_and(|header| header.generation == generation));
    if let Some((Found { name, header: Some(header), .. }, file)) = newest {
        file.write_at(0, &header.encode()).map_err(StorageError::io(format!("write to {name}")))?;
        file.sync().map_err(StorageError::io(format!("sync {name}")))?;
    }
    Ok(())
}

/// Goes on with the log as it is, because the checkpoint has no room for it.
fn keep(
    checkpoint: Arc<dyn CheckpointStore>,
    metadata: Metadata,
    replayed: Replayed,
    found: &[Found],
    files: Vec<Option<Arc<dyn DiskFile>>>,
) -> Result<Recovered, StorageError> {
    let newest = &replayed.newest;
    let mut active = None;
    let mut other_file = None;
    for (segment, file) in found.iter().zip(files) {
        let file = file.ok_or_else(|| segment.corrupt(0, "the file is missing"))?;
        if segment.name == segment_name(newest.generation) {
            let header = segment.header.expect("the newest segment has a header");
            active = Some(Segment::resume(file, header, &segment.bytes, newest.end)?);
        } else {
            if !replayed.older.is_empty() {
                log::rewrite(&*file, segment.name, &segment.bytes)?;
            }
            other_file = Some(file);
        }
    }
    let active = active.expect("what was replayed is in a segment");
    let frozen_metadata = Metadata {
        checkpointed_sequence: newest.first_sequence - 1,
        log_generation: newest.generation,
        ..metadata
    };
    let frozen = (!replayed.older.is_empty()).then_some((replayed.older, frozen_metadata));
    Ok(Recovered {
        checkpoint,
        active,
        other_file: other_file.expect("there are two segments"),
        last_sequence: replayed.last_sequence,
        kept: Some(Kept { active: replayed.newest.changes, frozen }),
    })
}

/// The first bytes of a file, as many as it has of these.
fn read(file: &dyn DiskFile, name: &str, bytes_max: u64) -> Result<Bytes, StorageError> {
    let failed = || StorageError::io(format!("read {name}"));
    let length = file.length().map_err(failed())?.min(bytes_max);
    let mut bytes = vec![0; usize::try_from(length).expect("a segment fits into the address space")];
    file.read_at(0, &mut bytes).map_err(failed())?;
    Ok(bytes.into())
}

pub(super) fn random_disk_id() -> Result<DiskId, StorageError> {
    let mut disk_id = DiskId::default();
    getrandom::fill(&mut disk_id)
        .map_err(|error| StorageError::io("get random bytes")(std::io::Error::other(error)))?;
    Ok(disk_id)
}

/// What the log adds to the checkpoint.
struct Replayed {
    /// From the segment before the newest.
    older: Overlay,
    newest: Newest,
    last_sequence: u64,
    /// The newest generation in the log.
    generation: u64,
}

/// What the newest segment adds.
#[derive(Default)]
struct Newest {
    changes: Overlay,
    generation: u64,
    first_sequence: u64,
    /// Where its records end.
    end: usize,
}

impl Replayed {
    fn is_empty(&self) -> bool {
        self.older.is_empty() && self.newest.changes.is_empty()
    }

    /// All changes, later ones last.
    fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.older.iter().chain(self.newest.changes.iter())
    }
}

fn replay(metadata: &Metadata, found: &[Found]) -> Result<Replayed, StorageError> {
    let mut older_changes = Overlay::default();
    let mut changes = Overlay::default();
    let checkpointed = metadata.checkpointed_sequence;

    let mut segments = ordered(metadata, found)?;
    let Some((newest_header, newest)) = segments.pop() else {
        check_blank(metadata, found)?;
        let (older, newest) = (older_changes, Newest::default());
        return Ok(Replayed { older, newest, last_sequence: checkpointed, generation: 0 });
    };
    if newest_header.generation < metadata.log_generation {
        let reason = format!(
            "its generation is {}, but the checkpoint knows of generation {}",
            newest_header.generation, metadata.log_generation
        );
        return Err(newest.corrupt(0, reason));
    }

    // The segment before the newest is complete, and needed only if the checkpoint does not hold all of it.
    let needed_until = newest_header.first_sequence - 1;
    let older = segments.pop();
    if checkpointed < needed_until {
        let Some((header, older)) =
            older.filter(|(older, _)| older.generation + 1 == newest_header.generation)
        else {
            let name = segment_name(newest_header.generation + 1);
            let reason = format!("records {} to {needed_until} are in no readable segment", checkpointed + 1);
            return Err(StorageError::CorruptLog { file: name.into(), offset: 0, reason });
        };
        let end = replay_segment(older, &header, checkpointed, &mut older_changes)?;
        if end.last_sequence != needed_until {
            let reason = format!(
                "record {} is damaged, though the next segment continues after {needed_until}",
                end.last_sequence + 1
            );
            return Err(older.corrupt(end.offset, reason));
        }
    }
    // A header tears only while its segment is empty. With records behind it, it was damaged later.
    for segment in found.iter().filter(|segment| segment.header.is_none()) {
        let next_keys = RecordKeys::new(metadata.disk_id, newest_header.generation + 1);
        if let Some(offset) =
            next_keys.find_record(&segment.bytes, 0, |record| record.sequence > checkpointed)
        {
            return Err(segment.corrupt(offset, "there are acknowledged records, but the header is damaged"));
        }
    }

    let end = replay_segment(newest, &newest_header, checkpointed, &mut changes)?;
    check_end(newest, &newest_header, checkpointed, &end)?;
    let last_sequence = end.last_sequence.max(checkpointed);
    let SegmentHeader { generation, first_sequence, .. } = newest_header;
    let newest = Newest { changes, generation, first_sequence, end: end.offset };
    Ok(Replayed { older: older_changes, newest, last_sequence, generation })
}

/// The segments that have a header, oldest first.
fn ordered<'a>(
    metadata: &Metadata,
    found: &'a [Found],
) -> Result<Vec<(SegmentHeader, &'a Found)>, StorageError> {
    let mut segments = Vec::with_capacity(found.len());
    for segment in found {
        if let Some(header) = segment.header {
            if header.disk_id != metadata.disk_id {
                return Err(StorageError::ForeignLog { file: segment.name.into() });
            }
            if segment_name(header.generation) != segment.name {
                return Err(segment
                    .corrupt(0, format!("it holds generation {} of the other file", header.generation)));
            }
            segments.push((header, segment));
        }
    }
    segments.sort_by_key(|(header, _)| header.generation);
    Ok(segments)
}

/// An error if there were records, though no segment has a header.
fn check_blank(metadata: &Metadata, found: &[Found]) -> Result<(), StorageError> {
    // Records come only after a header that is durable.
    for segment in found {
        let body = segment.bytes.get(SEGMENT_HEADER_BYTES as usize..).unwrap_or_default();
        if let Some(position) = body.iter().position(|byte| *byte != 0) {
            let offset = SEGMENT_HEADER_BYTES as usize + position;
            return Err(segment.corrupt(offset, "there are records, but the header is damaged"));
        }
    }
    if metadata.log_generation > 0 {
        return Err(
            found[0].corrupt(0, "the log is missing or blank, though the checkpoint knows of records")
        );
    }
    Ok(())
}

/// An error if there was more behind the whole batches of the newest segment that was acknowledged.
fn check_end(
    newest: &Found,
    newest_header: &SegmentHeader,
    checkpointed: u64,
    end: &SegmentEnd,
) -> Result<(), StorageError> {
    let bad_sequence = end.last_sequence + 1;
    let proof = newest_header.record_keys().find_record(&newest.bytes, end.offset, |record| {
        record.sequence > checkpointed && record.durable_sequence >= bad_sequence
    });
    if let Some(proof) = proof {
        let reason = format!(
            "record {bad_sequence} is damaged, though a later record at byte {proof} shows that it was acknowledged"
        );
        return Err(newest.corrupt(end.offset, reason));
    }
    let noted_sequence = newest_header.record_keys().noted_sequence(&newest.bytes);
    if noted_sequence > end.last_sequence {
        let reason =
            format!("record {bad_sequence} is missing, though {noted_sequence} are noted to be durable");
        return Err(newest.corrupt(end.offset, reason));
    }
    Ok(())
}

/// Where the whole batches of a segment end.
struct SegmentEnd {
    last_sequence: u64,
    offset: usize,
}

/// Takes over the changes of a segment that the checkpoint does not hold, up to the first batch of which a record is
/// absent or damaged.
fn replay_segment(
    segment: &Found,
    header: &SegmentHeader,
    checkpointed: u64,
    changes: &mut Overlay,
) -> Result<SegmentEnd, StorageError> {
    let keys = header.record_keys();
    let (mut sequence, mut offset) = (header.first_sequence - 1, SEGMENT_HEADER_BYTES as usize);
    let mut end = SegmentEnd { last_sequence: sequence, offset };
    let mut batch: Vec<Write> = Vec::new();
    while let Some(record) = keys.record_at(&segment.bytes, offset) {
        if record.sequence != sequence + 1 {
            let reason = format!("record {} follows record {sequence}", record.sequence);
            return Err(segment.corrupt(offset, reason));
        }
        let payload = segment.bytes.slice(record.payload_start..record.payload_end);
        let invalid = || segment.corrupt(offset, "the checksum of a record is right, but its content is not");
        let more_follows = if record.sequence > checkpointed {
            let (mut writes, more_follows) = log::decode_batch(&payload).ok_or_else(invalid)?;
            batch.append(&mut writes);
            more_follows
        } else {
            log::more_follows(&payload).ok_or_else(invalid)?
        };
        (sequence, offset) = (record.sequence, record.end);
        if !more_follows {
            batch.drain(..).for_each(|write| changes.insert(write));
            end = SegmentEnd { last_sequence: sequence, offset };
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_back_only_as_it_was_written() {
        let metadata = Metadata { disk_id: [3; 16], checkpointed_sequence: 17, log_generation: 4 };
        let bytes = metadata.encode();
        assert_eq!(Metadata::decode(&bytes).unwrap(), metadata);
        for position in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[position] ^= 0x40;
            assert!(Metadata::decode(&damaged).is_err(), "byte {position}");
            assert!(Metadata::decode(&bytes[..position]).is_err(), "length {position}");
        }
    }
}
