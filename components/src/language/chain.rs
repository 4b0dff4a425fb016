//! Chains: a subject and the record of its mutations (protocol page 04 §4).

mod history;
mod recorded;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::collection::{Collection, CollectionContent, Source};
use super::state::{Map, State};
use super::tbon;
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::limits::PATH_SEGMENTS_MAX;
use crate::value::name::{Id, Path};
use crate::value::native::NativeClass;
use crate::value::number::Number;
use crate::value::transaction_id::TxnId;

pub use history::{Blocks, ChainBlocks, HistorySnapshot, SeenHistory, WantedBlocks};
pub use recorded::Recorded;

/// The size at which a block is closed and the next one opened, in bytes of TBON (page 04 §4.4).
pub const BLOCK_BYTES: u64 = 1_000_000;

/// Which history a chain keeps.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ChainKind {
    /// Only what recovery needs.
    Sync,
    /// Every mutation, in blocks that are linked by hash.
    Block,
}

impl ChainKind {
    /// The native class of this kind of chain.
    pub fn class(self) -> NativeClass {
        match self {
            Self::Sync => NativeClass::ChainSync,
            Self::Block => NativeClass::ChainBlock,
        }
    }

    /// The kind of chain that a native class is, if it is one.
    pub fn from_class(class: NativeClass) -> Option<Self> {
        match class {
            NativeClass::ChainSync => Some(Self::Sync),
            NativeClass::ChainBlock => Some(Self::Block),
            _ => None,
        }
    }
}

/// Where a hosted chain lives: a cluster, and a member of it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChainAddress {
    /// The path of the cluster.
    pub cluster: Path,
    /// The name of the chain in the cluster.
    pub name: Id,
}

impl fmt::Display for ChainAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.name)
    }
}

/// One recorded change of a subject (page 04 §4.1).
#[derive(Clone, Debug)]
pub enum Mutation {
    /// `[path, key, value]`
    Put {
        /// Relative to the subject; `/` is the subject itself.
        path: Path,
        /// Null for the whole.
        key: Value,
        /// What is set.
        value: State,
    },
    /// `[path, key]`
    Delete {
        /// Relative to the subject; `/` is the subject itself.
        path: Path,
        /// Null for the whole.
        key: Value,
    },
}

impl Mutation {
    /// A PUT, with key and value in the form that is stored.
    ///
    /// # Errors
    /// 400 if the value is neither made of values, tuples and maps, nor the rows of a collection, if a number is not
    /// finite, or if something is beyond the [limits](crate::value::limits) of what is stored.
    pub fn put(path: Path, key: &Value, value: &State) -> Result<Self> {
        check_path(&path)?;
        let value = match value {
            State::Content(content) => State::Content(Arc::new(stored_content(content)?)),
            value => stored(value)?,
        };
        Ok(Self::Put { path, key: stored_key(key)?, value })
    }

    /// A DELETE, with the key in the form that is stored.
    ///
    /// # Errors
    /// 400 if a number is not finite, or if something is beyond the [limits](crate::value::limits) of what is stored.
    pub fn delete(path: Path, key: &Value) -> Result<Self> {
        check_path(&path)?;
        Ok(Self::Delete { path, key: stored_key(key)? })
    }

    /// Whether there is an id in it: those are stored otherwise than they are shown.
    fn has_id(&self) -> bool {
        fn in_value(value: &Value) -> bool {
            match value {
                Value::Id(_) => true,
                Value::Tuple(items) => items.iter().any(in_value),
                _ => false,
            }
        }
        fn in_state(state: &State) -> bool {
            match state {
                State::Value(value) => in_value(value),
                State::Tuple(items) => items.iter().any(in_state),
                State::Map(items) => items.values().any(in_state),
                State::Content(content) => content.rows.iter().any(|row| row.iter().any(in_value)),
                _ => false,
            }
        }
        match self {
            Self::Put { key, value, .. } => in_value(key) || in_state(value),
            Self::Delete { key, .. } => in_value(key),
        }
    }

