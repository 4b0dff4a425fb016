//! Keys are found: a key is parsed once, and then its parts are compared in the columns' own form.

use std::borrow::Cow;
use std::ops::Range;

use super::native::Native;
use super::{Column, Columns, match_column};
use crate::rows::schema::Layout;

impl Columns {
    /// The first row whose key is at least these bytes, which need not be a whole key; the rows are sorted by key.
    pub fn lower_bound(&self, layout: &Layout, key: &[u8]) -> usize {
        self.search(layout, key, 0..self.len).unwrap_or_else(|row| row)
    }

    /// The row with a key; the rows are sorted by key.
    pub fn find(&self, layout: &Layout, key: &[u8]) -> Option<usize> {
        self.search(layout, key, 0..self.len).ok()
    }

    /// The row with a key among some rows that are sorted by key; if there is none, where it would be.
    pub(super) fn search(&self, layout: &Layout, key: &[u8], rows: Range<usize>) -> Result<usize, usize> {
        let (mut rows, mut key) = (rows, key);
        let columns = &self.columns[..layout.key_len];
        for (i, column) in columns.iter().enumerate() {
            if rows.is_empty() {
                return Err(rows.start);
            }
            // Rows that are equal so far are sorted by the next column.
            let Some((equal, rest)) = column.equal_range(&rows, key) else {
                return self.search_encoded(layout, i, key, rows);
            };
            (rows, key) = (equal, rest);
        }
        match (rows.is_empty(), key.is_empty()) {
            (true, _) => Err(rows.start),
            (false, true) => Ok(rows.start),
            // A key that goes on after all of its columns is greater than the one that it begins with.
            (false, false) => Err(rows.end),
        }
    }

    /// As [`Self::search`], by the encoded rest of the keys: the columns from `first` on.
    fn search_encoded(
        &self,
        layout: &Layout,
        first: usize,
        key: &[u8],
        rows: Range<usize>,
    ) -> Result<usize, usize> {
        let mut encoded = Vec::new();
        let mut compare = |row: usize| {
            encoded.clear();
            for (class, column) in layout.types.iter().zip(&self.columns[..layout.key_len]).skip(first) {
                column.encode_key(*class, row, &mut encoded);
            }
            encoded.as_slice().cmp(key)
        };
        let start = partition_point(rows.clone(), |row| compare(row).is_lt());
        if start < rows.end && compare(start).is_eq() { Ok(start) } else { Err(start) }
    }
}

impl Column {
    /// The rows, of some that are sorted by this column, whose value is the one that the key begins with, and the rest
    /// of the key. None if the key does not begin with a whole value, or that cannot be told.
    fn equal_range<'a>(&self, rows: &Range<usize>, key: &'a [u8]) -> Option<(Range<usize>, &'a [u8])> {
        fn natives<'a, T: Native>(
            values: &[T],
            rows: &Range<usize>,
            key: &'a [u8],
        ) -> Option<(Range<usize>, &'a [u8])> {
            let rank = T::rank_of_key(key)?.into();
            let values = &values[rows.clone()];
            let rank_of = |row: usize| values[row].rank().into();
            let start = first_at_least(0..values.len(), rank_of, rank);
            let is_equal = |row: usize| row < values.len() && rank_of(row) == rank;
            // Most often, and of a key of one column always, there is one row at most.
            let end = match (is_equal(start), is_equal(start + 1)) {
                (false, _) => start,
                (true, false) => start + 1,
                (true, true) => match rank.checked_add(1) {
                    Some(next) => first_at_least(start + 2..values.len(), rank_of, next),
                    None => values.len(),
                },
            };
            Some((rows.start + start..rows.start + end, &key[size_of::<T>()..]))
        }
        fn contents<'a, 'b>(
            content: impl Fn(usize) -> &'b [u8],
            rows: &Range<usize>,
            key: &'a [u8],
        ) -> Option<(Range<usize>, &'a [u8])> {
            let (text, rest) = unescape(key)?;
            let start = partition_point(rows.clone(), |row| content(row) < &*text);
            let is_equal = |row: usize| row < rows.end && content(row) == &*text;
            let end = match (is_equal(start), is_equal(start + 1)) {
                (false, _) => start,
                (true, false) => start + 1,
                (true, true) => partition_point(start + 2..rows.end, |row| content(row) <= &*text),
            };
            Some((start..end, rest))
        }
        match_column!(Column, self,
            Native(values) => natives(values, rows, key),
            Column::Bool(values) => {
                let (flag, rest) = key.split_first()?;
                let start = partition_point(rows.clone(), |row| u8::from(values.value(row)) < *flag);
                let end = partition_point(start..rows.end, |row| u8::from(values.value(row)) <= *flag);
                Some((start..end, rest))
            }
            Column::String(texts) => contents(|row| texts.value(row).as_bytes(), rows, key),
            Column::Bytes(bytes) => contents(|row| bytes.value(row), rows, key),
            Column::Encoded(_) => None,
        )
    }
}

