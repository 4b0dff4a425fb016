//! Routes of a chain (protocol page 04 §4.2, §4.6).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use components::hosting::cluster::Member;
use components::language::chain::{
    Block, Blocks, Chain, ChainAddress, ChainBlocks, ChainContent, ChainKind, History, HistorySnapshot,
    Links, LocalChain, Mutation, Recorded, WantedBlocks,
};
use components::language::collection::local::LocalCollection;
use components::language::collection::view::Rowset;
use components::language::collection::{Collection, Source, value_of};
use components::language::decode;
use components::language::memory::{Account, Reservation};
use components::language::{cast, chain};
use components::rows::bulk::{Bulk, BulkRows};
use components::rows::schema::{CollectionKind, Schema};
use components::transaction::lock::{LockMode, LockRange};
use components::value::ids::{ChainId, HostedCollection};
use components::{Error, Id, Path, Result, State, Value};

use crate::scalar::{Call, Interpreter};

/// The route of a chain itself, below its subject's.
const CHAIN: &str = "chain";

/// How much of what a history records of rows is reserved at a time, in bytes.
const RESERVED_BYTES: u64 = 64 << 10;

/// As many bytes that are hashed count as one item.
const HASHED_BYTES_PER_ITEM: usize = 64;

impl Interpreter {
    /// Call a chain that is held as a state.
    pub(crate) async fn route_chain(
        &self,
        chain: &Chain,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        match chain {
            Chain::Hosted(_, address) => {
                let id = self.chain_id(address)?;
                self.route_hosted_chain(id, path, call, depth).await
            }
            Chain::Local(local) => self.route_local_chain(chain, local, path, call, depth).await,
            Chain::Content(content) => self.route(content.subject.clone(), path, call, depth).await,
            Chain::Blocks(_) => Err(call.not_allowed("the history of a chain")),
        }
    }

    fn chain_id(&self, address: &ChainAddress) -> Result<ChainId> {
        let cluster = self.catalog.clusters.get(&address.cluster);
        match cluster.and_then(|cluster| cluster.members.get(&address.name)) {
            Some(Member::Chain(id)) => Ok(*id),
            _ => Err(Error::not_found(format_args!("there is no chain {address}"))),
        }
    }

    /// Call a chain of this host.
    pub(crate) async fn route_hosted_chain(
        &self,
        id: ChainId,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        self.catalog.check_served(id)?;
        if is_chain(path) {
            return self.chain_content(id, wanted_blocks(call)?).await;
        }
        let spec = &self.catalog.chains[&id];
        if let Some(subject) = hosted_subject(id, &spec.schema) {
            return self.route(subject, path, call, depth).await;
        }
        match mutation(path, &call)? {
            Some(mutation) => {
                mutation.check_class(&spec.schema)?;
                // The containers that a change is in are copied.
                let subject = self.locked_subject(id, LockMode::Write).await;
                self.step_through(&subject).await;
                self.ledger.mutate(id, mutation)?;
                Ok(State::NONE)
            }
            None => {
                let subject = self.locked_subject(id, LockMode::Read).await;
                self.route(subject, path, call, depth).await
            }
        }
    }

    /// What a history records of many rows: each as if it had come alone.
    async fn recorded_rows(&self, path: &[Id], bulk: &Bulk) -> Result<Recorded> {
        let too_large = || Error::too_large("the history of a chain records each row: send fewer at a time");
        let BulkRows::Resident(rows) = bulk.rows() else { return Err(too_large()) };
        let (schema, path) = (bulk.schema(), Path::from(path));
        let mut memory = Reservation::new(self.ledger.clone());
        let mut recorded = Recorded::default();
        for i in 0..rows.len() {
            self.step(schema.columns().len()).await;
            let row = rows.row(i);
            let (key, values) = match schema.kind() {
                CollectionKind::BTree => (Value::None, &row[..]),
                CollectionKind::Table => {
                    let (key, values) = row.split_at(schema.key_len());
                    (Value::Tuple(key.into()), values)
                }
            };
            let values = State::Value(Value::Tuple(values.into()));
            let mutation = Mutation::put(path.clone(), &key, &values);
            recorded.push(&mutation.map_err(|cause| cause.context(format_args!("row {}", i + 1)))?);
            if recorded.bytes() - memory.bytes() > RESERVED_BYTES {
                memory.grow(recorded.bytes() - memory.bytes()).map_err(|_| too_large())?;
            }
        }
        Ok(recorded)
    }

