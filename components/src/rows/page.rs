//! Pages: the runs of rows that a tree is made of.
//!
//! A tree is an immutable map from the least key of each page to its newest version, so a snapshot of a tree is a clone
//! of the map. A version of a page is a *base*, columns that may be in storage only, and a *delta*: the rows that were
//! committed since, each with the transaction that wrote it, so that older transactions do not see them. Folding makes
//! a new base of both.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;

use super::Row;
use super::bound::{Condition, ValueRange};
use super::columns::{Columns, STATISTICS_TEXT_BYTES, may_match};
use super::delta::{Delta, DeltaEntry};
use super::key::{Key, KeyRange};
use super::schema::Layout;
use crate::rows::delta::Visibility;
use crate::value::Value;
use crate::value::ids::PageId;
use crate::value::transaction_id::TxnId;

/// More uses than these count no more.
const USES_MAX: u64 = 15;

/// The base of a page, whose content may be in memory. All versions of a page with this base share it.
///
/// Only the world changes whether the content is in memory, and never while programs are polled.
#[derive(Debug)]
pub struct PageCell {
    id: PageId,
    rows: usize,
    bytes: usize,
    content: RwLock<Option<Arc<Columns>>>,
    /// See [`PageCell::note_use`]. It does not matter which reader comes first, and nobody else looks while they run.
    uses: AtomicU64,
    last_used: AtomicU64,
}

impl PageCell {
    /// A base whose content is in memory.
    pub fn resident(id: PageId, content: Columns) -> Self {
        let (rows, bytes) = (content.len(), content.bytes());
        Self::new(id, rows, bytes, Some(Arc::new(content)))
    }

    /// A base whose content is in storage.
    pub fn stored(id: PageId, rows: usize, bytes: usize) -> Self {
        Self::new(id, rows, bytes, None)
    }

    fn new(id: PageId, rows: usize, bytes: usize, content: Option<Arc<Columns>>) -> Self {
        let (uses, last_used) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { id, rows, bytes, content: RwLock::new(content), uses, last_used }
    }

    /// Its name.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What its content takes in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The content, if it is in memory.
    pub fn content(&self) -> Option<Arc<Columns>> {
        self.content.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Take the content into memory, or drop it from there.
    pub fn set_content(&self, content: Option<Arc<Columns>>) {
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = content;
    }

    /// A reader uses the page in a tick.
    pub fn note_use(&self, tick: u64) {
        self.uses.fetch_add(1, Relaxed);
        // Who reads what many others read does not take it away from them.
        if self.last_used.load(Relaxed) != tick {
            self.last_used.store(tick, Relaxed);
        }
    }

    /// How often the page was used since its content came into memory; less, of what was used long ago.
    pub fn uses(&self) -> u64 {
        self.uses.load(Relaxed)
    }

    /// When it was last used, as the number of a tick.
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Relaxed)
    }

    /// Count uses from this tick on, in which the content comes into memory.
    pub fn begin_uses(&self, tick: u64) {
        self.uses.store(0, Relaxed);
        self.last_used.store(tick, Relaxed);
    }

    /// Let what was used up to now count half, and very often no more than often.
    pub fn forget_uses(&self) {
        self.uses.store(self.uses().min(USES_MAX) / 2, Relaxed);
    }
}

/// Between which values each column of a page is, where that is known.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Whether there is, or was, a row.
    has_rows: bool,
    ranges: Vec<Option<ValueRange>>,
}

impl Statistics {
    /// Those of some rows.
    pub fn of(content: &Columns) -> Self {
        Self { has_rows: !content.is_empty(), ranges: content.statistics() }
    }

    /// Those that were stored.
    pub fn stored(has_rows: bool, ranges: Vec<Option<ValueRange>>) -> Self {
        Self { has_rows, ranges }
    }

    /// The range of each column.
    pub fn ranges(&self) -> &[Option<ValueRange>] {
        &self.ranges
    }

    /// Whether there may be a row that meets all conditions.
    pub fn may_match(&self, conditions: &[Condition]) -> bool {
        self.has_rows && may_match(&self.ranges, conditions)
    }

