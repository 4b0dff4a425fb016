//! Commit: transactions that have finished get their place in the order, or are undone.

use std::collections::BTreeSet;

use bevy_ecs::prelude::{Entity, World};
use components::hosting::versions::{HostedChain, HostedCollections};
use components::language::chain::ChainKind;
use components::language::reference::Verb;
use components::transaction::ledger::{Change, ChangedContent, LOCKED_KEYS_MAX};
use components::transaction::lock::{LockMode, LockRange, LockTable, Resource};
use components::transaction::{Authority, Phase, Program, Transaction};
use components::value::ids::{ChainId, HostedCollection, TreeId};
use components::{Error, Path, State, TxnId};

use crate::arbitrate::{is_refused, note_looks};
use crate::intake::restart;
use crate::pages::unstage;
use crate::progress::end_work;
use crate::room::take_room;
use crate::tick::{Commit, Ended, Expectations, Inbox, Outbox, Registry, Statistics};

/// How often a transaction is begun again after a conflict; its time limit is what usually ends it.
const ATTEMPTS_MAX: u32 = 10_000;

/// Decide about every transaction that has finished, oldest first.
pub fn commit(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let steps = registry.take_steps(registry.refused.len());
    for _ in 0..steps {
        let registry = &mut *world.resource_mut::<Registry>();
        let id = registry.refused.pop_first().expect("as many as there are");
        if !registry.finished.contains(&id)
            && let Some(entity) = registry.active.get(&id).copied()
        {
            conflict(world, id, entity, Vec::new());
        }
    }
    let registry = &mut *world.resource_mut::<Registry>();
    let steps = registry.take_steps(registry.finished.len());
    for _ in 0..steps {
        let registry = &mut *world.resource_mut::<Registry>();
        let id = registry.finished.pop_first().expect("as many as there are");
        let entity = registry.active[&id];
        finish(world, id, entity);
    }
}

