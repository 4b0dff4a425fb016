//! States as JSON and TBON (protocol page 01 §2.4, §3.2, §4.2, §6; page 04 §4.1).

use std::sync::Arc;

use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::chain::{
    Block, Blocks, Chain, ChainBlocks, ChainContent, ChainKind, HistorySnapshot, Mutation, Previous,
};
use super::class::{Class, Instance};
use super::collection::CollectionContent;
use super::collection::snapshot::RowsetSnapshot;
use super::op::{Body, OpDef};
use super::reference::{OpRef, Ref, Subject};
use super::state::State;
use crate::rows::Row;
use crate::rows::columns::Shown;
use crate::rows::schema::{Column, ColumnType};
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::json::entry;
use crate::value::native::NativeClass;

/// A state as JSON text.
///
/// # Errors
/// 400 if it holds a number that JSON has no form for: NaN or infinity.
pub fn to_json(state: &State) -> Result<String> {
    serde_json::to_string(state).map_err(Error::bad_request)
}

/// A state as JSON text of bounded length: what is shared in memory is written each time that it occurs.
///
/// # Errors
/// 413 if it is longer; as [`to_json`].
pub fn to_json_within(state: &State, bytes_max: usize) -> Result<Vec<u8>> {
    let mut text = Bounded { bytes: Vec::with_capacity(128), bytes_max };
    match serde_json::to_writer(&mut text, state) {
        Ok(()) => Ok(text.bytes),
        Err(cause) if cause.is_io() => Err(too_large(bytes_max)),
        Err(cause) => Err(Error::bad_request(cause)),
    }
}

/// A part of the JSON text of a state.
#[derive(Debug)]
pub enum JsonPart {
    /// The text itself.
    Text(Vec<u8>),
    /// Rows that are still to be read: a list of lists.
    Rows(Arc<RowsetSnapshot>),
    /// Blocks that are still to be read: items of a list, with commas between them.
    Blocks(Arc<HistorySnapshot>),
}

/// A state as JSON text in which the rows that [stream](State::is_streamed) are left out.
///
/// # Errors
/// As [`to_json_within`], for the rest of the text.
pub fn to_json_parts(state: &State, bytes_max: usize) -> Result<Vec<JsonPart>> {
    let mut text = PartsWriter { parts: Vec::new(), text: Bounded { bytes: Vec::new(), bytes_max } };
    text.push(state)?;
    let PartsWriter { mut parts, text } = text;
    parts.push(JsonPart::Text(text.bytes));
    Ok(parts)
}

struct PartsWriter {
    parts: Vec<JsonPart>,
    /// What comes after the parts.
    text: Bounded,
}

impl PartsWriter {
    fn write<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<()> {
        let bytes_max = self.text.bytes_max;
        serde_json::to_writer(&mut self.text, value).map_err(|cause| match cause.is_io() {
            true => too_large(bytes_max),
            false => Error::bad_request(cause),
        })
    }

    fn mark(&mut self, mark: &str) -> Result<()> {
        std::io::Write::write_all(&mut self.text, mark.as_bytes()).map_err(|_| too_large(self.text.bytes_max))
    }

