//! Arbitrate: locks are granted, queued or refused in the order of the transactions (DESIGN.md §4).
//!
//! Multi-version timestamp ordering. A read at X sees the newest version before X and waits for an undecided write
//! of an older transaction. A write at X is refused if a newer transaction has read or written, and waits for an
//! undecided write of an older one. Waits only ever point to older transactions, so there are no deadlocks.

use std::collections::BTreeSet;
use std::sync::Arc;

use bevy_ecs::prelude::{Entity, World};
use components::TxnId;
use components::chain::Block;
use components::cluster::ChainId;
use components::ledger::{LockMode, Want};
use components::lock::Lock;
use components::transaction::{Authority, Phase, Program, Transaction};
use components::versions::{BlockContent, BlockHeader, History, LockQueue, Version, Versions};

use crate::tick::{EXPECTED_MODE, Outbox, Registry};

/// Look at everything that programs have asked for, and at every chain that was released.
pub fn arbitrate(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let mut wants = std::mem::take(&mut registry.wants);
    let expected = std::mem::take(&mut registry.expected);
    let mut chains = std::mem::take(&mut registry.released);
    if wants.is_empty() && expected.is_empty() && chains.is_empty() {
        return;
    }
    wants.extend(expected.into_iter().map(|(id, chain)| (id, Want::Lock(chain, EXPECTED_MODE))));
    wants.sort_by_key(|(id, _)| *id);
    for (id, want) in wants {
        // A transaction that was refused a lock has no use for another one.
        if !world.resource::<Registry>().active.contains_key(&id)
            || world.resource::<Registry>().refused.contains(&id)
        {
            continue;
        }
        match want {
            Want::Lock(chain, mode) => {
                if let Some(snapshot) = snapshot(world, id) {
                    show_snapshot(world, id, chain, mode, snapshot);
                } else if is_refused(world, id, chain, mode) {
                    world.resource_mut::<Registry>().refused.insert(id);
                } else {
                    enqueue(world, id, chain, mode);
                    chains.insert(chain);
                }
            }
            Want::History(chain) => {
                world.resource_mut::<Registry>().history_readers.insert((chain, id));
                chains.insert(chain);
            }
        }
    }
    for chain in chains {
        grant(world, chain);
        show_histories(world, chain);
    }
}

fn transaction(world: &World, id: TxnId) -> Entity {
    world.resource::<Registry>().active[&id]
}

fn chain_entity(world: &World, chain: ChainId) -> Entity {
    world.resource::<Registry>().chains[&chain]
}

/// The snapshot that a hypothetical transaction reads.
fn snapshot(world: &World, id: TxnId) -> Option<u64> {
    match world.get::<Transaction>(transaction(world, id)).expect("a transaction").authority {
        Authority::Hypothetical { snapshot } => Some(snapshot),
        Authority::Real(_) => None,
    }
}

