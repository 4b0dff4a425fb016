//! How many rows of a tree are in a range and meet conditions, as a transaction sees them.

use std::sync::Arc;

use super::columns::Columns;
use super::key::KeyRange;
use super::scan::{Join, LoadPage, LookedAt, PageScan, Part, Wanted, base, in_tasks};

/// Of so many pages at most one task looks at all, and there are about so many tasks before they get larger.
const PAGES_PER_TASK: usize = 16;

/// What was counted, and what was looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// How many rows there are.
    pub rows: u64,
    /// What was looked at for that.
    pub looked_at: LookedAt,
}

impl Counted {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, looked_at: self.looked_at.and(other.looked_at) }
    }
}

impl PageScan {
    /// What is known of the rows in a range without reading a page, and the parts that must be read to know of others;
    /// none if a page does not have any more what the transaction sees. Who wants to know of so many rows at most learns
    /// of no page after those that have them.
    pub fn plan_count(&self, range: &KeyRange, rows_max: u64) -> Option<(Counted, Vec<Part>)> {
        let visibility = self.rows.visibility;
        let mut known = Counted::default();
        let mut parts = Vec::new();
        for part in self.parts(range) {
            if known.rows >= rows_max {
                break;
            }
            let page = &part.page;
            if !page.is_readable(visibility) {
                return None;
            }
            // What was folded into a page counts as read, its statistics included.
            let newest_commit = &mut known.looked_at.newest_commit;
            *newest_commit = (*newest_commit).max(page.horizon.1);
            let is_whole = self.conditions.is_empty() && part.is_whole && !self.has_own(&part);
            if is_whole && page.is_all_visible(visibility) {
                known.rows += page.rows;
                *newest_commit = (*newest_commit).max(page.newest_seen(visibility));
            } else if self.may_match(&part) {
                parts.push(part);
            }
        }
        Some((known, parts))
    }

    /// Count the rows in a part of a page whose base is this.
    pub fn count_part(&self, part: &Part, base: Option<Arc<Columns>>) -> Counted {
        let (seen, newest_commit) = self.see(part, base);
        let looked_at = LookedAt { pages: 1, rows: seen.len() as u64, newest_commit };
        Counted { rows: seen.count(&self.conditions), looked_at }
    }

    /// Count the rows in some parts until so many are found, several at the same time. There may be more.
    ///
    /// # Errors
    /// Why a page cannot be read.
    pub fn count(
        &self,
        parts: &[Part],
        wanted: Wanted,
        load: &LoadPage<'_>,
        join: &Join<'_>,
    ) -> Result<Counted, String> {
        let count = |parts: &[Part]| {
            parts.iter().try_fold(Counted::default(), |counted, part| {
                Ok::<_, String>(counted.and(self.count_part(part, base(&part.page, self.layout(), load)?)))
            })
        };
        let (mut counted, mut left) = (Counted::default(), parts);
        while !left.is_empty() && counted.rows < wanted.rows {
            let wave = self.wave(left, u64::MAX, wanted.after(counted.rows, counted.looked_at.pages));
            left = &left[wave.len()..];
            let per_task = wave.len().div_ceil(PAGES_PER_TASK).min(PAGES_PER_TASK);
            for one in in_tasks(wave, per_task, &count, join) {
                counted = counted.and(one?);
            }
        }
        Ok(counted)
    }
}
