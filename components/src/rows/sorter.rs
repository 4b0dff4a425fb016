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

/// What is known of rows that are sorted before there are any.
#[derive(Debug)]
struct Plan {
    layout: Layout,
    /// Which values of the rows that are found make those that are sorted; the number goes behind the key.
    kept: Vec<usize>,
    /// Which values of the rows that are sorted are given.
    output: Vec<usize>,
    is_reversed: bool,
    limit: u64,
    run_bytes: usize,
    part_bytes: usize,
}

impl Plan {
    /// Rows sorted, as far as the limit goes.
    fn sort(&self, rows: Columns) -> Columns {
        let rows = sort(&self.layout, rows);
        let wanted = usize::try_from(self.limit).unwrap_or(usize::MAX).min(rows.len());
        match self.is_reversed {
            true => rows.slice(rows.len() - wanted..rows.len()),
            false => rows.slice(0..wanted),
        }
    }
}

/// Rows that were gathered in any order, and runs of those that were before.
#[derive(Clone, Debug)]
pub struct Gathered {
    plan: Arc<Plan>,
    rows: Columns,
    runs: Option<Runs>,
    /// Whether there are no others.
    is_last: bool,
}

/// What sorting makes of them.
#[derive(Clone, Debug)]
pub struct Spilled {
    /// Those that are in memory, sorted.
    rows: Columns,
    /// The others.
    runs: Option<Runs>,
    /// How much was written for that, in bytes.
    pub written_bytes: u64,
}

impl Gathered {
    /// Whether nothing was written before, and no other row comes.
    pub fn is_all(&self) -> bool {
        self.is_last && self.runs.is_none()
    }

    /// Sort, and write a run, unless these are all, or the limit leaves so little of them that it may go on waiting.
    ///
    /// # Errors
    /// 503 if there is no space for what does not fit in memory, 413 if what says where it is does not either.
    pub fn spill(&self, scratch: &OpenScratch<'_>) -> Result<Spilled> {
        let Self { plan, runs, is_last, .. } = self;
        let rows = plan.sort(self.rows.clone());
        let is_little =
            || (0..rows.len()).map(|row| rows.row_bytes(row)).sum::<usize>() <= plan.run_bytes / 2;
        let stays = if *is_last { runs.is_none() } else { is_little() };
        if stays || rows.is_empty() {
            return Ok(Spilled { rows, runs: runs.clone(), written_bytes: 0 });
        }
        let mut runs = match runs {
            Some(runs) => runs.clone(),
            None => Runs::new(scratch().map_err(no_space)?, plan.part_bytes),
        };
        runs.push(runs.write(&plan.layout, &rows).map_err(no_space)?);
        if runs.bytes() > plan.run_bytes.max(KNOWN_BYTES_MIN) {
            return Err(Error::too_large(
                "the values that rows are ordered by are too long for so many rows: an index has them in order",
            ));
        }
        let written_bytes = rows.bytes() as u64;
        Ok(Spilled { rows: Columns::empty(&plan.layout.types), runs: Some(runs), written_bytes })
    }
}

/// Takes rows in any order: gathers them ([`Self::gather`]), and when there are many ([`Self::is_full`]) gives them to
/// whoever sorts and writes them ([`Self::take`], [`Gathered::spill`], [`Self::put`]).
#[derive(Debug)]
pub struct Sorter {
    plan: Arc<Plan>,
    found: u64,
    pending: ColumnsBuilder,
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
        let pending = ColumnsBuilder::new(&layout.types);
        let is_reversed = order.is_reversed;
        let plan = Plan { layout, kept, output, is_reversed, limit, run_bytes, part_bytes };
        Self { plan: Arc::new(plan), found: 0, pending, runs: None }
    }

    /// Take a row.
    pub fn gather(&mut self, mut value: impl FnMut(usize) -> Value) {
        let mut values: Vec<Value> = self.plan.kept.iter().map(|position| value(*position)).collect();
        values.insert(self.plan.layout.key_len - 1, Number::U64(self.found).into());
        self.found += 1;
        self.pending.push(&values);
    }

    /// About how much waits in memory, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Whether what waits is to be sorted.
    pub fn is_full(&self) -> bool {
        self.pending_bytes() >= self.plan.run_bytes
    }

    /// What waits, to be sorted; `is_last` if no other row comes.
    pub fn take(&mut self, is_last: bool) -> Gathered {
        let pending = ColumnsBuilder::new(&self.plan.layout.types);
        let rows = std::mem::replace(&mut self.pending, pending).finish();
        Gathered { plan: self.plan.clone(), rows, runs: self.runs.take(), is_last }
    }

    /// What was taken is sorted.
    pub fn put(&mut self, Spilled { rows, runs, .. }: Spilled) {
        self.pending.push_range(&rows, 0..rows.len());
        self.runs = runs;
    }

    /// Take rows, and sort and write them when there are many.
    ///
    /// # Errors
    /// Those of [`Gathered::spill`].
    pub fn push(&mut self, rows: &Columns, scratch: &OpenScratch<'_>) -> Result<()> {
        for row in 0..rows.len() {
            self.gather(|position| rows.value(position, row));
            if self.is_full() {
                let spilled = self.take(false).spill(scratch)?;
                self.put(spilled);
            }
        }
        Ok(())
    }

    /// The rows in order, of which those that wait were taken as the last and sorted.
    pub fn finish(self, Spilled { rows, runs, .. }: Spilled) -> Sorted {
        let mut parts = runs.as_ref().map_or_else(Vec::new, |runs| Runs::parts(&[runs]));
        if !self.plan.is_reversed {
            parts.reverse();
        }
        let next = Some(rows).filter(|_| runs.is_none());
        Sorted { left: self.plan.limit, plan: self.plan, runs, parts, next, taken: 0 }
    }
}