    /// Whether these hold with a further row.
    fn contain(&self, row: &Row) -> bool {
        let known = || self.ranges.iter().zip(row.iter());
        self.has_rows
            && known().all(|(range, value)| range.as_ref().is_none_or(|range| range.contains(value)))
    }

    /// Make these hold with a further row.
    fn widen(&mut self, row: &Row) {
        if !self.has_rows {
            *self = Self { has_rows: true, ranges: row.iter().map(range_of).collect() };
            return;
        }
        for (range, value) in self.ranges.iter_mut().zip(row.iter()) {
            *range = match (range.take(), range_of(value)) {
                (Some(range), _) if range.contains(value) => Some(range),
                (Some(range), Some(new)) => Some(union(range, new)),
                _ => None,
            };
        }
    }
}

/// The range of one value; a long text is cut, so its range is wider.
fn range_of(value: &Value) -> Option<ValueRange> {
    let len = match value {
        Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => return None,
    };
    if len <= STATISTICS_TEXT_BYTES {
        return Some(ValueRange::equal(value.clone()));
    }
    let start = match value {
        Value::String(text) => Value::String(text[..text.floor_char_boundary(STATISTICS_TEXT_BYTES)].into()),
        Value::Bytes(bytes) => Value::Bytes(bytes[..STATISTICS_TEXT_BYTES].into()),
        _ => unreachable!("only texts are long"),
    };
    Some(ValueRange { start: Bound::Included(start), end: Bound::Unbounded })
}

/// The least range that holds both.
fn union(this: ValueRange, that: ValueRange) -> ValueRange {
    let outer = |this: Bound<Value>, that: Bound<Value>, wins: Ordering| match (&this, &that) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => Bound::Unbounded,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
            match a.collate(b) {
                Ordering::Equal if matches!(that, Bound::Included(_)) => that,
                order if order == wins || order == Ordering::Equal => this,
                _ => that,
            }
        }
    };
    ValueRange {
        start: outer(this.start, that.start, Ordering::Less),
        end: outer(this.end, that.end, Ordering::Greater),
    }
}

/// A version of a page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its base; none if it has no rows.
    pub base: Option<Arc<PageCell>>,
    /// The rows that were committed since, by key and transaction.
    pub delta: Delta,
    /// How many rows there are for the newest reader.
    pub rows: u64,
    /// The least and the greatest value of each column, base and delta.
    pub statistics: Arc<Statistics>,
    /// Readers that do not see everything up to this transaction and commit cannot read this version: it is folded.
    pub horizon: (TxnId, u64),
    /// The base holds everything up to this commit in the whole range of the page, and nothing later: recovery repeats
    /// exactly what comes after it.
    pub through: u64,
}

/// What a reader finds for a key.
#[derive(Clone, Debug)]
pub enum Found {
    /// This row, or none; and the number of a commit with which that is so: that of the row, or one with which everything
    /// in the base is.
    Row(Option<Row>, u64),
    /// That is only known when the base is in memory.
    NotResident(Arc<PageCell>),
}

impl Page {
    /// A page without rows.
    pub fn empty() -> Self {
        Self {
            base: None,
            delta: Delta::default(),
            rows: 0,
            statistics: Arc::default(),
            horizon: (TxnId::ZERO, 0),
            through: 0,
        }
    }

    /// Whether a reader sees a version that this page still has.
    pub fn is_readable(&self, visibility: Visibility) -> bool {
        self.horizon.0 < visibility.before && self.horizon.1 <= visibility.commit
    }

    /// Whether a reader sees every row that is committed.
    pub fn is_all_visible(&self, visibility: Visibility) -> bool {
        self.delta.is_all_visible(visibility)
    }

    /// The newest commit that is not in the base.
    pub fn newest_commit(&self) -> u64 {
        self.delta.newest_commit()
    }