    async fn locked_subject(&self, id: ChainId, mode: LockMode) -> State {
        poll_fn(|_| self.ledger.subject(id, mode).map_or(Poll::Pending, Poll::Ready)).await
    }

    async fn route_local_chain(
        &self,
        chain: &Chain,
        local: &Arc<LocalChain>,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        if is_chain(path) {
            return local_chain_content(chain, local, &wanted_blocks(call)?);
        }
        if chain::has_collections(local.schema()) {
            return self.route(local.subject(), path, call, depth).await;
        }
        match mutation(path, &call)? {
            Some(mutation) => {
                mutation.check_class(local.schema())?;
                self.step_through(&local.subject()).await;
                // What a chain keeps lives as long as the transaction.
                self.ledger.reserve(mutation.bytes())?;
                local.mutate(self.ledger.id(), mutation)?;
                Ok(State::NONE)
            }
            None => self.route(local.subject(), path, call, depth).await,
        }
    }

    /// PUT or DELETE on a collection, by whatever name. If it is in a block chain, that records it (page 04 §4.2).
    pub(crate) async fn write_collection(
        &self,
        collection: &Collection,
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let rows = Rowset::Collection(collection.clone());
        match &collection.source {
            Source::Hosted(hosted) => {
                // It is a write, even if there is nothing to touch.
                self.ledger.note_written(0);
                let spec = &self.catalog.chains[&hosted.chain];
                let place = || place(&spec.schema, hosted.slot.into());
                let (call, recorded) = match (spec.kind, call) {
                    (ChainKind::Sync, call) => (call, Recorded::default()),
                    (ChainKind::Block, Call::Put(key, State::Bulk(bulk))) => {
                        let recorded = self.recorded_rows(place().segments(), &bulk).await?;
                        (Call::Put(key, State::Bulk(bulk)), recorded)
                    }
                    (ChainKind::Block, call) => {
                        let (call, mutation) = self.recorded(place(), call).await?;
                        (call, Recorded::of(mutation.as_slice()))
                    }
                };
                let is_alone = !writes_one_row(&collection.schema, &call);
                let turn = self.ledger.queue_write(hosted.chain, is_alone);
                poll_fn(|_| if self.ledger.is_turn(&turn) { Poll::Ready(()) } else { Poll::Pending }).await;
                let result = self.call_rows(&rows, call, depth).await?;
                self.ledger.record(hosted.chain, recorded)?;
                self.ledger.end_write(turn);
                Ok(result)
            }
            // Nothing of what is read for it is written meanwhile: only fuel is waited for, by all in turn.
            Source::Local(local) => match local.history() {
                Some((history, path)) => {
                    let (call, mutation) = self.recorded(path.clone(), call).await?;
                    let result = self.call_rows(&rows, call, depth).await?;
                    if let Some(mutation) = mutation {
                        // What a chain keeps lives as long as the transaction.
                        self.ledger.reserve(mutation.bytes())?;
                        history.record(self.ledger.id(), mutation)?;
                    }
                    Ok(result)
                }
                None => self.call_rows(&rows, call, depth).await,
            },
            Source::Declared => self.call_rows(&rows, call, depth).await,
        }
    }

    /// A write to a collection in a block chain, and what the history records of it. A collection that is written is
    /// read once, and what is recorded is what is written: a slice may be one of the tree that it is inserted into.
    async fn recorded(&self, path: Path, call: Call) -> Result<(Call, Option<Mutation>)> {
        let call = match call {
            Call::Put(key, value) => Call::Put(key, self.read_whole(value).await?),
            call => call,
        };
        let record = mutation(path.segments(), &call)?;
        Ok((call, record))
    }

    /// A collection or view as its rows are now; any other state as it is.
    async fn read_whole(&self, value: State) -> Result<State> {
        match Rowset::of(&value) {
            Some(rows) => self.content(&rows, false, &mut Reservation::new(self.ledger.clone())).await,
            None => Ok(value),
        }
    }

