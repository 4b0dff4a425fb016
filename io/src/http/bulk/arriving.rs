//! Rows that are decoded while they arrive, on a thread of their own, and go to scratch space when they are too many.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use components::rows::bulk::Bulk;
use components::rows::columns::{Columns, sort};
use components::rows::runs::Runs;
use components::rows::schema::Schema;
use components::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::super::budget::Charge;
use crate::workspace::Workspace;

/// A piece of a body.
#[derive(Debug)]
pub(in crate::http) enum Piece {
    /// Some of its bytes.
    Bytes(Bytes),
    /// It is complete.
    End,
}

/// The right to decode. While there is nothing to decode it is somebody else's: a slow client holds up nobody.
pub(in crate::http) struct Turn {
    turns: Arc<Semaphore>,
    runtime: Handle,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Wait for a turn.
    ///
    /// # Errors
    /// If there are no more.
    pub(in crate::http) async fn take(turns: Arc<Semaphore>) -> std::result::Result<Self, AcquireError> {
        let permit = Some(turns.clone().acquire_owned().await?);
        Ok(Self { turns, runtime: Handle::current(), permit })
    }

    /// Let others have their turn until `wait` returns.
    fn lend<T>(&mut self, wait: impl FnOnce() -> T) -> Result<T> {
        self.permit = None;
        let waited = wait();
        let permit = self.runtime.block_on(self.turns.clone().acquire_owned());
        self.permit = Some(permit.map_err(|_| Error::unavailable("the host is going down"))?);
        Ok(waited)
    }
}

/// The bytes of a body, as they arrive.
pub(super) struct Arriving {
    pieces: Receiver<Piece>,
    turn: Option<Turn>,
    piece: Bytes,
    is_complete: bool,
}

impl Arriving {
    /// A body that begins with bytes that are here.
    pub(super) fn new(first: Vec<u8>, pieces: Receiver<Piece>, turn: Option<Turn>) -> Self {
        Self { pieces, turn, piece: first.into(), is_complete: false }
    }

    /// The next piece, as soon as it is here.
    fn next(&mut self) -> Result<Option<Piece>> {
        let Self { pieces, turn, .. } = self;
        match (pieces.try_recv(), turn) {
            (Ok(piece), _) => Ok(Some(piece)),
            (Err(TryRecvError::Disconnected), _) => Ok(None),
            (Err(TryRecvError::Empty), Some(turn)) => turn.lend(|| pieces.blocking_recv()),
            (Err(TryRecvError::Empty), None) => Ok(pieces.blocking_recv()),
        }
    }

    /// The next bytes, at least one if the body goes on.
    ///
    /// # Errors
    /// 400 if the body does not go on and is not complete; 503 if the host is going down.
    fn bytes(&mut self) -> Result<&mut Bytes> {
        while self.piece.is_empty() && !self.is_complete {
            match self.next()? {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.is_complete = true,
                None => return Err(Error::bad_request("the body of the request did not arrive")),
            }
        }
        Ok(&mut self.piece)
    }

    /// Whether no bytes are left.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(super) fn is_at_end(&mut self) -> Result<bool> {
        Ok(self.bytes()?.is_empty())
    }

    /// Append so many bytes; false if there are fewer.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(super) fn read_onto(&mut self, to: &mut Vec<u8>, count: usize) -> Result<bool> {
        let mut left = count;
        while left > 0 {
            let bytes = self.bytes()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let part = bytes.split_to(left.min(bytes.len()));
            to.extend_from_slice(&part);
            left -= part.len();
        }
        Ok(true)
    }
}

/// What is known of text that is read while it arrives.
#[derive(Default)]
pub(super) struct TextWatch {
    /// How much has been read since the last record ended, in bytes; who reads records sets it back.
    pub(super) unended_bytes: Cell<usize>,
    /// How many double quotes there were.
    pub(super) quotes: Cell<usize>,
}

/// Text that is read while it arrives, record by record.
pub(super) struct Text {
    arriving: Arriving,
    record_bytes_max: usize,
    watch: Rc<TextWatch>,
}