    /// The row of a key as a reader sees it.
    pub fn find(&self, layout: &Layout, key: &Key, visibility: Visibility) -> Found {
        if let Some(entry) = self.delta.find(key, visibility) {
            return Found::Row(entry.row.clone(), entry.commit.max(self.horizon.1));
        }
        match &self.base {
            None => Found::Row(None, self.horizon.1),
            Some(cell) => match cell.content() {
                Some(columns) => {
                    Found::Row(columns.find(layout, key).map(|i| columns.row(i)), self.horizon.1)
                }
                None => Found::NotResident(cell.clone()),
            },
        }
    }

    /// As [`Self::find`], in a base whose content is at hand.
    pub fn find_in(
        &self,
        layout: &Layout,
        key: &Key,
        visibility: Visibility,
        base: Option<&Columns>,
    ) -> Option<Row> {
        match self.delta.find(key, visibility) {
            Some(entry) => entry.row.clone(),
            None => base.and_then(|base| base.find(layout, key).map(|i| base.row(i))),
        }
    }

    /// The newest commit that a reader may see in this page.
    pub fn newest_seen(&self, visibility: Visibility) -> u64 {
        let seen = self.delta.as_added().filter(|entry| entry.is_visible(visibility));
        seen.map(|entry| entry.commit).max().unwrap_or(0).max(self.horizon.1)
    }

    /// The changes that a reader sees on top of the base, one for each key of the range, in order, and the newest
    /// commit among them and in the base.
    pub fn changes(&self, range: &KeyRange, visibility: Visibility) -> (Vec<(Key, Option<Row>)>, u64) {
        let mut changes: Vec<(Key, Option<Row>)> = Vec::new();
        let mut newest = self.horizon.1;
        for entry in self.delta.range(range) {
            if !entry.is_visible(visibility) {
                continue;
            }
            newest = newest.max(entry.commit);
            // The versions of one key ascend: the last that is visible is the one that is seen.
            match changes.last_mut() {
                Some((key, row)) if *key == entry.key => *row = entry.row.clone(),
                _ => changes.push((entry.key.clone(), entry.row.clone())),
            }
        }
        (changes, newest)
    }

    /// Add a committed version of a row.
    ///
    /// # Panics
    /// If it is not newer than every other version of its key.
    pub fn commit(&mut self, entry: DeltaEntry, rows: i64) {
        self.count(&entry);
        self.rows = self.rows.checked_add_signed(rows).expect("no more rows are deleted than there are");
        self.delta.insert(entry);
    }

    /// Add committed versions of rows as [`Self::commit`] does, many at once; `rows` is how many rows there are more.
    ///
    /// # Panics
    /// If the versions of a row do not ascend, or more rows are deleted than there are.
    pub fn commit_all(&mut self, entries: Vec<DeltaEntry>, rows: i64) {
        entries.iter().for_each(|entry| self.count(entry));
        self.rows = self.rows.checked_add_signed(rows).expect("no more rows are deleted than there are");
        self.delta.extend(entries);
    }

    /// Make the statistics hold with a further entry of the delta.
    fn count(&mut self, entry: &DeltaEntry) {
        if let Some(row) = &entry.row
            && !self.statistics.contain(row)
        {
            Arc::make_mut(&mut self.statistics).widen(row);
        }
    }

    /// The newest version of each row that can be folded: everything up to the last commit before which no reader
    /// looks. None if there is nothing to fold.
    pub fn foldable(&self, oldest: Visibility) -> Option<Foldable> {
        // A base holds all commits up to a number, so what cannot be folded keeps back what was committed after it.
        let kept =
            self.delta.as_added().filter(|entry| !entry.is_visible(oldest)).map(|entry| entry.commit).min();
        let limit = kept.unwrap_or(u64::MAX);
        // Often there is nothing: then nothing is sorted or copied.
        if self.delta.as_added().all(|entry| entry.commit >= limit) {
            return None;
        }
        let (mut changes, mut rest) = (Vec::<(Key, Option<Row>)>::new(), Vec::new());
        let (mut horizon, mut rows) = (self.horizon, 0);
        for entry in self.delta.iter() {
            if entry.commit >= limit {
                rest.push(entry.clone());
                continue;
            }
            horizon = (horizon.0.max(entry.id), horizon.1.max(entry.commit));
            match changes.last_mut() {
                Some((key, row)) if *key == entry.key => *row = entry.row.clone(),
                _ => changes.push((entry.key.clone(), entry.row.clone())),
            }
            rows += 1;
        }
        (rows > 0).then(|| Foldable { changes, rest, horizon, through: limit - 1 })
    }
}

