//! Views: what to read of a collection, and in which order (protocol page 02 §4, §5.2).
//!
//! A view takes up as many operations as it can, so that a plan sees all of them; what it cannot take up is a view of
//! that view.

use std::sync::Arc;

use super::Collection;
use crate::language::state::{Extent, State};
use crate::rows::bound::Condition;
use crate::rows::schema::{CollectionKind, Column, Schema};
use crate::value::error::Result;

/// Something that has rows.
#[derive(Clone, Debug)]
pub enum Rowset {
    /// All rows of a collection.
    Collection(Collection),
    /// What a view says.
    View(Arc<View>),
}

/// What to read, in the order in which it is done: rows of the base that meet the conditions, ordered, perhaps
/// reversed, the first ones of them, some of their columns.
#[derive(Clone, Debug)]
pub struct View {
    base: Rowset,
    conditions: Vec<Condition>,
    order: Option<Arc<[usize]>>,
    is_reversed: bool,
    limit: Option<u64>,
    select: Option<Selection>,
    extent: Extent,
}

#[derive(Clone, Debug)]
struct Selection {
    /// Positions in the rows of the base.
    positions: Arc<[usize]>,
    columns: Arc<[Column]>,
    schema: Arc<Schema>,
}

impl Rowset {
    /// The rows of a state, if it has any.
    pub fn of(state: &State) -> Option<Self> {
        match state {
            State::Collection(collection) => Some(Self::Collection(collection.clone())),
            State::View(view) => Some(Self::View(view.clone())),
            State::Instance(instance) => Self::of(instance.data()),
            _ => None,
        }
    }

    /// This as a state.
    pub fn to_state(&self) -> State {
        match self {
            Self::Collection(collection) => State::Collection(collection.clone()),
            Self::View(view) => State::View(view.clone()),
        }
    }

    /// The schema that a reply shows.
    pub fn schema(&self) -> &Arc<Schema> {
        match self {
            Self::Collection(collection) => &collection.schema,
            Self::View(view) => view.schema(),
        }
    }

    /// Whether these are rows of a BTree or of a table.
    pub fn kind(&self) -> CollectionKind {
        self.schema().kind()
    }

    /// The columns in the order of the rows. Those of a view come as they were selected.
    pub fn columns(&self) -> &Arc<[Column]> {
        match self {
            Self::Collection(collection) => collection.schema.columns(),
            Self::View(view) => match &view.select {
                Some(selection) => &selection.columns,
                None => view.base.columns(),
            },
        }
    }

    /// A view that can take up more: this one as it is, or a new one of it if `is_open` says no.
    fn open(&self, is_open: impl Fn(&View) -> bool) -> Result<View> {
        match self {
            Self::View(view) if is_open(view) => Ok((**view).clone()),
            base => Ok(View {
                base: base.clone(),
                conditions: Vec::new(),
                order: None,
                is_reversed: false,
                limit: None,
                select: None,
                extent: Extent::of([(0, &base.to_state())].into_iter())?,
            }),
        }
    }

    /// The rows that meet these conditions on [`Self::columns`].
    ///
    /// # Errors
    /// 400 if there are too many views of views.
    pub fn filtered(&self, conditions: Vec<Condition>) -> Result<View> {
        let mut view = self.open(|view| view.limit.is_none())?;
        for condition in conditions {
            let column = view.position(condition.column);
            match view.conditions.iter_mut().find(|one| one.column == column) {
                Some(one) => one.range = one.range.intersection(&condition.range),
                None => view.conditions.push(Condition { column, range: condition.range }),
            }
        }
        view.conditions.sort_by_key(|condition| condition.column);
        Ok(view)
    }

    /// The rows in the order of some of [`Self::columns`], perhaps reversed.
    ///
    /// # Errors
    /// As [`Self::filtered`].
    pub fn ordered(&self, columns: &[usize], is_reversed: bool) -> Result<View> {
        let mut view = self.open(|view| view.limit.is_none() && view.order.is_none() && !view.is_reversed)?;
        let positions: Vec<usize> = columns.iter().map(|i| view.position(*i)).collect();
        view.order = Some(view.base.whole_order(positions).into());
        view.is_reversed = is_reversed;
        Ok(view)
    }

    /// An order with the columns that break ties: the rest of the index that has it, else the key (page 02 §3.5).
    fn whole_order(&self, order: Vec<usize>) -> Vec<usize> {
        let Self::Collection(collection) = self else {
            // Here ties stay in the order of the view.
            return order;
        };
        let layouts = collection.schema.layouts();
        let mut whole = match layouts.iter().find(|layout| layout.columns.starts_with(&order)) {
            Some(layout) => layout.columns.to_vec(),
            None => order,
        };
        whole.extend(0..collection.schema.key_len());
        let mut seen = vec![false; collection.schema.columns().len()];
        whole.retain(|i| !std::mem::replace(&mut seen[*i], true));
        whole
    }

    /// The rows from the last to the first.
    ///
    /// # Errors
    /// As [`Self::filtered`].
    pub fn reversed(&self) -> Result<View> {
        let mut view = self.open(|view| view.limit.is_none())?;
        view.is_reversed = !view.is_reversed;
        Ok(view)
    }

    /// The first rows.
    ///
    /// # Errors
    /// As [`Self::filtered`].
    pub fn limited(&self, limit: u64) -> Result<View> {
        let mut view = self.open(|_| true)?;
        view.limit = Some(view.limit.map_or(limit, |so_far| so_far.min(limit)));
        Ok(view)
    }

    /// Some of [`Self::columns`], each at most once.
    ///
    /// # Errors
    /// As [`Self::filtered`].
    pub fn selected(&self, columns: &[usize]) -> Result<View> {
        let from = self.columns();
        let chosen: Arc<[Column]> = columns.iter().map(|i| from[*i].clone()).collect();
        let is_key = |column: &&Column| self.schema().key_columns().contains(column);
        let key: Vec<Column> = chosen.iter().filter(is_key).cloned().collect();
        let key_len = key.len();
        let values = chosen.iter().filter(|column| !is_key(column)).cloned();
        let shown = key.into_iter().chain(values).collect();
        let schema = Schema::new(CollectionKind::Table, shown, key_len, [].into());
        let mut view = self.open(|_| true)?;
        view.select = Some(Selection {
            positions: columns.iter().map(|i| view.position(*i)).collect(),
            columns: chosen,
            schema: schema.into(),
        });
        Ok(view)
    }
}

impl View {
    /// Where the rows come from.
    pub fn base(&self) -> &Rowset {
        &self.base
    }

    /// What rows of the base must meet, at most one for each column.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// The columns of the base that order the rows, if that was asked for. Of a collection they order every two rows.
    pub fn order(&self) -> Option<&[usize]> {
        self.order.as_deref()
    }

    /// Whether the rows come from the last to the first.
    pub fn is_reversed(&self) -> bool {
        self.is_reversed
    }

    /// How many rows there are at most.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The columns of the base that the rows have, in order; all if none were selected.
    pub fn selection(&self) -> Option<&Arc<[usize]>> {
        self.select.as_ref().map(|selection| &selection.positions)
    }

    /// The schema that a reply shows.
    pub fn schema(&self) -> &Arc<Schema> {
        match &self.select {
            Some(selection) => &selection.schema,
            None => self.base.schema(),
        }
    }

    /// Where a column of this view is in the rows of its base.
    fn position(&self, column: usize) -> usize {
        self.select.as_ref().map_or(column, |selection| selection.positions[column])
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }
}