    fn push(&mut self, state: &State) -> Result<()> {
        match state {
            state if !state.is_streamed() => self.write(state),
            State::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.mark(if i == 0 { "[" } else { "," })?;
                    self.push(item)?;
                }
                self.mark("]")
            }
            State::Map(items) => {
                for (i, (name, item)) in items.iter().enumerate() {
                    self.mark(if i == 0 { "{" } else { "," })?;
                    self.push_named(name.as_str(), item)?;
                }
                self.mark("}")
            }
            State::Instance(instance) => {
                self.mark("{")?;
                self.write(NativeClass::ObjectInstance.path())?;
                self.mark(":{")?;
                self.push_named(&instance_class(instance), instance.data())?;
                self.mark("}}")
            }
            State::Chain(Chain::Content(content)) => {
                self.mark("{")?;
                self.write(content.kind.class().path())?;
                self.mark(":[")?;
                self.write(&content.schema)?;
                self.mark(",")?;
                match (content.kind, &content.blocks) {
                    (ChainKind::Sync, _) => self.push(&content.subject)?,
                    (ChainKind::Block, blocks) => self.push_blocks(blocks, false)?,
                }
                self.mark("]}")
            }
            State::Chain(Chain::Blocks(shown)) => self.push_blocks(&shown.blocks, shown.is_one),
            State::Snapshot(snapshot) if snapshot.is_list => self.push_rows(snapshot),
            State::Snapshot(snapshot) => {
                self.mark("{")?;
                self.write(snapshot.schema.class().path())?;
                self.mark(":[")?;
                self.write(&*snapshot.schema)?;
                self.mark(",")?;
                self.push_rows(snapshot)?;
                self.mark("]}")
            }
            other => self.write(other),
        }
    }

    fn push_named(&mut self, name: &str, item: &State) -> Result<()> {
        self.write(name)?;
        self.mark(":")?;
        self.push(item)
    }

    fn push_rows(&mut self, snapshot: &Arc<RowsetSnapshot>) -> Result<()> {
        self.push_part(JsonPart::Rows(snapshot.clone()));
        Ok(())
    }

    fn push_blocks(&mut self, blocks: &Blocks, is_one: bool) -> Result<()> {
        match blocks {
            Blocks::Known(blocks) => self.write(&ShownBlocks { blocks, is_one }),
            Blocks::Stored(history) => {
                self.mark(if is_one { "" } else { "[" })?;
                self.push_part(JsonPart::Blocks(history.clone()));
                self.mark(if is_one { "" } else { "]" })
            }
        }
    }

    fn push_part(&mut self, part: JsonPart) {
        let bytes = std::mem::take(&mut self.text.bytes);
        // All texts together are bounded.
        self.text.bytes_max -= bytes.len();
        self.parts.push(JsonPart::Text(bytes));
        self.parts.push(part);
    }
}

/// The name that the class of an instance has in JSON.
fn instance_class(instance: &Instance) -> String {
    let class = instance.class();
    let name = class.link().or(class.parent());
    name.map_or_else(|| NativeClass::Class.path().to_string(), |link| link.to_string())
}

/// 413 for a state that is longer than this when it is written.
pub(crate) fn too_large(bytes_max: usize) -> Error {
    Error::too_large(format_args!("the result has more than {bytes_max} bytes"))
}

/// Text of bounded length.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.bytes_max - self.bytes.len() < bytes.len() {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The body of an error reply: `{"/error/<name>": "<message>"}` (page 01 §1.5).
pub fn error_json(error: &Error) -> String {
    let path = format!("/error/{}", error.kind().name());
    serde_json::json!({ path: error.message() }).to_string()
}

const EMPTY: [Value; 0] = [];

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Tuple(items) => serializer.collect_seq(items.iter()),
            Self::Map(items) => {
                let mut map = serializer.serialize_map(Some(items.len()))?;
                for (name, item) in items.iter() {
                    map.serialize_entry(name.as_str(), item)?;
                }
                map.end()
            }
            Self::Range(bounds) => entry(serializer, NativeClass::Range.path(), &**bounds),
            Self::Cluster(path) => entry(serializer, NativeClass::Cluster.path(), &path.to_string()),
            Self::Ref(reference) => reference.serialize(serializer),
            Self::Op(op) => op.serialize(serializer),
            // The form that makes an equal closure when it is resolved where the names are known.
            Self::Closure(closure) => {
                let names = closure.captured().keys().map(|name| name.as_str());
                let names: Vec<&str> = names.chain(closure.this().map(|_| "self")).collect();
                entry(serializer, NativeClass::RefWith.path(), &(names, &**closure.op()))
            }
            Self::Class(class) => entry(serializer, NativeClass::ObjectClass.path(), &**class),
            Self::Instance(instance) => {
                let name = instance_class(instance);
                entry(serializer, NativeClass::ObjectInstance.path(), &Entry(&name, instance.data()))
            }
            Self::Chain(chain) => chain.serialize(serializer),
            // The reader materialises what it shows; what is left is empty.
            Self::Collection(collection) => {
                entry(serializer, collection.schema.class().path(), &[&*collection.schema])
            }
            Self::View(view) => entry(serializer, view.schema().class().path(), &[&**view.schema()]),
            Self::Stream(_) => serializer.collect_seq(EMPTY),
            Self::Row(row) => ShownRow(&row.columns, &row.values).serialize(serializer),
            Self::Content(content) if content.is_list => Rows(content).serialize(serializer),
            // Rows that are still to be read are written by those who can read them.
            Self::Snapshot(_) => Err(S::Error::custom("these rows have yet to be read")),
            // Rows on their way in are never shown.
            Self::Bulk(bulk) => entry(serializer, bulk.schema().class().path(), &[&**bulk.schema()]),
            Self::Content(content) => {
                entry(serializer, content.schema.class().path(), &(&*content.schema, Rows(content)))
            }
        }
    }
}