    /// The logical size of this mutation, in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Put { key, value, .. } => State::Value(key.clone()).bytes() + value.bytes(),
            Self::Delete { key, .. } => State::Value(key.clone()).bytes(),
        }
    }

    /// Refuse to set a whole subject to something of another class than it was declared with. A DELETE leaves null.
    ///
    /// # Errors
    /// As [`check_class`].
    pub fn check_class(&self, declared: &State) -> Result<()> {
        match self {
            Self::Put { path, key, value } if path.is_root() && key.is_none() => check_class(declared, value),
            Self::Put { .. } | Self::Delete { .. } => Ok(()),
        }
    }

    /// The subject after this mutation of a value subject (page 04 §4.6).
    ///
    /// # Errors
    /// 404 if there is nothing at the path or key; 405 if what is there cannot be changed this way; 400 if what comes of
    /// it is beyond the [limits](crate::value::limits) of what is stored.
    pub fn apply(&self, subject: &State) -> Result<State> {
        let subject = self.edit(Containers::NEW, subject)?;
        subject.check_stored()?;
        Ok(subject)
    }

    /// The subject after this mutation, which was stored: what came of it once comes of it again, whatever it is.
    ///
    /// # Errors
    /// If it does not fit the subject.
    pub fn repeat(&self, subject: &State) -> Result<State> {
        self.edit(Containers::STORED, subject)
    }

    fn edit(&self, make: Containers, subject: &State) -> Result<State> {
        match self {
            Self::Put { path, key, value } => {
                make.edit(subject, path.segments(), &mut |target| make.set_entry(target, key, value))
            }
            Self::Delete { path, key } => {
                make.edit(subject, path.segments(), &mut |target| make.delete_entry(target, key))
            }
        }
    }
}

/// How the containers are made that a change is in.
#[derive(Clone, Copy)]
struct Containers {
    tuple: fn(Vec<State>) -> Result<State>,
    map: fn(BTreeMap<Id, State>) -> Result<State>,
}

impl Containers {
    /// Within the limits of states.
    const NEW: Containers = Containers { tuple: State::tuple, map: State::map };

    /// As they were.
    const STORED: Containers = Containers {
        tuple: |items| Ok(State::stored_tuple(items)),
        map: |items| Ok(State::stored_map(items)),
    };

    /// Replace what is at `path` below `subject` by what `change` makes of it.
    fn edit(
        self,
        subject: &State,
        path: &[Id],
        change: &mut dyn FnMut(&State) -> Result<State>,
    ) -> Result<State> {
        let Some((first, rest)) = path.split_first() else {
            return change(subject);
        };
        match subject {
            State::Map(map) => {
                let member =
                    map.get(first).ok_or_else(|| Error::not_found(format_args!("no entry {first}")))?;
                let mut items = map.to_items();
                items.insert(first.clone(), self.edit(member, rest, change)?);
                (self.map)(items)
            }
            State::Tuple(tuple) => {
                let (i, item) = first
                    .as_str()
                    .parse()
                    .ok()
                    .and_then(|i: usize| tuple.get(i).map(|item| (i, item)))
                    .ok_or_else(|| Error::not_found(format_args!("no item {first}")))?;
                let mut items = tuple.to_vec();
                items[i] = self.edit(item, rest, change)?;
                (self.tuple)(items)
            }
            _ => Err(Error::not_found(format_args!("nothing at {first}"))),
        }
    }

    fn set_entry(self, target: &State, key: &Value, value: &State) -> Result<State> {
        if key.is_none() {
            return Ok(value.clone());
        }
        match target {
            State::Map(map) => {
                let name = key.to_id()?;
                let mut items = map.to_items();
                items.insert(name, value.clone());
                (self.map)(items)
            }
            State::Tuple(tuple) => {
                let i = key.to_index(tuple.len())?;
                let mut items = tuple.to_vec();
                items[i] = value.clone();
                (self.tuple)(items)
            }
            _ => Err(Error::method_not_allowed("only an entry of a map or tuple can be set by key")),
        }
    }

    fn delete_entry(self, target: &State, key: &Value) -> Result<State> {
        if key.is_none() {
            return Ok(State::NONE);
        }
        match target {
            State::Map(map) => {
                let name = key.to_id()?;
                let mut items = map.to_items();
                items.remove(&name).ok_or_else(|| Error::not_found(format_args!("no entry {name}")))?;
                (self.map)(items)
            }
            _ => Err(Error::method_not_allowed("only an entry of a map can be deleted by key")),
        }
    }
}

