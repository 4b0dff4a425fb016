//! Conditions: of all rows of a page at once, and of whole pages by their statistics.

use std::ops::{Bound, Range, RangeBounds};

use arrow_array::Array;
use arrow_buffer::{BooleanBuffer, Buffer, ScalarBuffer};

use super::native::{Native, ranks};
use super::{Column, Columns, match_column};
use crate::rows::bound::{Condition, ValueRange};
use crate::rows::schema::ColumnType;
use crate::value::Value;
use crate::value::number::Number;

/// The most bytes of a text that are kept in statistics.
pub const STATISTICS_TEXT_BYTES: usize = 32;

/// Which rows of a range meet some conditions.
#[derive(Clone, Debug)]
pub struct Selection {
    start: usize,
    mask: BooleanBuffer,
}

impl Selection {
    /// Every row of a range.
    pub fn all(rows: Range<usize>) -> Self {
        Self { start: rows.start, mask: BooleanBuffer::new_set(rows.len()) }
    }

    /// The range of rows of which this says whether they are selected.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.mask.len()
    }

    /// How many rows are selected.
    pub fn count(&self) -> usize {
        self.mask.count_set_bits()
    }

    /// Whether no row is selected.
    pub fn is_empty(&self) -> bool {
        !self.mask.has_true()
    }

    /// Whether a row is selected.
    ///
    /// # Panics
    /// If it is not in the range.
    pub fn contains(&self, row: usize) -> bool {
        self.mask.value(row - self.start)
    }

    /// The selected rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.mask.set_indices().map(|row| self.start + row)
    }

    /// The selected rows as runs of neighbours, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.mask.set_slices().map(|(start, end)| self.start + start..self.start + end)
    }
}

impl Columns {
    /// The rows of a range that meet all conditions.
    ///
    /// # Panics
    /// If there is no such row or column.
    pub fn select(&self, conditions: &[Condition], rows: Range<usize>) -> Selection {
        assert!(rows.start <= rows.end && rows.end <= self.len, "{rows:?} of {} rows", self.len);
        let mut mask: Option<BooleanBuffer> = None;
        // Numbers are compared many at a time; other values one by one, and only where the rest is met.
        let is_fast = |condition: &&Condition| self.columns[condition.column].is_fast();
        let fast = conditions.iter().filter(is_fast);
        for condition in fast.chain(conditions.iter().filter(|condition| !is_fast(condition))) {
            let met = self.columns[condition.column].select(&condition.range, &rows, mask.as_ref());
            mask = Some(match mask {
                Some(mask) => &mask & &met,
                None => met,
            });
        }
        mask.map_or_else(|| Selection::all(rows.clone()), |mask| Selection { start: rows.start, mask })
    }

    /// The selected rows alone.
    ///
    /// # Panics
    /// If the selection has rows that are not there.
    pub fn filter(&self, selection: &Selection) -> Columns {
        let mut builder = super::ColumnsBuilder::with_capacity(&self.types, selection.count());
        selection.runs().for_each(|run| builder.push_range(self, run));
        builder.finish()
    }

    /// Between which values each column is, for [`may_match`]; none where that is unknown, as it is without rows.
    /// Texts are cut to [`STATISTICS_TEXT_BYTES`].
    pub fn statistics(&self) -> Vec<Option<ValueRange>> {
        if self.is_empty() {
            return vec![None; self.columns.len()];
        }
        let statistics = |(column, class): (&Column, &ColumnType)| column.statistics(*class);
        self.columns.iter().zip(self.types.iter()).map(statistics).collect()
    }
}

/// Whether a page with these statistics may have rows that meet all conditions; if not, it can be skipped.
pub fn may_match(statistics: &[Option<ValueRange>], conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| {
        statistics.get(condition.column).and_then(Option::as_ref).is_none_or(|range| {
            reaches(&condition.range.start, &range.end) && reaches(&range.start, &condition.range.end)
        })
    })
}

