//! Arbitrate: locks are granted, queued or refused in the order of the transactions (DESIGN.md §4).
//!
//! Multi-version timestamp ordering, on ranges of keys. A read at X sees the newest versions before X and waits for an
//! undecided write of an older transaction. A write at X is refused if a newer transaction has read or written a part
//! of its range, and waits for an undecided write of an older one. Waits only ever point to older transactions, so
//! there are no deadlocks.

use bevy_ecs::prelude::{Entity, World};
use components::TxnId;
use components::chain::SeenHistory;
use components::cluster::ChainId;
use components::ledger::Want;
use components::lock::{Lock, LockMode, LockTable, Resource};
use components::transaction::{Authority, Phase, Program, Transaction};
use components::versions::{BlockHeader, History, HostedCollections, Version, Versions};

use crate::pages;
use crate::tick::Registry;

/// Look at everything that programs have asked for, and at everything that was released.
pub fn arbitrate(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let mut wants = std::mem::take(&mut registry.wants);
    let expected = std::mem::take(&mut registry.expected);
    let mut resources = std::mem::take(&mut registry.released);
    if wants.is_empty() && expected.is_empty() && resources.is_empty() {
        return;
    }
    wants.extend(expected.into_iter().map(|(id, resource)| (id, Want::Lock(resource, LockMode::Write))));
    wants.sort_by_key(|(id, _)| *id);
    for (id, want) in wants {
        // A transaction that was refused a lock has no use for another one.
        if !world.resource::<Registry>().active.contains_key(&id)
            || world.resource::<Registry>().refused.contains(&id)
        {
            continue;
        }
        match want {
            Want::Lock(resource, mode) => {
                if let Some(snapshot) = snapshot(world, id) {
                    show_snapshot(world, id, &resource, mode, snapshot);
                } else if is_refused(world, id, &resource, mode) {
                    world.resource_mut::<Registry>().refused.insert(id);
                } else {
                    enqueue(world, id, &resource, mode);
                    resources.insert(resource);
                }
            }
            Want::History(chain) => show_history(world, id, chain),
            Want::Page(page) => pages::ask(world, id, page),
            Want::Restart => {
                world.resource_mut::<Registry>().refused.insert(id);
            }
        }
    }
    for resource in resources {
        grant(world, &resource);
    }
}

fn transaction(world: &World, id: TxnId) -> Entity {
    world.resource::<Registry>().active[&id]
}

fn chain_entity(world: &World, chain: ChainId) -> Entity {
    world.resource::<Registry>().chains[&chain]
}

fn lock_table(world: &World, chain: ChainId) -> &LockTable {
    world.get::<LockTable>(chain_entity(world, chain)).expect("a chain")
}

/// The snapshot that a hypothetical transaction reads.
fn snapshot(world: &World, id: TxnId) -> Option<u64> {
    match world.get::<Transaction>(transaction(world, id)).expect("a transaction").authority {
        Authority::Hypothetical { snapshot } => Some(snapshot),
        Authority::Real(_) => None,
    }
}

/// A hypothetical transaction takes no locks: it sees its snapshot, and nobody sees what it does.
fn show_snapshot(world: &mut World, id: TxnId, resource: &Resource, mode: LockMode, snapshot: u64) {
    let chain = chain_entity(world, resource.tree.chain);
    if world.get::<HostedCollections>(chain).is_some() {
        return show_rows(world, id, resource, mode);
    }
    let versions = world.get::<Versions>(chain).expect("a chain around a value");
    match versions.before(id, snapshot).cloned() {
        Some(version) => show(world, id, resource.tree.chain, mode, version),
        // The caller has chosen an id so old that its version was dropped before the transaction came.
        None => {
            world.resource_mut::<Registry>().refused.insert(id);
        }
    }
}

/// Show a version to a transaction, and let its program go on.
fn show(world: &mut World, id: TxnId, chain: ChainId, mode: LockMode, version: Version) {
    let entity = transaction(world, id);
    let durable = world.resource::<Registry>().durable;
    world.get::<Program>(entity).expect("a program").ledger.grant(chain, mode, version.subject);
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    if version.batch > durable {
        transaction.durable_after = transaction.durable_after.max(version.batch);
    }
    wake(world, id, entity);
}

/// Show the newest trees of a collection to a transaction, and let its program go on.
fn show_rows(world: &mut World, id: TxnId, resource: &Resource, mode: LockMode) {
    let entity = transaction(world, id);
    let chain = chain_entity(world, resource.tree.chain);
    let collections = world.get::<HostedCollections>(chain).expect("a chain around collections");
    let rows = &collections.slots[usize::from(resource.tree.slot)];
    let ledger = &world.get::<Program>(entity).expect("a program").ledger;
    ledger.grant_rows(resource, mode, &rows.schema, &rows.trees);
    wake(world, id, entity);
}

