//! How many rows of a tree are in a range and meet conditions, as a transaction sees them.

use std::sync::Arc;

use super::bound::Condition;
use super::columns::Columns;
use super::key::KeyRange;
use super::merge::{Join, LoadPage};
use super::page::Page;
use super::schema::Layout;
use super::seen::{SeenPage, has_own};
use crate::ledger::RowsSnapshot;

/// Of so many pages one thread looks at all.
const PAGES_PER_TASK: usize = 16;

/// What is counted. It does not change.
#[derive(Clone, Debug)]
pub struct CountScan {
    /// The collection.
    pub snapshot: RowsSnapshot,
    /// Which of its trees.
    pub tree: usize,
    /// The keys.
    pub range: KeyRange,
    /// What the rows must meet.
    pub conditions: Vec<Condition>,
}

/// What was counted, and what was looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// How many rows there are.
    pub rows: u64,
    /// How many pages were read.
    pub pages_read: u64,
    /// How many rows were looked at.
    pub rows_read: u64,
    /// The newest commit that was seen.
    pub newest_commit: u64,
}

impl Counted {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            pages_read: self.pages_read + other.pages_read,
            rows_read: self.rows_read + other.rows_read,
            newest_commit: self.newest_commit.max(other.newest_commit),
        }
    }
}

/// The part of a page that is counted.
pub type Part = (KeyRange, Arc<Page>);

impl CountScan {
    fn layout(&self) -> &Layout {
        &self.snapshot.schema.layouts()[self.tree]
    }

    /// What is known without reading a page, and the pages that must be read; none if one of them does not have any
    /// more what the transaction sees.
    pub fn plan(&self) -> Option<(Counted, Vec<Part>)> {
        let visibility = self.snapshot.visibility;
        let own = &self.snapshot.own[self.tree];
        let mut known = Counted::default();
        let mut parts = Vec::new();
        let mut pages = self.snapshot.trees[self.tree].pages_in(&self.range).peekable();
        while let Some((low, page)) = pages.next() {
            if !page.is_readable(visibility) {
                return None;
            }
            // What was folded into a page counts as read, its statistics included.
            known.newest_commit = known.newest_commit.max(page.horizon.1);
            let place = KeyRange { start: low.clone(), end: pages.peek().map(|(low, _)| (*low).clone()) };
            let part = self.range.intersection(&place);
            let has_own = has_own(own, &part);
            let is_whole = self.conditions.is_empty() && part == place && !has_own;
            if is_whole && page.is_all_visible(visibility) {
                known.rows += page.rows;
                known.newest_commit = known.newest_commit.max(page.newest_seen(visibility));
            } else if has_own || page.statistics.may_match(&self.conditions) {
                parts.push((part, page.clone()));
            }
        }
        Some((known, parts))
    }

    /// Count the rows in a part of a page whose base is this.
    pub fn count_part(&self, (range, page): &Part, base: Option<Arc<Columns>>) -> Counted {
        let own = &self.snapshot.own[self.tree];
        let (seen, newest_commit) =
            SeenPage::new(self.layout(), page, base, range, own, self.snapshot.visibility);
        Counted {
            rows: seen.count(&self.conditions),
            pages_read: 1,
            rows_read: seen.len() as u64,
            newest_commit,
        }
    }

    /// Count the rows in some parts, several at the same time.
    ///
    /// # Errors
    /// Why a page cannot be read.
    pub fn count(&self, parts: &[Part], load: &LoadPage<'_>, join: &Join<'_>) -> Result<Counted, String> {
        if parts.len() <= PAGES_PER_TASK {
            let mut counted = Counted::default();
            for part in parts {
                let base = match &part.1.base {
                    None => None,
                    Some(cell) => Some(match cell.content() {
                        Some(content) => content,
                        None => load(cell, self.layout())?,
                    }),
                };
                counted = counted.and(self.count_part(part, base));
            }
            return Ok(counted);
        }
        let (left, right) = parts.split_at(parts.len() / 2);
        let (mut counted_left, mut counted_right) = (None, None);
        join(&mut || counted_left = Some(self.count(left, load, join)), &mut || {
            counted_right = Some(self.count(right, load, join));
        });
        let done = |counted: Option<Result<Counted, String>>| counted.expect("both tasks were done");
        Ok(done(counted_left)?.and(done(counted_right)?))
    }
}
