//! What operators see of the world, as JSON: it is looked at in parts, so that nobody waits long for it.

use std::collections::VecDeque;

use bevy_ecs::prelude::{Entity, World};
use components::TxnId;
use components::hosting::versions::{
    BlockHeader, EffectLog, History, HostedChain, HostedCollections, PageHeader, Versions,
};
use components::rows::key::{Key, KeyRange};
use components::rows::page::Tree;
use components::transaction::lock::{LockRange, LockTable};
use components::transaction::{Program, RequestId, Transaction};
use components::value::ids::{ChainId, PageId};
use serde_json::{Value, json};
use systems::tick::{Hosting, Inbox, Registry, Statistics};

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct InspectQuery {
    /// Only entities of this kind (one of [`KINDS`]); all if none.
    pub kind: Option<String>,
    /// Only entities whose JSON text contains this.
    pub filter: Option<String>,
    /// How many entities of each kind to pass over.
    pub offset: usize,
    /// How many entities of each kind to show at most.
    pub limit: usize,
    /// Whether to show what clients have stored: small values, and the keys of rows that are locked. Else their sizes.
    pub has_values: bool,
}

/// The kinds of entities, in the order in which they are shown.
pub const KINDS: [&str; 7] = ["transaction", "lock", "cluster", "chain", "block", "collection", "page"];

/// How many bytes of a value are shown.
const PREVIEW_BYTES_MAX: u64 = 512;

/// How much one part of an inspection does: about a quarter of a millisecond.
const STEPS_PER_PART: usize = 4_096;

/// What it costs to show an entity, beside one that is only passed by.
const STEPS_PER_ITEM: usize = 16;

/// An inspection that is under way.
#[derive(Debug)]
pub struct Inspection {
    query: InspectQuery,
    /// The kinds that are left; the first one is being looked at.
    kinds: VecDeque<&'static str>,
    /// What of it was looked at last.
    after: After,
    /// The newest transaction, lock and page when it began: what comes later is not shown, so it comes to an end.
    newest: Option<(RequestId, TxnId, PageId)>,
    steps: usize,
    total: usize,
    items: Vec<Value>,
    entities: serde_json::Map<String, Value>,
}

/// Where an inspection goes on.
#[derive(Debug, Default)]
enum After {
    #[default]
    Nothing,
    Request(RequestId),
    Lock(TxnId, usize),
    Place(usize),
    Chain(ChainId),
    Block(ChainId, usize),
    Tree(Box<TreeUnderWay>),
    Page(PageId),
}

/// The trees of a collection, of which some are counted.
#[derive(Debug)]
struct TreeUnderWay {
    chain: ChainId,
    slot: usize,
    counted: Vec<Value>,
    /// Of the one that is being counted, the least key that was not looked at; all of it if none.
    next: Option<Key>,
    resident_pages: usize,
    bytes: usize,
    changed_rows: usize,
    changed_bytes: usize,
}

impl Inspection {
    /// An inspection of which nothing is done.
    pub fn new(query: InspectQuery) -> Self {
        let kinds =
            KINDS.into_iter().filter(|kind| query.kind.as_deref().is_none_or(|wanted| wanted == *kind));
        let kinds = kinds.collect();
        Self {
            query,
            kinds,
            after: After::Nothing,
            newest: None,
            steps: 0,
            total: 0,
            items: Vec::new(),
            entities: serde_json::Map::new(),
        }
    }

    /// Look at a further part of a world: `{"now_ns", "ticks", "statistics", "entities": {<kind>: {"total", "offset",
    /// "items"}}}`, if that was the last one. What lies in one part is as it was at one moment.
    pub fn advance(&mut self, world: &World) -> Option<Value> {
        self.steps = STEPS_PER_PART;
        let registry = world.resource::<Registry>();
        self.newest.get_or_insert_with(|| {
            let request = registry.requests.last_key_value().map_or(RequestId(0), |(id, _)| *id);
            (request, registry.ids.last(), registry.last_page)
        });
        while let Some(kind) = self.kinds.front().copied() {
            let is_done = match kind {
                "transaction" => self.transactions(world),
                "lock" => self.locks(world),
                "cluster" => self.clusters(world),
                "chain" => self.chains(world),
                "block" => self.blocks(world),
                "collection" => self.collections(world),
                "page" => self.pages(world),
                other => unreachable!("{other} is not a kind"),
            };
            if !is_done {
                return None;
            }
            let (total, items) = (std::mem::take(&mut self.total), std::mem::take(&mut self.items));
            let shown = json!({ "total": total, "offset": self.query.offset, "items": items });
            self.entities.insert(kind.to_string(), shown);
            self.after = After::Nothing;
            self.kinds.pop_front();
        }
        Some(summary(world, std::mem::take(&mut self.entities)))
    }

