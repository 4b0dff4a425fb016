//! Rows that do not fit in memory: sorted runs of them, each written to scratch space chunk by chunk.
//!
//! Runs are merged by cutting the keys into parts that fit: the rows of a part are gathered out of all runs, and sorted.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::columns::{Columns, ColumnsBuilder, sort};
use super::key::{Key, KeyRange};
use super::schema::Layout;

/// How large a chunk of a run becomes at most, in bytes, if a row is not larger. What is gathered for a part is read in
/// whole chunks, one of them for each run in vain.
const CHUNK_BYTES_MAX: usize = 32 << 10;

/// How many chunks a part has at least.
const CHUNKS_PER_PART_MIN: usize = 8;

/// Space for what does not fit in memory, of one transaction; all of it goes when it is dropped.
pub trait Scratch: Debug + Send + Sync {
    /// Write bytes behind everything else; where they are.
    ///
    /// # Errors
    /// Why they cannot be written, such as for want of space.
    fn append(&self, bytes: &[u8]) -> Result<u64, String>;

    /// Read so many bytes that were written at a place.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read(&self, offset: u64, len: usize) -> Result<Bytes, String>;
}

/// A part of a run.
#[derive(Clone, Debug)]
struct Chunk {
    first: Key,
    offset: u64,
    len: usize,
}

/// Rows in order of key, each key once.
#[derive(Clone, Debug)]
pub struct Run {
    chunks: Arc<[Chunk]>,
    rows: u64,
}

/// Runs of rows in the same scratch space. Of rows with equal keys the one in the last run counts.
#[derive(Clone, Debug)]
pub struct Runs {
    scratch: Arc<dyn Scratch>,
    part_bytes: usize,
    runs: Vec<Run>,
}

impl Runs {
    /// No runs yet. They are merged in parts of about `part_bytes`.
    pub fn new(scratch: Arc<dyn Scratch>, part_bytes: usize) -> Self {
        Self { scratch, part_bytes: part_bytes.max(1), runs: Vec::new() }
    }

    /// No runs yet, in the same space as these.
    pub fn beside(&self) -> Self {
        Self::new(self.scratch.clone(), self.part_bytes)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// How many rows there are, those with equal keys in several runs included.
    pub fn rows(&self) -> u64 {
        self.runs.iter().map(|run| run.rows).sum()
    }

    /// What the runs take in scratch space, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.runs.iter().flat_map(|run| run.chunks.iter()).map(|chunk| chunk.len as u64).sum()
    }

    /// What is known of the runs in memory takes about so many bytes.
    pub fn bytes(&self) -> usize {
        let chunks = self.runs.iter().flat_map(|run| run.chunks.iter());
        chunks.map(|chunk| size_of::<Chunk>() + chunk.first.len()).sum()
    }

    /// Add a run that was written to this space.
    pub fn push(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Write rows that are sorted by key, each key once.
    ///
    /// # Errors
    /// Why they cannot be written.
    pub fn write(&self, layout: &Layout, rows: &Columns) -> Result<Run, String> {
        let chunk_bytes = (self.part_bytes / CHUNKS_PER_PART_MIN).clamp(1, CHUNK_BYTES_MAX);
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            let mut bytes = rows.row_bytes(start);
            let mut end = start + 1;
            while end < rows.len() && bytes + rows.row_bytes(end) <= chunk_bytes {
                bytes += rows.row_bytes(end);
                end += 1;
            }
            let content = rows.slice(start..end).encode();
            let offset = self.scratch.append(&content)?;
            chunks.push(Chunk { first: rows.key(layout, start), offset, len: content.len() });
            start = end;
        }
        Ok(Run { chunks: chunks.into(), rows: rows.len() as u64 })
    }

    /// The rows of a range of keys, sorted by key, each key once.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn gather(&self, layout: &Layout, range: &KeyRange) -> Result<Columns, String> {
        let mut rows = ColumnsBuilder::new(&layout.types);
        for run in &self.runs {
            // The last chunk that begins before the range may reach into it.
            let begun = run.chunks.partition_point(|chunk| chunk.first <= range.start);
            let chunks = run.chunks[begun.saturating_sub(1)..].iter();
            for chunk in chunks.take_while(|chunk| range.end.as_ref().is_none_or(|end| chunk.first < *end)) {
                let content = Columns::decode(&layout.types, self.scratch.read(chunk.offset, chunk.len)?)?;
                let start = content.lower_bound(layout, &range.start);
                let end = range.end.as_ref().map_or(content.len(), |end| content.lower_bound(layout, end));
                if start < end {
                    rows.push_range(&content, start..end);
                }
            }
        }
        Ok(sort(layout, rows.finish()))
    }

    /// Cut all keys into ranges, in order: in each of them all these runs together, which are of one layout, have not
    /// much more than the size of a part.
    pub fn parts(all: &[&Runs]) -> Vec<KeyRange> {
        let part_bytes = all.iter().map(|runs| runs.part_bytes).min().unwrap_or(1);
        let chunks = all.iter().flat_map(|runs| &runs.runs).flat_map(|run| run.chunks.iter());
        let mut chunks: Vec<(&Key, usize)> = chunks.map(|chunk| (&chunk.first, chunk.len)).collect();
        chunks.sort_unstable();
        let mut parts = Vec::new();
        let (mut start, mut bytes) = (Key::EMPTY, 0);
        for (first, len) in chunks {
            if bytes >= part_bytes && *first > start {
                let end = first.clone();
                parts.push(KeyRange { start: std::mem::replace(&mut start, end.clone()), end: Some(end) });
                bytes = 0;
            }
            bytes += len;
        }
        parts.push(KeyRange { start, end: None });
        parts
    }
}

/// Scratch space in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryScratch {
    bytes: Mutex<Vec<u8>>,
    is_full: AtomicBool,
}

impl MemoryScratch {
    /// Take no more.
    pub fn fill(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }
}

impl Scratch for MemoryScratch {
    fn append(&self, bytes: &[u8]) -> Result<u64, String> {
        let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_full.load(Ordering::Relaxed) {
            return Err("no space is left".to_string());
        }
        let offset = all.len() as u64;
        all.extend_from_slice(bytes);
        Ok(offset)
    }

    fn read(&self, offset: u64, len: usize) -> Result<Bytes, String> {
        let all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        all.get(start..start + len).map(Bytes::copy_from_slice).ok_or_else(|| "nothing is there".to_string())
    }
}