    /// A chain that is not hosted, as its literal says (page 04 §4.1): a schema, and the subject of a sync chain or
    /// the history of a block chain, which is replayed.
    pub(crate) async fn local_chain(
        &self,
        kind: ChainKind,
        schema: &State,
        content: Option<&State>,
        depth: u32,
    ) -> Result<State> {
        let schema = chain::declared(schema)?;
        let history = match (kind, content) {
            (ChainKind::Sync, _) => None,
            (ChainKind::Block, None) => Some(Vec::new()),
            (ChainKind::Block, Some(history)) => {
                Some(self.blocks(history, chain::has_collections(&schema)).await?)
            }
        };
        let history = history.map(|blocks| Arc::new(History::new(blocks)));
        let source = |schema_of: &Arc<Schema>, slot: usize| {
            let (schema_of, ledger) = (schema_of.clone(), self.ledger.clone());
            Source::Local(Arc::new(match &history {
                Some(history) => {
                    LocalCollection::in_chain(schema_of, ledger, history.clone(), place(&schema, slot))
                }
                None => LocalCollection::new(schema_of, ledger),
            }))
        };
        let collections = collections(&schema, source);
        let subject = match (&history, content, collections) {
            (Some(history), _, collections) => {
                self.replay(collections.unwrap_or_else(|| schema.clone()), &history.blocks(), depth).await?
            }
            (None, Some(content), Some(collections)) => {
                self.fill(&collections, content, depth).await?;
                collections
            }
            (None, None, Some(collections)) => collections,
            (None, Some(content), None) => {
                self.step_through(content).await;
                let stored = chain::stored(content)?;
                // What was deleted is null, and a reply that is fed back says so.
                if !matches!(stored, State::Value(Value::None)) {
                    chain::check_class(&schema, &stored)?;
                }
                stored
            }
            (None, None, None) => schema.clone(),
        };
        // What a chain keeps lives as long as the transaction.
        self.ledger.reserve(subject.bytes())?;
        Ok(State::Chain(Chain::Local(Arc::new(LocalChain::new(schema, subject, history)))))
    }

    /// Write the rows of one collection, or of each in a tuple, into those of a new chain.
    async fn fill(&self, collections: &State, content: &State, depth: u32) -> Result<()> {
        let pairs = match (collections, content.to_tuple()) {
            (State::Tuple(collections), Some(contents)) if collections.len() == contents.len() => {
                collections.iter().cloned().zip(contents.iter().cloned()).collect()
            }
            (State::Tuple(collections), _) => {
                return Err(Error::bad_request(format_args!(
                    "the subject of this chain is a list of {} collections, not {}",
                    collections.len(),
                    cast::describe(content)
                )));
            }
            (collection, _) => vec![(collection.clone(), content.clone())],
        };
        for (collection, content) in pairs {
            let State::Collection(collection) = collection else { unreachable!("a subject is collections") };
            match Rowset::of(&content) {
                Some(rows) if rows.kind() == collection.schema.kind() => {
                    self.copy(&collection, &content, depth).await?;
                }
                _ => {
                    return Err(Error::bad_request(format_args!(
                        "the subject of this chain is a {}, not {}",
                        collection.schema.class().path(),
                        cast::describe(&content)
                    )));
                }
            }
        }
        Ok(())
    }

    /// The blocks of a history, in the form in which they are hashed, each of them verified.
    async fn blocks(&self, history: &State, has_collections: bool) -> Result<Vec<Block>> {
        self.step_through(history).await;
        let mut blocks = decode::history(history)?;
        for mutation in mutations_mut(&mut blocks) {
            if let Mutation::Put { path, key, value } = mutation {
                let read = match has_collections {
                    true => self.read_whole(value.clone()).await?,
                    false => value.clone(),
                };
                *mutation = Mutation::put(path.clone(), key, &read)?;
            } else if let Mutation::Delete { path, key } = mutation {
                *mutation = Mutation::delete(path.clone(), key)?;
            }
            self.ledger.reserve(mutation.bytes())?;
        }
        let mut links = Links::default();
        for block in &blocks {
            let bytes = block.transactions.iter().flat_map(|(_, all)| all).map(Mutation::bytes).sum::<u64>();
            self.step(usize::try_from(bytes).unwrap_or(usize::MAX) / HASHED_BYTES_PER_ITEM).await;
            links.verify(block)?;
        }
        Ok(blocks)
    }