    /// Take a step; false if this part has none left.
    fn step(&mut self) -> bool {
        self.steps = self.steps.saturating_sub(1);
        self.steps > 0
    }

    /// Whether the next entity has to be looked at in detail.
    fn needs_next(&self) -> bool {
        self.query.filter.is_some()
            || (self.total >= self.query.offset && self.items.len() < self.query.limit)
    }

    /// Whether all that is wanted is shown.
    fn is_full(&self) -> bool {
        self.query.filter.is_none() && self.items.len() >= self.query.limit
    }

    /// Count the next entity, and show it if it is wanted.
    fn next(&mut self, item: impl FnOnce() -> Value) {
        if !self.needs_next() {
            self.total += 1;
            return;
        }
        self.steps = self.steps.saturating_sub(STEPS_PER_ITEM);
        let item = item();
        if self.query.filter.as_ref().is_some_and(|filter| !item.to_string().contains(filter.as_str())) {
            return;
        }
        if self.total >= self.query.offset && self.items.len() < self.query.limit {
            self.items.push(item);
        }
        self.total += 1;
    }

    fn transactions(&mut self, world: &World) -> bool {
        let after = if let After::Request(id) = self.after { id.0 + 1 } else { 0 };
        for (id, entity) in world.resource::<Registry>().requests.range(RequestId(after)..) {
            if self.newest.is_some_and(|(newest, ..)| *id > newest) {
                break;
            }
            if !self.step() {
                return false;
            }
            let transaction = world.get::<Transaction>(*entity).expect("a transaction");
            self.next(|| {
                json!({
                    "id": transaction.id.to_string(),
                    "request": format!("{} {}", transaction.request.verb, transaction.request.path),
                    "phase": format!("{:?}", transaction.phase),
                    "hypothetical": transaction.is_hypothetical(),
                    "attempts": transaction.attempts,
                    "deadline_ns": transaction.deadline_ns,
                    "durable_after": transaction.durable_after,
                    "held_bytes": world.get::<Program>(*entity).map_or(0, |program| program.ledger.bytes()),
                })
            });
            self.after = After::Request(*id);
        }
        true
    }

    fn locks(&mut self, world: &World) -> bool {
        let catalog = &world.resource::<Hosting>().0;
        let registry = world.resource::<Registry>();
        let (mut holder, mut first) =
            if let After::Lock(id, place) = self.after { (id, place) } else { (TxnId::ZERO, 0) };
        for (id, held) in registry.held_locks.range(holder..) {
            if self.newest.is_some_and(|(_, newest, _)| *id > newest) {
                break;
            }
            if *id != holder {
                (holder, first) = (*id, 0);
            }
            for (place, (chain, lock)) in held.locks.iter().enumerate().skip(first) {
                if !self.step() {
                    self.after = After::Lock(holder, place);
                    return false;
                }
                let table = world.get::<LockTable>(registry.chains[chain]).expect("a chain");
                let (lock, has_values) = (table.lock(*lock), self.query.has_values);
                self.next(|| {
                    json!({
                        "chain": catalog.chains[chain].address.to_string(),
                        "collection": lock.resource.tree.slot,
                        "tree": lock.resource.tree.tree,
                        "range": shown_range(&lock.resource.range, has_values),
                        "holder": lock.holder.to_string(),
                        "mode": format!("{:?}", lock.mode),
                        "granted": lock.is_granted,
                        // It waits for the undecided write of an older transaction, and is looked at again when that has ended.
                        "waits_for": table.waits_for(lock).map(|id| id.to_string()),
                    })
                });
            }
        }
        true
    }

    fn clusters(&mut self, world: &World) -> bool {
        let first = if let After::Place(place) = self.after { place } else { 0 };
        let catalog = &world.resource::<Hosting>().0;
        for (place, (path, cluster)) in catalog.clusters.iter().enumerate().skip(first) {
            if !self.step() {
                self.after = After::Place(place);
                return false;
            }
            self.next(|| {
                json!({
                    "path": path.to_string(),
                    "link": cluster.link.to_string(),
                    "members": cluster.members.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
                })
            });
        }
        true
    }

    fn chains(&mut self, world: &World) -> bool {
        let after = if let After::Chain(ChainId(id)) = self.after { id + 1 } else { 0 };
        for (id, entity) in world.resource::<Registry>().chains.range(ChainId(after)..) {
            if !self.step() {
                return false;
            }
            let has_values = self.query.has_values;
            self.next(|| chain(world, *entity, has_values));
            self.after = After::Chain(*id);
        }
        true
    }