/// Rows as a list of lists.
struct Rows<'a>(&'a CollectionContent);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.rows.iter().map(|row| ShownRow(&self.0.columns, row)))
    }
}

/// A row of some columns.
struct ShownRow<'a>(&'a [Column], &'a Row);

impl Serialize for ShownRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let cells = self.0.iter().zip(self.1.iter());
        serializer.collect_seq(cells.map(|(column, value)| Shown(column.class, value)))
    }
}

/// A map with one entry.
struct Entry<'a, V: ?Sized>(&'a str, &'a V);

impl<V: Serialize + ?Sized> Serialize for Entry<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        entry(serializer, self.0, self.1)
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let prototype = State::Map(self.prototype().clone());
        match self.parent() {
            Some(parent) => entry(serializer, &parent.to_string(), &prototype),
            None => prototype.serialize(serializer),
        }
    }
}

/// A context as a list of pairs.
struct Pairs<'a>(&'a Body);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(name, state)| (name.as_str(), state)))
    }
}

impl Serialize for OpDef {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let path = self.class().path();
        match self {
            Self::Get { key, body } | Self::Delete { key, body } => {
                entry(serializer, path, &(key.as_str(), Pairs(body)))
            }
            Self::Put { key, value, body } => {
                entry(serializer, path, &(key.as_str(), value.as_str(), Pairs(body)))
            }
            Self::Post { body } => entry(serializer, path, &Pairs(body)),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        entry(serializer, &self.to_string(), &EMPTY)
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let path = self.class().path();
        match self {
            Self::Id(id) => entry(serializer, &format!("${id}"), &EMPTY),
            Self::Op(op) => op.serialize(serializer),
            // For a container the list is a wrapper; for any other class it would be the operand itself.
            Self::Cast(class @ (NativeClass::Map | NativeClass::Tuple), operand) => {
                entry(serializer, class.path(), &[operand])
            }
            Self::Cast(class, operand) => entry(serializer, class.path(), operand),
            Self::If { condition, then, or_else } => entry(serializer, path, &(condition, then, or_else)),
            Self::Case { condition, switches, branches } => {
                entry(serializer, path, &(condition, switches, branches))
            }
            Self::While { condition, step, state } => entry(serializer, path, &(condition, step, state)),
            Self::With(names, op) => {
                let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                entry(serializer, path, &(names, op))
            }
            Self::After { when, then } | Self::Before { when, then } => {
                entry(serializer, path, &(when, then))
            }
            Self::New { class, data } => entry(serializer, path, &(class, data)),
        }
    }
}

impl Serialize for OpRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let subject = self.subject().to_string();
        match self {
            Self::Get(_, key) => entry(serializer, &subject, &[key]),
            Self::Put(_, key, value) => entry(serializer, &subject, &[key, value]),
            Self::Post(_, parameters) => {
                // The short form of an empty map would read as a call that may be a GET.
                if parameters.is_empty() {
                    let parameters = State::Map(parameters.clone());
                    return entry(serializer, NativeClass::RefPost.path(), &(self.subject(), parameters));
                }
                entry(serializer, &subject, &State::Map(parameters.clone()))
            }
            Self::Delete(subject, key) => entry(serializer, NativeClass::RefDelete.path(), &(subject, key)),
            Self::Call(_) => entry(serializer, &subject, &State::Map(crate::Map::empty())),
        }
    }
}

impl Serialize for Mutation {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Put { path, key, value } => {
                (path.to_string(), recorded(key), RecordedState(value)).serialize(serializer)
            }
            Self::Delete { path, key } => (path.to_string(), recorded(key)).serialize(serializer),
        }
    }
}

/// A value as a history shows it: as rows do that have values of any class.
fn recorded(value: &Value) -> Shown<'_> {
    Shown(ColumnType::Value, value)
}

