//! Rows in an order that no tree has: sorted in runs, which are merged while the rows are read.
//!
//! The values that rows are ordered by, and the place at which each row was found, make the key of a run, so that rows
//! that are equal stay in the order in which they were found.

use std::sync::Arc;

use crate::rows::columns::{Columns, ColumnsBuilder, sort};
use crate::rows::key::KeyRange;
use crate::rows::runs::{Runs, Scratch};
use crate::rows::schema::{ColumnType, Layout};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::number::{Number, NumberType};

/// How many rows that were sorted come at a time.
const SORTED_CHUNK_ROWS: usize = 1_024;

/// How much may be known of runs, of each of which the keys at which its chunks begin are in memory, in bytes, if a run is
/// not longer.
const KNOWN_BYTES_MIN: usize = 1 << 20;

/// Gives space for rows that do not fit in memory.
pub type OpenScratch<'a> = dyn Fn() -> std::result::Result<Arc<dyn Scratch>, String> + 'a;

/// By what the rows of a scan are sorted once they were found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// The positions of these values in the rows that the scan finds, before its output is taken.
    pub by: Vec<usize>,
    /// Whether the last row is the first one, those among equal rows included.
    pub is_reversed: bool,
}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Sorter {
    layout: Layout,
    /// Which values of the rows that are found make those that are sorted; the number goes behind the key.
    kept: Vec<usize>,
    /// Which values of the rows that are sorted are given.
    output: Vec<usize>,
    is_reversed: bool,
    limit: u64,
    run_bytes: usize,
    part_bytes: usize,
    found: u64,
    pending: ColumnsBuilder,
    pending_bytes: usize,
    runs: Option<Runs>,
}

impl Sorter {
    /// For rows of these types, of which the first ones in an order are given, each with the values of an output, or all.
    /// It gathers `run_bytes` before it writes a run, and merges runs in parts of `part_bytes`.
    pub fn new(
        found: &[ColumnType],
        order: &Order,
        output: Option<&[usize]>,
        limit: u64,
        run_bytes: usize,
        part_bytes: usize,
    ) -> Self {
        let mut by: Vec<usize> = Vec::new();
        for position in &order.by {
            if !by.contains(position) {
                by.push(*position);
            }
        }
        let number = by.len();
        let given: Vec<usize> = output.map_or_else(|| (0..found.len()).collect(), <[usize]>::to_vec);
        let mut kept = by;
        for position in &given {
            if !kept.contains(position) {
                kept.push(*position);
            }
        }
        let place = |position: &usize| {
            let place = kept.iter().position(|one| one == position).expect("what is given is kept");
            place + usize::from(place >= number)
        };
        let output = given.iter().map(place).collect();
        let mut types: Vec<ColumnType> = kept.iter().map(|position| found[*position]).collect();
        types.insert(number, ColumnType::Number(NumberType::U64));
        let columns = (0..types.len()).collect();
        let layout = Layout { types: types.into(), columns, key_len: number + 1 };
        Self {
            pending: ColumnsBuilder::new(&layout.types),
            layout,
            kept,
            output,
            is_reversed: order.is_reversed,
            limit,
            run_bytes,
            part_bytes,
            found: 0,
            pending_bytes: 0,
            runs: None,
        }
    }

    /// Take rows.
    ///
    /// # Errors
    /// 503 if there is no space for what does not fit in memory, 413 if what says where it is does not either.
    pub fn push(&mut self, rows: &Columns, scratch: &OpenScratch<'_>) -> Result<()> {
        let number_at = self.layout.key_len - 1;
        for row in 0..rows.len() {
            let mut values: Vec<Value> =
                self.kept.iter().map(|position| rows.value(*position, row)).collect();
            values.insert(number_at, Number::U64(self.found).into());
            self.found += 1;
            self.pending.push(&values);
            self.pending_bytes += rows.row_bytes(row) + size_of::<u64>();
            if self.pending_bytes >= self.run_bytes {
                self.spill(scratch)?;
            }
        }
        Ok(())
    }