/// A transaction came too late for a lock: begin it again if nobody can tell.
fn conflict(world: &mut World, id: TxnId, entity: Entity, mut ordered: Vec<Resource>) {
    let monotonic_ns = world.resource::<Inbox>().0.monotonic_ns;
    let program = world.get_mut::<Program>(entity).expect("a program").take();
    drop(program);
    let ledger = world.get::<Program>(entity).expect("a program").ledger.clone();
    let (mut wanted, mut for_update) = (ledger.write_set(), ledger.upgraded());
    // Whoever comes later waits until this one has had its turn.
    wanted.append(&mut ordered);
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let can_retry = transaction.request.txn_id.is_none()
        && transaction.deadline_ns > monotonic_ns
        && transaction.attempts < ATTEMPTS_MAX;
    if can_retry {
        wanted.append(&mut transaction.expected_writes);
        wanted.sort();
        wanted.dedup();
        transaction.expected_writes = wanted;
        transaction.for_update.append(&mut for_update);
        release(world, id, false);
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
    let transaction = world.get::<Transaction>(entity).expect("a transaction");
    let mut is_success = matches!(transaction.outcome, Some(Ok(_)));
    let is_real = !transaction.is_hypothetical();
    let mut changes = ledger.take_changes();
    if is_success && is_real {
        let broken = out_of_order(world, id, &changes);
        if !broken.is_empty() {
            return conflict(world, id, entity, broken);
        }
        if let Err(refusal) = take_room(world, &changes) {
            changes.clear();
            is_success = false;
            world.get_mut::<Transaction>(entity).expect("a transaction").outcome = Some(Err(refusal));
        }
    } else {
        changes.clear();
    }
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let kind = (transaction.request.path.clone(), transaction.request.verb);
    // A hypothetical transaction has no right to commit, so it cannot make a commit.
    let right = if changes.is_empty() { None } else { transaction.authority.take_right() };
    let is_commit = right.is_some();
    if let Authority::Hypothetical { snapshot } = transaction.authority {
        world.resource_mut::<Registry>().release_snapshot(snapshot);
    }
    world.resource_mut::<Statistics>().count_end(is_success, is_commit);
    if is_success && is_real {
        learn(world, kind, &changes, ledger.upgraded());
    }
    for change in &changes {
        assert_write_locked(world, id, change);
    }
    let registry = &mut *world.resource_mut::<Registry>();
    registry.active.remove(&id);
    registry.runnable.remove(&id);
    registry.out_of_fuel.remove(&id);
    let seen = registry.batch_of(ledger.seen_commit());
    let batch = registry.batch;
    if let Some(right) = right {
        registry.commit_count += 1;
        let number = registry.commit_count;
        registry.commit_batches.insert(number, batch);
        registry.commits.push(Commit { right, id, number, changes });
        // They are among the changes.
        registry.staged_pages.remove(&id);
    }
    release(world, id, true);
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let streamed = transaction.outcome.as_ref().and_then(|reply| reply.as_ref().ok());
    let pin =
        streamed.filter(|state| state.is_streamed()).map(|state| (transaction.begun_commit, trees_of(state)));
    transaction.rows_written = if is_success { ledger.rows_written() } else { None };
    transaction.phase = if is_success { Phase::Committed } else { Phase::Aborted };
    transaction.durable_after = transaction.durable_after.max(seen.unwrap_or(0));
    if is_commit {
        transaction.durable_after = batch;
    }
    let (after, request) = (transaction.durable_after, transaction.request_id);
    world.resource_mut::<Outbox>().ended.push(Ended { request, id, is_commit });
    // What it saw stays until the answer is read, which may take long after it is given.
    if let Some((commit, trees)) = pin {
        world.resource_mut::<Registry>().retired.pin(request, commit, trees);
    }
    world.resource_mut::<Registry>().held.entry(after).or_default().push(entity);
}

/// The trees that an answer is still to be read from.
fn trees_of(answer: &State) -> Vec<TreeId> {
    let mut trees = BTreeSet::new();
    answer.each_snapshot(&mut |snapshot| trees.extend(snapshot.hosted_trees()));
    trees.into_iter().collect()
}

/// What somebody newer has seen or changed before a transaction that is about to commit; with a lock on that, its next
/// attempt can commit.
///
/// The entries of indices are not locked when they are written, and a history records its transactions in order: so it
/// is seen only now whether somebody newer came first.
fn out_of_order(world: &World, id: TxnId, changes: &[Change]) -> Vec<Resource> {
    let mut broken = Vec::new();
    for Change { chain, content, .. } in changes {
        let ChangedContent::Rows(changed, _) = content else { continue };
        let entity = world.resource::<Registry>().chains[chain];
        let hosted = world.get::<HostedCollections>(entity).expect("a chain around collections");
        let whole = |slot: u16, tree: u16| {
            let tree = TreeId { chain: *chain, slot, tree };
            Resource { tree, range: LockRange::all() }
        };
        let is_history =
            world.get::<HostedChain>(entity).is_some_and(|chain| chain.spec.kind == ChainKind::Block);
        if is_history && hosted.newest >= id {
            broken.extend((0..hosted.slots.len() as u16).map(|slot| whole(slot, 0)));
        }
        for (slot, rows) in changed {
            let schema = &hosted.slots[usize::from(*slot)].schema;
            if schema.layouts().len() == 1 {
                continue;
            }
            let mut entries = Vec::new();
            for change in rows.entries.iter().filter(|change| change.tree > 0) {
                let tree = TreeId { chain: *chain, slot: *slot, tree: change.tree as u16 };
                let resource = Resource { tree, range: LockRange::Key(change.key.clone()) };
                if !is_refused(world, id, &resource, LockMode::Write) {
                    continue;
                }
                entries.push(resource);
                if entries.len() > LOCKED_KEYS_MAX {
                    entries = (1..schema.layouts().len() as u16).map(|tree| whole(*slot, tree)).collect();
                    break;
                }
            }
            broken.append(&mut entries);
        }
    }
    broken
}

fn assert_write_locked(world: &World, id: TxnId, change: &Change) {
    let registry = world.resource::<Registry>();
    let table = world.get::<LockTable>(registry.chains[&change.chain]).expect("a chain");
    let locks = registry.held_locks.get(&id).map_or(&[][..], |held| &held.locks);
    // Of rows, the ledger has asserted that each was locked when it was changed.
    let is_locked = locks.iter().filter(|(chain, _)| *chain == change.chain).any(|(_, lock)| {
        let lock = table.lock(*lock);
        lock.is_granted && lock.mode == LockMode::Write
    });
    let is_record = matches!(&change.content, ChangedContent::Rows(rows, _) if rows.is_empty());
    assert!(is_locked || is_record, "a change needs a lock");
}

/// Remember what a request of this kind writes.
fn learn(world: &mut World, kind: (Path, Verb), changes: &[Change], for_update: BTreeSet<HostedCollection>) {
    let values: Vec<ChainId> = changes
        .iter()
        .filter(|change| matches!(change.content, ChangedContent::Value(..)))
        .map(|change| change.chain)
        .collect();
    world.resource_mut::<Expectations>().learn(kind, values, for_update);
}

/// Release every lock of a transaction, and what was stored for it in vain.
///
/// If it `has_seen` something, note what it has seen or changed: older ones must not write that any more. Whoever held a
/// lock for writing may have looked and left all as it was, for example because it was only expected to write.
fn release(world: &mut World, id: TxnId, has_seen: bool) {
    unstage(world, id);
    end_work(world, id);
    let registry = &mut *world.resource_mut::<Registry>();
    registry.active.remove(&id);
    let Some(held) = registry.held_locks.remove(&id) else { return };
    registry.forget_reader(id, &held);
    let oldest_active = registry.oldest_active();
    for (chain, lock) in held.locks {
        let entity = world.resource::<Registry>().chains[&chain];
        let table = &mut *world.get_mut::<LockTable>(entity).expect("a chain");
        let (released, unblocked) = table.release(lock);
        assert_eq!(released.holder, id, "a transaction releases its own locks");
        let is_granted = released.is_granted;
        if is_granted && has_seen {
            table.mark(id, released.resource, oldest_active);
        }
        note_looks(world, entity);
        let registry = &mut *world.resource_mut::<Registry>();
        if !is_granted {
            registry.unblocked.remove(&(id, chain, lock));
        }
        registry.unblocked.extend(unblocked.into_iter().map(|(id, lock)| (id, chain, lock)));
    }
}
