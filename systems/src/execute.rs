//! Execute: programs are polled until they finish or need something.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bevy_ecs::prelude::{Entity, World};
use components::ledger::Ledger;
use components::transaction::{Phase, Program, ProgramFuture, Transaction};
use components::{Error, Reply, TxnId};
use rayon::prelude::*;

use crate::tick::{Limits, Pool, Registry, Statistics};

/// From how many programs on that have spent the fuel of a whole tick before.
pub const PARALLEL_LONG_PROGRAMS_MIN: usize = 2;

/// How many programs may spend the fuel of a whole tick in one tick; more of them get a share of it each, so that a
/// tick stays short, however many programs never end.
const FULL_FUEL_PROGRAMS_MAX: u64 = 16;

/// The least that a program gets.
const FUEL_MIN: u64 = 64;

/// A program on its way through a poll.
struct Polled {
    id: TxnId,
    entity: Entity,
    future: ProgramFuture,
    ledger: Arc<Ledger>,
    result: Poll<Reply>,
}

/// Poll every runnable program.
pub fn execute(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    let runnable = std::mem::take(&mut registry.runnable);
    if runnable.is_empty() {
        return;
    }
    let entities: Vec<(TxnId, Entity)> =
        runnable.into_iter().filter_map(|id| registry.active.get(&id).map(|entity| (id, *entity))).collect();
    let mut long_programs = Vec::new();
    let mut polled: Vec<Polled> = Vec::with_capacity(entities.len());
    for (id, entity) in entities {
        let program = &mut *world.get_mut::<Program>(entity).expect("an active transaction has a program");
        if program.ledger.is_out_of_fuel() {
            long_programs.push(program.ledger.clone());
        }
        let ledger = program.ledger.clone();
        let future = program.take().expect("a program that has not finished");
        polled.push(Polled { id, entity, future, ledger, result: Poll::Pending });
    }
    let Limits { fuel_per_tick: fuel, parallel_programs_min, .. } = *world.resource::<Limits>();
    let shares = (long_programs.len() as u64).div_ceil(FULL_FUEL_PROGRAMS_MAX).max(1);
    for ledger in &long_programs {
        ledger.refuel((fuel / shares).max(FUEL_MIN).min(fuel));
    }
    let is_heavy = polled.len() >= parallel_programs_min || long_programs.len() >= PARALLEL_LONG_PROGRAMS_MIN;
    let pool = world.resource::<Pool>();
    let is_parallel = match &pool.0 {
        Some(pool) if is_heavy => {
            pool.install(|| polled.par_iter_mut().for_each(poll));
            true
        }
        _ => {
            polled.iter_mut().for_each(poll);
            false
        }
    };
    let statistics = &mut *world.resource_mut::<Statistics>();
    statistics.polls += polled.len() as u64;
    statistics.parallel_polls += if is_parallel { polled.len() as u64 } else { 0 };
    // In the order of the transactions, whichever thread was first.
    for program in polled {
        settle(world, program);
    }
}

fn poll(program: &mut Polled) {
    let mut context = Context::from_waker(Waker::noop());
    let outcome = catch_unwind(AssertUnwindSafe(|| program.future.as_mut().poll(&mut context)));
    program.result = outcome.unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        tracing::error!(transaction = %program.id, "a program panicked: {message}");
        Poll::Ready(Err(Error::internal(format_args!("this is a defect of the host: {message}"))))
    });
}

/// The message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_string())
}

fn settle(world: &mut World, program: Polled) {
    let Polled { id, entity, future, ledger, result } = program;
    match result {
        Poll::Ready(reply) => {
            // What it has locked and changed is in the ledger; the rest of it is gone.
            drop(future);
            let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
            transaction.outcome = Some(reply);
            world.resource_mut::<Registry>().finished.insert(id);
        }
        Poll::Pending => {
            let wants = ledger.take_wants();
            let is_out_of_fuel = ledger.is_out_of_fuel();
            world.get_mut::<Program>(entity).expect("a program").put(future);
            let phase = if is_out_of_fuel { Phase::Running } else { Phase::Waiting };
            world.get_mut::<Transaction>(entity).expect("a transaction").phase = phase;
            let registry = &mut *world.resource_mut::<Registry>();
            registry.wants.extend(wants.into_iter().map(|want| (id, want)));
            if is_out_of_fuel {
                registry.out_of_fuel.insert(id);
            }
        }
    }
}
