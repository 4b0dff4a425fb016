//! Arbitrate: locks are granted, queued or refused in the order of the transactions.
//!
//! Multi-version timestamp ordering, on ranges of keys. A read at X sees the newest versions before X and waits for an
//! undecided write of an older transaction. A write at X is refused if a newer transaction has read or written a part
//! of its range, and waits for an undecided write of an older one. Waits only ever point to older transactions, so
//! there are no deadlocks.

use bevy_ecs::prelude::{Entity, World};
use components::TxnId;
use components::hosting::versions::{BlockHeader, History, HostedCollections, Version, Versions};
use components::language::chain::SeenHistory;
use components::transaction::ledger::Want;
use components::transaction::lock::{Lock, LockId, LockMode, LockTable, Requested, Resource};
use components::transaction::{Authority, Program, Transaction};
use components::value::ids::{ChainId, TreeId};

use crate::pages;
use crate::progress::wake;
use crate::tick::{Registry, Statistics};

/// Look at everything that programs have asked for, and at everything that was released.
pub fn arbitrate(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let mut wants = std::mem::take(&mut registry.wants);
    let expected = std::mem::take(&mut registry.expected);
    wants.extend(expected.into_iter().map(|(id, resource)| (id, Want::Lock(resource, LockMode::Write))));
    registry.take_steps(wants.len());
    wants.sort_by_key(|(id, _)| *id);
    for (id, want) in wants {
        // A transaction that was refused a lock has no use for another one.
        if !world.resource::<Registry>().active.contains_key(&id)
            || world.resource::<Registry>().refused.contains(&id)
        {
            continue;
        }
        let snapshot = snapshot(world, id);
        if let Want::Lock(Resource { tree: TreeId { chain, .. }, .. }, _) | Want::History(chain) = &want {
            world.resource_mut::<Registry>().note_reader(id, *chain, snapshot);
        }
        match want {
            Want::Lock(resource, mode) => {
                if let Some(snapshot) = snapshot {
                    show_snapshot(world, id, &resource, mode, snapshot);
                } else if is_refused(world, id, &resource, mode) {
                    world.resource_mut::<Registry>().refused.insert(id);
                } else {
                    request(world, id, resource, mode);
                }
            }
            Want::History(chain) => show_history(world, id, chain),
            Want::Page(page) => pages::ask(world, id, page),
            Want::Restart => {
                world.resource_mut::<Registry>().refused.insert(id);
            }
        }
    }
    grant_unblocked(world);
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
    lock_table(world, resource.tree.chain).is_too_late(id, resource)
}

/// Ask for a lock.
fn request(world: &mut World, id: TxnId, resource: Resource, mode: LockMode) {
    let chain = resource.tree.chain;
    let entity = chain_entity(world, chain);
    let table = &mut *world.get_mut::<LockTable>(entity).expect("a chain");
    let requested = table.request(resource, id, mode);
    note_looks(world, entity);
    let held = world.resource_mut::<Registry>().into_inner().held_locks.entry(id).or_default();
    match requested {
        Requested::Granted(lock) => {
            held.locks.push((chain, lock));
            show_locked(world, id, chain, lock);
        }
        Requested::Waits(lock) => {
            held.locks.push((chain, lock));
            held.waiting += 1;
        }
        Requested::Known(lock) => {
            if lock_table(world, chain).lock(lock).is_granted {
                show_locked(world, id, chain, lock);
            }
        }
    }
}

/// Grant the locks whose way was freed, oldest first, as far as the steps of the tick go. Whatever is newer than an
/// undecided write has to wait for it.
fn grant_unblocked(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let steps = registry.take_steps(registry.unblocked.len());
    for _ in 0..steps {
        let registry = &mut *world.resource_mut::<Registry>();
        let (id, chain, lock) = registry.unblocked.pop_first().expect("as many as there are");
        let entity = chain_entity(world, chain);
        let is_granted = world.get_mut::<LockTable>(entity).expect("a chain").grant(lock);
        note_looks(world, entity);
        if is_granted {
            let registry = &mut *world.resource_mut::<Registry>();
            registry.held_locks.get_mut(&id).expect("who waits has locks").waiting -= 1;
            show_locked(world, id, chain, lock);
        }
    }
}

/// Count what a table of locks has cost.
pub(crate) fn note_looks(world: &mut World, chain: Entity) {
    let looks = world.get_mut::<LockTable>(chain).expect("a chain").take_looks();
    world.resource_mut::<Statistics>().locks_looked_at += looks;
}

/// Show a transaction what it has locked.
fn show_locked(world: &mut World, id: TxnId, chain: ChainId, lock: LockId) {
    let Lock { resource, mode, .. } = lock_table(world, chain).lock(lock);
    let (resource, mode) = (resource.clone(), *mode);
    match world.get::<Versions>(chain_entity(world, chain)) {
        None => show_rows(world, id, &resource, mode),
        Some(versions) => match versions.before(id, u64::MAX).cloned() {
            Some(version) => show(world, id, chain, mode, version),
            None => {
                world.resource_mut::<Registry>().refused.insert(id);
            }
        },
    }
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
