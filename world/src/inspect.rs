//! A frozen copy of the world for operators, as JSON (DESIGN.md §6).

use bevy_ecs::prelude::World;
use components::Path;
use components::lock::{LockRange, LockTable};
use components::transaction::{Program, Transaction};
use components::versions::{BlockHeader, EffectLog, HostedChain, HostedCollections, PageHeader, Versions};
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
}

/// The kinds of entities, in the order in which they are shown.
pub const KINDS: [&str; 7] = ["transaction", "lock", "cluster", "chain", "block", "collection", "page"];

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
            "collection" => collections(world),
            "page" => pages(world),
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
        "resident_page_bytes": registry.resident_page_bytes,
        "resident_pages": registry.resident_pages.len(),
        "loading_pages": registry.loading_pages.len(),
        "damaged_pages": registry.damaged_pages.len(),
        "retired_pages": registry.retired.len(),
        "retired_page_bytes": registry.retired.bytes(),
        "staged_pages": registry.staged_pages.values().map(Vec::len).sum::<usize>(),
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
    let mut query = world.query::<&LockTable>();
    let items = query.iter(world).flat_map(|table| table.locks().map(move |lock| (table, lock)));
    let items = items.map(|(table, lock)| {
        // It waits for the undecided write of an older transaction, and is looked at again when that has ended.
        let waits_for = table.waits_for(lock);
        let range = match &lock.resource.range {
            LockRange::Key(key) => json!({ "key": format!("{key:?}") }),
            LockRange::Range(range) => json!({
                "from": format!("{:?}", range.start),
                "to": range.end.as_ref().map(|end| format!("{end:?}")),
            }),
        };
        let item = json!({
            "chain": catalog.chains[&lock.resource.tree.chain].address.to_string(),
            "collection": lock.resource.tree.slot,
            "tree": lock.resource.tree.tree,
            "range": range,
            "holder": lock.holder.to_string(),
            "mode": format!("{:?}", lock.mode),
            "granted": lock.is_granted,
            "waits_for": waits_for.map(|id| id.to_string()),
        });
        ((lock.resource.clone(), lock.holder, lock.mode), item)
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
    let mut query =
        world.query::<(&HostedChain, Option<&Versions>, Option<&HostedCollections>, Option<&EffectLog>)>();
    let items = query.iter(world).map(|(chain, versions, collections, log)| {
        let mut item = json!({
            "address": chain.spec.address.to_string(),
            "kind": chain.spec.kind.class().path(),
        });
        let mut show = |name: &str, value: Value| item[name] = value;
        if let Some(versions) = versions {
            let newest = versions.newest();
            let bytes = newest.subject.bytes();
            show("last_transaction", json!(newest.id.to_string()));
            show("versions", json!(versions.count()));
            show("subject_bytes", json!(bytes));
            if bytes <= PREVIEW_BYTES_MAX {
                show("subject", serde_json::to_value(&newest.subject).unwrap_or(Value::Null));
            }
        }
        if let (Some(collections), Some(log)) = (collections, log) {
            show("last_transaction", json!(collections.newest.to_string()));
            show("collections", json!(collections.slots.len()));
            show("effects", json!(log.entries.len()));
            show("effects_bytes", json!(log.bytes));
            show("dirty_pages", json!(log.dirty.len()));
            let rest = log.checkpoint.as_ref().map(|checkpoint| checkpoint.pages.len());
            show("checkpoint_pages_left", json!(rest));
        }
        (chain.id, item)
    });
    sorted(items.collect())
}

fn collections(world: &mut World) -> Vec<Value> {
    let mut query = world.query::<(&HostedChain, &HostedCollections)>();
    let mut items = Vec::new();
    for (chain, collections) in query.iter(world) {
        for (slot, rows) in collections.slots.iter().enumerate() {
            let indices = rows.schema.indices().iter().map(|index| index.name.as_str());
            let names = std::iter::once("primary").chain(indices);
            let trees: Vec<Value> = names
                .zip(rows.trees.iter())
                .map(|(name, tree)| {
                    let (mut resident, mut changed, mut bytes, mut delta_bytes) = (0, 0, 0, 0);
                    for (_, page) in tree.iter() {
                        resident +=
                            usize::from(page.base.as_ref().is_some_and(|cell| cell.content().is_some()));
                        bytes += page.base.as_ref().map_or(0, |cell| cell.bytes());
                        changed += page.delta.len();
                        delta_bytes += page.delta.bytes();
                    }
                    json!({
                        "name": name,
                        "rows": tree.rows,
                        "pages": tree.pages(),
                        "resident_pages": resident,
                        "bytes": bytes,
                        "changed_rows": changed,
                        "changed_bytes": delta_bytes,
                    })
                })
                .collect();
            let item = json!({
                "chain": chain.spec.address.to_string(),
                "collection": slot,
                "class": rows.schema.class().path(),
                "columns": rows.schema.columns().iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
                "trees": trees,
            });
            items.push(((chain.id, slot), item));
        }
    }
    sorted(items)
}

fn pages(world: &mut World) -> Vec<Value> {
    let catalog = world.resource::<Hosting>().0.clone();
    let durable = world.resource::<Registry>().durable;
    let mut query = world.query::<&PageHeader>();
    let items = query.iter(world).map(|header| {
        let item = json!({
            "page": header.cell.id().0,
            "chain": catalog.chains[&header.tree.chain].address.to_string(),
            "collection": header.tree.slot,
            "tree": header.tree.tree,
            "rows": header.cell.rows(),
            "bytes": header.cell.bytes(),
            "resident": header.cell.content().is_some(),
            "dirty": header.stored > durable,
            "hits": header.cell.uses(),
            "last_used_tick": header.cell.last_used(),
        });
        (header.cell.id(), item)
    });
    sorted(items.collect())
}

fn blocks(world: &mut World) -> Vec<Value> {
    let catalog = world.resource::<Hosting>().0.clone();
    let mut query = world.query::<&BlockHeader>();
    let items = query.iter(world).map(|header| {
        let item = json!({
            "chain": catalog.chains[&header.chain].address.to_string(),
            "ordinal": header.ordinal,
            "previous": header.previous.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            "transactions": header.transactions,
            "bytes": header.bytes,
        });
        ((header.chain, header.ordinal), item)
    });
    sorted(items.collect())
}
