//! Every state of the language: values, containers of states, references, ops, classes and instances.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::chain::{Block, Blocks, Chain, ChainBlocks, ChainContent, HistorySnapshot};
use super::class::{Class, Instance};
use super::collection::snapshot::RowsetSnapshot;
use super::collection::stream::Stream;
use super::collection::view::View;
use super::collection::{Collection, CollectionContent, NamedRow};
use super::op::{Closure, OpDef};
use super::reference::Ref;
use crate::rows::bulk::Bulk;
use crate::rows::row_bytes;
use crate::value::Value;
use crate::value::error::{Error, Result};
use crate::value::limits::{VALUE_BYTES, check_stored_depth};
use crate::value::name::{Id, Link, Path};
use crate::value::native::NativeClass;
use crate::value::number::Number;

use crate::value::limits::{STATE_BYTES_MAX, STATE_DEPTH_MAX};

/// A state: what a request, a reply, an entry of a context or a parameter is.
#[derive(Clone, Debug)]
pub enum State {
    /// A value.
    Value(Value),
    /// A list of states.
    Tuple(Tuple),
    /// States by name.
    Map(Map),
    /// A pair of bounds (`/state/scalar/range`): a tuple of two.
    Range(Tuple),
    /// A reference to a hosted cluster (`/state/scalar/cluster`).
    Cluster(Path),
    /// A reference that has yet to be resolved.
    Ref(Arc<Ref>),
    /// The definition of an op.
    Op(Arc<OpDef>),
    /// An op with the states that it captured.
    Closure(Arc<Closure>),
    /// A user-defined class.
    Class(Arc<Class>),
    /// An instance of a user-defined class.
    Instance(Arc<Instance>),
    /// A chain.
    Chain(Chain),
    /// A BTree or Table.
    Collection(Collection),
    /// A view of a collection.
    View(Arc<View>),
    /// Items that are made when they are consumed.
    Stream(Arc<Stream>),
    /// A row with the names of its columns.
    Row(Arc<NamedRow>),
    /// The rows of a collection or view, read as a whole: what a reply shows.
    Content(Arc<CollectionContent>),
    /// The rows of a collection or view as a reply shows them, which are read while it is sent.
    Snapshot(Arc<RowsetSnapshot>),
    /// Rows to be written into a collection at once.
    Bulk(Arc<Bulk>),
}

/// Reads what of a reply is left to be read while that is sent.
pub trait ReadStored {
    /// All rows of a snapshot.
    ///
    /// # Errors
    /// 413 if they are too many, 500 if they cannot be read.
    fn rows(&mut self, rows: &Arc<RowsetSnapshot>) -> Result<CollectionContent>;

    /// All blocks of a history.
    ///
    /// # Errors
    /// 413 if they are too large, 500 if they cannot be read.
    fn blocks(&mut self, history: &Arc<HistorySnapshot>) -> Result<Vec<Block>>;
}

fn known(blocks: &Blocks, reader: &mut dyn ReadStored) -> Result<Blocks> {
    Ok(Blocks::Known(match blocks {
        Blocks::Known(blocks) => blocks.clone(),
        Blocks::Stored(history) => reader.blocks(history)?,
    }))
}

/// What a container knows about everything in it, so that limits cost nothing to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    /// Levels of nesting.
    depth: u32,
    /// Logical size: shared parts count every time that they occur.
    bytes: u64,
    /// Whether there is a reference to resolve.
    has_ref: bool,
    /// Whether there is a collection, view or stream that a reply must read.
    is_lazy: bool,
    /// Whether there are rows or blocks that are read while a reply is sent.
    is_streamed: bool,
}

const _: () = assert!(size_of::<State>() as u64 == VALUE_BYTES && size_of::<Value>() as u64 <= VALUE_BYTES);

