//! Replies whose rows or blocks are read from a snapshot while they are sent: JSON, CSV and Arrow IPC, a chunk at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Schema};
use bytes::Bytes;
use components::language::chain::{Block, HistorySnapshot, Mutation};
use components::language::collection::CollectionContent;
use components::language::collection::snapshot::{READ_AHEAD_BYTES, RowsReader, RowsetSnapshot};
use components::language::encode::{JsonPart, to_json_parts};
use components::language::state::ReadStored;
use components::rows::columns::{Columns, arrow_fields, write_csv_header};
use components::rows::schema::{Column, ColumnType};
use components::rows::sorter::{Sorted, Sorter};
use components::{Error, Result, State};
use crossbeam_channel::{Receiver, bounded};
use hyper::header::HeaderValue;
use world::history::HistoryReader;

use super::media::{ARROW, JSON_TYPE, RowsForm};
use crate::pages::Pages;
use crate::storage::StorageError;

/// About how long a chunk of text is.
pub(super) const TEXT_CHUNK_BYTES: usize = 64 * 1024;

/// About how long a chunk of an Arrow stream is: several pages, each as a message.
pub(super) const ARROW_CHUNK_BYTES: usize = 256 * 1024;

/// What a reply takes at most while it is sent: the chunk that is being made, the next one, and those in the buffers of
/// the connection; and the rows that were read for them.
pub(super) const STREAM_BYTES: usize = 4 * ARROW_CHUNK_BYTES + READ_AHEAD_BYTES as usize;

/// About how much is read of rows that are sorted until others have a turn, in bytes.
const SORTED_AT_ONCE_BYTES: usize = 1 << 20;

/// In how many forms a block is in memory at most while it is written: as it is stored, and if one mutation is most of
/// it, decoded and as text.
const BLOCK_FORMS: u64 = 4;

/// How many chunks of a backup wait at most until they are sent.
const BACKUP_CHUNKS_MAX: usize = 4;

/// What a backup takes in memory, in bytes, unless it has large values.
const BACKUP_BYTES: u64 = 4 << 20;

/// What the rows come from: the rest of a snapshot, or rows that were read already.
#[derive(Debug)]
struct Rows {
    columns: Arc<[Column]>,
    ready: Option<Columns>,
    reader: Option<RowsReader>,
    order: Ordering,
    /// What they keep in memory, in bytes.
    bytes: u64,
}

/// How rows that are read come into their order.
#[derive(Debug)]
enum Ordering {
    /// They are read in it.
    AsRead,
    /// They are being read and sorted, and none of them can be given yet.
    Sorting(Box<Sorter>),
    /// All were read, and are in order.
    Sorted(Box<Sorted>),
}

impl Rows {
    fn of_snapshot(snapshot: &Arc<RowsetSnapshot>, pages: &Pages) -> Self {
        let reader = Some(RowsReader::new(snapshot.clone()));
        let order = match pages.sorter(snapshot) {
            Some(sorter) => Ordering::Sorting(Box::new(sorter)),
            None => Ordering::AsRead,
        };
        let bytes = snapshot_bytes(snapshot, pages);
        Self { columns: snapshot.columns.clone(), ready: None, reader, order, bytes }
    }

    /// Whether rows are to be sorted before there are any.
    fn is_sorting(&self) -> bool {
        matches!(self.order, Ordering::Sorting(_))
    }