    fn blocks(&mut self, world: &World) -> bool {
        let catalog = &world.resource::<Hosting>().0;
        let (from, mut first) =
            if let After::Block(id, place) = self.after { (id, place) } else { (ChainId(0), 0) };
        for (id, entity) in world.resource::<Registry>().chains.range(from..) {
            if *id != from {
                first = 0;
            }
            let Some(history) = world.get::<History>(*entity) else {
                if !self.step() {
                    self.after = After::Block(*id, 0);
                    return false;
                }
                continue;
            };
            for (ordinal, block) in history.blocks.iter().enumerate().skip(first) {
                if !self.step() {
                    self.after = After::Block(*id, ordinal);
                    return false;
                }
                self.next(|| {
                    let header = world.get::<BlockHeader>(*block).expect("a block");
                    let hex =
                        |hash: [u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                    json!({
                        "chain": catalog.chains[&header.chain].address.to_string(),
                        "ordinal": header.ordinal,
                        "previous": header.previous.map(hex),
                        "transactions": header.transactions,
                        "bytes": header.bytes,
                    })
                });
            }
        }
        true
    }

    fn collections(&mut self, world: &World) -> bool {
        let mut at = match std::mem::take(&mut self.after) {
            After::Tree(at) => *at,
            _ => TreeUnderWay::of(ChainId(0), 0, Vec::new()),
        };
        for (id, entity) in world.resource::<Registry>().chains.range(at.chain..) {
            if *id != at.chain {
                at = TreeUnderWay::of(*id, 0, Vec::new());
            }
            let slots = world.get::<HostedCollections>(*entity).map_or(&[][..], |hosted| &hosted.slots);
            if !self.step() {
                self.after = After::Tree(Box::new(at));
                return false;
            }
            for (slot, rows) in slots.iter().enumerate().skip(at.slot) {
                if self.needs_next() {
                    let indices = rows.schema.indices().iter().map(|index| index.name.as_str());
                    let names = std::iter::once("primary").chain(indices);
                    for (name, tree) in names.zip(rows.trees.iter()).skip(at.counted.len()) {
                        if !at.count(tree, &mut || self.step()) {
                            self.after = After::Tree(Box::new(at));
                            return false;
                        }
                        let counted = json!({
                            "name": name,
                            "rows": tree.rows,
                            "pages": tree.pages(),
                            "resident_pages": at.resident_pages,
                            "bytes": at.bytes,
                            "changed_rows": at.changed_rows,
                            "changed_bytes": at.changed_bytes,
                        });
                        let mut all = std::mem::take(&mut at.counted);
                        all.push(counted);
                        at = TreeUnderWay::of(*id, slot, all);
                    }
                }
                let trees = std::mem::take(&mut at.counted);
                self.next(|| {
                    let columns = rows.schema.columns().iter().map(|column| column.name.as_str());
                    json!({
                        "chain": world.get::<HostedChain>(*entity).expect("a chain").spec.address.to_string(),
                        "collection": slot,
                        "class": rows.schema.class().path(),
                        "columns": columns.collect::<Vec<_>>(),
                        "trees": trees,
                    })
                });
                at = TreeUnderWay::of(*id, slot + 1, Vec::new());
            }
        }
        true
    }

    fn pages(&mut self, world: &World) -> bool {
        let catalog = &world.resource::<Hosting>().0;
        let registry = world.resource::<Registry>();
        let after = if let After::Page(PageId(page)) = self.after { page + 1 } else { 0 };
        if self.is_full() {
            // The rest is only counted.
            self.total = registry.pages.len();
            return true;
        }
        for (page, entity) in registry.pages.range(PageId(after)..) {
            if self.newest.is_some_and(|(.., newest)| *page > newest) {
                break;
            }
            if !self.step() {
                return false;
            }
            self.next(|| {
                let header = world.get::<PageHeader>(*entity).expect("a page");
                json!({
                    "page": header.cell.id().0,
                    "chain": catalog.chains[&header.tree.chain].address.to_string(),
                    "collection": header.tree.slot,
                    "tree": header.tree.tree,
                    "rows": header.cell.rows(),
                    "bytes": header.cell.bytes(),
                    "resident": header.cell.content().is_some(),
                    "dirty": header.stored > registry.durable,
                    "hits": header.cell.uses(),
                    "last_used_tick": header.cell.last_used(),
                })
            });
            self.after = After::Page(*page);
        }
        true
    }
}

impl TreeUnderWay {
    fn of(chain: ChainId, slot: usize, counted: Vec<Value>) -> Self {
        let (resident_pages, bytes, changed_rows, changed_bytes) = (0, 0, 0, 0);
        Self { chain, slot, counted, next: None, resident_pages, bytes, changed_rows, changed_bytes }
    }

