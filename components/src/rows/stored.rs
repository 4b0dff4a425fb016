//! How collections are stored: pages, handles of pages, and the effects of transactions that pages lack.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `Pages` | page | content of a base ([`super::columns`]) |
//! | `Trees` | chain, slot, tree, page | handle: where the page is in its tree |
//! | | `ff ff ff ff`, page | nothing: the page is in no tree any more |
//! | `Meta` | `last page` | the last name of a page that may have been given, 8 bytes |
//! | `Values` | chain, 2, last commit | effects of transactions, in order of commit |

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::Row;
use super::bound::ValueRange;
use super::change::RowChange;
use super::columns::{decode_value, encode_value};
use super::key::Key;
use super::page::{Page, PageCell, Statistics};
use crate::value::Value;
use crate::value::ids::{ChainId, PageId, TreeId};
use crate::value::transaction_id::TxnId;

/// No chain has this number.
pub const GARBAGE: u32 = u32::MAX;

/// Where the content of a base is stored.
pub fn page_key(page: PageId) -> Vec<u8> {
    page.0.to_be_bytes().to_vec()
}

/// What the keys of all handles of a chain begin with.
pub fn handle_prefix(chain: ChainId) -> Vec<u8> {
    assert!(chain.0 != GARBAGE, "a chain has a number");
    chain.0.to_be_bytes().to_vec()
}

/// Where the handle of a page is stored.
pub fn handle_key(TreeId { chain, slot, tree }: TreeId, page: PageId) -> Vec<u8> {
    [&handle_prefix(chain)[..], &slot.to_be_bytes(), &tree.to_be_bytes(), &page.0.to_be_bytes()].concat()
}

/// The tree and page of which a key of a handle is.
pub fn parse_handle_key(key: &[u8]) -> Option<(TreeId, PageId)> {
    let (chain, rest) = key.split_first_chunk()?;
    let (slot, rest) = rest.split_first_chunk()?;
    let (tree, rest) = rest.split_first_chunk()?;
    let tree = TreeId {
        chain: ChainId(u32::from_be_bytes(*chain)),
        slot: u16::from_be_bytes(*slot),
        tree: u16::from_be_bytes(*tree),
    };
    Some((tree, PageId(u64::from_be_bytes(rest.try_into().ok()?))))
}

/// What the keys of pages begin with that are in no tree any more.
pub fn garbage_prefix() -> Vec<u8> {
    GARBAGE.to_be_bytes().to_vec()
}

/// Where it is stored that a page is in no tree any more.
pub fn garbage_key(page: PageId) -> Vec<u8> {
    [&garbage_prefix()[..], &page.0.to_be_bytes()].concat()
}

/// The page that [`garbage_key`] names.
pub fn parse_garbage_key(key: &[u8]) -> Option<PageId> {
    let page = key.strip_prefix(&garbage_prefix()[..])?;
    Some(PageId(u64::from_be_bytes(page.try_into().ok()?)))
}

/// Where the last name of a page is stored that may have been given: none is given twice.
pub fn last_page_key() -> Vec<u8> {
    b"last page".to_vec()
}

/// What is stored at [`last_page_key`].
pub fn last_page(page: PageId) -> Bytes {
    Bytes::copy_from_slice(&page.0.to_be_bytes())
}

/// The page of [`last_page`].
///
/// # Errors
/// If it is malformed.
pub fn parse_last_page(value: &[u8]) -> Result<PageId, String> {
    let bytes = value.try_into().map_err(|_| "the last name of a page is malformed")?;
    Ok(PageId(u64::from_be_bytes(bytes)))
}

/// What the keys of the effects on a chain's collections begin with.
pub fn effects_prefix(chain: ChainId) -> Vec<u8> {
    [&chain.0.to_be_bytes()[..], &[2]].concat()
}