/// The text that a key begins with, and the rest of the key; none if no whole text is there.
fn unescape(key: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut text = Cow::Borrowed(&key[..0]);
    let mut rest = key;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        let (part, after) = rest.split_at(zero);
        match after.get(1)? {
            0 => {
                if text.is_empty() {
                    text = Cow::Borrowed(part);
                } else {
                    text.to_mut().extend_from_slice(part);
                }
                return Some((text, &after[2..]));
            }
            &u8::MAX => {
                let text = text.to_mut();
                text.extend_from_slice(part);
                text.push(0);
                rest = &after[2..];
            }
            _ => return None,
        }
    }
}

/// The first row of a range for which something no longer holds.
pub(super) fn partition_point(rows: Range<usize>, mut holds: impl FnMut(usize) -> bool) -> usize {
    let Range { mut start, mut end } = rows;
    while start < end {
        let middle = start + (end - start) / 2;
        if holds(middle) {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    start
}

/// How often a place is guessed from where the rank lies between those at the ends.
const GUESSES_MAX: usize = 3;

/// How far from the last guess its other side is looked for at first, in rows: 64 bytes of the widest numbers.
const STRIDE: usize = 8;

/// How often it is looked for, each time [`STRIDE`] times as far away.
const STRIDES_MAX: usize = 2;

/// The first row of a range whose rank is at least this one; the ranks ascend.
///
/// Ranks that are spread evenly are found where they must be, so hardly more rows are read than the ends and a guess;
/// of any other ranks, only a constant number more than a binary search reads.
fn first_at_least(rows: Range<usize>, rank_of: impl Fn(usize) -> u64, rank: u64) -> usize {
    if rows.len() <= STRIDE {
        return partition_point(rows, |row| rank_of(row) < rank);
    }
    let (mut low, mut high) = (rows.start, rows.end - 1);
    let (mut low_rank, mut high_rank) = (rank_of(low), rank_of(high));
    if low_rank >= rank {
        return low;
    }
    if high_rank < rank {
        return rows.end;
    }
    // From here on, the rank at `low` is too low, and that at `high` is not.
    let mut is_guess_low = true;
    for _ in 0..GUESSES_MAX {
        if high - low <= STRIDE {
            break;
        }
        // It is a guess, so it may be rounded.
        let share = (rank - low_rank) as f64 / (high_rank - low_rank) as f64;
        let guess = (low + (share * (high - low) as f64) as usize).clamp(low + 1, high - 1);
        let guess_rank = rank_of(guess);
        is_guess_low = guess_rank < rank;
        if is_guess_low {
            (low, low_rank) = (guess, guess_rank);
        } else {
            (high, high_rank) = (guess, guess_rank);
        }
    }
    // The guesses may all be on one side, so the other end is still far away.
    let mut stride = STRIDE;
    for _ in 0..STRIDES_MAX {
        if high - low <= stride {
            break;
        }
        let row = if is_guess_low { low + stride } else { high - stride };
        let is_low = rank_of(row) < rank;
        if is_low {
            low = row;
        } else {
            high = row;
        }
        if is_low != is_guess_low {
            break;
        }
        stride *= STRIDE;
    }
    partition_point(low + 1..high, |row| rank_of(row) < rank)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::rows::columns::native::Native;

    /// What a search finds, how many rows it reads, and how many runs of as many rows as a cache line holds.
    fn search(ranks: &[u64], rank: u64) -> (usize, usize, usize) {
        let read = RefCell::new(Vec::new());
        let rank_of = |row: usize| {
            read.borrow_mut().push(row);
            ranks[row]
        };
        let found = first_at_least(0..ranks.len(), rank_of, rank);
        let read = read.into_inner();
        let lines: BTreeSet<usize> = read.iter().map(|row| row / STRIDE).collect();
        (found, read.len(), lines.len())
    }

    fn any_rank() -> impl Strategy<Value = u64> {
        let extreme = prop::sample::select(vec![0, 1, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX]);
        prop_oneof![
            any::<u64>(),
            0..100u64,
            any::<u64>().prop_map(|x| x >> (x % 64)),
            (1u64 << 62) - 50..(1 << 62) + 50,
            u64::MAX - 100..u64::MAX,
            extreme,
        ]
    }

    fn any_ranks() -> impl Strategy<Value = Vec<u64>> {
        let spread = prop::collection::vec(any::<u64>(), 0..600);
        let crowded = prop::collection::vec(0..50u64, 0..600);
        let mixed = prop::collection::vec(any_rank(), 0..600);
        let skewed = prop::collection::vec(any::<u64>().prop_map(|x| x >> (x % 64)), 0..600);
        let constant = (any_rank(), 0..600usize).prop_map(|(rank, len)| vec![rank; len]);
        prop_oneof![spread, crowded, mixed, skewed, constant].prop_map(|mut ranks| {
            ranks.sort_unstable();
            ranks
        })
    }

    proptest! {
        #[test]
        fn ranks_are_found_as_by_a_binary_search_and_hardly_more_rows_are_read(
            ranks in any_ranks(),
            others in prop::collection::vec(any_rank(), 8),
        ) {
            // Both ends, each guess, each stride.
            let more = 2 + GUESSES_MAX + STRIDES_MAX;
            let binary = ranks.len().checked_ilog2().map_or(0, |log| log as usize + 1);
            let beside = ranks.iter().flat_map(|rank| [rank.saturating_sub(1), *rank, rank.saturating_add(1)]);
            for rank in beside.chain(others) {
                let (found, read, _) = search(&ranks, rank);
                prop_assert_eq!(found, ranks.partition_point(|other| *other < rank), "{}", rank);
                prop_assert!(read <= binary + more, "{} rows of {} are read", read, ranks.len());
            }
        }

        #[test]
        fn signed_numbers_are_found(
            mut numbers in prop::collection::vec(any::<i64>(), 1..300),
            other in any::<i64>(),
        ) {
            numbers.extend([i64::MIN, i64::MAX, 0]);
            numbers.sort_unstable();
            for number in numbers.iter().copied().chain([other]) {
                let found = first_at_least(0..numbers.len(), |row| numbers[row].rank(), number.rank());
                prop_assert_eq!(found, numbers.partition_point(|before| *before < number));
            }
        }
    }

    #[test]
    fn few_lines_are_read_for_random_keys() {
        // A permutation of all numbers of 64 bits that looks random.
        let random = |i: u64| {
            (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes().wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let mut ranks: Vec<u64> = (0..4_096).map(random).collect();
        ranks.sort_unstable();
        let lines: usize = ranks.iter().map(|rank| search(&ranks, *rank).2).sum();
        // A binary search reads nine or ten.
        assert!(lines <= 5 * ranks.len(), "{lines} lines for {} keys", ranks.len());
    }

    #[test]
    fn the_ends_and_a_line_or_two_are_read_for_keys_that_are_spread_evenly() {
        for (start, step) in [(0, 1), (1_000_000, 10), (u64::MAX - 4_095_000, 1_000), (0, u64::MAX / 4_096)] {
            let ranks: Vec<u64> = (0..4_096).map(|i| start + i * step).collect();
            for rank in &ranks {
                let (_, read, lines) = search(&ranks, *rank);
                assert!(read <= 9 && lines <= 4, "{read} rows in {lines} lines for {rank}");
            }
        }
    }
}