impl Extent {
    /// The extent of something that holds the given states, each with the size of its name.
    ///
    /// # Errors
    /// 400 if it nests too deep or is too large.
    pub(crate) fn of<'a>(items: impl Iterator<Item = (usize, &'a State)>) -> Result<Self> {
        let extent = Self::of_stored(items);
        if extent.depth > STATE_DEPTH_MAX {
            return Err(Error::bad_request(format_args!("nested more than {STATE_DEPTH_MAX} levels deep")));
        }
        if extent.bytes > STATE_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "this would take more than {} MiB",
                STATE_BYTES_MAX >> 20
            )));
        }
        Ok(extent)
    }

    /// The extent of something that was stored, and so is whatever it is.
    fn of_stored<'a>(items: impl Iterator<Item = (usize, &'a State)>) -> Self {
        // A container takes space, too: of containers alone there could be any number else.
        let mut extent = Extent { bytes: VALUE_BYTES, ..Extent::default() };
        for (name_bytes, item) in items {
            let inner = item.extent();
            extent.depth = extent.depth.max(inner.depth);
            extent.bytes = extent.bytes.saturating_add(inner.bytes).saturating_add(name_bytes as u64);
            extent.has_ref |= inner.has_ref;
            extent.is_lazy |= inner.is_lazy;
            extent.is_streamed |= inner.is_streamed;
        }
        extent.depth += 1;
        extent
    }

    /// The same extent of something that is not resolved or read when it is met: a class or closure.
    pub(crate) fn opaque(self) -> Self {
        Self { has_ref: false, is_lazy: false, ..self }
    }
}

impl State {
    /// Nothing.
    pub const NONE: State = State::Value(Value::None);

    /// The nesting, size and references of this state.
    pub fn extent(&self) -> Extent {
        let leaf = |bytes: usize| Extent { bytes: VALUE_BYTES + bytes as u64, ..Extent::default() };
        match self {
            Self::Value(value) => Extent { depth: value.depth(), bytes: value.bytes(), ..Extent::default() },
            Self::Tuple(tuple) => tuple.0.extent,
            Self::Map(map) => map.0.extent,
            Self::Ref(_) => Extent { has_ref: true, ..leaf(128) },
            Self::Instance(instance) => instance.extent(),
            Self::Class(class) => class.extent(),
            Self::Closure(closure) => closure.extent(),
            Self::Range(bounds) => bounds.0.extent,
            Self::Cluster(_) | Self::Op(_) => leaf(128),
            Self::Chain(chain) => {
                Extent { is_lazy: chain.is_lazy(), is_streamed: chain.is_streamed(), ..leaf(128) }
            }
            Self::Collection(_) => Extent { is_lazy: true, ..leaf(128) },
            Self::View(view) => Extent { is_lazy: true, ..view.extent() },
            Self::Stream(stream) => Extent { is_lazy: true, ..stream.extent() },
            Self::Row(row) => {
                let depth = 1 + row.values.iter().map(Value::depth).max().unwrap_or(0);
                Extent { depth, bytes: VALUE_BYTES + row_bytes(&row.values), ..Extent::default() }
            }
            Self::Content(content) => Extent { bytes: content.bytes, ..leaf(128) },
            Self::Snapshot(_) => Extent { is_streamed: true, ..leaf(128) },
            Self::Bulk(bulk) => leaf(bulk.bytes()),
        }
    }

    /// Whether this is, or contains, a reference that has yet to be resolved.
    pub fn has_ref(&self) -> bool {
        match self {
            Self::Ref(_) => true,
            Self::Tuple(tuple) => tuple.0.extent.has_ref,
            Self::Map(map) => map.0.extent.has_ref,
            Self::Instance(instance) => instance.data().has_ref(),
            _ => false,
        }
    }

    /// Whether this is, or contains, a collection, view or stream that a reply must read.
    pub fn is_lazy(&self) -> bool {
        self.extent().is_lazy
    }

    /// Whether this is, or contains, rows or blocks that are read while a reply is sent.
    pub fn is_streamed(&self) -> bool {
        self.extent().is_streamed
    }

