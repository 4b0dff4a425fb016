//! A page as a transaction sees it: the rows of its base, but for those that were changed since.

use std::ops::{Bound, Range};
use std::sync::Arc;

use imbl::OrdMap;

use super::Row;
use super::bound::Condition;
use super::columns::{Columns, ColumnsBuilder, Selection};
use super::delta::Visibility;
use super::key::{Key, KeyRange};
use super::page::Page;
use super::schema::Layout;
use crate::rows::page::Tree;
use crate::rows::schema::Schema;

/// The entries of a tree that a transaction has written; none is deleted. A clone is a snapshot.
pub type OwnRows = OrdMap<Key, Option<Row>>;

/// A collection as a transaction sees it at one moment. Only what the transaction has locked may be read.
#[derive(Clone, Debug)]
pub struct RowsSnapshot {
    /// Its schema.
    pub schema: Arc<Schema>,
    /// What was committed, or the transaction's own trees.
    pub trees: Arc<Vec<Tree>>,
    /// Whether these are its own: then it has locked all of them.
    pub is_own: bool,
    /// What the transaction has written, for each tree.
    pub own: Vec<OwnRows>,
    /// Which of the committed versions it sees.
    pub visibility: Visibility,
}

/// The rows of one page in a range as a transaction sees them.
#[derive(Debug)]
pub struct SeenPage {
    base: Option<Arc<Columns>>,
    /// The rows of the base that are in the range.
    rows: Range<usize>,
    /// The changed rows that are in the range, in order.
    changes: Vec<SeenChange>,
}

/// A row that is not what the base says.
#[derive(Debug)]
struct SeenChange {
    /// Where it is in the base, or would be.
    at: usize,
    /// Whether it is there.
    is_there: bool,
    /// What it is; none if it was deleted.
    row: Option<Row>,
}

impl SeenPage {
    /// The rows of a page with this base, and the newest commit among its changes that are seen. What the transaction
    /// has written itself hides what is committed.
    pub fn new(
        layout: &Layout,
        page: &Page,
        base: Option<Arc<Columns>>,
        range: &KeyRange,
        own: &OwnRows,
        visibility: Visibility,
    ) -> (Self, u64) {
        let (committed, newest) = page.changes(range, visibility);
        let rows = match &base {
            None => 0..0,
            Some(base) => {
                let start = if range.start.is_empty() { 0 } else { base.lower_bound(layout, &range.start) };
                start..range.end.as_ref().map_or(base.len(), |end| base.lower_bound(layout, end))
            }
        };
        let mut changes = Vec::with_capacity(committed.len());
        let mut own = own_rows(own, range).peekable();
        let mut push = |key: &Key, row: Option<Row>| {
            let (at, is_there) = match &base {
                None => (0, false),
                Some(base) => match base.find(layout, key) {
                    Some(at) => (at, true),
                    None => (base.lower_bound(layout, key), false),
                },
            };
            changes.push(SeenChange { at, is_there, row });
        };
        for (key, row) in committed {
            while let Some((own_key, own_row)) = own.next_if(|(own_key, _)| **own_key < key) {
                push(own_key, own_row.clone());
            }
            match own.next_if(|(own_key, _)| **own_key == key) {
                Some((_, own_row)) => push(&key, own_row.clone()),
                None => push(&key, row),
            }
        }
        for (key, row) in own {
            push(key, row.clone());
        }
        (Self { base, rows, changes }, newest)
    }

