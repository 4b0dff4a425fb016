//! Changes become new pages, and rows in any order become sorted ones.

use std::cmp::Ordering;
use std::ops::Range;

use arrow_array::BinaryArray;

use super::native::Native;
use super::{Column, Columns, ColumnsBuilder, match_column};
use crate::rows::Row;
use crate::rows::key::Key;
use crate::rows::schema::{ColumnType, Layout};

/// The most memory that the rows of a page take, in bytes, unless it is a single row.
pub const PAGE_BYTES: usize = 64 << 10;

/// The most rows of a page.
pub const PAGE_ROWS: usize = 4096;

/// How large a page becomes at most.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// The most memory that its rows take, in bytes, unless it is a single row.
    pub bytes: usize,
    /// The most rows.
    pub rows: usize,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { bytes: PAGE_BYTES, rows: PAGE_ROWS }
    }
}

/// The new content of a page: `base` after `changes`, in pages of at most this size; none if no row is left.
/// Of rows of one size no page has less than half as many as another. A change gives the row of a key or, without one,
/// deletes it.
///
/// # Panics
/// If the changes are not in order of key, or a row is not of the types of the layout.
pub fn fold(
    layout: &Layout,
    base: Option<&Columns>,
    changes: &[(Key, Option<Row>)],
    size: PageSize,
) -> Vec<Columns> {
    assert!(changes.is_sorted_by(|(this, _), (that, _)| this < that), "changes are in order of key");
    let changed = Columns::from_rows(
        &layout.types,
        changes.iter().filter_map(|(_, row)| row.as_ref().map(|row| &row[..])),
    );
    let mut runs = Runs::default();
    let (mut kept, mut added) = (0, 0);
    for (key, row) in changes {
        if let Some(base) = base {
            let place = base.search(layout, key, kept..base.len());
            let at = place.unwrap_or_else(|row| row);
            runs.push(base, kept..at);
            kept = at + usize::from(place.is_ok());
        }
        if row.is_some() {
            runs.push(&changed, added..added + 1);
            added += 1;
        }
    }
    if let Some(base) = base {
        runs.push(base, kept..base.len());
    }
    runs.cut(&layout.types, size)
}

/// Rows that are sorted by key, in pages of the usual size as [`fold`] makes them.
pub fn cut(columns: &Columns) -> Vec<Columns> {
    let mut runs = Runs::default();
    runs.push(columns, 0..columns.len());
    runs.cut(&columns.types, PageSize::default())
}

/// Rows of some columns, one run after the other.
#[derive(Default)]
struct Runs<'a> {
    runs: Vec<(&'a Columns, Range<usize>)>,
    rows: usize,
    bytes: usize,
}

impl<'a> Runs<'a> {
    fn push(&mut self, columns: &'a Columns, rows: Range<usize>) {
        if rows.is_empty() {
            return;
        }
        self.rows += rows.len();
        self.bytes += columns.range_bytes(rows.clone());
        match self.runs.last_mut() {
            Some((last, run)) if std::ptr::eq(*last, columns) && run.end == rows.start => run.end = rows.end,
            _ => self.runs.push((columns, rows)),
        }
    }

    fn cut(self, types: &std::sync::Arc<[ColumnType]>, size: PageSize) -> Vec<Columns> {
        let mut pages = Vec::new();
        let Self { runs, rows: mut rows_left, bytes: mut bytes_left } = self;
        let mut runs = runs.into_iter();
        let mut run = runs.next();
        while run.is_some() {
            // As many pages as the tighter of both limits demands, each with its share of what is left.
            let (by_bytes, by_rows) = (bytes_left.div_ceil(size.bytes), rows_left.div_ceil(size.rows));
            let (bytes_share, rows_share) = match by_bytes > by_rows {
                true => (bytes_left.div_ceil(by_bytes), usize::MAX),
                false => (usize::MAX, rows_left.div_ceil(by_rows.max(1))),
            };
            let mut page = ColumnsBuilder::with_capacity(types, rows_left.min(size.rows));
            let mut bytes = 0;
            while let Some((columns, rows)) = &mut run {
                let with = |count: usize| bytes + columns.range_bytes(rows.start..rows.start + count);
                let fits = |count: usize| {
                    let is_within = page.len() + count <= size.rows && with(count) <= size.bytes;
                    is_within && with(count - 1) < bytes_share && page.len() + count - 1 < rows_share
                };
                let mut count = match fits(rows.len()) {
                    true => rows.len(),
                    false => super::search::partition_point(1..rows.len(), fits) - 1,
                };
                if count == 0 && page.is_empty() {
                    count = 1; // A row that is larger than a page is one of its own.
                }
                bytes = with(count);
                page.push_range(columns, rows.start..rows.start + count);
                rows.start += count;
                if rows.start < rows.end {
                    break;
                }
                run = runs.next();
            }
            rows_left -= page.len();
            bytes_left = bytes_left.saturating_sub(bytes);
            pages.push(page.finish());
        }
        pages
    }
}