/// Where effects are stored whose last commit is this one.
pub fn effects_key(chain: ChainId, last_commit: u64) -> Vec<u8> {
    [&effects_prefix(chain)[..], &last_commit.to_be_bytes()].concat()
}

/// The last commit of which a key of effects is.
pub fn parse_effects_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(5..)?.try_into().ok()?))
}

/// Reads what was stored, from the front; none if there is no such thing.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn int(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn value(&mut self) -> Option<Value> {
        decode_value(&mut self.0)
    }

    fn row(&mut self) -> Option<Option<Row>> {
        match self.byte()? {
            0 => Some(None),
            1 => {
                let len = self.short()?;
                (0..len).map(|_| self.value()).collect::<Option<Row>>().map(Some)
            }
            _ => None,
        }
    }

    fn bound(&mut self) -> Option<Bound<Value>> {
        match self.byte()? {
            0 => Some(Bound::Unbounded),
            1 => self.value().map(Bound::Included),
            2 => self.value().map(Bound::Excluded),
            _ => None,
        }
    }
}

fn put_row(bytes: &mut Vec<u8>, row: Option<&Row>) {
    let Some(row) = row else { return bytes.push(0) };
    bytes.push(1);
    bytes.extend(u16::try_from(row.len()).expect("a row has few columns").to_be_bytes());
    row.iter().for_each(|value| encode_value(bytes, value));
}

fn put_bound(bytes: &mut Vec<u8>, bound: &Bound<Value>) {
    match bound {
        Bound::Unbounded => bytes.push(0),
        Bound::Included(value) => {
            bytes.push(1);
            encode_value(bytes, value);
        }
        Bound::Excluded(value) => {
            bytes.push(2);
            encode_value(bytes, value);
        }
    }
}

/// The handle of a page whose delta is not stored: rows, size, last commit, statistics, least key.
///
/// # Panics
/// If the page has no base.
pub fn handle(low: &Key, page: &Page) -> Bytes {
    let base = page.base.as_ref().expect("a stored page has a base");
    let mut bytes = Vec::with_capacity(128);
    for number in [base.rows() as u64, base.bytes() as u64, page.through] {
        bytes.extend(number.to_be_bytes());
    }
    let ranges = page.statistics.ranges();
    bytes.extend(u16::try_from(ranges.len()).expect("a row has few columns").to_be_bytes());
    for range in ranges {
        bytes.push(range.is_some().into());
        if let Some(range) = range {
            put_bound(&mut bytes, &range.start);
            put_bound(&mut bytes, &range.end);
        }
    }
    bytes.extend_from_slice(low);
    bytes.into()
}

/// What [`handle`] made of a page, with nothing in memory.
///
/// # Errors
/// If it made no such thing.
pub fn parse_handle(page: PageId, value: &[u8]) -> Result<(Key, Page), String> {
    parse_page(page, value).ok_or_else(|| format!("the handle of page {} is malformed", page.0))
}

fn parse_page(page: PageId, value: &[u8]) -> Option<(Key, Page)> {
    let mut reader = Reader(value);
    let (rows, bytes, through) = (reader.long()?, reader.long()?, reader.long()?);
    let mut ranges = Vec::new();
    for _ in 0..reader.short()? {
        ranges.push(match reader.byte()? {
            0 => None,
            _ => Some(ValueRange { start: reader.bound()?, end: reader.bound()? }),
        });
    }
    let cell = PageCell::stored(page, usize::try_from(rows).ok()?, usize::try_from(bytes).ok()?);
    let content = Page {
        base: Some(Arc::new(cell)),
        rows,
        statistics: Arc::new(Statistics::stored(rows > 0, ranges)),
        through,
        ..Page::empty()
    };
    Some((Key::from(reader.0), content))
}