    /// The subject after its history.
    async fn replay(&self, mut subject: State, blocks: &[Block], depth: u32) -> Result<State> {
        for mutation in blocks.iter().flat_map(|block| &block.transactions).flat_map(|(_, all)| all) {
            let (path, call) = match mutation.clone() {
                Mutation::Put { path, key, value } => (path, Call::Put(key.into(), value)),
                Mutation::Delete { path, key } => (path, Call::Delete(key.into())),
            };
            match at(&subject, &path) {
                Some(collection) => {
                    self.call_rows(&Rowset::Collection(collection.clone()), call, depth).await?;
                }
                None => {
                    // The containers that a change is in are copied.
                    self.step_through(&subject).await;
                    subject = mutation.apply(&subject)?;
                }
            }
        }
        Ok(subject)
    }

    /// A chain of this host with its content, as a reply shows it.
    pub(crate) async fn hosted_chain_content(&self, address: &ChainAddress) -> Result<State> {
        self.chain_content(self.chain_id(address)?, WantedBlocks::All).await
    }

    async fn chain_content(&self, id: ChainId, wanted: WantedBlocks) -> Result<State> {
        self.catalog.check_served(id)?;
        let spec = &self.catalog.chains[&id];
        if spec.kind == ChainKind::Sync {
            check_sync(&wanted)?;
        }
        let subject = match hosted_subject(id, &spec.schema) {
            Some(subject) => subject,
            None => self.locked_subject(id, LockMode::Read).await,
        };
        let blocks = match spec.kind {
            ChainKind::Sync => Blocks::Known(Vec::new()),
            ChainKind::Block => {
                // Nobody older changes what is read here any more.
                for slot in 0..spec.collections().len() {
                    let collection = HostedCollection { chain: id, slot: slot as u16 };
                    self.lock(collection, 0, &LockRange::all(), LockMode::Read).await;
                }
                let (seen, own) =
                    poll_fn(|_| self.ledger.history(id).map_or(Poll::Pending, Poll::Ready)).await;
                let blocks = wanted.of(seen.blocks)?;
                let last = seen.blocks - 1;
                let own = (!own.is_empty() && blocks.contains(&last)).then(|| (last, self.ledger.id(), own));
                let (last, block_bytes_max) = (seen.last, seen.block_bytes_max);
                Blocks::Stored(Arc::new(HistorySnapshot { chain: id, blocks, last, own, block_bytes_max }))
            }
        };
        Ok(shown(spec.kind, spec.schema.clone(), subject, blocks, &wanted))
    }
}

/// A chain, or the blocks of it that are wanted, as a reply shows them.
fn shown(kind: ChainKind, schema: State, subject: State, blocks: Blocks, wanted: &WantedBlocks) -> State {
    State::Chain(match wanted {
        WantedBlocks::All => Chain::Content(Arc::new(ChainContent { kind, schema, subject, blocks })),
        wanted => {
            let is_one = matches!(wanted, WantedBlocks::One(_));
            Chain::Blocks(Arc::new(ChainBlocks { is_one, blocks }))
        }
    })
}

fn check_sync(wanted: &WantedBlocks) -> Result<()> {
    match wanted {
        WantedBlocks::All => Ok(()),
        _ => Err(Error::bad_request("a sync chain keeps no blocks, so its content takes no key")),
    }
}

/// What a chain that is not hosted answers for itself.
fn local_chain_content(chain: &Chain, local: &LocalChain, wanted: &WantedBlocks) -> Result<State> {
    match (local.kind(), wanted) {
        // It is read when it is shown.
        (_, WantedBlocks::All) => Ok(State::Chain(chain.clone())),
        (ChainKind::Sync, wanted) => check_sync(wanted).map(|()| State::NONE),
        (ChainKind::Block, wanted) => {
            let blocks = local.blocks();
            let range = wanted.of(u32::try_from(blocks.len()).unwrap_or(u32::MAX))?;
            let blocks = blocks[range.start as usize..range.end as usize].to_vec();
            Ok(shown(ChainKind::Block, State::NONE, State::NONE, Blocks::Known(blocks), wanted))
        }
    }
}

