//! Intake: requests become transactions; time limits and finished jobs are noted.

use std::sync::Arc;

use bevy_ecs::prelude::{Entity, World};
use components::rows::bulk::BulkRows;
use components::rows::delta::Visibility;
use components::transaction::ledger::Ledger;
use components::transaction::lock::Resource;
use components::transaction::{Authority, Phase, Program, RequestId, Transaction};
use components::{Error, Request, State, TxnId};

use crate::dispatch::is_hypothetical;
use crate::execute::job_done;
use crate::limits::Limits;
use crate::pages;
use crate::progress::{interrupt, storing_ns};
use crate::room::Room;
use crate::scalar::Interpreter;
use crate::tick::{Expectation, Expectations, Hosting, Inbox, Input, Outbox, Registry, Statistics};

/// Take in everything that came since the last tick.
pub fn intake(world: &mut World) {
    let limits = *world.resource::<Limits>();
    let inbox = &mut world.resource_mut::<Inbox>().0;
    let (now_ns, monotonic_ns, events) =
        (inbox.now_ns, inbox.monotonic_ns, std::mem::take(&mut inbox.events));
    let registry = &mut *world.resource_mut::<Registry>();
    registry.ticks += 1;
    registry.steps_left = limits.steps_per_tick;
    registry.runnable.append(&mut registry.out_of_fuel);
    for event in events {
        match event {
            Input::Request { id, request } => begin(world, id, request, now_ns),
            Input::Cancel(id) => cancel(world, id),
            Input::Unpin(id) => {
                world.resource_mut::<Registry>().retired.unpin(id);
            }
            Input::Room(room) => *world.resource_mut::<Room>() = room,
            Input::Durable(sequence) => {
                let registry = &mut *world.resource_mut::<Registry>();
                assert!(sequence >= registry.durable, "what is durable stays durable");
                registry.durable = sequence;
                while registry.commit_batches.first_key_value().is_some_and(|(_, batch)| *batch <= sequence) {
                    registry.commit_batches.pop_first();
                }
                pages::staged(world, sequence);
            }
            Input::Job { id, result } => job_done(world, id, result),
            Input::Page { page, content } => pages::came(world, page, content),
        }
    }
    expire(world, monotonic_ns);
}

/// What a request may take beyond its time limit, in nanoseconds, for rows that are more than fit in memory.
fn extra_ns(body: &State) -> u64 {
    let State::Bulk(bulk) = body else { return 0 };
    match bulk.rows() {
        BulkRows::Resident(_) => 0,
        BulkRows::Spilled(runs) => storing_ns(runs.stored_bytes()),
    }
}

fn begin(world: &mut World, request_id: RequestId, request: Request, now_ns: u64) {
    let limits = *world.resource::<Limits>();
    let monotonic_ns = world.resource::<Inbox>().0.monotonic_ns;
    let registry = &mut *world.resource_mut::<Registry>();
    let id = if registry.requests.len() >= limits.transactions_max {
        Err(Error::unavailable("too many transactions are open; try again in a second"))
    } else {
        match request.txn_id {
            Some(id) => registry.ids.accept(&limits, id, now_ns),
            None => Ok(registry.ids.mint(&limits, now_ns)),
        }
    };
    let id = match id {
        Ok(id) => id,
        Err(error) => {
            world.resource_mut::<Outbox>().replies.push((request_id, Err(error)));
            return;
        }
    };
    let authority = if is_hypothetical(&request) {
        Authority::Hypothetical { snapshot: registry.take_snapshot() }
    } else {
        Authority::real()
    };
    let expectation = match &authority {
        Authority::Real(_) => {
            let expectations = world.resource::<Expectations>();
            expectations.get(&(request.path.clone(), request.verb)).cloned().unwrap_or_default()
        }
        Authority::Hypothetical { .. } => Expectation::default(),
    };
    let time_limit_ns = limits.request_ttl_ns.saturating_add(extra_ns(&request.body));
    let mut transaction = Transaction {
        id,
        request_id,
        request: Arc::new(request),
        time_limit_ns,
        deadline_ns: monotonic_ns.saturating_add(time_limit_ns),
        phase: Phase::Running,
        authority,
        attempts: 0,
        begun_commit: 0,
        durable_after: 0,
        expected_writes: expectation.values.into_iter().map(Resource::value).collect(),
        for_update: expectation.for_update,
        outcome: None,
        rows_written: None,
    };
    let program = attempt(world, &mut transaction);
    let (deadline_ns, expected) = (transaction.deadline_ns, transaction.expected_writes.clone());
    let entity = world.spawn((transaction, program)).id();
    let registry = &mut *world.resource_mut::<Registry>();
    registry.requests.insert(request_id, entity);
    registry.deadlines.insert((deadline_ns, request_id));
    start(registry, id, entity, expected);
    world.resource_mut::<Statistics>().begun += 1;
}