    /// How many rows and changes there are to look at.
    pub fn len(&self) -> usize {
        self.rows.len() + self.changes.len()
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn selection(&self, conditions: &[Condition]) -> Option<Selection> {
        self.base.as_ref().map(|base| {
            if conditions.is_empty() {
                Selection::all(self.rows.clone())
            } else {
                base.select(conditions, self.rows.clone())
            }
        })
    }

    /// How many rows meet the conditions.
    pub fn count(&self, conditions: &[Condition]) -> u64 {
        let selection = self.selection(conditions);
        let mut count = selection.as_ref().map_or(0, Selection::count);
        for SeenChange { at, is_there, row } in &self.changes {
            if *is_there && selection.as_ref().is_some_and(|selection| selection.contains(*at)) {
                count -= 1;
            }
            if row.as_ref().is_some_and(|row| is_met(conditions, row)) {
                count += 1;
            }
        }
        count as u64
    }

    /// The rows that meet the conditions, in order.
    pub fn rows(&self, conditions: &[Condition]) -> Vec<Row> {
        let selection = self.selection(conditions);
        let mut rows = Vec::with_capacity(selection.as_ref().map_or(0, Selection::count));
        self.merge(conditions, selection.as_ref(), &mut |part| match part {
            Part::Base(base, run) => rows.extend(run.map(|i| base.row(i))),
            Part::Changed(row) => rows.push(row.clone()),
        });
        rows
    }

    /// The same rows in columns; in the memory of the base where nothing is changed and all is wanted.
    pub fn columns(&self, layout: &Layout, conditions: &[Condition]) -> Columns {
        if let Some(base) = &self.base
            && self.changes.is_empty()
            && conditions.is_empty()
        {
            return base.slice(self.rows.clone());
        }
        let selection = self.selection(conditions);
        let capacity = selection.as_ref().map_or(0, Selection::count) + self.changes.len();
        let mut builder = ColumnsBuilder::with_capacity(&layout.types, capacity);
        self.merge(conditions, selection.as_ref(), &mut |part| match part {
            Part::Base(base, run) => builder.push_range(base, run),
            Part::Changed(row) => builder.push(row),
        });
        builder.finish()
    }

    /// Bring the selected rows of the base and the changed rows into one order.
    fn merge(&self, conditions: &[Condition], selection: Option<&Selection>, push: &mut dyn FnMut(Part<'_>)) {
        let mut changes = self.changes.iter().peekable();
        let push_change = |push: &mut dyn FnMut(Part<'_>), row: &Option<Row>| {
            if let Some(row) = row
                && is_met(conditions, row)
            {
                push(Part::Changed(row));
            }
        };
        if let (Some(base), Some(selection)) = (&self.base, selection) {
            for run in selection.runs() {
                let mut next = run.start;
                while let Some(change) = changes.next_if(|change| change.at < run.end) {
                    if change.at > next {
                        push(Part::Base(base, next..change.at));
                        next = change.at;
                    }
                    push_change(push, &change.row);
                    if change.is_there && change.at == next {
                        next += 1;
                    }
                }
                if next < run.end {
                    push(Part::Base(base, next..run.end));
                }
            }
        }
        for change in changes {
            push_change(push, &change.row);
        }
    }
}

/// A part of what is seen.
enum Part<'a> {
    /// A run of rows of the base.
    Base(&'a Columns, Range<usize>),
    /// A row that is not what the base says.
    Changed(&'a Row),
}

fn is_met(conditions: &[Condition], row: &Row) -> bool {
    conditions.iter().all(|condition| condition.is_met(row))
}

/// What a transaction has written itself in a range of keys.
fn own_rows<'a>(own: &'a OwnRows, range: &KeyRange) -> impl Iterator<Item = (&'a Key, &'a Option<Row>)> {
    // A range that is empty may end before it begins, which maps do not take.
    let end = range.end.as_ref().map(|end| end.max(&range.start));
    own.range::<_, Key>((Bound::Included(&range.start), end.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// How many rows a transaction has written in a range of keys.
pub fn own_len(own: &OwnRows, range: &KeyRange) -> usize {
    if range.is_empty() { 0 } else { own_rows(own, range).count() }
}

/// Whether a transaction has written something in a range of keys.
pub fn has_own(own: &OwnRows, range: &KeyRange) -> bool {
    !range.is_empty() && own_rows(own, range).next().is_some()
}
