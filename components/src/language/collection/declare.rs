//! Schemas as they are written and shown (protocol page 02 §1).

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeSeq, SerializeTuple, Serializer};

use crate::language::cast;
use crate::language::state::{State, Tuple};
use crate::rows::schema::{CollectionKind, Column, ColumnType, Index, Schema};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::name::Id;
use crate::value::native::NativeClass;
use crate::value::number::Number;

/// The most columns of a collection.
pub const COLUMNS_MAX: usize = 1_024;

/// The most auxiliary indices of a table.
pub const INDICES_MAX: usize = 32;

/// The name of the first tree of a table.
pub const PRIMARY: &str = "primary";

impl Schema {
    /// The schema that a state declares, in any of the forms of page 02 §1.
    ///
    /// # Errors
    /// 400 that says which column or index is wrong.
    pub fn declared(kind: CollectionKind, state: &State) -> Result<Self> {
        match kind {
            CollectionKind::BTree => btree(state),
            CollectionKind::Table => table(state),
        }
        .map_err(|cause| cause.context("the schema"))
    }

    /// This schema as a value, as the method `schema` answers it (page 02 §1.5).
    pub fn to_value(&self) -> Value {
        let columns = columns_value(self.key_columns());
        match self.kind() {
            CollectionKind::BTree => columns,
            CollectionKind::Table => {
                let indices = self.indices().iter().map(|index| {
                    let columns =
                        index.columns.iter().map(|i| Value::Id(self.columns()[*i].name.clone())).collect();
                    pair(Value::Id(index.name.clone()), Value::Tuple(columns))
                });
                let indices = Value::Tuple(indices.collect());
                pair(pair(columns, columns_value(self.value_columns())), indices)
            }
        }
    }
}

fn pair(first: Value, second: Value) -> Value {
    Value::Tuple([first, second].into())
}

/// Columns as a value, as the methods `columns` and `key_columns` answer them (page 02 §1.5).
pub fn columns_value(columns: &[Column]) -> Value {
    let value = |column: &Column| {
        let class = Value::Link(column.class.class().link());
        let max_len = column.max_len.map_or(Value::None, |max_len| Number::U64(max_len).into());
        Value::Tuple([Value::Id(column.name.clone()), class, max_len].into())
    };
    Value::Tuple(columns.iter().map(value).collect())
}

fn list(state: &State, what: &str) -> Result<Tuple> {
    state
        .to_tuple()
        .ok_or_else(|| Error::bad_request(format_args!("{what} is a list, not {}", cast::describe(state))))
}

fn btree(state: &State) -> Result<Schema> {
    let columns = columns(&list(state, "the schema of a BTree")?)?;
    check_columns(&columns)?;
    let key_len = columns.len();
    Ok(Schema::new(CollectionKind::BTree, columns.into(), key_len, [].into()))
}

fn table(state: &State) -> Result<Schema> {
    let whole = list(state, "the schema of a table")?;
    let [first, second] = &*whole else {
        return Err(Error::bad_request(
            "a table has [[key columns, value columns], indices] or [key columns, value columns]",
        ));
    };
    let first = list(first, "the first part")?;
    // In the short form there are columns where the long one has lists of columns.
    let is_long = first.len() == 2
        && first[0].to_tuple().is_some_and(|item| item.first().is_none_or(|name| name.to_tuple().is_some()));
    let (key, values, indices) = if is_long {
        (list(&first[0], "the key")?, list(&first[1], "the value columns")?, Some(second))
    } else {
        (first, list(second, "the value columns")?, None)
    };
    let mut columns = columns(&key)?;
    let key_len = columns.len();
    if key_len == 0 {
        return Err(Error::bad_request("a table has a column in its key"));
    }
    columns.extend(self::columns(&values)?);
    check_columns(&columns)?;
    let indices = match indices {
        Some(indices) => {
            let indices = list(indices, "the list of indices")?;
            if indices.len() > INDICES_MAX {
                return Err(Error::bad_request(format_args!("a table has at most {INDICES_MAX} indices")));
            }
            indices.iter().map(|one| index(&columns, one)).collect::<Result<Vec<Index>>>()?
        }
        None => Vec::new(),
    };
    let mut names = BTreeSet::from([PRIMARY]);
    for index in &indices {
        if !names.insert(index.name.as_str()) {
            return Err(Error::bad_request(format_args!("there is an index {} already", index.name)));
        }
    }
    Ok(Schema::new(CollectionKind::Table, columns.into(), key_len, indices.into()))
}