/// The same rows sorted by key; of rows with equal keys the last one remains. Rows that are sorted are only looked at.
///
/// # Panics
/// If the columns are not those of the layout.
pub fn sort(layout: &Layout, columns: Columns) -> Columns {
    assert_eq!(columns.types, layout.types, "the columns of the layout");
    let keys: Vec<Column> = (0..layout.key_len).map(|column| columns.comparable(column)).collect();
    let compare = |this: usize, that: usize| {
        keys.iter()
            .map(|column| column.compare(this, that))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let is_sorted = keys.first().is_some_and(Column::is_ascending)
        || (1..columns.len()).all(|row| compare(row - 1, row).is_lt());
    if is_sorted {
        return columns;
    }
    // Most rows differ in the first bytes of their keys.
    let mut rows: Vec<(u64, usize)> = (0..columns.len())
        .map(|row| (keys.first().map_or(0, |column| column.first_rank(row)), row))
        .collect();
    rows.sort_unstable_by(|(this_rank, this), (that_rank, that)| {
        this_rank.cmp(that_rank).then_with(|| compare(*this, *that)).then_with(|| this.cmp(that))
    });
    let mut order: Vec<usize> = Vec::with_capacity(rows.len());
    for (_, row) in rows {
        match order.last_mut() {
            Some(last) if compare(*last, row).is_eq() => *last = row,
            _ => order.push(row),
        }
    }
    columns.take(&order)
}

impl Columns {
    /// The memory that a run of rows takes, in bytes.
    fn range_bytes(&self, rows: Range<usize>) -> usize {
        self.columns.iter().map(|column| column.bytes(rows.clone())).sum()
    }

    /// A column whose own order is that of keys.
    fn comparable(&self, column: usize) -> Column {
        match &self.columns[column] {
            Column::Encoded(_) => {
                let mut key = Vec::new();
                Column::Bytes(BinaryArray::from_iter_values((0..self.len).map(|row| {
                    key.clear();
                    self.columns[column].encode_key(self.types[column], row, &mut key);
                    key.clone()
                })))
            }
            other => other.clone(),
        }
    }
}

impl Column {
    /// The order of two rows of a column that is comparable.
    fn compare(&self, this: usize, that: usize) -> Ordering {
        match_column!(Column, self,
            Native(values) => values[this].rank().cmp(&values[that].rank()),
            Column::Bool(values) => values.value(this).cmp(&values.value(that)),
            Column::String(texts) => texts.value(this).cmp(texts.value(that)),
            Column::Bytes(contents) | Column::Encoded(contents) => contents.value(this).cmp(contents.value(that)),
        )
    }

    /// Whether these are numbers of which each is greater than the one before.
    fn is_ascending(&self) -> bool {
        fn natives<T: Native>(values: &[T]) -> bool {
            values.is_sorted_by(|this, that| this.rank() < that.rank())
        }
        match_column!(Column, self,
            Native(values) => natives(values),
            Column::Bool(_) | Column::String(_) | Column::Bytes(_) | Column::Encoded(_) => false,
        )
    }

    /// A number that is not greater than that of any greater value of this column, which is comparable.
    fn first_rank(&self, row: usize) -> u64 {
        fn rank<T: Native>(value: T) -> u64 {
            value.rank().into()
        }
        fn first(content: &[u8]) -> u64 {
            content.first_chunk().map_or_else(
                || content.iter().chain(&[0; 8]).take(8).fold(0, |rank, byte| rank << 8 | u64::from(*byte)),
                |bytes| u64::from_be_bytes(*bytes),
            )
        }
        match_column!(Column, self,
            Native(values) => rank(values[row]),
            Column::Bool(values) => values.value(row).into(),
            Column::String(texts) => first(texts.value(row).as_bytes()),
            Column::Bytes(contents) | Column::Encoded(contents) => first(contents.value(row)),
        )
    }
}