    /// This state with everything in it that [streams](Self::is_streamed), which `reader` reads.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn with_stored(&self, reader: &mut dyn ReadStored) -> Result<State> {
        Ok(match self {
            state if !state.is_streamed() => state.clone(),
            Self::Snapshot(snapshot) => Self::Content(Arc::new(reader.rows(snapshot)?)),
            Self::Tuple(items) => {
                Self::tuple(items.iter().map(|item| item.with_stored(reader)).collect::<Result<_>>()?)?
            }
            Self::Map(items) => {
                let items = items.iter().map(|(name, item)| Ok((name.clone(), item.with_stored(reader)?)));
                Self::map(items.collect::<Result<_>>()?)?
            }
            Self::Instance(instance) => {
                let data = instance.data().with_stored(reader)?;
                Self::Instance(Arc::new(Instance::new(instance.class().clone(), data)?))
            }
            Self::Chain(Chain::Content(content)) => {
                let ChainContent { kind, schema, subject, blocks } = &**content;
                let (kind, schema) = (*kind, schema.clone());
                let (subject, blocks) = (subject.with_stored(reader)?, known(blocks, reader)?);
                Self::Chain(Chain::Content(Arc::new(ChainContent { kind, schema, subject, blocks })))
            }
            Self::Chain(Chain::Blocks(shown)) => {
                let (is_one, blocks) = (shown.is_one, known(&shown.blocks, reader)?);
                Self::Chain(Chain::Blocks(Arc::new(ChainBlocks { is_one, blocks })))
            }
            other => other.clone(),
        })
    }

    /// How many levels of containers there are in this state.
    pub fn depth(&self) -> u32 {
        self.extent().depth
    }

    /// Check that it may be what a chain holds.
    ///
    /// # Errors
    /// 400 if it nests too deep.
    pub fn check_stored(&self) -> Result<()> {
        check_stored_depth(self.depth())
    }

    /// Call `visit` with all rows in it that [stream](Self::is_streamed).
    pub fn each_snapshot(&self, visit: &mut dyn FnMut(&Arc<RowsetSnapshot>)) {
        match self {
            state if !state.is_streamed() => {}
            Self::Snapshot(snapshot) => visit(snapshot),
            Self::Tuple(items) => items.iter().for_each(|item| item.each_snapshot(visit)),
            Self::Map(items) => items.iter().for_each(|(_, item)| item.each_snapshot(visit)),
            Self::Instance(instance) => instance.data().each_snapshot(visit),
            Self::Chain(Chain::Content(content)) => content.subject.each_snapshot(visit),
            // Blocks are never deleted.
            _ => {}
        }
    }

    /// The logical size of this state, in bytes.
    pub fn bytes(&self) -> u64 {
        self.extent().bytes
    }

    /// Whether this is nothing (page 01 §2.6): null, an empty container or the link `/`.
    pub fn is_none(&self) -> bool {
        match self {
            Self::Value(value) => value.is_none(),
            Self::Tuple(tuple) => tuple.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Instance(instance) => instance.data().is_none(),
            _ => false,
        }
    }

    /// This state as a value, if it is one; tuples of values and instances with a value are.
    pub fn to_value(&self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(value.clone()),
            Self::Tuple(tuple) => {
                tuple.iter().map(State::to_value).collect::<Option<Arc<[Value]>>>().map(Value::Tuple)
            }
            Self::Row(row) => Some(Value::Tuple(row.values.clone())),
            Self::Instance(instance) => instance.data().to_value(),
            _ => None,
        }
    }

    /// This state as a tuple of states, if it is a tuple of any kind.
    pub fn to_tuple(&self) -> Option<Tuple> {
        match self {
            Self::Tuple(tuple) => Some(tuple.clone()),
            Self::Value(Value::Tuple(items)) => {
                Tuple::new(items.iter().cloned().map(State::Value).collect()).ok()
            }
            Self::Row(row) => Tuple::new(row.values.iter().cloned().map(State::Value).collect()).ok(),
            Self::Instance(instance) => instance.data().to_tuple(),
            _ => None,
        }
    }

    /// This state as a map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            Self::Instance(instance) => instance.data().as_map(),
            _ => None,
        }
    }

    /// A tuple of the given states.
    ///
    /// # Errors
    /// 400 if it nests too deep or is too large.
    pub fn tuple(items: Vec<State>) -> Result<Self> {
        Tuple::new(items).map(Self::Tuple)
    }

    /// A map of the given states.
    ///
    /// # Errors
    /// 400 if it nests too deep or is too large.
    pub fn map(items: BTreeMap<Id, State>) -> Result<Self> {
        Map::new(items).map(Self::Map)
    }

    /// A tuple that was stored, and so is whatever it is.
    pub(crate) fn stored_tuple(items: Vec<State>) -> Self {
        let extent = Extent::of_stored(items.iter().map(|item| (0, item)));
        Self::Tuple(Tuple(Arc::new(TupleData { items, extent })))
    }

    /// A map that was stored, and so is whatever it is.
    pub(crate) fn stored_map(items: BTreeMap<Id, State>) -> Self {
        let items = Entries(items.into_iter().collect());
        let extent = Extent::of_stored(items.iter().map(|(name, item)| (name.as_str().len(), item)));
        Self::Map(Map(Arc::new(MapData { items, extent })))
    }

    /// A string.
    pub fn string(text: impl AsRef<str>) -> Self {
        Self::Value(Value::String(text.as_ref().into()))
    }

    /// The native class of this state (page 01 §5.1).
    pub fn class(&self) -> NativeClass {
        match self {
            Self::Value(value) => value.class(),
            Self::Tuple(_) => NativeClass::Tuple,
            Self::Map(_) => NativeClass::Map,
            Self::Range(_) => NativeClass::Range,
            Self::Cluster(_) => NativeClass::Cluster,
            Self::Ref(reference) => reference.class(),
            Self::Op(op) => op.class(),
            Self::Closure(_) => NativeClass::Closure,
            Self::Class(_) => NativeClass::ObjectClass,
            Self::Instance(instance) => instance.data().class(),
            Self::Chain(chain) => chain.kind().class(),
            Self::Collection(collection) => collection.schema.class(),
            Self::View(view) => view.schema().class(),
            Self::Stream(_) => NativeClass::Stream,
            Self::Row(_) => NativeClass::ValueTuple,
            Self::Content(content) => content.schema.class(),
            Self::Snapshot(snapshot) => snapshot.schema.class(),
            Self::Bulk(bulk) => bulk.schema().class(),
        }
    }
}