    /// Read some of the rows that are sorted; they can be given when all were read.
    fn go_on_sorting(&mut self, pages: &Pages) -> Result<()> {
        let Ordering::Sorting(sorter) = &mut self.order else { return Ok(()) };
        let reader = self.reader.as_mut().expect("a reader until all was read");
        let mut read_bytes = 0;
        while read_bytes < SORTED_AT_ONCE_BYTES {
            match pages.read(|load, join| reader.next(load, join)).map_err(Error::internal)? {
                Some(rows) => {
                    read_bytes += rows.bytes().max(1);
                    sorter.push(&rows, &|| pages.scratch())?;
                }
                None => {
                    let last = sorter.take(true).spill(&|| pages.scratch())?;
                    if let Ordering::Sorting(sorter) = std::mem::replace(&mut self.order, Ordering::AsRead) {
                        self.order = Ordering::Sorted(Box::new(sorter.finish(last)));
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The rows of a state, if that is what it is.
    fn of(state: &State, pages: &Pages) -> Option<Self> {
        match state {
            State::Snapshot(snapshot) => Some(Self::of_snapshot(snapshot, pages)),
            State::Content(content) => {
                let types: Arc<[ColumnType]> = content.columns.iter().map(|column| column.class).collect();
                let rows = Columns::from_rows(&types, content.rows.iter().map(|row| &**row));
                let bytes = rows.bytes() as u64;
                Some(Self {
                    columns: content.columns.clone(),
                    ready: Some(rows),
                    reader: None,
                    order: Ordering::AsRead,
                    bytes,
                })
            }
            _ => None,
        }
    }

    fn next(&mut self, pages: &Pages) -> Result<Option<Columns>> {
        if let Some(rows) = self.ready.take() {
            return Ok(Some(rows));
        }
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let rows = match &mut self.order {
            Ordering::Sorted(sorted) => sorted.next_rows()?,
            _ => pages.read(|load, join| reader.next(load, join)).map_err(Error::internal)?,
        };
        if rows.is_none() {
            self.reader = None;
        }
        Ok(rows)
    }

    fn is_done(&self) -> bool {
        self.ready.is_none() && self.reader.is_none()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A state with everything in it that has yet to be read.
///
/// # Errors
/// 413 if it takes more than `bytes_max`, 500 if a page or block cannot be read.
pub(super) fn read(state: &State, pages: &Pages, bytes_max: usize) -> Result<State> {
    state.with_stored(&mut Whole { pages, left: bytes_max as u64 })
}

/// Reads what must be in memory as a whole.
struct Whole<'a> {
    pages: &'a Pages,
    /// How much more of it there may be, in bytes.
    left: u64,
}

impl ReadStored for Whole<'_> {
    fn rows(&mut self, rows: &Arc<RowsetSnapshot>) -> Result<CollectionContent> {
        let content = self.pages.read(|load, join| rows.content(load, join, self.left))?;
        self.left -= content.bytes;
        Ok(content)
    }

    fn blocks(&mut self, history: &Arc<HistorySnapshot>) -> Result<Vec<Block>> {
        let blocks = HistoryReader::new(history.clone()).blocks(self.pages.storage()?, self.left)?;
        let transactions = blocks.iter().flat_map(|block| &block.transactions);
        self.left -= transactions.flat_map(|(_, all)| all).map(Mutation::bytes).sum::<u64>();
        Ok(blocks)
    }
}

/// Makes the body of a reply, a chunk at a time.
pub(super) struct Encoder {
    pages: Pages,
    form: Form,
    /// What the chunk so far holds.
    chunk: Vec<u8>,
}

/// Rows that are being written.
struct JsonRows {
    from: Rows,
    /// Those that come next, and which of them does.
    next: Option<(Columns, usize)>,
    /// Whether there were some before.
    has_rows: bool,
}

/// What of a JSON text is being read and written.
enum JsonReading {
    Rows(JsonRows),
    Blocks(HistoryReader),
}

enum Form {
    Json {
        parts: VecDeque<JsonPart>,
        /// What is being read.
        reading: Option<JsonReading>,
    },
    Csv {
        rows: Rows,
        next: Option<(Columns, usize)>,
        has_header: bool,
    },
    Arrow {
        rows: Rows,
        schema: Arc<Schema>,
        writer: Option<Box<StreamWriter<Vec<u8>>>>,
    },
    /// What a thread makes.
    Backup(Receiver<Result<Bytes>>),
}

impl Encoder {
    /// JSON of a state with rows in it, of which everything else is bounded.
    ///
    /// # Errors
    /// 413 if that is longer, 400 if JSON has no form for it; rows have one always.
    pub(super) fn json(state: &State, bytes_max: usize, pages: Pages) -> Result<Self> {
        let mut parts: VecDeque<JsonPart> = to_json_parts(state, bytes_max)?.into();
        parts.push_back(JsonPart::Text(b"\n".to_vec()));
        Ok(Self { pages, form: Form::Json { parts, reading: None }, chunk: Vec::new() })
    }

    /// Rows in a form of their own.
    ///
    /// # Errors
    /// 400 if this is not rows.
    pub(super) fn rows(state: &State, form: RowsForm, pages: Pages) -> Result<Self> {
        let rows = Rows::of(state, &pages).ok_or_else(|| {
            Error::bad_request(format_args!(
                "only a collection, a view of one or a stream of its rows has the form {}, not a {}",
                form.media_type(),
                state.class().path()
            ))
        })?;
        let form = match form {
            RowsForm::Csv => Form::Csv { rows, next: None, has_header: false },
            RowsForm::Arrow => {
                let schema = Arc::new(arrow_fields(&rows.columns));
                let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(internal)?;
                Form::Arrow { rows, schema, writer: Some(Box::new(writer)) }
            }
        };
        Ok(Self { pages, form, chunk: Vec::new() })
    }

    /// A copy of all that is stored.
    ///
    /// # Errors
    /// 500 if nothing is, or if there is no thread to read it.
    pub(super) fn backup(pages: Pages) -> Result<Self> {
        let (sender, chunks) = bounded(BACKUP_CHUNKS_MAX);
        let storage = pages.storage()?.clone();
        let back_up = move || {
            let mut sink = |chunk| sender.send(Ok(chunk)).map_err(|_| StorageError::BackupNotTaken);
            match storage.back_up(&mut sink) {
                Ok(()) | Err(StorageError::BackupNotTaken) => {}
                Err(cause @ StorageError::BackupRuns) => drop(sender.send(Err(Error::unavailable(cause)))),
                Err(cause) => drop(sender.send(Err(Error::internal(cause)))),
            }
        };
        let thread = std::thread::Builder::new().name("backup".into()).spawn(back_up);
        thread.map_err(|cause| Error::internal(format_args!("cannot start a thread: {cause}")))?;
        Ok(Self { pages, form: Form::Backup(chunks), chunk: Vec::new() })
    }

    /// What this keeps in memory while the body is sent, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let bytes = match &self.form {
            Form::Json { parts, .. } => parts
                .iter()
                .map(|part| match part {
                    JsonPart::Text(text) => text.len() as u64,
                    JsonPart::Rows(snapshot) => snapshot_bytes(snapshot, &self.pages),
                    // As it is stored, and what is decoded and written of it.
                    JsonPart::Blocks(history) => history.block_bytes_max.saturating_mul(BLOCK_FORMS),
                })
                .sum(),
            Form::Csv { rows, .. } | Form::Arrow { rows, .. } => rows.bytes(),
            Form::Backup(_) => BACKUP_BYTES,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Whether there is nothing after the last chunk.
    pub(super) fn is_done(&self) -> bool {
        match &self.form {
            Form::Json { parts, reading } => parts.is_empty() && reading.is_none(),
            Form::Csv { rows, next, .. } => {
                rows.is_done() && next.as_ref().is_none_or(|(columns, row)| *row == columns.len())
            }
            Form::Arrow { writer, .. } => writer.is_none(),
            // Only the next look tells.
            Form::Backup(_) => false,
        }
    }

    /// The type of the body.
    pub(super) fn content_type(&self) -> HeaderValue {
        match self.form {
            Form::Json { .. } => JSON_TYPE,
            Form::Csv { .. } => HeaderValue::from_static("text/csv; charset=utf-8; header=present"),
            Form::Arrow { .. } => HeaderValue::from_static(ARROW),
            Form::Backup(_) => HeaderValue::from_static("application/octet-stream"),
        }
    }

    /// The rows that are to be sorted before anything else comes, if there are such rows.
    fn sorting(&mut self) -> Option<&mut Rows> {
        let rows = match &mut self.form {
            Form::Json { reading: Some(JsonReading::Rows(rows)), .. } => &mut rows.from,
            Form::Csv { rows, .. } | Form::Arrow { rows, .. } => rows,
            Form::Json { .. } | Form::Backup(_) => return None,
        };
        rows.is_sorting().then_some(rows)
    }

    /// The next bytes of the body; none after the last. They are empty if there is more to be done before there are some,
    /// so that others have a turn.
    ///
    /// # Errors
    /// 400 if JSON has no form for a value, 500 if a page cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>> {
        let pages = self.pages.clone();
        if let Some(rows) = self.sorting() {
            rows.go_on_sorting(&pages)?;
            return Ok(Some(Bytes::new()));
        }
        let (chunk, pages) = (&mut self.chunk, &self.pages);
        match &mut self.form {
            Form::Json { parts, reading } => write_json(parts, reading, chunk, pages)?,
            Form::Csv { rows, next, has_header } => {
                if !std::mem::replace(has_header, true) {
                    write_csv_header(&rows.columns, chunk);
                }
                while chunk.len() < TEXT_CHUNK_BYTES
                    && let Some((columns, row)) = next_row(rows, next, pages)?
                {
                    columns.write_csv_row(row, chunk)?;
                }
            }
            Form::Arrow { rows, schema, writer } => return write_arrow(rows, schema, writer, pages),
            Form::Backup(chunks) => return chunks.recv().ok().transpose(),
        }
        if self.sorting().is_some() {
            return Ok(Some(Bytes::new()));
        }
        let chunk = &mut self.chunk;
        if chunk.is_empty() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(chunk).into()))
    }
}

/// What the rows of a snapshot keep in memory while they are read, in bytes.
fn snapshot_bytes(snapshot: &RowsetSnapshot, pages: &Pages) -> u64 {
    snapshot.bytes + if snapshot.scan.order.is_some() { pages.sorting_bytes() } else { 0 }
}

fn internal(cause: ArrowError) -> Error {
    Error::internal(cause)
}

/// The next row, which is taken off the rows.
fn next_row<'a>(
    rows: &mut Rows,
    next: &'a mut Option<(Columns, usize)>,
    pages: &Pages,
) -> Result<Option<(&'a Columns, usize)>> {
    while next.as_ref().is_none_or(|(columns, row)| *row == columns.len()) {
        match rows.next(pages)? {
            Some(columns) => *next = Some((columns, 0)),
            None => return Ok(None),
        }
    }
    let (columns, row) = next.as_mut().expect("rows");
    *row += 1;
    Ok(Some((columns, *row - 1)))
}

fn write_json(
    parts: &mut VecDeque<JsonPart>,
    reading: &mut Option<JsonReading>,
    chunk: &mut Vec<u8>,
    pages: &Pages,
) -> Result<()> {
    while chunk.len() < TEXT_CHUNK_BYTES {
        let is_read = match reading {
            None => match parts.pop_front() {
                Some(JsonPart::Text(text)) if chunk.is_empty() => {
                    *chunk = text;
                    continue;
                }
                Some(JsonPart::Text(text)) => {
                    chunk.extend_from_slice(&text);
                    continue;
                }
                Some(JsonPart::Rows(snapshot)) => {
                    chunk.push(b'[');
                    let from = Rows::of_snapshot(&snapshot, pages);
                    let is_sorting = from.is_sorting();
                    *reading = Some(JsonReading::Rows(JsonRows { from, next: None, has_rows: false }));
                    if is_sorting {
                        return Ok(());
                    }
                    continue;
                }
                Some(JsonPart::Blocks(history)) => {
                    *reading = Some(JsonReading::Blocks(HistoryReader::new(history)));
                    continue;
                }
                None => return Ok(()),
            },
            Some(JsonReading::Rows(rows)) => write_json_rows(rows, chunk, pages)?,
            Some(JsonReading::Blocks(blocks)) => {
                blocks.write_json(pages.storage()?, chunk, TEXT_CHUNK_BYTES)?
            }
        };
        if is_read {
            *reading = None;
        }
    }
    Ok(())
}

/// Add rows to a chunk; true if those were all.
fn write_json_rows(rows: &mut JsonRows, chunk: &mut Vec<u8>, pages: &Pages) -> Result<bool> {
    let JsonRows { from, next, has_rows } = rows;
    let positions: Vec<usize> = (0..from.columns.len()).collect();
    while chunk.len() < TEXT_CHUNK_BYTES {
        let Some((columns, row)) = next_row(from, next, pages)? else {
            chunk.push(b']');
            return Ok(true);
        };
        if std::mem::replace(has_rows, true) {
            chunk.push(b',');
        }
        columns.write_json_row(row, &positions, chunk)?;
    }
    Ok(false)
}

fn write_arrow(
    rows: &mut Rows,
    schema: &Arc<Schema>,
    writer: &mut Option<Box<StreamWriter<Vec<u8>>>>,
    pages: &Pages,
) -> Result<Option<Bytes>> {
    let Some(stream) = writer else {
        return Ok(None);
    };
    while stream.get_ref().len() < ARROW_CHUNK_BYTES {
        match rows.next(pages)? {
            Some(columns) => stream.write(&columns.batch(schema)?).map_err(internal)?,
            None => {
                stream.finish().map_err(internal)?;
                let chunk = std::mem::take(stream.get_mut());
                *writer = None;
                return Ok(Some(chunk.into()));
            }
        }
    }
    Ok(Some(std::mem::replace(stream.get_mut(), Vec::with_capacity(2 * ARROW_CHUNK_BYTES)).into()))
}