fn check_path(path: &Path) -> Result<()> {
    if path.segments().len() > PATH_SEGMENTS_MAX {
        return Err(Error::bad_request(format_args!(
            "a path that is written to has at most {PATH_SEGMENTS_MAX} segments"
        )));
    }
    Ok(())
}

/// The initial value of a chain that is declared around a state; a class stands for its empty value (page 04 §4.6).
///
/// # Errors
/// As [`stored`].
pub fn initial(declared: &State) -> Result<State> {
    let class = match declared {
        State::Value(Value::Link(link)) if link.origin().is_none() => {
            NativeClass::from_path(&link.path().to_string())
        }
        _ => None,
    };
    Ok(match class {
        None => return stored(declared),
        Some(NativeClass::Map | NativeClass::ScalarMap) => empty_map(),
        Some(NativeClass::Tuple | NativeClass::ScalarTuple | NativeClass::ValueTuple) => {
            State::tuple(vec![])?
        }
        Some(NativeClass::String) => State::string(""),
        // Any number will do for an abstract class: zero, as wide as JSON has it.
        Some(NativeClass::Number(class)) => Number::I64(0).cast(class).into(),
        Some(_) => State::NONE,
    })
}

/// What a value is that a chain keeps: the value of a chain stays of the class with which it was declared. Numbers are of
/// one class, whatever their width, as JSON does not tell; truth values are none of them.
fn kept_class(value: &State) -> &'static str {
    match value {
        State::Value(Value::None) => "null",
        State::Value(Value::Number(Number::Bool(_))) => "bool",
        State::Value(Value::Number(_)) => "number",
        State::Value(Value::String(_)) => "string",
        State::Value(Value::Bytes(_)) => "bytes",
        State::Value(Value::Id(_)) => "id",
        State::Value(Value::Link(_)) => "link",
        State::Value(Value::Tuple(_)) | State::Tuple(_) => "list",
        State::Map(_) => "map",
        other => other.class().path(),
    }
}

/// Refuse a value that is not of the class with which its chain was declared (page 00): one that was declared with null
/// takes any value. What is in a list or map may be anything.
///
/// # Errors
/// 400 that names both classes.
pub fn check_class(declared: &State, value: &State) -> Result<()> {
    let (declared, class) = (kept_class(declared), kept_class(value));
    if declared == class || declared == "null" {
        return Ok(());
    }
    Err(Error::bad_request(format_args!(
        "this chain was declared with a {declared} and keeps one, so it cannot be set to {}",
        crate::language::cast::describe(value)
    )))
}

/// A state in the form in which chains store and hash it: integers as i64 if they fit, else u64, and floats as
/// the f64 that their JSON text reads as, so that `/chain` fed back verifies (page 04 §4.3).
///
/// # Errors
/// 400 if the state is not made of values, tuples and maps, if a number is not finite, or if it is beyond the
/// [limits](crate::value::limits) of what is stored.
pub fn stored(state: &State) -> Result<State> {
    let stored = stored_form(state)?;
    stored.check_stored()?;
    Ok(stored)
}

fn stored_form(state: &State) -> Result<State> {
    match state {
        State::Row(row) => stored_form(&State::Value(Value::Tuple(row.values.clone()))),
        State::Value(Value::Tuple(items)) => State::tuple(
            items.iter().map(|item| stored_value(item).map(State::Value)).collect::<Result<_>>()?,
        ),
        State::Value(value) => stored_value(value).map(State::Value),
        State::Tuple(items) => State::tuple(items.iter().map(stored_form).collect::<Result<_>>()?),
        State::Map(items) => State::map(
            items.iter().map(|(name, item)| Ok((name.clone(), stored_form(item)?))).collect::<Result<_>>()?,
        ),
        State::Instance(instance) => stored_form(instance.data()),
        other => Err(Error::bad_request(format_args!("a chain cannot store a {}", other.class().path()))),
    }
}

/// The rows of a collection in the form in which histories keep them. They are in the entry of their block, and not
/// beside it under their hash as page 04 §4.4 has it: a transaction is bounded, so they are.
fn stored_content(content: &CollectionContent) -> Result<CollectionContent> {
    let rows = content
        .rows
        .iter()
        .map(|row| row.iter().map(stored_key).collect::<Result<_>>())
        .collect::<Result<_>>()?;
    let (schema, columns) = (content.schema.clone(), content.columns.clone());
    Ok(CollectionContent { schema, columns, is_list: false, rows, bytes: content.bytes })
}