fn columns(items: &Tuple) -> Result<Vec<Column>> {
    if items.len() > COLUMNS_MAX {
        return Err(Error::bad_request(format_args!("a collection has at most {COLUMNS_MAX} columns")));
    }
    items
        .iter()
        .enumerate()
        .map(|(i, item)| column(item).map_err(|cause| cause.context(format_args!("column {i}"))))
        .collect()
}

fn check_columns(columns: &[Column]) -> Result<()> {
    if columns.len() > COLUMNS_MAX {
        return Err(Error::bad_request(format_args!("a collection has at most {COLUMNS_MAX} columns")));
    }
    let mut names = BTreeSet::new();
    match columns.iter().find(|column| !names.insert(column.name.as_str())) {
        Some(column) => Err(Error::bad_request(format_args!("there are two columns {}", column.name))),
        None => Ok(()),
    }
}

fn column(state: &State) -> Result<Column> {
    let parts = list(state, "a column")?;
    let (declared_name, declared_class, max_len) = match &*parts {
        [name, class] => (name, class, &State::NONE),
        [name, class, max_len] => (name, class, max_len),
        _ => return Err(Error::bad_request("a column is [name, type] or [name, type, max_len]")),
    };
    let name = name(declared_name)?;
    let in_column = |cause: Error| cause.context(format_args!("the column {name}"));
    let class = class(declared_class).map_err(in_column)?;
    let max_len = match max_len {
        State::Value(Value::None) => None,
        State::Value(Value::Number(number)) if number.is_integer() && number.as_u64().is_some() => {
            number.as_u64()
        }
        other => {
            return Err(in_column(Error::bad_request(format_args!(
                "max_len is an integer that is not negative, not {}",
                cast::describe(other)
            ))));
        }
    };
    match (class, max_len) {
        (ColumnType::Number(class), Some(_)) => {
            Err(in_column(Error::bad_request(format_args!("a {class} has no max_len"))))
        }
        (ColumnType::Number(_), None) | (_, Some(_)) => Ok(Column { name, class, max_len }),
        (class, None) => {
            Err(in_column(Error::bad_request(format_args!("a {} needs a max_len", class.class().path()))))
        }
    }
}

/// A name: text, an id, or an object with the name and nothing in it, which is how an id is written.
///
/// # Errors
/// 400 if it is none.
pub fn name(state: &State) -> Result<Id> {
    match state {
        State::Map(map) if map.len() == 1 && map.values().all(State::is_none) => {
            Ok(map.keys().next().expect("one entry").clone())
        }
        other => match other.to_value() {
            Some(value) => value.to_id(),
            None => Err(Error::bad_request(format_args!("{} is not a name", cast::describe(other)))),
        },
    }
}

fn class(state: &State) -> Result<ColumnType> {
    let path = match state {
        // Where a body does not know that it holds a schema, a class with an empty list is an empty value of it.
        State::Value(Value::None) => return Ok(ColumnType::None),
        State::Value(Value::String(text)) if &**text == "()" => return Ok(ColumnType::String),
        State::Value(Value::Bytes(bytes)) if bytes.is_empty() => return Ok(ColumnType::Bytes),
        State::Value(Value::Link(link)) if link.path().is_root() => return Ok(ColumnType::Link),
        State::Value(Value::Tuple(items)) if items.is_empty() => return Ok(ColumnType::Tuple),
        State::Value(Value::Link(link)) => link.to_string(),
        State::Value(Value::String(text)) => text.to_string(),
        other => {
            return Err(Error::bad_request(format_args!("{} is not a type", cast::describe(other))));
        }
    };
    NativeClass::from_path(&path)
        .and_then(ColumnType::from_class)
        .ok_or_else(|| Error::bad_request(format_args!("a column cannot have the type {path}")))
}

