//! A frozen copy of the world for operators, as JSON (DESIGN.md §6).

use bevy_ecs::prelude::World;
use components::Path;
use components::ledger::LockMode;
use components::lock::Lock;
use components::transaction::{Program, Transaction};
use components::versions::{BlockContent, BlockHeader, HostedChain, LockQueue, Versions};
use serde_json::{Value, json};
use systems::tick::{Hosting, Inbox, Registry, Statistics};

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct InspectQuery {
    /// Only entities of this kind (`transaction`, `lock`, `cluster`, `chain`, `block`); all if none.
    pub kind: Option<String>,
    /// Only entities whose JSON text contains this.
    pub filter: Option<String>,
    /// How many entities of each kind to pass over.
    pub offset: usize,
    /// How many entities of each kind to show at most.
    pub limit: usize,
}

/// The kinds of entities, in the order in which they are shown.
pub const KINDS: [&str; 5] = ["transaction", "lock", "cluster", "chain", "block"];

/// How many bytes of a value are shown.
const PREVIEW_BYTES_MAX: u64 = 512;

/// Show (a part of) a world: `{"now_ns", "ticks", "statistics", "entities": {<kind>: {"total", "offset", "items"}}}`.
pub fn inspect(world: &mut World, query: &InspectQuery) -> Value {
    let mut entities = serde_json::Map::new();
    for kind in KINDS {
        if query.kind.as_deref().is_some_and(|wanted| wanted != kind) {
            continue;
        }
        let all: Vec<Value> = match kind {
            "transaction" => transactions(world),
            "lock" => locks(world),
            "cluster" => clusters(world),
            "chain" => chains(world),
            "block" => blocks(world),
            other => unreachable!("{other} is not a kind"),
        };
        let wanted = |item: &Value| {
            query.filter.as_ref().is_none_or(|filter| item.to_string().contains(filter.as_str()))
        };
        let matching: Vec<Value> = all.into_iter().filter(wanted).collect();
        let total = matching.len();
        let items: Vec<Value> = matching.into_iter().skip(query.offset).take(query.limit).collect();
        entities.insert(kind.to_string(), json!({ "total": total, "offset": query.offset, "items": items }));
    }
    let registry = world.resource::<Registry>();
    let statistics = world.resource::<Statistics>();
    json!({
        "now_ns": world.resource::<Inbox>().0.now_ns,
        "ticks": registry.ticks,
        "commits": registry.commit_count,
        "batch": registry.batch,
        "durable": registry.durable,
        "resident_block_bytes": registry.resident_bytes,
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
        },
        "entities": entities,
    })
}

/// Items in order of what names them, never of where they lie in memory.
fn sorted<K: Ord>(mut items: Vec<(K, Value)>) -> Vec<Value> {
    items.sort_by(|(this, _), (that, _)| this.cmp(that));
    items.into_iter().map(|(_, item)| item).collect()
}

fn transactions(world: &mut World) -> Vec<Value> {
    let mut query = world.query::<(&Transaction, &Program)>();
    let items = query.iter(world).map(|(transaction, program)| {
        let item = json!({
            "id": transaction.id.to_string(),
            "request": format!("{} {}", transaction.request.verb, transaction.request.path),
            "phase": format!("{:?}", transaction.phase),
            "hypothetical": transaction.is_hypothetical(),
            "attempts": transaction.attempts,
            "deadline_ns": transaction.deadline_ns,
            "durable_after": transaction.durable_after,
            "held_bytes": program.ledger.bytes(),
        });
        (transaction.id, item)
    });
    sorted(items.collect())
}

fn locks(world: &mut World) -> Vec<Value> {
    let catalog = world.resource::<Hosting>().0.clone();
    let mut query = world.query::<&Lock>();
    let all: Vec<Lock> = query.iter(world).cloned().collect();
    let items = all.iter().map(|lock| {
        // Everything on a chain waits for the oldest undecided write before it.
        let waits_for = all
            .iter()
            .filter(|other| {
                !lock.is_granted
                    && other.chain == lock.chain
                    && other.holder < lock.holder
                    && other.mode == LockMode::Write
            })
            .map(|other| other.holder)
            .min();
        let item = json!({
            "chain": catalog.chains[&lock.chain].address.to_string(),
            "holder": lock.holder.to_string(),
            "mode": format!("{:?}", lock.mode),
            "granted": lock.is_granted,
            "waits_for": waits_for.map(|id| id.to_string()),
        });
        ((lock.chain, lock.holder), item)
    });
    sorted(items.collect())
}

fn clusters(world: &mut World) -> Vec<Value> {
    let catalog = world.resource::<Hosting>().0.clone();
    let items = catalog.clusters.iter().map(|(path, cluster): (&Path, _)| {
        json!({
            "path": path.to_string(),
            "link": cluster.link.to_string(),
            "members": cluster.members.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
        })
    });
    items.collect()
}

fn chains(world: &mut World) -> Vec<Value> {
    let mut query = world.query::<(&HostedChain, &Versions, &LockQueue)>();
    let items = query.iter(world).map(|(chain, versions, queue)| {
        let newest = versions.newest();
        let bytes = newest.subject.bytes();
        let subject = if bytes <= PREVIEW_BYTES_MAX {
            serde_json::to_value(&newest.subject).unwrap_or(Value::Null)
        } else {
            Value::Null
        };
        let item = json!({
            "address": chain.spec.address.to_string(),
            "kind": chain.spec.kind.class().path(),
            "last_transaction": newest.id.to_string(),
            "last_read": queue.last_read.to_string(),
            "versions": versions.count(),
            "locks": queue.locks.len(),
            "subject_bytes": bytes,
            "subject": subject,
        });
        (chain.id, item)
    });
    sorted(items.collect())
}

fn blocks(world: &mut World) -> Vec<Value> {
    let catalog = world.resource::<Hosting>().0.clone();
    let mut query = world.query::<(&BlockHeader, &BlockContent)>();
    let items = query.iter(world).map(|(header, content)| {
        let item = json!({
            "chain": catalog.chains[&header.chain].address.to_string(),
            "ordinal": header.ordinal,
            "previous": header.previous.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            "transactions": header.transactions,
            "bytes": header.bytes,
            "resident": content.0.is_some(),
            "uses": header.uses,
        });
        ((header.chain, header.ordinal), item)
    });
    sorted(items.collect())
}