impl From<Value> for State {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<Number> for State {
    fn from(number: Number) -> Self {
        Self::Value(Value::Number(number))
    }
}

impl From<bool> for State {
    fn from(value: bool) -> Self {
        Number::Bool(value).into()
    }
}

impl From<Link> for State {
    fn from(link: Link) -> Self {
        Self::Value(Value::Link(link))
    }
}

impl From<Ref> for State {
    fn from(reference: Ref) -> Self {
        Self::Ref(Arc::new(reference))
    }
}

#[derive(Debug)]
struct TupleData {
    items: Vec<State>,
    extent: Extent,
}

/// A list of states, shared and immutable.
#[derive(Clone, Debug)]
pub struct Tuple(Arc<TupleData>);

impl Tuple {
    /// A tuple of the given states.
    ///
    /// # Errors
    /// 400 if it nests too deep or is too large.
    pub fn new(items: Vec<State>) -> Result<Self> {
        let extent = Extent::of(items.iter().map(|item| (0, item)))?;
        Ok(Self(Arc::new(TupleData { items, extent })))
    }
}

impl std::ops::Deref for Tuple {
    type Target = [State];

    fn deref(&self) -> &[State] {
        &self.0.items
    }
}

/// States by name, in order of name. Most maps are small, and there may be many: this takes no more than what is in it.
#[derive(Clone, Debug, Default)]
pub struct Entries(Box<[(Id, State)]>);

impl Entries {
    /// The state of a name.
    pub fn get<N: Ord + ?Sized>(&self, name: &N) -> Option<&State>
    where
        Id: Borrow<N>,
    {
        let at = self.0.binary_search_by(|(id, _)| id.borrow().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is a state of this name.
    pub fn contains_key<N: Ord + ?Sized>(&self, name: &N) -> bool
    where
        Id: Borrow<N>,
    {
        self.get(name).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Id, &State)> + ExactSizeIterator {
        self.0.iter().map(|(name, item)| (name, item))
    }

    /// The names.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Id> + ExactSizeIterator {
        self.0.iter().map(|(name, _)| name)
    }

    /// The states.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &State> + ExactSizeIterator {
        self.0.iter().map(|(_, item)| item)
    }

    /// The same to be changed.
    pub fn to_items(&self) -> BTreeMap<Id, State> {
        self.0.iter().cloned().collect()
    }
}

impl<N: Ord + ?Sized> std::ops::Index<&N> for Entries
where
    Id: Borrow<N>,
{
    type Output = State;

    fn index(&self, name: &N) -> &State {
        self.get(name).expect("a name that is there")
    }
}

#[derive(Debug)]
struct MapData {
    items: Entries,
    extent: Extent,
}

/// States by name, shared and immutable, in order of name.
#[derive(Clone, Debug)]
pub struct Map(Arc<MapData>);

impl Map {
    /// A map of the given states.
    ///
    /// # Errors
    /// 400 if it nests too deep or is too large.
    pub fn new(items: BTreeMap<Id, State>) -> Result<Self> {
        Self::of_entries(items.into_iter().collect())
    }