/// The program of the next attempt of a transaction, under its id.
fn attempt(world: &World, transaction: &mut Transaction) -> Program {
    transaction.attempts += 1;
    transaction.begun_commit = world.resource::<Registry>().commit_count;
    transaction.outcome = None;
    let is_ready = transaction.expected_writes.is_empty();
    transaction.phase = if is_ready { Phase::Running } else { Phase::Waiting };
    let commit = match transaction.authority {
        Authority::Real(_) => u64::MAX,
        Authority::Hypothetical { snapshot } => snapshot,
    };
    let visibility = Visibility { before: transaction.id, commit };
    let ledger = Arc::new(Ledger::new(visibility, transaction.for_update.clone()));
    let catalog = world.resource::<Hosting>().0.clone();
    let jobs = world.resource::<Limits>().jobs;
    let interpreter = Interpreter { catalog, ledger: ledger.clone(), jobs };
    let request = transaction.request.clone();
    Program::new(Box::pin(async move { interpreter.serve(&request).await }), ledger)
}

/// Let (an attempt of) a transaction begin, once it has the locks that it is expected to need.
fn start(registry: &mut Registry, id: TxnId, entity: Entity, expected: Vec<Resource>) {
    registry.active.insert(id, entity);
    if expected.is_empty() {
        registry.runnable.insert(id);
    } else {
        registry.expected.extend(expected.into_iter().map(|resource| (id, resource)));
    }
}

/// Begin a transaction again, after everything that has begun so far, with locks on what it has wanted to write.
pub(crate) fn restart(world: &mut World, entity: Entity) {
    let now_ns = world.resource::<Inbox>().0.now_ns;
    let limits = *world.resource::<Limits>();
    let id = world.resource_mut::<Registry>().ids.mint(&limits, now_ns);
    let mut transaction = world.entity_mut(entity).take::<Transaction>().expect("a transaction");
    transaction.id = id;
    if let Authority::Hypothetical { snapshot } = &mut transaction.authority {
        // What it was to see is gone.
        let registry = &mut *world.resource_mut::<Registry>();
        registry.release_snapshot(*snapshot);
        *snapshot = registry.take_snapshot();
    }
    let program = attempt(world, &mut transaction);
    let expected = transaction.expected_writes.clone();
    world.entity_mut(entity).insert((transaction, program));
    world.resource_mut::<Statistics>().retried += 1;
    start(&mut world.resource_mut::<Registry>(), id, entity, expected);
}

fn cancel(world: &mut World, request_id: RequestId) {
    if let Some(entity) = world.resource::<Registry>().requests.get(&request_id).copied() {
        interrupt(world, entity, Error::timeout("the client went away"));
    }
}

/// How many requests are ended in one tick because their time is over; the next tick goes on at once.
const EXPIRED_AT_ONCE_MAX: usize = 512;

fn expire(world: &mut World, monotonic_ns: u64) {
    for _ in 0..EXPIRED_AT_ONCE_MAX {
        let registry = &mut *world.resource_mut::<Registry>();
        let Some((deadline_ns, request_id)) = registry.deadlines.first().copied() else {
            return;
        };
        if deadline_ns > monotonic_ns {
            return;
        }
        registry.deadlines.pop_first();
        if let Some(entity) = registry.requests.get(&request_id).copied() {
            let time_limit_ns = world.get::<Transaction>(entity).expect("a transaction").time_limit_ns;
            let limit_s = time_limit_ns as f64 / 1e9;
            let error = Error::timeout(format_args!("the request took more than {limit_s} s"));
            if interrupt(world, entity, error) {
                world.resource_mut::<Statistics>().timeouts += 1;
            }
        }
    }
}