/// Append the effects of a transaction on the collections of a chain.
pub fn append_effects<'a, C>(
    bytes: &mut Vec<u8>,
    id: TxnId,
    commit: u64,
    slots: impl ExactSizeIterator<Item = (u16, C)>,
) where
    C: ExactSizeIterator<Item = &'a RowChange>,
{
    bytes.extend(id.to_bytes());
    bytes.extend(commit.to_be_bytes());
    bytes.extend(u16::try_from(slots.len()).expect("a chain has few collections").to_be_bytes());
    for (slot, changes) in slots {
        bytes.extend(slot.to_be_bytes());
        bytes.extend(u32::try_from(changes.len()).expect("a transaction changes few rows").to_be_bytes());
        for change in changes {
            put_row(bytes, change.new.as_ref());
            put_row(bytes, change.old.as_ref());
        }
    }
}

/// The effects of one transaction on the collections of a chain.
#[derive(Debug)]
pub struct Effects {
    /// The transaction.
    pub id: TxnId,
    /// The number of its commit.
    pub commit: u64,
    /// The changed rows by the place of their collection.
    pub rows: Vec<(u16, Vec<RowChange>)>,
}

/// What [`append_effects`] appended, one transaction after the other.
///
/// # Errors
/// If it appended no such thing.
pub fn parse_effects(value: &[u8]) -> Result<Vec<Effects>, String> {
    let mut reader = Reader(value);
    let mut all = Vec::new();
    while !reader.0.is_empty() {
        all.push(parse_transaction(&mut reader).ok_or("effects are malformed")?);
    }
    Ok(all)
}

fn parse_transaction(reader: &mut Reader) -> Option<Effects> {
    let (id, commit) = (TxnId::from_bytes(reader.array()?), reader.long()?);
    let mut rows = Vec::new();
    for _ in 0..reader.short()? {
        let slot = reader.short()?;
        let changes = (0..reader.int()?).map(|_| Some(RowChange { new: reader.row()?, old: reader.row()? }));
        rows.push((slot, changes.collect::<Option<Vec<RowChange>>>()?));
    }
    Some(Effects { id, commit, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::columns::Columns;
    use crate::rows::schema::ColumnType;
    use crate::value::name::Id;

    #[test]
    fn effects_are_read_back() {
        let row = |x: i64| -> Row { [Value::from(x), Value::Id(Id::literal("a")), "text".into()].into() };
        let changes = [
            RowChange { old: None, new: Some(row(1)) },
            RowChange { old: Some(row(1)), new: Some(row(2)) },
            RowChange { old: Some(row(2)), new: None },
        ];
        let mut bytes = Vec::new();
        for commit in [7, 9] {
            append_effects(&mut bytes, TxnId::new(commit, 1), commit, [(3, changes.iter())].into_iter());
        }
        let effects = parse_effects(&bytes).unwrap();
        assert_eq!(
            effects.iter().map(|one| (one.id, one.commit)).collect::<Vec<_>>(),
            [(TxnId::new(7, 1), 7), (TxnId::new(9, 1), 9)]
        );
        let (slot, read) = &effects[1].rows[0];
        assert_eq!((*slot, format!("{read:?}")), (3, format!("{changes:?}")));
        assert!(parse_effects(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_handle_is_read_back() {
        let rows: [Row; 2] = [[Value::from(1i64), "a".into()].into(), [Value::from(5i64), "b".into()].into()];
        let types: Arc<[ColumnType]> = [ColumnType::Value, ColumnType::String].into();
        let content = Columns::from_rows(&types, rows.iter().map(|row| &row[..]));
        let statistics = Arc::new(Statistics::of(&content));
        let base = Some(Arc::new(PageCell::resident(PageId(4), content)));
        let page = Page { base, rows: 2, statistics, through: 11, ..Page::empty() };
        let low = Key::from(vec![1, 2]);
        let stored = handle(&low, &page);
        let (read_low, read) = parse_handle(PageId(4), &stored).unwrap();
        assert_eq!((read_low.clone(), read.rows, read.through), (low, 2, 11));
        assert_eq!(handle(&read_low, &read), stored);
    }
}