    /// A map of the given states, whose names may come in any order.
    ///
    /// # Errors
    /// 400 that names a name that occurs twice; as [`Self::new`].
    pub fn of_unsorted(mut items: Vec<(Id, State)>) -> Result<Self> {
        // Of many maps the names are in order, or there is just one.
        if !items.is_sorted_by(|(this, _), (next, _)| this < next) {
            items.sort_by(|(this, _), (next, _)| this.cmp(next));
            if let Some(twice) = items.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let name = twice[0].0.as_str();
                return Err(Error::bad_request(format_args!("the name {name:?} occurs twice in an object")));
            }
        }
        Self::of_entries(items.into())
    }

    fn of_entries(items: Box<[(Id, State)]>) -> Result<Self> {
        let items = Entries(items);
        let extent = Extent::of(items.iter().map(|(name, item)| (name.as_str().len(), item)))?;
        Ok(Self(Arc::new(MapData { items, extent })))
    }

    /// The map without entries.
    pub fn empty() -> Self {
        Self::new(BTreeMap::new()).expect("an empty map is within the limits")
    }
}

impl std::ops::Deref for Map {
    type Target = Entries;

    fn deref(&self) -> &Entries {
        &self.0.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_bounded() {
        let mut state = State::NONE;
        let error = loop {
            match State::tuple(vec![state.clone()]) {
                Ok(deeper) => state = deeper,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), crate::ErrorKind::BadRequest);
        assert_eq!(state.extent().depth, STATE_DEPTH_MAX);
    }

    #[test]
    fn size_counts_containers_of_nothing() {
        let mut state = State::tuple(vec![]).unwrap();
        let doubled = (0..64).try_for_each(|_| {
            state =
                State::tuple(vec![state.clone(), State::map([(Id::literal("a"), state.clone())].into())?])?;
            Ok::<(), Error>(())
        });
        assert!(doubled.is_err(), "this would be printed as 2^64 brackets");
    }

    #[test]
    fn size_counts_shared_parts_each_time() {
        let mut state = State::string("x".repeat(1000));
        let error = loop {
            match State::tuple(vec![state.clone(), state.clone()]) {
                Ok(doubled) => state = doubled,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), crate::ErrorKind::BadRequest);
        assert!(state.bytes() <= STATE_BYTES_MAX && state.bytes() > STATE_BYTES_MAX / 4);
    }

    /// Wrap a state until that is refused, and say how often it went well.
    fn depth_of(wrap: impl Fn(State) -> Result<State>) -> u32 {
        let mut state = State::NONE;
        for depth in 0.. {
            match wrap(state) {
                Ok(deeper) => state = deeper,
                Err(error) => {
                    assert_eq!(error.kind(), crate::ErrorKind::BadRequest);
                    return depth;
                }
            }
        }
        unreachable!("nesting is bounded");
    }

    #[test]
    fn nesting_of_ranges_is_bounded() {
        let wrap =
            |state| crate::language::cast::cast(&State::tuple(vec![state, State::NONE])?, NativeClass::Range);
        assert!(depth_of(wrap) <= STATE_DEPTH_MAX);
    }

    #[test]
    fn nesting_of_instances_in_their_classes_is_bounded() {
        let wrap = |state| {
            let prototype = Map::new([(Id::literal("member"), state)].into())?;
            let class = Arc::new(Class::new(None, prototype)?);
            Ok(State::Instance(Arc::new(Instance::new(class, State::NONE)?)))
        };
        assert!(depth_of(wrap) <= STATE_DEPTH_MAX);
    }

    #[test]
    fn references_show_through_containers() {
        let reference = State::from(Ref::Id(Id::literal("x")));
        let nested = State::tuple(vec![State::tuple(vec![State::NONE, reference]).unwrap()]).unwrap();
        assert!(nested.has_ref());
        assert!(!State::tuple(vec![State::NONE]).unwrap().has_ref());
    }
}
