//! Keys are found: a key is parsed once, and then its parts are compared in the columns' own form.

use std::borrow::Cow;
use std::ops::Range;

use super::native::Native;
use super::{Column, Columns, match_column};
use crate::collection::schema::Layout;

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
            let rank = T::rank_of_key(key)?;
            let values = &values[rows.clone()];
            let start = values.partition_point(|value| value.rank() < rank);
            // Most often, and of a key of one column always, there is one row at most.
            let end = match values.get(start + 1) {
                Some(value) if value.rank() == rank => values.partition_point(|value| value.rank() <= rank),
                _ => start + usize::from(values.get(start).is_some_and(|value| value.rank() == rank)),
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
