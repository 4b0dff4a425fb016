//! A scan of a tree as a transaction sees it, page by page.
//!
//! Counts, programs and replies scan alike. The range of keys is cut into [`Part`]s that lie in one page each. A part is
//! passed by if the statistics of its page say that nothing is found there; the others are read, from memory or from
//! storage, several at the same time.

use std::sync::Arc;

use super::Row;
use super::bound::Condition;
use super::columns::Columns;
use super::key::{Key, KeyRange};
use super::page::{Page, PageCell, Tree};
use super::schema::Layout;
use super::seen::{OwnRows, RowsSnapshot, SeenPage, has_own, own_len};

/// So many pages are passed by at most before whoever scans has its turn again.
const PASSED_PAGES_MAX: usize = 4_096;

/// Of a scan that may end at any page, this share of what was read so far is read at the same time: see [`at_once`].
pub const READ_BEYOND_SHARE: u64 = 8;

/// How many pages, or rows through an index, may be read at the same time by a scan that ends when it has found enough,
/// after it has read so many. Where it ends is known only afterwards: so that no more than an eighth is read in vain, and
/// a scan that finds little goes on by several threads nevertheless.
pub fn at_once(read: u64) -> u64 {
    (read / READ_BEYOND_SHARE).max(1)
}

/// Reads the content of a page that is not in memory.
pub type LoadPage<'a> = dyn Fn(&PageCell, &Layout) -> Result<Arc<Columns>, String> + Sync + 'a;

/// A part of the work.
pub type Task<'a> = &'a mut (dyn FnMut() + Send);

/// Does two tasks, at the same time if it likes.
pub type Join<'a> = dyn Fn(Task<'_>, Task<'_>) + Sync + 'a;

/// The [`Join`] of whoever has one thread.
pub fn in_turn(a: Task<'_>, b: Task<'_>) {
    a();
    b();
}

/// What is looked for. It does not change.
#[derive(Clone, Debug)]
pub struct PageScan {
    /// The collection.
    pub rows: RowsSnapshot,
    /// Which of its trees.
    pub tree: usize,
    /// Whether the rows come backwards.
    pub is_reversed: bool,
    /// What the rows must meet.
    pub conditions: Vec<Condition>,
}

/// How far a scan goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// When so many rows are found it may end, not 0; without a limit there are never so many.
    pub rows: u64,
    /// How many pages the scan has read before.
    pub pages_read: u64,
}

impl Wanted {
    /// All rows.
    pub const ALL: Self = Self { rows: u64::MAX, pages_read: 0 };

    /// What is wanted after so many rows more were found in so many pages.
    pub(super) fn after(self, rows: u64, pages_read: u64) -> Self {
        Self { rows: self.rows.saturating_sub(rows), pages_read: self.pages_read + pages_read }
    }
}

/// A part of a range that lies in one page.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which keys.
    pub range: KeyRange,
    /// The page.
    pub page: Arc<Page>,
    /// Whether these are all keys that the page may hold.
    pub is_whole: bool,
}

/// The parts that come next in a scan.
#[derive(Debug)]
pub struct Batch {
    /// Those that must be read, in the order of the scan.
    pub parts: Vec<Part>,
    /// How many others there are between and before them.
    pub passed: usize,
    /// The newest commit that was folded into one of them all: their statistics were read.
    pub newest_commit: u64,
    /// What is left of the range.
    pub rest: KeyRange,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LookedAt {
    /// How many pages were read.
    pub pages: u64,
    /// How many rows were looked at.
    pub rows: u64,
    /// The newest commit that was seen.
    pub newest_commit: u64,
}

impl LookedAt {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            pages: self.pages + other.pages,
            rows: self.rows + other.rows,
            newest_commit: self.newest_commit.max(other.newest_commit),
        }
    }
}

/// What was found in some parts.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The rows, in the order of the scan; some in each.
    pub rows: Vec<Columns>,
    /// What they take in memory, in bytes.
    pub bytes: u64,
    /// How many of the parts were read, from the first one on.
    pub parts: usize,
    /// What was looked at for that.
    pub looked_at: LookedAt,
}

