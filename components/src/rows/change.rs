//! What the change of a row changes in the trees of its collection.

use super::Row;
use super::key::Key;
use super::schema::{CollectionKind, Schema};
use crate::value::Value;
use crate::value::number::Number;

/// The change of one row of a collection.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// The row before; none if there was none.
    pub old: Option<Row>,
    /// The row after; none if it is deleted. It has the key of the row before.
    pub new: Option<Row>,
}

impl RowChange {
    /// Whether all trees stay as they are.
    pub fn is_nothing(&self, schema: &Schema) -> bool {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => schema.kind() == CollectionKind::BTree || is_same(old, new),
            (None, None) => true,
            _ => false,
        }
    }

    /// See [`changes`].
    pub fn in_trees(&self, schema: &Schema) -> Vec<Change> {
        changes(schema, self.old.as_ref(), self.new.as_ref())
    }
}

/// The change of one entry of one tree.
#[derive(Clone, Debug)]
pub struct Change {
    /// The number of the tree.
    pub tree: usize,
    /// The key in that tree.
    pub key: Key,
    /// The row of that tree from now on; none deletes it.
    pub row: Option<Row>,
    /// How many rows the tree has more.
    pub rows: i64,
}

/// What has to change so that `new` is in the place of `old`. Both have the same primary key, if both are there.
///
/// Trees in which nothing changes are not mentioned. A key that a BTree has already stays as it is.
pub fn changes(schema: &Schema, old: Option<&Row>, new: Option<&Row>) -> Vec<Change> {
    if schema.kind() == CollectionKind::BTree && old.is_some() && new.is_some() {
        return Vec::new();
    }
    let mut changes = Vec::new();
    for (tree, layout) in schema.layouts().iter().enumerate() {
        let entry = |row: &Row| {
            let row = if tree == 0 { row.clone() } else { layout.project(row) };
            (Key::of_row(layout, &row), row)
        };
        match (old.map(entry), new.map(entry)) {
            (Some((old_key, old)), Some((new_key, new))) => {
                if old_key != new_key {
                    changes.push(Change { tree, key: old_key, row: None, rows: -1 });
                    changes.push(Change { tree, key: new_key, row: Some(new), rows: 1 });
                } else if !is_same(&old, &new) {
                    changes.push(Change { tree, key: new_key, row: Some(new), rows: 0 });
                }
            }
            (Some((key, _)), None) => changes.push(Change { tree, key, row: None, rows: -1 }),
            (None, Some((key, row))) => changes.push(Change { tree, key, row: Some(row), rows: 1 }),
            (None, None) => {}
        }
    }
    changes
}

/// Whether two rows are stored alike: values that are only equal, like 1 and 1.0, are not.
pub(super) fn is_same(this: &[Value], that: &[Value]) -> bool {
    this.iter().zip(that).all(|(this, that)| match (this, that) {
        (Value::Number(this), Value::Number(that)) => bits(*this) == bits(*that),
        (Value::Tuple(this), Value::Tuple(that)) => this.len() == that.len() && is_same(this, that),
        (this, that) => this == that,
    })
}

fn bits(number: Number) -> (crate::NumberType, u64, u64) {
    let (first, second) = match number {
        Number::F32(x) => (x.to_bits().into(), 0),
        Number::F64(x) => (x.to_bits(), 0),
        Number::C32([re, im]) => (re.to_bits().into(), im.to_bits().into()),
        Number::C64([re, im]) => (re.to_bits(), im.to_bits()),
        Number::U64(x) => (x, 0),
        integer => (integer.as_i64().expect("an integer of 64 bits") as u64, 0),
    };
    (number.class(), first, second)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rows::schema::tests::inventory;

    pub(in crate::rows) fn row(sku: u64, color: &str, quantity: i64) -> Row {
        [sku.into(), color.into(), crate::Number::I32(quantity as i32).into()].into()
    }

    #[test]
    fn only_trees_in_which_something_changes_are_mentioned() {
        let schema = inventory();
        let trees = |old: Option<Row>, new: Option<Row>| -> Vec<(usize, bool)> {
            let changes = changes(&schema, old.as_ref(), new.as_ref());
            changes.iter().map(|change| (change.tree, change.row.is_some())).collect()
        };
        assert_eq!(trees(None, Some(row(1, "red", 10))), [(0, true), (1, true)]);
        assert_eq!(trees(Some(row(1, "red", 10)), None), [(0, false), (1, false)]);
        assert_eq!(trees(Some(row(1, "red", 10)), Some(row(1, "red", 11))), [(0, true)]);
        assert_eq!(
            trees(Some(row(1, "red", 10)), Some(row(1, "blue", 10))),
            [(0, true), (1, false), (1, true)]
        );
        assert_eq!(trees(Some(row(1, "red", 10)), Some(row(1, "red", 10))), []);
        assert_eq!(trees(None, None), []);
    }

    #[test]
    fn what_changes_nothing_changes_no_tree() {
        let schema = inventory();
        let rows = [None, Some(row(1, "red", 10)), Some(row(1, "red", 11)), Some(row(1, "blue", 10))];
        for (old, new) in rows.iter().flat_map(|old| rows.iter().map(move |new| (old, new))) {
            let change = RowChange { old: old.clone(), new: new.clone() };
            assert_eq!(change.is_nothing(&schema), change.in_trees(&schema).is_empty(), "{change:?}");
        }
    }
}
