//! Schemas of collections (protocol page 02 §1).

use std::sync::Arc;

use super::Row;
use crate::value::Value;
use crate::value::name::Id;
use crate::value::native::NativeClass;
use crate::value::number::NumberType;

/// The class of the values in a column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ColumnType {
    /// Numbers of a class, which may be abstract.
    Number(NumberType),
    /// Unicode text.
    String,
    /// Raw bytes.
    Bytes,
    /// Names.
    Id,
    /// Links and paths.
    Link,
    /// Tuples of values.
    Tuple,
    /// Nothing.
    None,
    /// Any value.
    Value,
}

impl ColumnType {
    /// The column type of a native class, if columns can have it.
    pub fn from_class(class: NativeClass) -> Option<Self> {
        Some(match class {
            NativeClass::Number(class) => Self::Number(class),
            NativeClass::String => Self::String,
            NativeClass::Bytes => Self::Bytes,
            NativeClass::Id => Self::Id,
            NativeClass::Link => Self::Link,
            NativeClass::ValueTuple => Self::Tuple,
            NativeClass::None => Self::None,
            NativeClass::Value => Self::Value,
            _ => return None,
        })
    }

    /// The native class of the values.
    pub fn class(self) -> NativeClass {
        match self {
            Self::Number(class) => NativeClass::Number(class),
            Self::String => NativeClass::String,
            Self::Bytes => NativeClass::Bytes,
            Self::Id => NativeClass::Id,
            Self::Link => NativeClass::Link,
            Self::Tuple => NativeClass::ValueTuple,
            Self::None => NativeClass::None,
            Self::Value => NativeClass::Value,
        }
    }
}

impl ColumnType {
    /// Whether a list can be given for a value: then a list of lists may be one key, and is never taken for rows.
    pub fn takes_lists(self) -> bool {
        match self {
            Self::Value | Self::None | Self::Tuple | Self::Bytes | Self::Link => true,
            Self::Number(class) => {
                matches!(class, NumberType::Number | NumberType::Complex | NumberType::C32 | NumberType::C64)
            }
            Self::String | Self::Id => false,
        }
    }
}

/// Whether a column of this type, which has no buffer of numbers or texts of its own, can have the value.
pub fn is_of(class: ColumnType, value: &Value) -> bool {
    match (class, value) {
        (ColumnType::Value, _) => true,
        (ColumnType::Number(_), Value::Number(_))
        | (ColumnType::Id, Value::Id(_))
        | (ColumnType::Link, Value::Link(_))
        | (ColumnType::Tuple, Value::Tuple(_))
        | (ColumnType::None, Value::None) => true,
        (_, _) => false,
    }
}

/// Whether a row that was stored is one of a collection with this schema.
pub fn is_row_of(schema: &Schema, row: &[Value]) -> bool {
    let fits = |(column, value): (&Column, &Value)| match (column.class, value) {
        // Numbers that have buffers of their own are of exactly their class.
        (
            ColumnType::Number(
                class @ (NumberType::Bool
                | NumberType::I16
                | NumberType::I32
                | NumberType::I64
                | NumberType::U8
                | NumberType::U16
                | NumberType::U32
                | NumberType::U64
                | NumberType::F32
                | NumberType::F64),
            ),
            Value::Number(number),
        ) => number.class() == class,
        (ColumnType::String, Value::String(_)) | (ColumnType::Bytes, Value::Bytes(_)) => true,
        (class, value) => is_of(class, value),
    };
    row.len() == schema.columns().len() && schema.columns().iter().zip(row).all(fits)
}

/// A column of a collection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Column {
    /// Its name, unique in its collection.
    pub name: Id,
    /// The class of its values.
    pub class: ColumnType,
    /// The most characters, bytes or items of a value; numbers have none.
    pub max_len: Option<u64>,
}

/// An auxiliary index of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Index {
    /// Its name; never `primary`.
    pub name: Id,
    /// The positions of its own columns in a row of the table.
    pub columns: Arc<[usize]>,
}

/// The rows of one tree: which columns of the collection they have, and how many of them make the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The types of its columns, in the order of its rows.
    pub types: Arc<[ColumnType]>,
    /// The positions of these columns in a row of the collection.
    pub columns: Arc<[usize]>,
    /// How many of them, from the first on, make the key; the key is unique.
    pub key_len: usize,
}