/// Rows in order.
#[derive(Debug)]
pub struct Sorted {
    plan: Arc<Plan>,
    left: u64,
    runs: Option<Runs>,
    /// The parts of the keys that were not merged yet, the next one last.
    parts: Vec<KeyRange>,
    /// The rows that were merged, and how many of them were given.
    next: Option<Columns>,
    taken: usize,
}

/// A part of the rows, which is to be merged out of runs.
#[derive(Clone, Debug)]
pub struct SortedPart {
    plan: Arc<Plan>,
    runs: Runs,
    range: KeyRange,
}

impl SortedPart {
    /// Its rows, for [`Sorted::put`].
    ///
    /// # Errors
    /// 500 if what was written cannot be read.
    pub fn read(&self) -> Result<Columns> {
        self.runs.gather(&self.plan.layout, &self.range).map_err(Error::internal)
    }
}

impl Sorted {
    /// The next rows that are at hand, at least one, in order.
    pub fn take(&mut self) -> Option<Columns> {
        let rows = self.next.as_ref().filter(|rows| self.taken < rows.len() && self.left > 0)?;
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = SORTED_CHUNK_ROWS.min(rows.len() - self.taken).min(left);
        let is_reversed = self.plan.is_reversed;
        let places: Vec<usize> = (self.taken..self.taken + wanted)
            .map(|place| if is_reversed { rows.len() - 1 - place } else { place })
            .collect();
        self.taken += wanted;
        self.left -= wanted as u64;
        Some(rows.take(&places).project(&self.plan.output))
    }

    /// What is to be read before there are more; none if these were all.
    pub fn next_part(&mut self) -> Option<SortedPart> {
        self.next = None;
        let (runs, range) = (self.runs.as_ref()?, self.parts.pop().filter(|_| self.left > 0)?);
        Some(SortedPart { plan: self.plan.clone(), runs: runs.clone(), range })
    }

    /// The rows of that part.
    pub fn put(&mut self, rows: Columns) {
        (self.next, self.taken) = (Some(rows), 0);
    }

    /// The next rows, at least one, in order.
    ///
    /// # Errors
    /// 500 if what was written cannot be read.
    pub fn next_rows(&mut self) -> Result<Option<Columns>> {
        loop {
            if let Some(rows) = self.take() {
                return Ok(Some(rows));
            }
            match self.next_part() {
                Some(part) => self.put(part.read()?),
                None => return Ok(None),
            }
        }
    }
}

fn no_space(cause: String) -> Error {
    Error::unavailable(format_args!("there is no space to sort rows in --workspace: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::runs::MemoryScratch;
    use crate::value::error::ErrorKind;

    /// Sort so many rows with a text of so many bytes by it, in runs of 4 KiB.
    fn sorted(rows: u64, text_bytes: usize, scratch: &OpenScratch<'_>) -> Result<Sorted> {
        let types = [ColumnType::Number(NumberType::U64), ColumnType::String];
        let order = Order { by: vec![1], is_reversed: false };
        let mut sorter = Sorter::new(&types, &order, Some(&[0]), u64::MAX, 4 << 10, 2 << 10);
        for row in 0..rows {
            let text = format!("{:>text_bytes$}", rows - row);
            sorter.gather(|position| if position == 0 { row.into() } else { text.as_str().into() });
            if sorter.is_full() {
                let spilled = sorter.take(false).spill(scratch)?;
                sorter.put(spilled);
            }
        }
        let last = sorter.take(true).spill(scratch)?;
        Ok(sorter.finish(last))
    }

    fn in_memory() -> std::result::Result<Arc<dyn Scratch>, String> {
        Ok(Arc::new(MemoryScratch::default()))
    }

    #[test]
    fn rows_of_many_runs_come_in_order() {
        let mut sorted = sorted(2_000, 10, &in_memory).unwrap();
        let mut expected = (0..2_000_u64).rev();
        while let Some(rows) = sorted.next_rows().unwrap() {
            for row in 0..rows.len() {
                assert_eq!(rows.value(0, row), expected.next().unwrap().into());
            }
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn without_space_it_is_said_that_there_is_none() {
        let full = || {
            let scratch = MemoryScratch::default();
            scratch.fill();
            Ok(Arc::new(scratch) as Arc<dyn Scratch>)
        };
        let none = || Err("the directory is gone".to_string());
        for (scratch, why) in
            [(&full as &OpenScratch<'_>, "no space is left"), (&none, "the directory is gone")]
        {
            let error = sorted(2_000, 10, scratch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.message().contains("--workspace") && error.message().contains(why), "{error}");
        }
        assert!(sorted(20, 10, &none).is_ok(), "what fits in memory needs none");
    }

    #[test]
    fn what_is_known_of_runs_has_a_bound() {
        let error = sorted(4_000, 1_000, &in_memory).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("an index has them in order"), "{error}");
    }
}