/// The subject that a resolved state declares: collections by empty ones, or an initial value (page 04 §4.1, §4.6).
///
/// # Errors
/// 400 if it cannot be the subject of a chain.
pub fn declared(state: &State) -> Result<State> {
    match state {
        State::Collection(collection) => {
            let is_empty = match &collection.source {
                Source::Declared => true,
                Source::Local(local) => local.is_empty(),
                Source::Hosted(_) => false,
            };
            if !is_empty {
                return Err(Error::bad_request(
                    "a chain around a collection is declared by the schema of the collection alone",
                ));
            }
            Ok(State::Collection(Collection { source: Source::Declared, ..collection.clone() }))
        }
        State::Tuple(items) if items.iter().any(|item| matches!(item, State::Collection(_))) => {
            if !items.iter().all(|item| matches!(item, State::Collection(_))) {
                return Err(Error::bad_request(
                    "the subject of a chain is made of collections or of values, not of both",
                ));
            }
            State::tuple(items.iter().map(declared).collect::<Result<_>>()?)
        }
        value => initial(value),
    }
}

/// Whether a declared subject is made of collections.
pub fn has_collections(schema: &State) -> bool {
    match schema {
        State::Collection(_) => true,
        State::Tuple(items) => items.iter().any(|item| matches!(item, State::Collection(_))),
        _ => false,
    }
}

/// A value alone, in the form in which it is stored.
fn stored_key(value: &Value) -> Result<Value> {
    value.check_stored()?;
    stored_value(value)
}

fn stored_value(value: &Value) -> Result<Value> {
    Ok(match value {
        // A link that is read has so many segments at most.
        Value::Link(_) => {
            value.check_stored()?;
            value.clone()
        }
        Value::Number(number) => Value::Number(match number.to_store()? {
            float @ Number::F32(_) => float.widened(),
            Number::C32([re, im]) => Number::C64([re.into(), im.into()]),
            number @ (Number::Bool(_) | Number::F64(_) | Number::C64(_)) => number,
            integer => match integer.as_i64() {
                Some(integer) => Number::I64(integer),
                None => integer,
            },
        }),
        Value::Tuple(items) => Value::Tuple(items.iter().map(stored_value).collect::<Result<_>>()?),
        other => other.clone(),
    })
}

/// SHA-256 of a block (page 04 §4.3).
pub type BlockHash = [u8; 32];

/// The hash before the first block: none.
pub const FIRST_BLOCK: &[u8] = &[];

/// The running hash and size of a block that transactions are added to.
#[derive(Clone, Debug)]
pub struct BlockHasher {
    hash: Sha256,
    bytes: u64,
}

impl BlockHasher {
    /// A block without transactions; the first one has [`FIRST_BLOCK`] as its predecessor.
    pub fn new(previous: &[u8]) -> Self {
        let mut hasher = Self { hash: Sha256::new(), bytes: 0 };
        hasher.update(b"[");
        hasher.update(&tbon::encode(&Previous(previous)));
        hasher.update(b"{");
        hasher
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Add a transaction; ids must ascend.
    pub fn add(&mut self, id: TxnId, mutations: &[Mutation]) {
        self.begin(id);
        mutations.iter().for_each(|mutation| self.record(mutation));
        self.end();
    }

    /// Add a transaction with what it has recorded.
    pub fn add_recorded(&mut self, id: TxnId, recorded: &Recorded) {
        self.begin(id);
        self.update(recorded.hashed());
        self.end();
    }

    /// Add a transaction whose mutations come one by one.
    pub fn begin(&mut self, id: TxnId) {
        self.update(&tbon::encode(&id.to_string()));
        self.update(b"[");
    }

    /// Add a mutation to the transaction that was begun.
    pub fn record(&mut self, mutation: &Mutation) {
        self.update(&tbon::encode(mutation));
    }

    /// The transaction that was begun is complete.
    pub fn end(&mut self) {
        self.update(b"]");
    }

    /// The size of the block so far, in bytes of TBON.
    pub fn bytes(&self) -> u64 {
        self.bytes + 2
    }

    /// The hash of the block as it is now.
    pub fn hash(&self) -> BlockHash {
        let mut hash = self.hash.clone();
        hash.update(b"}]");
        hash.finalize().into()
    }
}

/// What is remembered of a block once no transaction is added to it any more: who knows this need not read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClosedBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// Its size, in bytes of TBON.
    pub bytes: u64,
    /// How many transactions are in it.
    pub transactions: u64,
    /// The last of them.
    pub newest: TxnId,
}