/// A state as a history shows it. In JSON bytes say that they are bytes: what is fed back must have the same hash.
struct RecordedState<'a>(&'a State);

impl Serialize for RecordedState<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            state if !serializer.is_human_readable() => state.serialize(serializer),
            State::Value(value) => recorded(value).serialize(serializer),
            State::Tuple(items) => serializer.collect_seq(items.iter().map(RecordedState)),
            State::Map(items) => {
                serializer.collect_map(items.iter().map(|(name, item)| (name.as_str(), RecordedState(item))))
            }
            State::Content(content) => {
                let rows = RecordedRows(&content.rows);
                entry(serializer, content.schema.class().path(), &(&*content.schema, rows))
            }
            other => other.serialize(serializer),
        }
    }
}

struct RecordedRows<'a>(&'a [Row]);

impl Serialize for RecordedRows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|row| RecordedValues(row)))
    }
}

struct RecordedValues<'a>(&'a [Value]);

impl Serialize for RecordedValues<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(recorded))
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        struct Transactions<'a>(&'a Block);
        impl Serialize for Transactions<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.transactions.len()))?;
                for (id, mutations) in &self.0.transactions {
                    map.serialize_entry(&id.to_string(), mutations)?;
                }
                map.end()
            }
        }
        let mut list = serializer.serialize_seq(Some(2))?;
        list.serialize_element(&Previous(&self.previous))?;
        list.serialize_element(&Transactions(self))?;
        list.end()
    }
}

/// Blocks as a list, or the one that there is.
struct ShownBlocks<'a> {
    blocks: &'a [Block],
    is_one: bool,
}

impl Serialize for ShownBlocks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.blocks {
            [one] if self.is_one => one.serialize(serializer),
            blocks => serializer.collect_seq(blocks),
        }
    }
}

impl Serialize for Blocks {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Known(blocks) => serializer.collect_seq(blocks),
            // As rows, they are written by those who can read them.
            Self::Stored(_) => Err(S::Error::custom("these blocks have yet to be read")),
        }
    }
}

impl Serialize for ChainBlocks {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.blocks {
            Blocks::Known(blocks) => ShownBlocks { blocks, is_one: self.is_one }.serialize(serializer),
            stored => stored.serialize(serializer),
        }
    }
}

/// The hash before a block as JSON text.
pub fn previous_json(previous: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&Previous(previous)).expect("a hash has a JSON form")
}

impl Serialize for ChainContent {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let path = self.kind.class().path();
        match self.kind {
            ChainKind::Sync => entry(serializer, path, &(&self.schema, &self.subject)),
            ChainKind::Block => entry(serializer, path, &(&self.schema, &self.blocks)),
        }
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            // The reader materialises what it shows; what is left is a name for it.
            Self::Hosted(_, address) => entry(serializer, &address.to_string(), &EMPTY),
            Self::Local(chain) => ChainContent {
                kind: self.kind(),
                schema: chain.schema().clone(),
                subject: chain.subject(),
                blocks: Blocks::Known(chain.blocks()),
            }
            .serialize(serializer),
            Self::Content(content) => content.serialize(serializer),
            Self::Blocks(blocks) => blocks.serialize(serializer),
        }
    }
}

/// A state as chains store it: like any other, but an id says that it is one, so that it is read back as it was.
pub struct Stored<'a>(pub &'a State);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            State::Value(Value::Id(id)) => entry(serializer, NativeClass::Id.path(), id.as_str()),
            State::Tuple(items) => serializer.collect_seq(items.iter().map(Stored)),
            State::Map(items) => {
                serializer.collect_map(items.iter().map(|(name, item)| (name.as_str(), Stored(item))))
            }
            State::Content(content) => {
                let rows = StoredRows(&content.rows);
                entry(serializer, content.schema.class().path(), &(&*content.schema, rows))
            }
            other => other.serialize(serializer),
        }
    }
}

/// The rows of a collection as chains store them.
struct StoredRows<'a>(&'a [Row]);

impl Serialize for StoredRows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(StoredRow))
    }
}

/// The values of a row as chains store them.
struct StoredRow<'a>(&'a Row);

impl Serialize for StoredRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|value| StoredState(key_state(value))))
    }
}