/// A delta that is being folded.
#[derive(Debug)]
pub struct Foldable {
    /// What the new base holds on top of the old one.
    pub changes: Vec<(Key, Option<Row>)>,
    /// What stays in the delta.
    pub rest: Vec<DeltaEntry>,
    /// See [`Page::horizon`].
    pub horizon: (TxnId, u64),
    /// See [`Page::through`].
    pub through: u64,
}

/// The keys that a page of a tree may hold, in the order of the least of each; those of two pages are never the same.
#[derive(Clone, Debug)]
struct Span(KeyRange);

impl Ord for Span {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.start.cmp(&other.0.start)
    }
}

impl PartialOrd for Span {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Span {
    fn eq(&self, other: &Self) -> bool {
        self.0.start == other.0.start
    }
}

impl Eq for Span {}

/// What is looked for: the span that begins with a key.
struct Begin<'a>(&'a Key);

impl Comparable<Span> for Begin<'_> {
    fn compare(&self, span: &Span) -> Ordering {
        self.0.cmp(&span.0.start)
    }
}

impl Equivalent<Span> for Begin<'_> {
    fn equivalent(&self, span: &Span) -> bool {
        self.compare(span).is_eq()
    }
}

/// What is looked for: the span that holds a key.
struct Around<'a>(&'a Key);

impl Comparable<Span> for Around<'_> {
    fn compare(&self, Span(range): &Span) -> Ordering {
        match &range.end {
            _ if *self.0 < range.start => Ordering::Less,
            Some(end) if self.0 >= end => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }
}

impl Equivalent<Span> for Around<'_> {
    fn equivalent(&self, span: &Span) -> bool {
        self.compare(span).is_eq()
    }
}

/// The newest versions of the pages of a tree, by where they lie; together they lie everywhere.
#[derive(Clone, Debug)]
pub struct Tree {
    pages: OrdMap<Span, Arc<Page>>,
    /// How many rows there are for the newest reader.
    pub rows: u64,
}

/// Where a page lies in its tree.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The keys that it may hold.
    pub range: KeyRange,
    /// The page.
    pub page: Arc<Page>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::empty()
    }
}

impl Tree {
    /// A tree without rows.
    pub fn empty() -> Self {
        Self { pages: OrdMap::unit(Span(KeyRange::all()), Arc::new(Page::empty())), rows: 0 }
    }

    /// A tree of these pages.
    ///
    /// # Panics
    /// If their least keys do not ascend from the empty one.
    pub fn of(pages: Vec<(Key, Page)>) -> Self {
        let rows = pages.iter().map(|(_, page)| page.rows).sum();
        assert!(
            pages.first().is_some_and(|(low, _)| low.is_empty()),
            "the first page begins with the empty key"
        );
        assert!(pages.is_sorted_by(|(this, _), (next, _)| this < next), "pages ascend");
        Self { pages: spans(pages, None).collect(), rows }
    }