/// What is stored of a block beside its transactions: what it follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockPredecessor {
    /// Nothing: it is the first one.
    None,
    /// A block of which the hash alone is known: earlier versions stored no more.
    Hash(BlockHash),
    /// A block that this host has closed, or read and verified.
    Known(ClosedBlock),
}

impl BlockPredecessor {
    /// The stored form: nothing, a hash, or a hash, the size, how many transactions there are, and the last of them.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Hash(hash) => hash.to_vec(),
            Self::Known(ClosedBlock { hash, bytes, transactions, newest }) => {
                [&hash[..], &bytes.to_be_bytes(), &transactions.to_be_bytes(), &newest.to_bytes()].concat()
            }
        }
    }

    /// What [`Self::encode`] made; none if it made no such thing.
    pub fn decode(stored: &[u8]) -> Option<Self> {
        let Some((hash, rest)) = stored.split_first_chunk() else {
            return stored.is_empty().then_some(Self::None);
        };
        if rest.is_empty() {
            return Some(Self::Hash(*hash));
        }
        let (bytes, rest) = rest.split_first_chunk()?;
        let (transactions, rest) = rest.split_first_chunk()?;
        Some(Self::Known(ClosedBlock {
            hash: *hash,
            bytes: u64::from_be_bytes(*bytes),
            transactions: u64::from_be_bytes(*transactions),
            newest: TxnId::from_bytes(rest.try_into().ok()?),
        }))
    }

    /// The hash of the block before; none before the first one.
    pub fn hash(&self) -> Option<BlockHash> {
        match self {
            Self::None => None,
            Self::Hash(hash) => Some(*hash),
            Self::Known(closed) => Some(closed.hash),
        }
    }
}

/// The hash of the preceding block: bytes in TBON, base64 text in JSON.
pub(crate) struct Previous<'a>(pub &'a [u8]);

/// A block with all its content (page 04 §4.1).
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The hash of the block before it; empty for the first one.
    pub previous: Vec<u8>,
    /// The mutations of each transaction, ids ascending.
    pub transactions: Vec<(TxnId, Vec<Mutation>)>,
}

impl Block {
    /// The hash and size of this block.
    pub fn hasher(&self) -> BlockHasher {
        let mut hasher = BlockHasher::new(&self.previous);
        for (id, mutations) in &self.transactions {
            hasher.add(*id, mutations);
        }
        hasher
    }
}

/// What the next block of a history must follow.
#[derive(Debug, Default)]
pub struct Links {
    ordinal: u64,
    hash: Option<BlockHash>,
    newest: Option<TxnId>,
}

impl Links {
    /// Check that the next block names the hash of the one before, and that its transactions are newer.
    ///
    /// # Errors
    /// 400 naming the block if it does not follow.
    pub fn verify(&mut self, block: &Block) -> Result<()> {
        let expected = self.hash.as_ref().map_or(FIRST_BLOCK, |hash| hash);
        if block.previous != expected {
            return Err(Error::bad_request(format_args!(
                "block {} does not follow: the hash of the block before it is {}, it says {}",
                self.ordinal,
                hex::encode(expected),
                hex::encode(&block.previous)
            )));
        }
        for (id, _) in &block.transactions {
            if self.newest.is_some_and(|newest| newest >= *id) {
                return Err(Error::bad_request(format_args!(
                    "block {} does not follow: the transaction {id} is not newer than those before it",
                    self.ordinal
                )));
            }
            self.newest = Some(*id);
        }
        self.hash = Some(block.hasher().hash());
        self.ordinal += 1;
        Ok(())
    }
}

/// The history of a block chain that is not hosted. Its collections share it, as they are written by any name.
#[derive(Debug)]
pub struct History(Mutex<Vec<Block>>);

impl History {
    /// A history of these blocks; of one without transactions if there are none.
    pub fn new(mut blocks: Vec<Block>) -> Self {
        if blocks.is_empty() {
            blocks.push(Block::default());
        }
        Self(Mutex::new(blocks))
    }

