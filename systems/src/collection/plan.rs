//! Which tree of a collection answers a question best, and what is left to do with its rows.

use components::Value;
use components::rows::bound::{Condition, ValueRange};
use components::rows::key::{Key, KeyRange};
use components::rows::schema::{Layout, Schema};

/// How to read the rows that a question is about.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The tree to scan.
    pub(crate) tree: usize,
    /// Which of its keys.
    pub(crate) range: KeyRange,
    /// Whether to scan them backwards.
    pub(crate) is_reversed: bool,
    /// What rows of the tree must meet; the positions are those in the tree.
    pub(crate) conditions: Vec<Condition>,
    /// What the whole rows must meet then; the positions are those in the collection.
    pub(crate) residual: Vec<Condition>,
    /// Whether the whole rows must be fetched, as the tree does not have all columns.
    pub(crate) completes: bool,
    /// Whether the rows must be sorted then.
    pub(crate) sorts: bool,
}

/// The bounds that a tree can be entered by: equalities on its first columns, then at most one range.
struct Run {
    prefix: Vec<Value>,
    range: Option<ValueRange>,
}

impl Run {
    fn of(layout: &Layout, conditions: &[Condition]) -> Self {
        let mut run = Self { prefix: Vec::new(), range: None };
        for column in layout.key_columns() {
            match conditions.iter().find(|condition| condition.column == *column) {
                Some(condition) => match condition.range.as_equal() {
                    Some(value) => run.prefix.push(value.clone()),
                    None => {
                        run.range = Some(condition.range.clone());
                        break;
                    }
                },
                None => break,
            }
        }
        run
    }

    /// How many columns it bounds.
    fn len(&self) -> usize {
        self.prefix.len() + usize::from(self.range.is_some())
    }

    /// How much it narrows a scan of this tree: nothing narrows more than a whole key.
    fn rank(&self, layout: &Layout) -> usize {
        if self.prefix.len() == layout.key_len { usize::MAX } else { self.len() }
    }
}

/// Whether a scan of a tree yields rows in this order, when the columns of an equality have one value each.
fn is_ordered(layout: &Layout, order: &[usize], equalities: &[usize]) -> bool {
    let is_free = |column: &&usize| !equalities.contains(*column);
    let mut tree_columns = layout.key_columns().iter().filter(is_free);
    for column in order.iter().filter(is_free) {
        match tree_columns.next() {
            // The key is unique: what comes after it in an order says nothing.
            None => return true,
            Some(tree_column) if tree_column != column => return false,
            Some(_) => {}
        }
    }
    true
}

/// Choose how to read the rows that meet conditions, in an order if there is one, for some of their columns.
///
/// A tree of which the whole key is given wins, else that with the longest run of bounds; of those one that has the order; of those the first (page 02 §3.4).
pub(crate) fn plan(
    schema: &Schema,
    conditions: &[Condition],
    order: Option<&[usize]>,
    is_reversed: bool,
    needed: &[usize],
) -> Plan {
    let is_equality = |condition: &&Condition| condition.range.as_equal().is_some();
    let equalities: Vec<usize> =
        conditions.iter().filter(is_equality).map(|condition| condition.column).collect();
    let has_order = |layout: &Layout| order.is_none_or(|order| is_ordered(layout, order, &equalities));
    let (tree, run) = schema
        .layouts()
        .iter()
        .map(|layout| Run::of(layout, conditions))
        .enumerate()
        .rev()
        // Of equal ones the last is chosen: the first tree.
        .max_by_key(|(tree, run)| {
            let layout = &schema.layouts()[*tree];
            (run.rank(layout), has_order(layout))
        })
        .expect("a collection has a tree");
    let layout = &schema.layouts()[tree];
    let sorts = !has_order(layout);
    let has = |column: usize| layout.place(column).is_some();
    let sorted_by = order.filter(|_| sorts).unwrap_or_default();
    let completes = needed.iter().chain(sorted_by).any(|column| !has(*column))
        || conditions.iter().any(|condition| !has(condition.column));
    let is_in_run = |condition: &Condition| layout.key_columns()[..run.len()].contains(&condition.column);
    let left = |condition: &&Condition| !is_in_run(condition);
    Plan {
        tree,
        is_reversed: is_reversed && !sorts,
        conditions: conditions
            .iter()
            .filter(left)
            .filter_map(|condition| {
                Some(Condition { column: layout.place(condition.column)?, range: condition.range.clone() })
            })
            .collect(),
        residual: conditions.iter().filter(|condition| !has(condition.column)).cloned().collect(),
        completes,
        sorts,
        range: match &run.range {
            _ if conditions.iter().any(|condition| condition.range.is_empty()) => KeyRange::none(),
            Some(range) => KeyRange::of(layout, &run.prefix, range),
            None => KeyRange::prefix(Key::of_prefix(layout, &run.prefix)),
        },
    }
}