    /// A tree of these pages, as they were stored.
    ///
    /// # Errors
    /// If there is no such tree.
    pub fn stored(pages: Vec<(Key, Page)>) -> Result<Self, String> {
        if !pages.first().is_some_and(|(low, _)| low.is_empty()) {
            return Err("its first page is missing".to_string());
        }
        if !pages.is_sorted_by(|(this, _), (next, _)| this < next) {
            return Err("two of its pages begin with the same key".to_string());
        }
        Ok(Self::of(pages))
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// The page that a key belongs to, with its least key.
    pub fn page(&self, key: &Key) -> (&Key, &Arc<Page>) {
        let (Span(range), page) = self.around(key);
        (&range.start, page)
    }

    /// The page that a key belongs to, and where it lies.
    fn around(&self, key: &Key) -> (&Span, &Arc<Page>) {
        // One search without an iterator. It may go astray where pages have become one: the map still parts its nodes at
        // keys that are gone.
        let found = self.pages.get_key_value(&Around(key)).or_else(|| self.pages.get_prev(&Begin(key)));
        found.expect("the pages lie everywhere")
    }

    /// The page that a key belongs to, to be changed.
    pub fn page_mut(&mut self, key: &Key) -> (Key, &mut Page) {
        let low = self.page(key).0.clone();
        let page = self.pages.get_mut(&Begin(&low)).expect("the page that was found");
        (low, Arc::make_mut(page))
    }

    /// The page with this least key.
    pub fn at(&self, low: &Key) -> Option<&Arc<Page>> {
        self.pages.get(&Begin(low))
    }

    /// Where the page of a key lies.
    pub fn place(&self, key: &Key) -> Placed {
        let (Span(range), page) = self.around(key);
        Placed { range: range.clone(), page: page.clone() }
    }

    /// The page before the one with this least key, and the page after it.
    pub fn beside(&self, low: &Key) -> [Option<(&Key, &Arc<Page>)>; 2] {
        let before = self.pages.range((Bound::Unbounded, Bound::Excluded(Begin(low)))).next_back();
        let after = self.pages.range((Bound::Excluded(Begin(low)), Bound::Unbounded)).next();
        [before, after].map(|beside| beside.map(|(Span(range), page)| (&range.start, page)))
    }

    /// The pages that may hold keys of a range, in order.
    pub fn pages_in<'a>(
        &'a self,
        range: &'a KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a Arc<Page>)> {
        let first = self.page(&range.start).0;
        let end = match &range.end {
            Some(end) if end > first => Bound::Excluded(Begin(end)),
            Some(_) => Bound::Included(Begin(first)),
            None => Bound::Unbounded,
        };
        let pages = self.pages.range((Bound::Included(Begin(first)), end));
        pages.map(|(Span(range), page)| (&range.start, page))
    }

    /// Put pages in the place of all that begin in a range, which begins and ends where pages do; the first of them
    /// gets the least key of the range. Without any, an empty page is there.
    ///
    /// # Panics
    /// If no page begins where the range does, or one goes on beyond it, or the least keys of the others are not in it
    /// and ascending.
    pub fn replace_range(&mut self, range: &KeyRange, pages: Vec<(Key, Page)>) {
        assert!(pages.is_sorted_by(|(this, _), (next, _)| this < next), "pages ascend");
        let old: Vec<Key> = self.pages_in(range).map(|(low, _)| low.clone()).collect();
        let is_whole = range.end.as_ref().is_none_or(|end| self.pages.contains_key(&Begin(end)));
        assert!(old.first() == Some(&range.start) && is_whole, "a range of whole pages");
        for low in old {
            self.pages.remove(&Begin(&low));
        }
        assert!(pages.iter().all(|(low, _)| range.contains(low)), "pages stay in their place");
        let mut pages = if pages.is_empty() { vec![(Key::EMPTY, Page::empty())] } else { pages };
        pages[0].0 = range.start.clone();
        self.pages.extend(spans(pages, range.end.clone()));
    }

    /// Every page, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Arc<Page>)> {
        self.pages.iter().map(|(Span(range), page)| (&range.start, page))
    }
}

/// Where pages lie that begin with these keys, one after the other up to an end.
fn spans(pages: Vec<(Key, Page)>, end: Option<Key>) -> impl Iterator<Item = (Span, Arc<Page>)> {
    let ends: Vec<_> = pages.iter().skip(1).map(|(low, _)| Some(low.clone())).chain([end]).collect();
    let span = |((start, page), end)| (Span(KeyRange { start, end }), Arc::new(page));
    pages.into_iter().zip(ends).map(span)
}

#[cfg(test)]
mod tests;