    // A panic while the lock is held cannot leave a half-made change: each change is one push.
    fn content(&self) -> MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it.
    pub fn blocks(&self) -> Vec<Block> {
        self.content().clone()
    }

    /// Record a mutation by the given transaction.
    ///
    /// # Errors
    /// 400 if there is a newer transaction.
    pub fn record(&self, id: TxnId, mutation: Mutation) -> Result<()> {
        let blocks = &mut *self.content();
        let newest = blocks.iter().rev().find_map(|block| block.transactions.last());
        if newest.is_some_and(|(newest, _)| *newest > id) {
            return Err(Error::bad_request("the history of this chain is newer than this transaction"));
        }
        let block = blocks.last_mut().expect("a chain has a block");
        match block.transactions.last_mut() {
            Some((last, mutations)) if *last == id => mutations.push(mutation),
            _ => block.transactions.push((id, vec![mutation])),
        }
        Ok(())
    }
}

/// What a chain that is not hosted holds; it lives as long as the transaction that made it.
#[derive(Debug)]
pub struct LocalChain {
    schema: State,
    subject: Mutex<State>,
    /// A sync chain has none.
    history: Option<Arc<History>>,
}

impl LocalChain {
    /// A chain with this schema and current subject: a block chain, if it has a history.
    pub fn new(schema: State, subject: State, history: Option<Arc<History>>) -> Self {
        Self { schema, subject: Mutex::new(subject), history }
    }

    /// Which history it keeps.
    pub fn kind(&self) -> ChainKind {
        if self.history.is_some() { ChainKind::Block } else { ChainKind::Sync }
    }

    /// The initial value, or the declarations of collections.
    pub fn schema(&self) -> &State {
        &self.schema
    }

    // A panic while the lock is held cannot leave a half-made change: each change is one assignment.
    fn content(&self) -> MutexGuard<'_, State> {
        self.subject.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current value, or the collections.
    pub fn subject(&self) -> State {
        self.content().clone()
    }

    /// The history; none of a sync chain.
    pub fn blocks(&self) -> Vec<Block> {
        self.history.as_ref().map(|history| history.blocks()).unwrap_or_default()
    }

    /// Record and apply a mutation of a value by the given transaction.
    ///
    /// # Errors
    /// As [`Mutation::apply`] and [`History::record`]; then nothing has changed.
    pub fn mutate(&self, id: TxnId, mutation: Mutation) -> Result<()> {
        let subject = mutation.apply(&self.subject())?;
        if let Some(history) = &self.history {
            history.record(id, mutation)?;
        }
        *self.content() = subject;
        Ok(())
    }
}

/// A chain as a state.
#[derive(Clone, Debug)]
pub enum Chain {
    /// A chain of a cluster on this host.
    Hosted(ChainKind, Arc<ChainAddress>),
    /// A chain that lives in its transaction only.
    Local(Arc<LocalChain>),
    /// The content of a chain: what a reply shows.
    Content(Arc<ChainContent>),
    /// Some blocks of a chain: what a reply shows.
    Blocks(Arc<ChainBlocks>),
}

/// A chain with its content (page 04 §4.1).
#[derive(Clone, Debug)]
pub struct ChainContent {
    /// The kind of chain.
    pub kind: ChainKind,
    /// The initial value.
    pub schema: State,
    /// The current value.
    pub subject: State,
    /// The history; a sync chain shows none.
    pub blocks: Blocks,
}

impl Chain {
    /// The kind of this chain.
    pub fn kind(&self) -> ChainKind {
        match self {
            Self::Hosted(kind, _) => *kind,
            Self::Local(chain) => chain.kind(),
            Self::Content(content) => content.kind,
            Self::Blocks(_) => ChainKind::Block,
        }
    }

    /// Whether there is a collection in it that a reply must read. Of a block chain it shows the history.
    pub fn is_lazy(&self) -> bool {
        match self {
            _ if self.kind() == ChainKind::Block => false,
            Self::Hosted(..) => false,
            Self::Local(chain) => has_collections(&chain.schema),
            Self::Content(content) => content.subject.is_lazy(),
            Self::Blocks(_) => false,
        }
    }