/// A state that [`Stored`] has no other owner of.
struct StoredState(State);

impl Serialize for StoredState {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Stored(&self.0).serialize(serializer)
    }
}

/// A mutation as chains store it.
pub struct StoredMutation<'a>(pub &'a Mutation);

impl Serialize for StoredMutation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Mutation::Put { path, key, value } => {
                (path.to_string(), Stored(&key_state(key)), Stored(value)).serialize(serializer)
            }
            Mutation::Delete { path, key } => {
                (path.to_string(), Stored(&key_state(key))).serialize(serializer)
            }
        }
    }
}

/// A key as a state, so that its parts can be stored one by one.
fn key_state(key: &Value) -> State {
    match key {
        Value::Tuple(_) => State::Value(key.clone()).to_tuple().map_or(State::NONE, |items| {
            State::tuple(items.iter().map(|item| key_state(&item.to_value().expect("a value"))).collect())
                .expect("as deep as it was")
        }),
        other => State::Value(other.clone()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::value::name::{Id, Link};
    use crate::value::number::Number;
    use proptest::prelude::*;

    fn any_stored_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            ".*".prop_map(|text| Value::String(text.into())),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
            Just(Value::Link(Link::parse("/a/b").unwrap())),
            Just(Value::Link(Link::parse("/state/scalar/value/string").unwrap())),
            Just(Value::Link(Link::parse("http://127.0.0.1:8702/a").unwrap())),
            "[a-z_]{1,8}".prop_map(|name| Value::Id(Id::parse(&name).unwrap())),
            [prop::num::f64::NORMAL, prop::num::f64::NORMAL]
                .prop_map(|parts| Value::Number(Number::C64(parts))),
        ]
    }

    /// Any state that a chain can store.
    pub(crate) fn any_stored_state() -> impl Strategy<Value = State> {
        any_stored_value().prop_map(State::Value).prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|items| State::tuple(items).unwrap()),
                prop::collection::btree_map("[a-z_]{1,8}", inner, 0..6).prop_map(|items| {
                    let named = items.into_iter().map(|(name, item)| (Id::parse(&name).unwrap(), item));
                    State::map(named.collect()).unwrap()
                }),
            ]
        })
    }

    #[test]
    fn json_escapes_control_characters_and_sorts_members() {
        let items = [("b", State::string("é\n\u{1}\"\\")), ("a", State::NONE)];
        let map = items.into_iter().map(|(name, item)| (Id::literal(name), item)).collect();
        assert_eq!(to_json(&State::map(map).unwrap()).unwrap(), r#"{"a":null,"b":"é\n\u0001\"\\"}"#);
    }

    #[test]
    fn bytes_in_a_history_come_back_as_bytes() {
        let bytes = Value::Bytes(b"ab".as_slice().into());
        let nested = State::tuple(vec![State::Value(Value::Tuple([bytes.clone()].into()))]).unwrap();
        let mutation = Mutation::put(crate::Path::root(), &bytes, &nested).unwrap();
        let text = serde_json::to_string(&mutation).unwrap();
        let shown = r#"{"/state/scalar/value/bytes":"YWI="}"#;
        assert_eq!(text, format!(r#"["/",{shown},[[{shown}]]]"#));
    }

    #[test]
    fn text_of_a_shared_state_is_bounded() {
        let body = vec![(Id::literal("r"), State::string("x".repeat(1000)))];
        let mut state =
            State::Op(std::sync::Arc::new(crate::language::op::OpDef::Post { body: body.into() }));
        for _ in 0..10 {
            state = State::tuple(vec![state.clone(), state]).unwrap();
        }
        let json = to_json(&state).unwrap();
        assert_eq!(to_json_within(&state, json.len()).unwrap(), json.as_bytes());
        let refused =
            [to_json_within(&state, json.len() - 1), crate::language::tbon::encode_within(&state, 1_000_000)];
        for reply in refused {
            assert_eq!(reply.unwrap_err().kind(), crate::ErrorKind::TooLarge);
        }
        assert_eq!(
            crate::language::tbon::encode_within(&state, 2_000_000).unwrap(),
            crate::language::tbon::encode(&state)
        );
    }

    #[test]
    fn json_has_no_nan() {
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = to_json(&Number::F64(float).into()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::BadRequest);
        }
    }
}