fn index(columns: &[Column], state: &State) -> Result<Index> {
    let parts = list(state, "an index")?;
    let [index_name, names] = &*parts else {
        return Err(Error::bad_request("an index is [name, [column, …]]"));
    };
    let index_name = name(index_name)?;
    let in_index = |cause: Error| cause.context(format_args!("the index {index_name}"));
    let mut positions = Vec::new();
    for name in list(names, "the columns of an index")?.iter() {
        let name = self::name(name).map_err(in_index)?;
        let position = columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| in_index(Error::bad_request(format_args!("there is no column {name}"))))?;
        if positions.contains(&position) {
            return Err(in_index(Error::bad_request(format_args!("the column {name} is there twice"))));
        }
        positions.push(position);
    }
    Ok(Index { name: index_name, columns: positions.into() })
}

/// As a literal has it (page 02 §1.5).
impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.kind() {
            CollectionKind::BTree => serializer.collect_seq(self.columns().iter()),
            CollectionKind::Table => {
                let name = |i: &usize| self.columns()[*i].name.as_str();
                let indices: Vec<(&str, Vec<&str>)> = self
                    .indices()
                    .iter()
                    .map(|index| (index.name.as_str(), index.columns.iter().map(name).collect()))
                    .collect();
                let mut list = serializer.serialize_tuple(2)?;
                list.serialize_element(&(self.key_columns(), self.value_columns()))?;
                list.serialize_element(&indices)?;
                list.end()
            }
        }
    }
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        struct Class(ColumnType);
        impl Serialize for Class {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_map([(self.0.class().path(), std::collections::BTreeMap::<(), ()>::new())])
            }
        }
        let mut list = serializer.serialize_seq(Some(2 + usize::from(self.max_len.is_some())))?;
        list.serialize_element(self.name.as_str())?;
        list.serialize_element(&Class(self.class))?;
        if let Some(max_len) = self.max_len {
            list.serialize_element(&max_len)?;
        }
        list.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rows::bound::Condition;
    use crate::rows::schema::tests::inventory;
    use crate::value::document::Document;

    /// A state from JSON text, as a schema in a body is read.
    pub(crate) fn state(text: &str) -> State {
        fn document<'a>(value: &serde_json::Value, arena: &'a bumpalo::Bump) -> Document<'a> {
            use serde_json::Value as Json;
            match value {
                Json::Null => Document::Null,
                Json::Bool(value) => Document::Number((*value).into()),
                Json::Number(number) => Document::Number(match number.as_i64() {
                    Some(integer) => integer.into(),
                    None => number.as_f64().unwrap().into(),
                }),
                Json::String(text) => Document::String(arena.alloc_str(text)),
                Json::Array(items) => {
                    let items: Vec<_> = items.iter().map(|item| document(item, arena)).collect();
                    Document::List(arena.alloc_slice_copy(&items))
                }
                Json::Object(items) => {
                    let items: Vec<(&str, _)> = items
                        .iter()
                        .map(|(name, item)| (&*arena.alloc_str(name), document(item, arena)))
                        .collect();
                    Document::Map(arena.alloc_slice_copy(&items))
                }
            }
        }
        let text = text.replace("V/", "/state/scalar/value/").replace("N/", "/state/scalar/value/number/");
        let arena = bumpalo::Bump::new();
        crate::language::decode::schema(document(&serde_json::from_str(&text).unwrap(), &arena)).unwrap()
    }

    /// The tree of page 02 §4.
    pub(crate) fn cities() -> Schema {
        let text = r#"[["city", {"V/string": {}}, 64], ["pop", {"N/uint/32": {}}]]"#;
        Schema::declared(CollectionKind::BTree, &state(text)).unwrap()
    }

    /// What a condition says, for comparisons.
    pub(crate) fn shown(conditions: &[Condition]) -> Vec<String> {
        use std::ops::Bound::*;
        let value = |value: &Value| crate::language::encode::to_json(&State::Value(value.clone())).unwrap();
        let side = |bound: &std::ops::Bound<Value>| match bound {
            Included(x) => format!("={}", value(x)),
            Excluded(x) => value(x),
            Unbounded => "*".to_string(),
        };
        let shown = |one: &Condition| match one.range.as_equal() {
            Some(x) => format!("{}:{}", one.column, value(x)),
            None => format!("{}:{}..{}", one.column, side(&one.range.start), side(&one.range.end)),
        };
        conditions.iter().map(shown).collect()
    }

    #[test]
    fn every_form_of_a_schema_is_read_and_shown_in_one() {
        let shown = serde_json::to_string(&inventory()).unwrap();
        for text in [
            r#"[[[["sku", "N/uint/64"]], [["color", "V/string", 32], ["qty", {"N/int/32": []}, null]]], [["by_color", ["color"]]]]"#,
            r#"[[[[{"sku": []}, {"N/uint/64": []}, null]], [[{"color": []}, {"V/string": []}, 32], ["qty", "N/int/32"]]], [[{"by_color": []}, [{"color": []}]]]]"#,
        ] {
            let schema = Schema::declared(CollectionKind::Table, &state(text)).unwrap();
            assert_eq!(serde_json::to_string(&schema).unwrap(), shown, "{text}");
        }
        let again = Schema::declared(CollectionKind::Table, &state(&shown)).unwrap();
        assert_eq!(again, inventory());
        let as_value = Schema::declared(CollectionKind::Table, &inventory().to_value().into()).unwrap();
        assert_eq!(as_value, inventory());
    }

    #[test]
    fn a_type_may_be_what_its_empty_object_is_read_as() {
        use ColumnType::{Bytes, Id, Link, None, Number, String, Tuple};
        let arena = bumpalo::Bump::new();
        let empty = arena.alloc_slice_copy(&[] as &[Document]);
        for class in [Bytes, Id, Link, None, String, Tuple, ColumnType::Value, Number(crate::NumberType::I32)]
        {
            let object = arena.alloc_slice_copy(&[(class.class().path(), Document::List(empty))]);
            let read = crate::language::decode::state(Document::Map(object)).unwrap();
            assert_eq!(self::class(&read).unwrap(), class);
        }
    }

    #[test]
    fn a_table_has_a_short_form() {
        for (text, columns) in [
            (r#"[[["a", "N/int"]], []]"#, 1),
            (r#"[[["a", "N/int"], ["b", "N/int"]], [["c", "N/int"]]]"#, 3),
            (r#"[[["a", "N/int"], ["b", "N/int"]], []]"#, 2),
        ] {
            let schema = Schema::declared(CollectionKind::Table, &state(text)).unwrap();
            assert_eq!(schema.columns().len(), columns, "{text}");
            assert!(schema.indices().is_empty());
        }
    }

    #[test]
    fn what_is_wrong_with_a_schema_is_said() {
        use CollectionKind::{BTree, Table};
        for (kind, text, says) in [
            (BTree, r#"{}"#, "list"),
            (BTree, r#"[["a"]]"#, "column 0"),
            (BTree, r#"[["a", "N/int"], ["b b", "N/int"]]"#, "column 1"),
            (BTree, r#"[["a", "N/int", 5]]"#, "the column a"),
            (BTree, r#"[["a", "V/string"]]"#, "needs a max_len"),
            (BTree, r#"[["a", "V/string", -1]]"#, "max_len"),
            (BTree, r#"[["a", "V/string", 1.5]]"#, "max_len"),
            (BTree, r#"[["a", "N/int/8"]]"#, "/int/8"),
            (BTree, r#"[["a", "N/int"], ["a", "N/int"]]"#, "two columns a"),
            (Table, r#"[["a", "N/int"]]"#, "a table has"),
            (Table, r#"[[[], [["a", "N/int"]]], []]"#, "key"),
            (Table, r#"[[[["a", "N/int"]], []], [["primary", ["a"]]]]"#, "primary"),
            (Table, r#"[[[["a", "N/int"]], []], [["i", ["x"]]]]"#, "no column x"),
            (Table, r#"[[[["a", "N/int"]], []], [["i", ["a", "a"]]]]"#, "twice"),
            (Table, r#"[[[["a", "N/int"]], []], [["i", ["a"]], ["i", ["a"]]]]"#, "index i already"),
        ] {
            let error = Schema::declared(kind, &state(text)).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::BadRequest);
            assert!(error.message().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn columns_are_shown_as_values() {
        let value = columns_value(inventory().columns());
        let text =
            crate::language::encode::to_json(&value.into()).unwrap().replace("/state/scalar/value", "V");
        assert_eq!(
            text,
            r#"[[{"sku":[]},{"V/number/uint/64":[]},null],[{"color":[]},{"V/string":[]},32],[{"qty":[]},{"V/number/int/32":[]},null]]"#
        );
    }
}