impl Text {
    /// Text of which one record has so many bytes at most, about.
    pub(super) fn new(arriving: Arriving, record_bytes_max: usize, watch: Rc<TextWatch>) -> Self {
        Self { arriving, record_bytes_max, watch }
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.arriving.bytes().map_err(io::Error::other)?;
        let part = bytes.split_to(buffer.len().min(bytes.len()));
        buffer[..part.len()].copy_from_slice(&part);
        let quotes = part.iter().filter(|byte| **byte == b'"').count();
        let TextWatch { unended_bytes, quotes: all_quotes } = &*self.watch;
        all_quotes.set(all_quotes.get() + quotes);
        unended_bytes.set(unended_bytes.get() + part.len());
        if unended_bytes.get() > self.record_bytes_max {
            let message = format_args!("a row of CSV has at most {} bytes", self.record_bytes_max);
            return Err(io::Error::other(Error::too_large(message)));
        }
        Ok(part.len())
    }
}

/// Rows that are gathered until they are all there.
pub(super) struct Gathered<'a> {
    schema: Arc<Schema>,
    workspace: &'a Workspace,
    /// What has not been written.
    parts: Vec<Columns>,
    bytes: usize,
    /// How many rows came.
    sent: u64,
    runs: Option<Runs>,
    charge: &'a mut Charge,
}

impl<'a> Gathered<'a> {
    /// No rows yet. They take memory on this charge.
    pub(super) fn new(schema: Arc<Schema>, workspace: &'a Workspace, charge: &'a mut Charge) -> Self {
        Self { schema, workspace, parts: Vec::new(), bytes: 0, sent: 0, runs: None, charge }
    }

    /// How much is gathered before it is written, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.workspace.run_bytes()
    }

    /// Take memory for what comes, until rows are written next.
    ///
    /// # Errors
    /// As [`Charge::add`].
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.charge.add(bytes)
    }

    /// Add rows that hold so many bytes of memory.
    ///
    /// # Errors
    /// 503 if they cannot be written; of [`Columns::concat`].
    pub(super) fn push(&mut self, rows: Columns, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        self.sent += rows.len() as u64;
        self.parts.push(rows);
        if self.bytes > self.workspace.run_bytes() {
            self.write()?;
        }
        Ok(())
    }

    fn concat(&mut self) -> Result<Columns> {
        let types = self.schema.layouts()[0].types.clone();
        // Once as a whole, and once sorted.
        let bytes: usize = self.parts.iter().map(Columns::bytes).sum();
        self.charge.add(bytes)?;
        let parts = std::mem::take(&mut self.parts);
        Columns::concat(&types, parts, &mut |bytes| self.charge.add(bytes))
    }

    /// Write what is gathered as a run.
    fn write(&mut self) -> Result<()> {
        let schema = self.schema.clone();
        let layout = &schema.layouts()[0];
        let rows = sort(layout, self.concat()?);
        let failed = |cause: String| {
            Error::unavailable(format_args!("the rows cannot be put into the workspace: {cause}"))
        };
        if self.runs.is_none() {
            let scratch = self.workspace.scratch().map_err(failed)?;
            self.runs = Some(Runs::new(scratch, self.workspace.part_bytes()));
        }
        let runs = self.runs.as_mut().expect("runs");
        let run = runs.write(layout, &rows).map_err(failed)?;
        runs.push(run);
        self.bytes = 0;
        self.charge.clear();
        Ok(())
    }

    /// All rows: in memory if they fit there.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn finish(mut self) -> Result<Bulk> {
        if self.runs.is_some() && !self.parts.is_empty() {
            self.write()?;
        }
        match self.runs.take() {
            Some(runs) => {
                self.charge.add(runs.bytes())?;
                Ok(Bulk::spilled(self.schema.clone(), runs, self.sent))
            }
            None => {
                let rows = self.concat()?;
                Ok(Bulk::new(self.schema.clone(), rows))
            }
        }
    }
}