impl Layout {
    /// The row of this tree for a row of the collection.
    pub fn project(&self, row: &[Value]) -> Row {
        self.columns.iter().map(|i| row[*i].clone()).collect()
    }

    /// The columns that make the key.
    pub fn key_columns(&self) -> &[usize] {
        &self.columns[..self.key_len]
    }

    /// Where a column of the collection is in the rows of this tree, if it is there.
    pub fn place(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|one| *one == column)
    }
}

/// Whether a collection is a BTree or a Table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CollectionKind {
    /// Keys.
    BTree,
    /// Rows by key, with indices.
    Table,
}

impl CollectionKind {
    /// The native class of such a collection.
    pub fn class(self) -> NativeClass {
        match self {
            Self::BTree => NativeClass::BTree,
            Self::Table => NativeClass::Table,
        }
    }

    /// The kind of collection that a native class is, if it is one.
    pub fn from_class(class: NativeClass) -> Option<Self> {
        match class {
            NativeClass::BTree => Some(Self::BTree),
            NativeClass::Table => Some(Self::Table),
            _ => None,
        }
    }
}

/// The schema of a BTree or Table. It has been checked: see [`Schema::new`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Schema {
    kind: CollectionKind,
    columns: Arc<[Column]>,
    key_len: usize,
    indices: Arc<[Index]>,
    layouts: Arc<[Layout]>,
}

impl Schema {
    /// A schema of which the caller knows that its columns and indices are sound: names are unique, positions are in
    /// range, and a BTree has no indices and no columns beyond its key.
    pub fn new(kind: CollectionKind, columns: Arc<[Column]>, key_len: usize, indices: Arc<[Index]>) -> Self {
        assert!(key_len <= columns.len(), "a key is made of columns");
        if kind == CollectionKind::BTree {
            assert!(key_len == columns.len() && indices.is_empty(), "a row of a BTree is its key");
        }
        let layout = |positions: Vec<usize>, key_len: usize| Layout {
            types: positions.iter().map(|i| columns[*i].class).collect(),
            columns: positions.into(),
            key_len,
        };
        let mut layouts = vec![layout((0..columns.len()).collect(), key_len)];
        for index in indices.iter() {
            let mut positions = index.columns.to_vec();
            positions.extend((0..key_len).filter(|i| !index.columns.contains(i)));
            let len = positions.len();
            layouts.push(layout(positions, len));
        }
        Self { kind, columns, key_len, indices, layouts: layouts.into() }
    }

    /// Whether this is the schema of a BTree or a Table.
    pub fn kind(&self) -> CollectionKind {
        self.kind
    }

    /// The native class of the collection.
    pub fn class(&self) -> NativeClass {
        self.kind.class()
    }

    /// All columns in row order: those of the key, then the others.
    pub fn columns(&self) -> &Arc<[Column]> {
        &self.columns
    }

    /// The columns of the key.
    pub fn key_columns(&self) -> &[Column] {
        &self.columns[..self.key_len]
    }

    /// The columns that are not part of the key; a BTree has none.
    pub fn value_columns(&self) -> &[Column] {
        &self.columns[self.key_len..]
    }

    /// How many columns make the key.
    pub fn key_len(&self) -> usize {
        self.key_len
    }

    /// The auxiliary indices; index `i` is tree `i + 1`.
    pub fn indices(&self) -> &[Index] {
        &self.indices
    }

    /// The trees of the collection: the primary one, then one for each index.
    pub fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    /// Whether a list of lists that a request puts without a key is rows, as it always is for a table. For a BTree it is one key if
    /// the first value of a key may be a list: that depends on the schema alone, not on what is in the lists.
    pub fn reads_lists_as_rows(&self) -> bool {
        self.kind == CollectionKind::Table
            || !self.columns.first().is_some_and(|first| first.class.takes_lists())
    }

    /// The position of a column.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.as_str() == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The table of page 02 §1.3.
    pub(crate) fn inventory() -> Schema {
        let column = |name, class, max_len| Column { name: Id::literal(name), class, max_len };
        let columns = [
            column("sku", ColumnType::Number(NumberType::U64), None),
            column("color", ColumnType::String, Some(32)),
            column("qty", ColumnType::Number(NumberType::I32), None),
        ];
        let by_color = Index { name: Id::literal("by_color"), columns: [1].into() };
        Schema::new(CollectionKind::Table, columns.into(), 1, [by_color].into())
    }
}