    /// Count the pages of a tree that were not looked at, as long as `step` allows; false if there are more.
    fn count(&mut self, tree: &Tree, step: &mut dyn FnMut() -> bool) -> bool {
        let range = KeyRange { start: self.next.take().unwrap_or(Key::EMPTY), end: None };
        for (low, page) in tree.pages_in(&range) {
            if !step() {
                self.next = Some(low.clone());
                return false;
            }
            self.resident_pages +=
                usize::from(page.base.as_ref().is_some_and(|cell| cell.content().is_some()));
            self.bytes += page.base.as_ref().map_or(0, |cell| cell.bytes());
            self.changed_rows += page.delta.len();
            self.changed_bytes += page.delta.bytes();
        }
        true
    }
}

/// Which keys are locked; how long they are, if values are not to be shown.
fn shown_range(range: &LockRange, has_values: bool) -> Value {
    let shown = |key: &Key| match has_values {
        true => json!(format!("{key:?}")),
        false => json!({ "bytes": key.len() }),
    };
    match range {
        LockRange::Key(key) => json!({ "key": shown(key) }),
        LockRange::Range(range) => {
            json!({ "from": shown(&range.start), "to": range.end.as_ref().map(shown) })
        }
    }
}

fn chain(world: &World, entity: Entity, has_values: bool) -> Value {
    let chain = world.get::<HostedChain>(entity).expect("a chain");
    let mut item = json!({
        "address": chain.spec.address.to_string(),
        "kind": chain.spec.kind.class().path(),
    });
    let mut show = |name: &str, value: Value| item[name] = value;
    if let Some(versions) = world.get::<Versions>(entity) {
        let newest = versions.newest();
        let bytes = newest.subject.bytes();
        show("last_transaction", json!(newest.id.to_string()));
        show("versions", json!(versions.count()));
        show("subject_bytes", json!(bytes));
        if has_values && bytes <= PREVIEW_BYTES_MAX {
            show("subject", serde_json::to_value(&newest.subject).unwrap_or(Value::Null));
        }
    }
    if let (Some(collections), Some(log)) =
        (world.get::<HostedCollections>(entity), world.get::<EffectLog>(entity))
    {
        show("last_transaction", json!(collections.newest.to_string()));
        show("collections", json!(collections.slots.len()));
        show("effects", json!(log.entries.len() + log.retained.len()));
        show("effects_bytes", json!(log.bytes + log.retained.values().sum::<u64>()));
        show("dirty_pages", json!(log.dirty.len()));
        let rest = log.checkpoint.as_ref().map(|checkpoint| checkpoint.pages.len());
        show("checkpoint_pages_left", json!(rest));
    }
    item
}

/// What there is to know of a world as a whole.
fn summary(world: &World, entities: serde_json::Map<String, Value>) -> Value {
    let registry = world.resource::<Registry>();
    let statistics = world.resource::<Statistics>();
    json!({
        "now_ns": world.resource::<Inbox>().0.now_ns,
        "ticks": registry.ticks,
        "commits": registry.commit_count,
        "batch": registry.batch,
        "durable": registry.durable,
        "resident_page_bytes": registry.resident_page_bytes,
        "resident_pages": registry.resident_pages.len(),
        "loading_pages": registry.loading_pages.len(),
        "damaged_pages": registry.damaged_pages.len(),
        "retired_pages": registry.retired.len(),
        "retired_page_bytes": registry.retired.bytes(),
        "staged_pages": registry.staged_pages.values().map(|pages| pages.len()).sum::<usize>(),
        "pinned_answers": registry.retired.pins(),
        "statistics": {
            "begun": statistics.begun,
            "committed": statistics.committed,
            "read_only": statistics.read_only,
            "failed": statistics.failed,
            "retried": statistics.retried,
            "conflicts": statistics.conflicts,
            "timeouts": statistics.timeouts,
            "rounds": statistics.rounds,
            "polls": statistics.polls,
            "page_loads": statistics.page_loads,
            "page_evictions": statistics.page_evictions,
            "eviction_looks": statistics.eviction_looks,
            "page_folds": statistics.page_folds,
            "page_splits": statistics.page_splits,
            "page_joins": statistics.page_joins,
            "page_deletions": statistics.page_deletions,
            "page_stagings": statistics.page_stagings,
            "page_unstagings": statistics.page_unstagings,
            "checkpoints": statistics.checkpoints,
            "failed_reads": statistics.failed_reads,
            "failed_jobs": statistics.failed_jobs,
            "revoked_pins": statistics.revoked_pins,
        },
        "refused": refused(world),
        "entities": entities,
    })
}

/// The chains that are not served, and why.
fn refused(world: &World) -> Value {
    let catalog = &world.resource::<Hosting>().0;
    let refused = catalog.refused.iter();
    let named = refused.map(|(id, why)| (catalog.chains[id].address.to_string(), json!(&**why)));
    named.collect::<serde_json::Map<_, _>>().into()
}