impl PageScan {
    /// The columns of the tree.
    pub fn layout(&self) -> &Layout {
        &self.rows.schema.layouts()[self.tree]
    }

    /// The pages of the tree.
    pub fn pages(&self) -> &Tree {
        &self.rows.trees[self.tree]
    }

    fn own(&self) -> &OwnRows {
        &self.rows.own[self.tree]
    }

    /// Whether the transaction has written something there.
    pub(super) fn has_own(&self, part: &Part) -> bool {
        has_own(self.own(), &part.range)
    }

    /// The parts of a range, in the order of the scan.
    pub fn parts<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = Part> + 'a {
        let mut pages = self.pages().pages_in(range);
        let is_reversed = self.is_reversed;
        // Where a page ends the next one begins: the one that comes next, or the one that came before.
        let mut neighbor = match is_reversed {
            true => None,
            false => pages.next(),
        };
        let mut part = move || {
            let ((low, page), next) = if is_reversed {
                let current = pages.next_back()?;
                (current, neighbor.replace(current))
            } else {
                let current = neighbor?;
                neighbor = pages.next();
                (current, neighbor)
            };
            let start = low.max(&range.start).clone();
            let is_whole = start == *low && (next.is_some() || range.end.is_none());
            let end = next.map(|(low, _)| low).or(range.end.as_ref()).cloned();
            Some(Part { range: KeyRange { start, end }, page: page.clone(), is_whole })
        };
        let is_empty = range.is_empty();
        std::iter::from_fn(move || if is_empty { None } else { part() })
    }

    /// Whether a part must be read.
    pub fn may_match(&self, part: &Part) -> bool {
        self.has_own(part) || part.page.statistics.may_match(&self.conditions)
    }

    /// The next parts of a range: so many that must be read at most, and if there are several, of about so many bytes.
    /// None if a page does not have any more what the transaction sees.
    pub fn batch(&self, range: &KeyRange, parts_max: usize, bytes_max: u64) -> Option<Batch> {
        assert!(parts_max > 0, "a scan goes on");
        let mut batch = Batch { parts: Vec::new(), passed: 0, newest_commit: 0, rest: KeyRange::none() };
        let (mut bytes, mut last) = (0, None);
        for part in self.parts(range) {
            if !part.page.is_readable(self.rows.visibility) {
                return None;
            }
            batch.newest_commit = batch.newest_commit.max(part.page.horizon.1);
            last = Some(part.range.clone());
            if self.may_match(&part) {
                bytes += part.bytes();
                batch.parts.push(part);
            } else {
                batch.passed += 1;
            }
            if batch.parts.len() == parts_max || bytes >= bytes_max || batch.passed == PASSED_PAGES_MAX {
                break;
            }
        }
        if let Some(last) = last {
            batch.rest = self.rest_after(range, &last);
        }
        Some(batch)
    }

    /// What is left of a range after a part of it.
    pub fn rest_after(&self, range: &KeyRange, part: &KeyRange) -> KeyRange {
        match (self.is_reversed, &part.end) {
            (true, _) => KeyRange { start: range.start.clone(), end: Some(part.start.clone()) },
            (false, Some(end)) => KeyRange { start: end.clone(), end: range.end.clone() },
            (false, None) => KeyRange::none(),
        }
    }

    /// What is left of a range from a part of it on.
    pub fn rest_from(&self, range: &KeyRange, part: &KeyRange) -> KeyRange {
        match self.is_reversed {
            true => KeyRange { start: range.start.clone(), end: part.end.clone() },
            false => KeyRange { start: part.start.clone(), end: range.end.clone() },
        }
    }

    /// Leave no more than so many rows of the base to a part: those that come first. Whether others are left out.
    pub fn narrow(&self, part: &mut Part, base: Option<&Columns>, rows_max: usize) -> bool {
        let Some(base) = base else { return false };
        let layout = self.layout();
        let bound = |key: &Key| if key.is_empty() { 0 } else { base.lower_bound(layout, key) };
        let start = bound(&part.range.start);
        let end = part.range.end.as_ref().map_or(base.len(), bound);
        if end.saturating_sub(start) <= rows_max {
            return false;
        }
        match self.is_reversed {
            true => part.range.start = base.key(layout, end - rows_max),
            false => part.range.end = Some(base.key(layout, start + rows_max)),
        }
        true
    }

    /// The next rows of a tree that is in memory, about so many, which are taken off the range, and how many were looked
    /// at.
    ///
    /// # Panics
    /// If a page is not in memory.
    pub fn read_resident(&self, range: &mut KeyRange, rows_max: usize) -> (Vec<Row>, usize) {
        let batch = self.batch(range, 1, u64::MAX).expect("what is in memory can be read");
        let before = std::mem::replace(range, batch.rest);
        let Some(mut part) = batch.parts.into_iter().next() else {
            return (Vec::new(), batch.passed);
        };
        let base = part.page.base.as_ref().map(|cell| cell.content().expect("all of it is in memory"));
        if self.narrow(&mut part, base.as_deref(), rows_max) {
            *range = self.rest_after(&before, &part.range);
        }
        let (seen, _) = self.see(&part, base);
        let mut rows = seen.rows(&self.conditions);
        if self.is_reversed {
            rows.reverse();
        }
        (rows, batch.passed + seen.len())
    }

    /// A part as the transaction sees it, with the base of its page, and the newest commit that it has something of.
    pub fn see(&self, part: &Part, base: Option<Arc<Columns>>) -> (SeenPage, u64) {
        SeenPage::new(self.layout(), &part.page, base, &part.range, self.own(), self.rows.visibility)
    }

    /// The first ones of some parts, which are read at the same time: all of which it is known that they must be read
    /// before so many rows are found, or an eighth of what was read before; of so many bytes at most, but for the first.
    pub(super) fn wave<'a>(&self, parts: &'a [Part], bytes_max: u64, wanted: Wanted) -> &'a [Part] {
        let most = first_wave(parts, bytes_max);
        let beyond = usize::try_from(at_once(wanted.pages_read)).unwrap_or(usize::MAX);
        &most[..self.needed(most, wanted.rows).max(beyond).min(most.len())]
    }

    /// How many of these parts must be read in any case to find so many rows.
    fn needed(&self, parts: &[Part], rows: u64) -> usize {
        let mut rows_before = 0;
        let is_needed = |part: &&Part| {
            let is_needed = rows_before < rows;
            rows_before += self.rows_max(part);
            is_needed
        };
        parts.iter().take_while(is_needed).count()
    }

    /// How many rows a part may have at most.
    fn rows_max(&self, part: &Part) -> u64 {
        let base = part.page.base.as_ref().map_or(0, |cell| cell.rows());
        (base + part.page.delta.len() + own_len(self.own(), &part.range)) as u64
    }

    /// Read parts until so many rows or bytes are found, at least one of them. What is found then is no more than twice
    /// those bytes, but for pages of a single row: pages of so many bytes are read at the same time. There may be more
    /// rows than are wanted: all that was found in the parts that were read.
    ///
    /// # Errors
    /// Why a page cannot be read.
    pub fn find(
        &self,
        parts: &[Part],
        bytes_max: u64,
        wanted: Wanted,
        load: &LoadPage<'_>,
        join: &Join<'_>,
    ) -> Result<Found, String> {
        let (mut found, mut rows_found) = (Found::default(), 0);
        let is_enough =
            |found: &Found, rows: u64| found.parts > 0 && (found.bytes >= bytes_max || rows >= wanted.rows);
        while found.parts < parts.len() && !is_enough(&found, rows_found) {
            let wanted = wanted.after(rows_found, found.looked_at.pages);
            let wave = self.wave(&parts[found.parts..], bytes_max, wanted);
            // Where nothing is to be done, nobody needs to be woken for it.
            let is_as_it_is = self.conditions.is_empty() && !self.is_reversed;
            let per_task = if is_as_it_is && wave.iter().all(Part::is_at_hand) { wave.len() } else { 1 };
            let work = |parts: &[Part]| {
                parts.iter().map(|part| self.find_in(part, load)).collect::<Result<Vec<_>, String>>()
            };
            for one in in_tasks(wave, per_task, &work, join) {
                for (rows, looked_at) in one? {
                    found.looked_at = found.looked_at.and(looked_at);
                    if !rows.is_empty() {
                        rows_found += rows.len() as u64;
                        found.bytes += rows.bytes() as u64;
                        found.rows.push(rows);
                    }
                }
            }
            found.parts += wave.len();
        }
        Ok(found)
    }

    fn find_in(&self, part: &Part, load: &LoadPage<'_>) -> Result<(Columns, LookedAt), String> {
        let (seen, newest_commit) = self.see(part, base(&part.page, self.layout(), load)?);
        let rows = seen.columns(self.layout(), &self.conditions);
        let rows = match self.is_reversed {
            true => rows.take(&(0..rows.len()).rev().collect::<Vec<_>>()),
            false => rows,
        };
        Ok((rows, LookedAt { pages: 1, rows: seen.len() as u64, newest_commit }))
    }
}