/// A chain that is not hosted as a reply shows it, with its subject as that was read.
pub(crate) fn shown_local_chain(local: &LocalChain, subject: State) -> State {
    let (kind, schema, blocks) = (local.kind(), local.schema().clone(), Blocks::Known(local.blocks()));
    shown(kind, schema, subject, blocks, &WantedBlocks::All)
}

/// The collections that are the subject of a hosted chain; none if it is a value.
fn hosted_subject(chain: ChainId, schema: &State) -> Option<State> {
    collections(schema, |_, slot| Source::Hosted(HostedCollection { chain, slot: slot as u16 }))
}

/// The collections that are declared as the subject of a chain, from a source for each; none if it is a value.
fn collections(schema: &State, source: impl Fn(&Arc<Schema>, usize) -> Source) -> Option<State> {
    let collection = |declared: &State, slot: usize| match declared {
        State::Collection(Collection { schema, .. }) => {
            Some(State::Collection(Collection { schema: schema.clone(), source: source(schema, slot) }))
        }
        _ => None,
    };
    match schema {
        State::Tuple(items) => {
            let all: Option<Vec<State>> =
                items.iter().enumerate().map(|(slot, item)| collection(item, slot)).collect();
            all.filter(|all| !all.is_empty())
                .map(|all| State::tuple(all).expect("as large as its declaration"))
        }
        one => collection(one, 0),
    }
}

fn mutations_mut(blocks: &mut [Block]) -> impl Iterator<Item = &mut Mutation> {
    blocks.iter_mut().flat_map(|block| &mut block.transactions).flat_map(|(_, mutations)| mutations)
}

/// The path of a collection in the subject of its chain.
fn place(schema: &State, slot: usize) -> Path {
    match schema {
        State::Tuple(_) => Path::from(&[Id::parse(&slot.to_string()).expect("a number is a name")][..]),
        _ => Path::root(),
    }
}

/// The collection at a path of a subject.
fn at<'a>(subject: &'a State, path: &Path) -> Option<&'a Collection> {
    let found = match (subject, path.segments()) {
        (State::Tuple(items), [slot]) => items.get(slot.as_str().parse::<usize>().ok()?)?,
        (one, []) => one,
        _ => return None,
    };
    match found {
        State::Collection(collection) => Some(collection),
        _ => None,
    }
}

/// Whether a write is done as soon as one row is locked: it neither reads it nor writes others.
fn writes_one_row(schema: &Schema, call: &Call) -> bool {
    match call {
        Call::Put(_, State::Content(_) | State::Bulk(_)) => false,
        Call::Put(key, value) => {
            // A table takes many rows without a key.
            let is_rows = key.is_none() && schema.kind() == CollectionKind::Table;
            Rowset::of(value).is_none() && value.as_map().is_none() && !is_rows
        }
        _ => schema.kind() == CollectionKind::Table,
    }
}

/// Whether a path below a chain is that of the chain itself.
fn is_chain(path: &[Id]) -> bool {
    matches!(path, [name] if name.as_str() == CHAIN)
}

/// A chain itself can only be read: as a whole, or some of its blocks.
fn wanted_blocks(call: Call) -> Result<WantedBlocks> {
    match call.or_get() {
        Call::Get(key) => WantedBlocks::of_key(&value_of(&key)?),
        call => Err(call.not_allowed("a chain")),
    }
}

/// What a call of a chain records, if it does.
fn mutation(path: &[Id], call: &Call) -> Result<Option<Mutation>> {
    Ok(match call {
        Call::Put(key, value) => Some(Mutation::put(Path::from(path), &value_of(key)?, value)?),
        Call::Delete(key) => Some(Mutation::delete(Path::from(path), &value_of(key)?)?),
        Call::Get(_) | Call::Post(_) | Call::Either => None,
    })
}