    /// The rows that wait, sorted, as far as the limit goes.
    fn sort_pending(&mut self) -> Columns {
        let rows = std::mem::replace(&mut self.pending, ColumnsBuilder::new(&self.layout.types)).finish();
        self.pending_bytes = 0;
        let rows = sort(&self.layout, rows);
        let wanted = usize::try_from(self.limit).unwrap_or(usize::MAX).min(rows.len());
        match self.is_reversed {
            true => rows.slice(rows.len() - wanted..rows.len()),
            false => rows.slice(0..wanted),
        }
    }

    /// Write what waits as a run, unless the limit leaves so little of it that it may go on waiting.
    fn spill(&mut self, scratch: &OpenScratch<'_>) -> Result<()> {
        let rows = self.sort_pending();
        let bytes = (0..rows.len()).map(|row| rows.row_bytes(row)).sum::<usize>();
        if bytes <= self.run_bytes / 2 {
            self.pending.push_range(&rows, 0..rows.len());
            self.pending_bytes = bytes;
            return Ok(());
        }
        if self.runs.is_none() {
            self.runs = Some(Runs::new(scratch().map_err(no_space)?, self.part_bytes));
        }
        let runs = self.runs.as_mut().expect("runs");
        runs.push(runs.write(&self.layout, &rows).map_err(no_space)?);
        if runs.bytes() > self.run_bytes.max(KNOWN_BYTES_MIN) {
            return Err(Error::too_large(
                "the values that rows are ordered by are too long for so many rows: an index has them in order",
            ));
        }
        Ok(())
    }

    /// The rows in order.
    ///
    /// # Errors
    /// As of [`Sorter::push`].
    pub fn finish(mut self) -> Result<Sorted> {
        if self.runs.is_some() && self.pending_bytes > 0 {
            let rows = self.sort_pending();
            let runs = self.runs.as_mut().expect("runs");
            let run = runs.write(&self.layout, &rows).map_err(no_space)?;
            runs.push(run);
        }
        let (next, mut parts) = match &self.runs {
            Some(runs) => (None, Runs::parts(&[runs])),
            None => (Some(self.sort_pending()), Vec::new()),
        };
        if !self.is_reversed {
            parts.reverse();
        }
        let Self { layout, output, is_reversed, limit, runs, .. } = self;
        Ok(Sorted { layout, output, is_reversed, left: limit, runs, parts, next, taken: 0 })
    }
}

/// Rows in order.
#[derive(Debug)]
pub struct Sorted {
    layout: Layout,
    output: Vec<usize>,
    is_reversed: bool,
    left: u64,
    runs: Option<Runs>,
    /// The parts of the keys that were not merged yet, the next one last.
    parts: Vec<KeyRange>,
    /// The rows that were merged, and how many of them were given.
    next: Option<Columns>,
    taken: usize,
}

impl Sorted {
    /// The next rows, at least one, in order.
    ///
    /// # Errors
    /// 500 if what was written cannot be read.
    pub fn next_rows(&mut self) -> Result<Option<Columns>> {
        while self.left > 0 {
            if let Some(rows) = self.next.as_ref().filter(|rows| self.taken < rows.len()) {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let wanted = SORTED_CHUNK_ROWS.min(rows.len() - self.taken).min(left);
                let places: Vec<usize> = (self.taken..self.taken + wanted)
                    .map(|place| if self.is_reversed { rows.len() - 1 - place } else { place })
                    .collect();
                self.taken += wanted;
                self.left -= wanted as u64;
                return Ok(Some(rows.take(&places).project(&self.output)));
            }
            let (Some(runs), Some(part)) = (&self.runs, self.parts.pop()) else {
                return Ok(None);
            };
            self.next = None;
            self.next = Some(runs.gather(&self.layout, &part).map_err(Error::internal)?);
            self.taken = 0;
        }
        Ok(None)
    }
}

fn no_space(cause: String) -> Error {
    Error::unavailable(format_args!("there is no space to sort rows in --workspace: {cause}"))
}