impl Part {
    /// What its page takes in memory when it is read, in bytes.
    fn bytes(&self) -> u64 {
        (self.page.base.as_ref().map_or(0, |cell| cell.bytes()) + self.page.delta.bytes()) as u64
    }

    /// Whether its rows are there already.
    fn is_at_hand(&self) -> bool {
        self.page.delta.is_empty() && self.page.base.as_ref().is_none_or(|cell| cell.content().is_some())
    }
}

/// The parts that may be in memory at the same time.
fn first_wave(parts: &[Part], bytes_max: u64) -> &[Part] {
    let mut bytes = parts[0].bytes();
    let more = parts.iter().skip(1).take_while(|part| {
        bytes += part.bytes();
        bytes <= bytes_max
    });
    &parts[..1 + more.count()]
}

/// The content of the base of a page. If it is not in memory, it does not come to stay: others may want other pages
/// more.
///
/// # Errors
/// Why it cannot be read.
pub fn base(page: &Page, layout: &Layout, load: &LoadPage<'_>) -> Result<Option<Arc<Columns>>, String> {
    let content = |cell: &Arc<PageCell>| match cell.content() {
        Some(content) => Ok(content),
        None => load(cell, layout),
    };
    page.base.as_ref().map(content).transpose()
}

/// Work on some things, so many in one task, and several tasks at the same time; what comes of each task, in order.
pub fn in_tasks<A: Sync, B: Send>(
    all: &[A],
    per_task: usize,
    work: &(dyn Fn(&[A]) -> B + Sync),
    join: &Join<'_>,
) -> Vec<B> {
    fn fill<A: Sync, B: Send>(
        slots: &mut [Option<B>],
        all: &[A],
        per_task: usize,
        work: &(dyn Fn(&[A]) -> B + Sync),
        join: &Join<'_>,
    ) {
        match slots {
            [] => {}
            [slot] => *slot = Some(work(all)),
            slots => {
                let tasks = slots.len() / 2;
                let (slots_left, slots_right) = slots.split_at_mut(tasks);
                let (left, right) = all.split_at(tasks * per_task);
                join(&mut || fill(slots_left, left, per_task, work, join), &mut || {
                    fill(slots_right, right, per_task, work, join)
                });
            }
        }
    }
    let mut slots: Vec<Option<B>> = Vec::new();
    slots.resize_with(all.len().div_ceil(per_task), || None);
    fill(&mut slots, all, per_task, work, join);
    slots.into_iter().map(|slot| slot.expect("every task was done")).collect()
}

#[cfg(test)]
pub(crate) mod tests;
