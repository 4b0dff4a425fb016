//! Commit: transactions that have finished get their place in the order, or are undone.

use bevy_ecs::prelude::{Entity, World};
use components::ledger::LockMode;
use components::lock::Lock;
use components::transaction::{Authority, Phase, Program, Transaction};
use components::versions::LockQueue;
use components::{Error, TxnId};

use crate::intake::restart;
use crate::tick::{Commit, EXPECTATIONS_MAX, Expectations, Inbox, Registry, Statistics};

/// How often a transaction is begun again after a conflict; its time limit is what usually ends it.
const ATTEMPTS_MAX: u32 = 10_000;

/// Decide about every transaction that has finished, oldest first.
pub fn commit(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let refused = std::mem::take(&mut registry.refused);
    let finished = std::mem::take(&mut registry.finished);
    for id in refused {
        if let Some(entity) = world.resource::<Registry>().active.get(&id).copied()
            && !finished.contains(&id)
        {
            conflict(world, id, entity);
        }
    }
    for id in finished {
        let entity = world.resource::<Registry>().active[&id];
        finish(world, id, entity);
    }
}

/// A transaction came too late for a lock: begin it again if nobody can tell.
fn conflict(world: &mut World, id: TxnId, entity: Entity) {
    let now_ns = world.resource::<Inbox>().0.now_ns;
    let program = world.get_mut::<Program>(entity).expect("a program").take();
    drop(program);
    let mut wanted = world.get::<Program>(entity).expect("a program").ledger.write_set();
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let can_retry = transaction.request.txn_id.is_none()
        && transaction.deadline_ns > now_ns
        && transaction.attempts < ATTEMPTS_MAX;
    if can_retry {
        wanted.append(&mut transaction.expected_writes);
        wanted.sort();
        wanted.dedup();
        transaction.expected_writes = wanted;
        release(world, id);
        restart(world, entity);
    } else {
        let message = "something newer has read or written what this transaction needs";
        transaction.outcome = Some(Err(Error::conflict(message)));
        world.resource_mut::<Statistics>().conflicts += 1;
        finish(world, id, entity);
    }
}

fn finish(world: &mut World, id: TxnId, entity: Entity) {
    let program = &mut *world.get_mut::<Program>(entity).expect("a program");
    drop(program.take());
    let ledger = program.ledger.clone();
    let changes = ledger.take_changes();
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let is_success = matches!(transaction.outcome, Some(Ok(_)));
    let kind = (transaction.request.path.clone(), transaction.request.verb);
    // A hypothetical transaction has no right to commit, so it cannot make a commit.
    let right = if is_success && !changes.is_empty() { transaction.authority.take_right() } else { None };
    let is_commit = right.is_some();
    let is_real = !transaction.is_hypothetical();
    if let Authority::Hypothetical { snapshot } = transaction.authority {
        world.resource_mut::<Registry>().release_snapshot(snapshot);
    }
    let statistics = &mut *world.resource_mut::<Statistics>();
    match (is_success, is_commit) {
        (true, true) => statistics.committed += 1,
        (true, false) => statistics.read_only += 1,
        (false, _) => statistics.failed += 1,
    }
    if is_success && is_real {
        learn(world, kind, changes.iter().map(|(chain, _, _)| *chain).collect());
    }
    if is_commit {
        for (chain, _, _) in &changes {
            assert_write_locked(world, id, *chain);
        }
    }
    note_reads(world, id);
    release(world, id);
    let registry = &mut *world.resource_mut::<Registry>();
    registry.active.remove(&id);
    registry.runnable.remove(&id);
    registry.out_of_fuel.remove(&id);
    let batch = registry.batch;
    if let Some(right) = right {
        registry.commit_count += 1;
        let number = registry.commit_count;
        registry.commits.push(Commit { right, id, number, changes });
    }
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    transaction.phase = if is_success { Phase::Committed } else { Phase::Aborted };
    if is_commit {
        transaction.durable_after = batch;
    }
    let after = transaction.durable_after;
    world.resource_mut::<Registry>().held.entry(after).or_default().push(entity);
}

/// Whoever held a lock for writing may have looked and left all as it was, for example because it was only expected
/// to write: older transactions must not write any more what it has not seen.
fn note_reads(world: &mut World, id: TxnId) {
    let chains: Vec<Entity> = {
        let registry = world.resource::<Registry>();
        let locks = registry.locks.get(&id).into_iter().flatten();
        let granted = locks.filter_map(|lock| world.get::<Lock>(*lock)).filter(|lock| lock.is_granted);
        granted.map(|lock| registry.chains[&lock.chain]).collect()
    };
    for chain in chains {
        let queue = &mut *world.get_mut::<LockQueue>(chain).expect("a chain");
        queue.last_read = queue.last_read.max(id);
    }
}

fn assert_write_locked(world: &World, id: TxnId, chain: components::cluster::ChainId) {
    let queue = world.get::<LockQueue>(world.resource::<Registry>().chains[&chain]).expect("a chain");
    let lock = world.get::<Lock>(queue.locks[&id]).expect("a queued lock");
    assert!(lock.is_granted && lock.mode == LockMode::Write, "a change needs a lock");
}

/// Remember what a request of this kind writes.
fn learn(
    world: &mut World,
    kind: (components::Path, components::reference::Verb),
    written: Vec<components::cluster::ChainId>,
) {
    let expectations = &mut world.resource_mut::<Expectations>().0;
    if written.is_empty() {
        expectations.remove(&kind);
    } else if expectations.len() < EXPECTATIONS_MAX || expectations.contains_key(&kind) {
        expectations.insert(kind, written);
    }
}

/// Release every lock of a transaction.
fn release(world: &mut World, id: TxnId) {
    let registry = &mut *world.resource_mut::<Registry>();
    registry.active.remove(&id);
    let locks = registry.locks.remove(&id).unwrap_or_default();
    for entity in locks {
        let lock = world.get::<Lock>(entity).expect("a lock").clone();
        assert_eq!(lock.holder, id, "a transaction releases its own locks");
        let registry = &mut *world.resource_mut::<Registry>();
        registry.released.insert(lock.chain);
        registry.history_readers.remove(&(lock.chain, id));
        let chain = registry.chains[&lock.chain];
        world.get_mut::<LockQueue>(chain).expect("a chain").locks.remove(&id);
        world.despawn(entity);
    }
}