/// Whether some value may be both beyond a start and before an end.
fn reaches(start: &Bound<Value>, end: &Bound<Value>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(start), Bound::Included(end)) => start.collate(end).is_le(),
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start.collate(end).is_lt()
        }
    }
}

impl Column {
    /// Whether conditions are tested of many rows at a time.
    fn is_fast(&self) -> bool {
        !matches!(self, Column::String(_) | Column::Bytes(_) | Column::Encoded(_))
    }

    /// Which of the rows are in a range. Where rows are tested one by one, only those of the mask are.
    fn select(&self, range: &ValueRange, rows: &Range<usize>, mask: Option<&BooleanBuffer>) -> BooleanBuffer {
        fn natives<T: Native>(values: &[T], range: &ValueRange) -> Option<BooleanBuffer> {
            Some(match ranks::<T>(range)? {
                Some((start, end)) => pack(values, T::is_within(start, end)),
                None => BooleanBuffer::new_unset(values.len()),
            })
        }
        if range.is_empty() {
            return BooleanBuffer::new_unset(rows.len());
        }
        let met = match_column!(Column, self,
            Native(values) => natives(&values[rows.clone()], range),
            Column::Bool(values) => {
                let holds = |flag: bool| range.contains(&Value::from(flag));
                Some(match (holds(false), holds(true)) {
                    (true, true) => BooleanBuffer::new_set(rows.len()),
                    (false, true) => values.slice(rows.start, rows.len()),
                    (true, false) => !&values.slice(rows.start, rows.len()),
                    (false, false) => BooleanBuffer::new_unset(rows.len()),
                })
            }
            Column::String(texts) => {
                select_contents(range, text, rows, mask, |row| texts.value(row).as_bytes())
            }
            Column::Bytes(contents) => select_contents(range, bytes, rows, mask, |row| contents.value(row)),
            Column::Encoded(_) => None,
        );
        met.unwrap_or_else(|| select_one_by_one(rows, mask, |row| range.contains(&self.value(row))))
    }

    fn statistics(&self, class: ColumnType) -> Option<ValueRange> {
        fn natives<T: Native>(values: &[T]) -> Option<(Value, Value)> {
            let ranks = || values.iter().map(|value| value.rank());
            let (least, greatest) = (T::from_rank(ranks().min()?), T::from_rank(ranks().max()?));
            Some((Value::Number(least.number()), Value::Number(greatest.number())))
        }
        let (least, greatest) = match_column!(Column, self,
            Native(values) => natives(values)?,
            Column::Bool(values) => (Value::from(!values.has_false()), Value::from(values.has_true())),
            Column::String(texts) => {
                let (least, greatest) = extent(texts.len(), |row| texts.value(row))?;
                let start = &least[..least.floor_char_boundary(STATISTICS_TEXT_BYTES)];
                let end = match greatest.len() <= STATISTICS_TEXT_BYTES {
                    true => Bound::Included(greatest.into()),
                    false => text_above(greatest).map_or(Bound::Unbounded, |text| {
                        Bound::Excluded(Value::String(text.into()))
                    }),
                };
                return Some(ValueRange { start: Bound::Included(start.into()), end });
            }
            Column::Bytes(contents) => {
                let (least, greatest) = extent(contents.len(), |row| contents.value(row))?;
                let start = Value::Bytes(least[..least.len().min(STATISTICS_TEXT_BYTES)].into());
                let end = match greatest.len() <= STATISTICS_TEXT_BYTES {
                    true => Bound::Included(Value::Bytes(greatest.into())),
                    false => bytes_above(greatest).map_or(Bound::Unbounded, |content| {
                        Bound::Excluded(Value::Bytes(content.into()))
                    }),
                };
                return Some(ValueRange { start: Bound::Included(start), end });
            }
            Column::Encoded(contents) => {
                if !matches!(class, ColumnType::Number(_)) {
                    return None;
                }
                let numbers = || (0..contents.len()).filter_map(|row| match self.value(row) {
                    Value::Number(number) => Some(number),
                    _ => None,
                });
                let least = numbers().min_by(Number::collate)?;
                let greatest = numbers().max_by(Number::collate)?;
                (Value::Number(least), Value::Number(greatest))
            }
        );
        Some(ValueRange { start: Bound::Included(least), end: Bound::Included(greatest) })
    }
}