/// Let a program go on, unless it waits for another lock that it is expected to need.
pub(crate) fn wake(world: &mut World, id: TxnId, entity: Entity) {
    let transaction = world.get::<Transaction>(entity).expect("a transaction");
    if transaction.outcome.is_some() {
        // It was ended while it waited.
        return;
    }
    let is_waiting = |lock: &Entity| world.get::<Lock>(*lock).is_some_and(|lock| !lock.is_granted);
    let locks = world.resource::<Registry>().locks.get(&id);
    // One that expects to write does not begin before it has every lock that it is expected to need.
    if !transaction.expected_writes.is_empty()
        && transaction.phase == Phase::Waiting
        && locks.is_some_and(|locks| locks.iter().any(is_waiting))
    {
        return;
    }
    world.get_mut::<Transaction>(entity).expect("a transaction").phase = Phase::Running;
    world.resource_mut::<Registry>().runnable.insert(id);
}

/// Whether a transaction comes too late for a lock.
pub(crate) fn is_refused(world: &World, id: TxnId, resource: &Resource, mode: LockMode) -> bool {
    let versions = world.get::<Versions>(chain_entity(world, resource.tree.chain));
    if mode == LockMode::Read {
        // Of a collection, each page says whether it still has what the transaction would see.
        return versions.is_some_and(|versions| versions.before(id, u64::MAX).is_none());
    }
    // A caller may choose an id under which something has committed: it cannot come again.
    if versions.is_some_and(|versions| versions.newest().id >= id) {
        return true;
    }
    let table = lock_table(world, resource.tree.chain);
    table.newest_mark(resource) >= id
        || table
            .overlapping(resource)
            .into_iter()
            .any(|lock| world.get::<Lock>(lock).is_some_and(|lock| lock.is_granted && lock.holder > id))
}

fn enqueue(world: &mut World, id: TxnId, resource: &Resource, mode: LockMode) {
    let held = world.resource::<Registry>().locks.get(&id).into_iter().flatten();
    let mut held = held.filter_map(|lock| world.get::<Lock>(*lock));
    if held.any(|lock| lock.mode >= mode && lock.resource == *resource) {
        return;
    }
    let entity = chain_entity(world, resource.tree.chain);
    let lock = Lock { resource: resource.clone(), holder: id, mode, is_granted: false };
    let lock = world.spawn(lock).id();
    world.get_mut::<LockTable>(entity).expect("a chain").insert(resource, lock);
    world.resource_mut::<Registry>().locks.entry(id).or_default().push(lock);
}

/// Grant what can be granted on a resource, oldest first. Whatever is newer than an undecided write has to wait for it.
fn grant(world: &mut World, resource: &Resource) {
    let table = lock_table(world, resource.tree.chain);
    let lock = |entity: Entity| world.get::<Lock>(entity).expect("a queued lock");
    let mut waiting: Vec<(TxnId, Entity)> = Vec::new();
    for entity in table.overlapping(resource) {
        let Lock { resource, holder, is_granted, .. } = lock(entity);
        if *is_granted {
            continue;
        }
        let is_behind_write = table.overlapping(resource).into_iter().any(|other| {
            let other = lock(other);
            other.holder < *holder && other.mode == LockMode::Write
        });
        if !is_behind_write {
            waiting.push((*holder, entity));
        }
    }
    waiting.sort();
    for (id, entity) in waiting {
        let Lock { resource, mode, .. } = lock_of(world, entity).clone();
        world.get_mut::<Lock>(entity).expect("a queued lock").is_granted = true;
        let chain = chain_entity(world, resource.tree.chain);
        match world.get::<Versions>(chain) {
            None => show_rows(world, id, &resource, mode),
            Some(versions) => match versions.before(id, u64::MAX).cloned() {
                Some(version) => show(world, id, resource.tree.chain, mode, version),
                None => {
                    world.resource_mut::<Registry>().refused.insert(id);
                }
            },
        }
    }
}

fn lock_of(world: &World, entity: Entity) -> &Lock {
    world.get::<Lock>(entity).expect("a queued lock")
}

/// Show a transaction which blocks of a chain it sees, and let its program go on.
fn show_history(world: &mut World, id: TxnId, chain: ChainId) {
    let entity = chain_entity(world, chain);
    let commit = snapshot(world, id).unwrap_or(u64::MAX);
    let last = match world.get::<Versions>(entity) {
        Some(versions) => versions.before(id, commit).map(|version| version.id),
        // The history of a chain around collections has its transactions in order, and the reader has locked all of
        // it, so what comes before the reader is what it sees; of a snapshot, as far as that goes.
        None => {
            let collections = world.get::<HostedCollections>(entity).expect("a chain around collections");
            Some(collections.last_until(commit).min(TxnId::before(id)))
        }
    };
    let Some(last) = last else {
        world.resource_mut::<Registry>().refused.insert(id);
        return;
    };
    let history = world.get::<History>(entity).expect("a chain that keeps its blocks");
    let mut seen = SeenHistory { blocks: 0, last, block_bytes_max: 0 };
    let mut batch = 0;
    for block in &history.blocks {
        let header = world.get::<BlockHeader>(*block).expect("a block");
        seen.blocks += 1;
        seen.block_bytes_max = seen.block_bytes_max.max(header.bytes);
        batch = batch.max(header.batch);
        if header.newest > last {
            break;
        }
    }
    let reader = transaction(world, id);
    if batch > world.resource::<Registry>().durable {
        let transaction = &mut *world.get_mut::<Transaction>(reader).expect("a transaction");
        transaction.durable_after = transaction.durable_after.max(batch);
    }
    world.get::<Program>(reader).expect("a program").ledger.show_history(chain, seen);
    wake(world, id, reader);
}
