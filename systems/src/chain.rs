//! Routes of a chain (protocol page 04 §4.2, §4.6).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use components::chain::{Block, Chain, ChainAddress, ChainContent, ChainKind, LocalChain, Mutation};
use components::cluster::{ChainId, Member};
use components::collection::bulk::Bulk;
use components::collection::schema::CollectionKind;
use components::collection::{Collection, HostedCollection, Source};
use components::ledger::TRANSACTION_BYTES_MAX;
use components::lock::LockMode;
use components::{Error, Id, Path, Result, State, Value};

use crate::scalar::{Call, Interpreter, key_value};

/// The route of a chain itself, below its subject's.
const CHAIN: &str = "chain";

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
        if is_chain(path) {
            check_chain_call(call)?;
            return self.chain_content(id).await;
        }
        let spec = &self.catalog.chains[&id];
        if let Some(subject) = hosted_subject(id, &spec.schema) {
            let records = match (spec.kind, &call) {
                (ChainKind::Sync, _) => Vec::new(),
                (ChainKind::Block, Call::Put(_, State::Bulk(bulk))) => {
                    self.bulk_mutations(path, bulk).await?
                }
                (ChainKind::Block, call) => mutation(path, call)?.into_iter().collect(),
            };
            let result = self.route(subject, path, call, depth).await?;
            for mutation in records {
                self.ledger.record(id, mutation)?;
            }
            return Ok(result);
        }
        match mutation(path, &call)? {
            Some(mutation) => {
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
    async fn bulk_mutations(&self, path: &[Id], bulk: &Bulk) -> Result<Vec<Mutation>> {
        let (rows, schema) = (bulk.rows(), bulk.schema());
        // A row takes more than its columns do.
        if rows.bytes() as u64 > TRANSACTION_BYTES_MAX {
            return Err(Error::too_large("the history of a chain records each row: send fewer at a time"));
        }
        let mut mutations = Vec::with_capacity(rows.len());
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
            mutations.push(Mutation::put(Path::from(path), &key, &values)?);
        }
        Ok(mutations)
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
            check_chain_call(call)?;
            return Ok(State::Chain(chain.clone()));
        }
        match mutation(path, &call)? {
            Some(mutation) => {
                self.step_through(&local.subject()).await;
                // What a chain keeps lives as long as the transaction.
                self.ledger.reserve(mutation.bytes())?;
                local.mutate(self.ledger.id(), mutation)?;
                Ok(State::NONE)
            }
            None => self.route(local.subject(), path, call, depth).await,
        }
    }

    /// A chain of this host with its content, as a reply shows it.
    pub(crate) async fn hosted_chain_content(&self, address: &ChainAddress) -> Result<State> {
        self.chain_content(self.chain_id(address)?).await
    }

    async fn chain_content(&self, id: ChainId) -> Result<State> {
        let spec = &self.catalog.chains[&id];
        let subject = match hosted_subject(id, &spec.schema) {
            Some(subject) => subject,
            None => self.locked_subject(id, LockMode::Read).await,
        };
        let blocks = match spec.kind {
            ChainKind::Sync => Vec::new(),
            ChainKind::Block => {
                let (blocks, own) =
                    poll_fn(|_| self.ledger.history(id).map_or(Poll::Pending, Poll::Ready)).await;
                self.step(blocks.iter().map(|block| block.transactions.len()).sum()).await;
                let mut blocks: Vec<Block> = blocks.iter().map(|block| (**block).clone()).collect();
                if !own.is_empty() {
                    let open = blocks.last_mut().expect("a chain has a block");
                    open.transactions.push((self.ledger.id(), own));
                }
                blocks
            }
        };
        let content = ChainContent { kind: spec.kind, schema: spec.schema.clone(), subject, blocks };
        Ok(State::Chain(Chain::Content(Arc::new(content))))
    }
}

/// The collections that are the subject of a hosted chain; none if it is a value.
fn hosted_subject(chain: ChainId, schema: &State) -> Option<State> {
    let hosted = |schema: &State, slot: usize| match schema {
        State::Collection(collection) => Some(State::Collection(Collection {
            schema: collection.schema.clone(),
            source: Source::Hosted(HostedCollection { chain, slot: slot as u16 }),
        })),
        _ => None,
    };
    match schema {
        State::Tuple(items) => {
            let all: Option<Vec<State>> =
                items.iter().enumerate().map(|(slot, item)| hosted(item, slot)).collect();
            all.filter(|all| !all.is_empty())
                .map(|all| State::tuple(all).expect("as large as its declaration"))
        }
        one => hosted(one, 0),
    }
}

/// Whether a path below a chain is that of the chain itself.
fn is_chain(path: &[Id]) -> bool {
    matches!(path, [name] if name.as_str() == CHAIN)
}

/// A chain itself can only be read as a whole.
fn check_chain_call(call: Call) -> Result<()> {
    match call.or_get() {
        Call::Get(key) if key.is_none() => Ok(()),
        Call::Get(_) => Err(Error::bad_request("a chain takes no key")),
        call => Err(call.not_allowed("a chain")),
    }
}

/// What a call of a chain records, if it does.
fn mutation(path: &[Id], call: &Call) -> Result<Option<Mutation>> {
    Ok(match call {
        Call::Put(key, value) => Some(Mutation::put(Path::from(path), &key_value(key)?, value)?),
        Call::Delete(key) => Some(Mutation::delete(Path::from(path), &key_value(key)?)),
        Call::Get(_) | Call::Post(_) | Call::Either => None,
    })
}