/// The least and the greatest of some values.
fn extent<T: Copy + Ord>(len: usize, value: impl Fn(usize) -> T) -> Option<(T, T)> {
    Some(((0..len).map(&value).min()?, (0..len).map(&value).max()?))
}

/// A short text that is greater than any that begins like this one; none if there is no such text.
fn text_above(text: &str) -> Option<String> {
    let mut above = text[..text.floor_char_boundary(STATISTICS_TEXT_BYTES)].to_string();
    while let Some(last) = above.pop() {
        // The next character may be a byte longer than the one that it replaces, which does no harm.
        if let Some(next) = (last..=char::MAX).nth(1) {
            above.push(next);
            return Some(above);
        }
    }
    None
}

/// As [`text_above`], for bytes.
fn bytes_above(content: &[u8]) -> Option<Vec<u8>> {
    let mut above = content[..STATISTICS_TEXT_BYTES].to_vec();
    while let Some(last) = above.pop() {
        if last < u8::MAX {
            above.push(last + 1);
            return Some(above);
        }
    }
    None
}

/// The text of a value, if it is one.
fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The bytes of a value, if it is made of them.
fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(content) => Some(content),
        _ => None,
    }
}

/// The rows that pass a test, out of those of the mask.
fn select_one_by_one(
    rows: &Range<usize>,
    mask: Option<&BooleanBuffer>,
    meets: impl Fn(usize) -> bool,
) -> BooleanBuffer {
    let Some(mask) = mask else {
        return BooleanBuffer::collect_bool(rows.len(), |row| meets(rows.start + row));
    };
    let mut met = vec![0_u64; rows.len().div_ceil(64)];
    for row in mask.set_indices().filter(|row| meets(rows.start + row)) {
        met[row / 64] |= 1 << (row % 64);
    }
    BooleanBuffer::new(Buffer::from_vec(met), 0, rows.len())
}

/// The rows whose content is in a range, out of those of the mask; none if a bound has no such content.
fn select_contents<'a>(
    range: &ValueRange,
    bound_content: fn(&Value) -> Option<&[u8]>,
    rows: &Range<usize>,
    mask: Option<&BooleanBuffer>,
    content: impl Fn(usize) -> &'a [u8],
) -> Option<BooleanBuffer> {
    if let Some(equal) = range.as_equal() {
        let equal = bound_content(equal)?;
        return Some(select_one_by_one(rows, mask, |row| content(row) == equal));
    }
    fn bound(bound: &Bound<Value>, content: fn(&Value) -> Option<&[u8]>) -> Option<Bound<&[u8]>> {
        Some(match bound {
            Bound::Included(value) => Bound::Included(content(value)?),
            Bound::Excluded(value) => Bound::Excluded(content(value)?),
            Bound::Unbounded => Bound::Unbounded,
        })
    }
    let bounds = (bound(&range.start, bound_content)?, bound(&range.end, bound_content)?);
    Some(select_one_by_one(rows, mask, |row| RangeBounds::<[u8]>::contains(&bounds, content(row))))
}

/// One bit for each value. Of 64 values at a time first a byte each is computed, which the compiler does for many values
/// at once, and then eight bytes become eight bits by one multiplication.
fn pack<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> BooleanBuffer {
    const ROWS: usize = 64;
    let word = |chunk: &[T]| {
        let mut flags = [0_u8; ROWS];
        flags.iter_mut().zip(chunk).for_each(|(flag, value)| *flag = holds(*value).into());
        flags.as_chunks::<8>().0.iter().enumerate().fold(0, |word, (i, flags)| {
            let byte = u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            word | byte << (i * 8)
        })
    };
    let words: ScalarBuffer<u64> = values.chunks(ROWS).map(word).collect();
    BooleanBuffer::new(words.into_inner(), 0, values.len())
}
