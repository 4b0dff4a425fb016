//! What the world does to a program from outside: it goes on, it is interrupted, its work is over.

use bevy_ecs::prelude::{Entity, World};
use components::transaction::job::JobId;
use components::transaction::{Phase, Transaction};
use components::{Error, TxnId};

use crate::tick::{Outbox, Registry};

/// Let a program go on, unless it waits for another lock that it is expected to need.
pub(crate) fn wake(world: &mut World, id: TxnId, entity: Entity) {
    let transaction = world.get::<Transaction>(entity).expect("a transaction");
    if transaction.outcome.is_some() {
        // It was ended while it waited.
        return;
    }
    // One that expects to write does not begin before it has every lock that it is expected to need.
    if !transaction.expected_writes.is_empty()
        && transaction.phase == Phase::Waiting
        && world.resource::<Registry>().held_locks.get(&id).is_some_and(|held| held.waiting > 0)
    {
        return;
    }
    world.get_mut::<Transaction>(entity).expect("a transaction").phase = Phase::Running;
    world.resource_mut::<Registry>().runnable.insert(id);
}

/// How fast what does not fit in memory is stored at least, in bytes.
pub(crate) const STORED_BYTES_PER_S_MIN: u64 = 2 << 20;

/// How long it may take to store so many bytes, in nanoseconds.
pub(crate) fn storing_ns(bytes: u64) -> u64 {
    bytes.saturating_mul(1_000_000_000) / STORED_BYTES_PER_S_MIN
}

/// A transaction has stored so many bytes before its commit, or written to scratch space: that takes time which it is not
/// to lack.
pub(crate) fn extend(world: &mut World, id: TxnId, bytes: u64) {
    let Some(entity) = world.resource::<Registry>().active.get(&id).copied() else { return };
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let (request, before_ns) = (transaction.request_id, transaction.deadline_ns);
    transaction.time_limit_ns = transaction.time_limit_ns.saturating_add(storing_ns(bytes));
    transaction.deadline_ns = transaction.deadline_ns.saturating_add(storing_ns(bytes));
    let deadline_ns = transaction.deadline_ns;
    let deadlines = &mut world.resource_mut::<Registry>().deadlines;
    // Its time may be over.
    if deadlines.remove(&(before_ns, request)) {
        deadlines.insert((deadline_ns, request));
    }
}

/// End a transaction before its program does; false if its outcome is known already.
pub(crate) fn interrupt(world: &mut World, entity: Entity, cause: Error) -> bool {
    let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
    let is_open = matches!(transaction.phase, Phase::Running | Phase::Waiting);
    if !is_open || transaction.outcome.is_some() {
        return false;
    }
    transaction.outcome = Some(Err(cause));
    let id = transaction.id;
    let registry = &mut *world.resource_mut::<Registry>();
    registry.runnable.remove(&id);
    registry.finished.insert(id);
    true
}

/// The program of a transaction holds nothing any more, and nobody wants the results of its jobs.
pub(crate) fn end_work(world: &mut World, id: TxnId) {
    let Registry { jobs, jobs_of, holders, .. } = &mut *world.resource_mut::<Registry>();
    holders.note(id, 0);
    let ended: Vec<JobId> =
        jobs_of.extract_if((id, JobId(0))..=(id, JobId(u64::MAX)), |_| true).map(|(_, job)| job).collect();
    if ended.is_empty() {
        return;
    }
    for job in &ended {
        jobs.remove(job);
    }
    world.resource_mut::<Outbox>().ended_jobs.extend(ended);
}