/// A hypothetical transaction takes no locks: it sees its snapshot, and nobody sees what it does.
fn show_snapshot(world: &mut World, id: TxnId, chain: ChainId, mode: LockMode, snapshot: u64) {
    let versions = world.get::<Versions>(chain_entity(world, chain)).expect("a chain");
    match versions.before(id, snapshot).cloned() {
        Some(version) => show(world, id, chain, mode, version),
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

/// Let a program go on, unless it waits for another lock that it is expected to need.
fn wake(world: &mut World, id: TxnId, entity: Entity) {
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
fn is_refused(world: &World, id: TxnId, chain: ChainId, mode: LockMode) -> bool {
    let entity = chain_entity(world, chain);
    let versions = world.get::<Versions>(entity).expect("a chain");
    let queue = world.get::<LockQueue>(entity).expect("a chain");
    match mode {
        LockMode::Read => versions.before(id, u64::MAX).is_none(),
        LockMode::Write => {
            // A caller may choose an id under which something has committed: it cannot come again.
            let is_written_later = versions.newest().id >= id;
            let is_read_later = queue.last_read > id;
            let is_being_written_later = queue.locks.range(id..).any(|(later, lock)| {
                *later > id
                    && world
                        .get::<Lock>(*lock)
                        .is_some_and(|lock| lock.is_granted && lock.mode == LockMode::Write)
            });
            is_written_later || is_read_later || is_being_written_later
        }
    }
}

fn enqueue(world: &mut World, id: TxnId, chain: ChainId, mode: LockMode) {
    let entity = chain_entity(world, chain);
    let existing = world.get::<LockQueue>(entity).expect("a chain").locks.get(&id).copied();
    if let Some(lock) = existing {
        let lock = &mut *world.get_mut::<Lock>(lock).expect("a queued lock");
        if lock.mode < mode {
            (lock.mode, lock.is_granted) = (mode, false);
        }
        return;
    }
    let lock = world.spawn(Lock { chain, holder: id, mode, is_granted: false }).id();
    world.get_mut::<LockQueue>(entity).expect("a chain").locks.insert(id, lock);
    world.resource_mut::<Registry>().locks.entry(id).or_default().push(lock);
}

/// Grant what can be granted on a chain, oldest first.
fn grant(world: &mut World, chain: ChainId) {
    let entity = chain_entity(world, chain);
    // Everything behind the first undecided write has to wait for it.
    let mut granted: Vec<(TxnId, Entity, LockMode)> = Vec::new();
    for (id, lock_entity) in &world.get::<LockQueue>(entity).expect("a chain").locks {
        let lock = world.get::<Lock>(*lock_entity).expect("a queued lock");
        if !lock.is_granted {
            granted.push((*id, *lock_entity, lock.mode));
        }
        if lock.mode == LockMode::Write {
            break;
        }
    }
    for (id, lock, mode) in granted {
        world.get_mut::<Lock>(lock).expect("a queued lock").is_granted = true;
        if mode == LockMode::Read {
            let queue = &mut *world.get_mut::<LockQueue>(entity).expect("a chain");
            queue.last_read = queue.last_read.max(id);
        }
        let version = world.get::<Versions>(entity).expect("a chain").before(id, u64::MAX).cloned();
        match version {
            Some(version) => show(world, id, chain, mode, version),
            None => {
                world.resource_mut::<Registry>().refused.insert(id);
            }
        }
    }
}

/// Show the blocks of a chain to those who have asked for them, if all are in memory; else ask for the rest.
fn show_histories(world: &mut World, chain: ChainId) {
    let readers: BTreeSet<TxnId> = {
        let Registry { history_readers, active, .. } = &mut *world.resource_mut::<Registry>();
        // Those that went away wait for nothing any more.
        history_readers.retain(|(other, id)| *other != chain || active.contains_key(id));
        history_readers.range((chain, TxnId::ZERO)..=(chain, TxnId::MAX)).map(|(_, id)| *id).collect()
    };
    if readers.is_empty() {
        return;
    }
    let entity = chain_entity(world, chain);
    let ticks = world.resource::<Registry>().ticks;
    let block_entities = world.get::<History>(entity).expect("a chain that keeps its blocks").blocks.clone();
    let mut blocks: Vec<Arc<Block>> = Vec::with_capacity(block_entities.len());
    let mut missing = Vec::new();
    for (ordinal, block) in block_entities.iter().enumerate() {
        match world.get::<BlockContent>(*block).expect("a block").0.clone() {
            Some(content) => blocks.push(content),
            None => missing.push((chain, ordinal as u32)),
        }
        let header = &mut *world.get_mut::<BlockHeader>(*block).expect("a block");
        header.uses += 1;
        header.last_used = ticks;
    }
    if !missing.is_empty() {
        let registry = &mut *world.resource_mut::<Registry>();
        missing.retain(|block| registry.loading.insert(*block));
        world.resource_mut::<Outbox>().loads.append(&mut missing);
        return;
    }
    for id in readers {
        let reader = transaction(world, id);
        let commit = snapshot(world, id).unwrap_or(u64::MAX);
        let versions = world.get::<Versions>(entity).expect("a chain");
        let last = versions.before(id, commit).map(|version| version.id);
        world.resource_mut::<Registry>().history_readers.remove(&(chain, id));
        let Some(last) = last else {
            world.resource_mut::<Registry>().refused.insert(id);
            continue;
        };
        let seen = blocks_until(&blocks, last);
        world.get::<Program>(reader).expect("a program").ledger.show_history(chain, seen);
        wake(world, id, reader);
    }
}

/// The blocks as they were right after a transaction.
fn blocks_until(blocks: &[Arc<Block>], last: TxnId) -> Vec<Arc<Block>> {
    let mut seen = Vec::with_capacity(blocks.len());
    for block in blocks {
        let count = block.transactions.partition_point(|(id, _)| *id <= last);
        if count == block.transactions.len() {
            seen.push(block.clone());
        } else {
            let transactions = block.transactions[..count].to_vec();
            seen.push(Arc::new(Block { previous: block.previous.clone(), transactions }));
            break;
        }
    }
    seen
}