    /// Whether there are rows or blocks in it that are read while a reply is sent.
    pub fn is_streamed(&self) -> bool {
        match self {
            Self::Content(content) => match content.kind {
                ChainKind::Sync => content.subject.is_streamed(),
                ChainKind::Block => matches!(content.blocks, Blocks::Stored(_)),
            },
            Self::Blocks(blocks) => matches!(blocks.blocks, Blocks::Stored(_)),
            Self::Hosted(..) | Self::Local(_) => false,
        }
    }
}

impl Serialize for Previous<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            use base64::Engine;
            serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(self.0))
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

/// An empty map, for subjects that start as one.
pub fn empty_map() -> State {
    State::Map(Map::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn example() -> Block {
        let value = State::tuple(vec![Number::I64(1).into(), State::string("a")]).unwrap();
        let mutation = Mutation::put(Path::root(), &Value::None, &value).unwrap();
        Block { previous: vec![], transactions: vec![(TxnId::new(1, 1), vec![mutation])] }
    }

    #[test]
    fn the_hash_of_a_block_is_that_of_the_protocol_page() {
        let hash = example().hasher().hash();
        assert_eq!(hex::encode(hash), "f2dc4b2ab4a1523fda9a0c764a020e9362c997f29f2dc68b0eeaf6325b5abb3c");
        let text = base64::engine::general_purpose::STANDARD.encode(hash);
        assert_eq!(text, "8txLKrShUj/amgx2SgIOk2LJl/KfLcaLDur2Mltauzw=");
    }

    #[test]
    fn what_a_block_follows_is_read_back() {
        let closed = ClosedBlock { hash: [7; 32], bytes: 1, transactions: 2, newest: TxnId::new(3, 4) };
        for one in [BlockPredecessor::None, BlockPredecessor::Hash([9; 32]), BlockPredecessor::Known(closed)]
        {
            let stored = one.encode();
            assert_eq!(BlockPredecessor::decode(&stored), Some(one));
            for len in 1..stored.len() {
                assert!(BlockPredecessor::decode(&stored[..len]).is_none_or(|read| read != one));
            }
            assert_eq!(BlockPredecessor::decode(&[&stored[..], &[1]].concat()), None);
        }
    }

    #[test]
    fn a_block_that_does_not_follow_is_refused() {
        let first = example();
        let next = Block { previous: first.hasher().hash().to_vec(), ..Default::default() };
        let verify = |blocks: &[&Block]| {
            let mut links = Links::default();
            blocks.iter().try_for_each(|block| links.verify(block))
        };
        verify(&[&first, &next]).unwrap();
        let forged = Block { previous: vec![0; 32], ..Default::default() };
        assert!(verify(&[&first, &forged]).is_err());
        assert!(verify(&[&next]).is_err());
        let again = Block { previous: next.previous.clone(), ..example() };
        assert!(verify(&[&first, &again]).is_err(), "a transaction is in one block");
    }

    #[test]
    fn integers_are_stored_as_json_shows_them() {
        let stored = |number: Number| match stored_value(&Value::Number(number)).unwrap() {
            Value::Number(number) => number.class(),
            _ => unreachable!(),
        };
        use crate::value::number::NumberType;
        assert_eq!(stored(Number::U64(5)), NumberType::I64);
        assert_eq!(stored(Number::U64(u64::MAX)), NumberType::U64);
        assert_eq!(stored(Number::U8(5)), NumberType::I64);
        assert_eq!(stored(Number::F32(0.1)), NumberType::F64);
        let float = stored_value(&Number::F32(0.1).into()).unwrap();
        assert!(matches!(float, Value::Number(Number::F64(x)) if x == 0.1));
    }

    #[test]
    fn what_json_cannot_show_is_not_stored() {
        let infinity = Value::from(Number::F64(f64::INFINITY));
        let nested = Value::Tuple([Value::None, Number::C32([0.0, f32::NAN]).into()].into_iter().collect());
        for value in [infinity, Number::F32(f32::NAN).into(), nested] {
            let one = Value::from(Number::I64(1));
            let put = |key: &Value, value: &Value| {
                Mutation::put(Path::root(), key, &State::Value(value.clone())).map_err(|error| error.kind())
            };
            assert!(put(&one, &one).is_ok());
            assert_eq!(put(&one, &value).unwrap_err(), crate::ErrorKind::BadRequest);
            assert_eq!(put(&value, &one).unwrap_err(), crate::ErrorKind::BadRequest);
            assert!(Mutation::delete(Path::root(), &value).is_err());
        }
    }

    #[test]
    fn what_is_stored_is_within_the_limits_whatever_way_it_came() {
        use crate::value::limits::STORED_DEPTH_MAX;
        let nested = |levels| (0..levels).fold(State::NONE, |inner, _| State::tuple(vec![inner]).unwrap());
        let deepest = nested(STORED_DEPTH_MAX);
        assert!(stored(&deepest).is_ok() && initial(&deepest).is_ok());
        let refused = [
            stored(&nested(STORED_DEPTH_MAX + 1)).unwrap_err(),
            initial(&nested(STORED_DEPTH_MAX + 1)).unwrap_err(),
            Mutation::put(Path::root(), &Value::None, &nested(STORED_DEPTH_MAX + 1)).unwrap_err(),
            // A value that is within them, in an entry of a subject that is.
            Mutation::put(Path::root(), &Number::U64(0).into(), &deepest)
                .unwrap()
                .apply(&State::tuple(vec![State::NONE]).unwrap())
                .unwrap_err(),
        ];
        assert!(refused.iter().all(|error| error.kind() == crate::ErrorKind::BadRequest), "{refused:?}");
        let deep_key =
            (0..=STORED_DEPTH_MAX).fold(Value::from(0i64), |inner, _| Value::Tuple([inner].into()));
        let long: Path = (0..=PATH_SEGMENTS_MAX).map(|_| Id::literal("a")).collect();
        let link = Value::Link(long.clone().into());
        for key in [deep_key, link.clone(), Value::Tuple([link.clone()].into())] {
            assert!(Mutation::put(Path::root(), &key, &State::NONE).is_err());
            assert!(Mutation::delete(Path::root(), &key).is_err());
        }
        assert!(Mutation::delete(long, &Value::None).is_err());
        assert!(stored(&State::tuple(vec![link.into()]).unwrap()).is_err());
    }

    #[test]
    fn a_class_as_a_declared_subject_stands_for_its_empty_value() {
        let declared = |path: &str| initial(&crate::Link::parse(path).unwrap().into()).unwrap();
        let json = |path: &str| crate::language::encode::to_json(&declared(path)).unwrap();
        assert_eq!(json("/state/scalar/value/number"), "0");
        assert_eq!(json("/state/scalar/value/number/float/64"), "0.0");
        assert_eq!(json("/state/scalar/value/number/bool"), "false");
        assert_eq!(json("/state/scalar/value/string"), r#""""#);
        assert_eq!(json("/state/map"), "{}");
        assert_eq!(json("/state/tuple"), "[]");
        assert_eq!(json("/app/other"), r#"{"/app/other":[]}"#);
    }

    #[test]
    fn entries_of_maps_and_tuples_are_set_and_deleted_by_key_and_path() {
        let one = State::from(Number::I64(1));
        let put = |path: &str, key: Value, subject: &State| {
            Mutation::put(Path::parse(path).unwrap(), &key, &one).unwrap().apply(subject)
        };
        let map = put("/", "a".into(), &empty_map()).unwrap();
        assert_eq!(crate::language::encode::to_json(&map).unwrap(), r#"{"a":1}"#);
        let nested = State::map([(Id::literal("in"), map)].into_iter().collect()).unwrap();
        let nested = put("/in", "b".into(), &nested).unwrap();
        assert_eq!(crate::language::encode::to_json(&nested).unwrap(), r#"{"in":{"a":1,"b":1}}"#);
        let gone =
            Mutation::delete(Path::parse("/in").unwrap(), &"a".into()).unwrap().apply(&nested).unwrap();
        assert_eq!(crate::language::encode::to_json(&gone).unwrap(), r#"{"in":{"b":1}}"#);
        let tuple = State::tuple(vec![State::NONE, State::NONE]).unwrap();
        let tuple = put("/", Number::U64(1).into(), &tuple).unwrap();
        assert_eq!(crate::language::encode::to_json(&tuple).unwrap(), "[null,1]");
        assert_eq!(put("/", Number::U64(2).into(), &tuple).unwrap_err().kind(), crate::ErrorKind::NotFound);
        assert_eq!(put("/x", Value::None, &one).unwrap_err().kind(), crate::ErrorKind::NotFound);
        let error = put("/", "a".into(), &one).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::MethodNotAllowed);
    }
}
