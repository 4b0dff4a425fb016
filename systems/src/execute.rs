//! Execute: programs are polled until they finish or need something.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bevy_ecs::prelude::{Entity, World};
use components::transaction::job::{Job, JobId, JobResult};
use components::transaction::ledger::Ledger;
use components::transaction::{Phase, Program, ProgramFuture, Transaction};
use components::{Error, Reply, TxnId};
use rayon::prelude::*;

use crate::limits::Limits;
use crate::pages;
use crate::progress::{extend, interrupt, wake};
use crate::room::take_room_for_pages;
use crate::tick::{Outbox, Pool, Registry, Statistics};

/// What every program may spend at first, one after the other on the thread of the tick. Most end or wait within it,
/// sooner than another thread would wake up (`BENCHMARKS.md`, *programs per tick*).
pub const FIRST_FUEL: u64 = 16;

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
    has_full_fuel: bool,
    result: Poll<Reply>,
}

/// The programs to poll now, in the order of their transactions. If there are more than the tick has steps for, it is the
/// turn of those that come after the last one that had it.
fn take_runnable(registry: &mut Registry) -> Vec<TxnId> {
    let count = registry.take_steps(registry.runnable.len());
    if count == registry.runnable.len() {
        return std::mem::take(&mut registry.runnable).into_iter().collect();
    }
    let after = registry.runnable.range((Bound::Excluded(registry.last_polled), Bound::Unbounded));
    let mut turn: Vec<TxnId> = after.chain(&registry.runnable).take(count).copied().collect();
    registry.last_polled = turn.last().copied().unwrap_or_default();
    for id in &turn {
        registry.runnable.remove(id);
    }
    turn.sort_unstable();
    turn
}

/// Poll the runnable programs.
pub fn execute(world: &mut World) {
    let registry = &mut *world.resource_mut::<Registry>();
    if registry.runnable.is_empty() {
        return;
    }
    let runnable = take_runnable(registry);
    let ticks = registry.ticks;
    let entities: Vec<(TxnId, Entity)> =
        runnable.into_iter().filter_map(|id| registry.active.get(&id).map(|entity| (id, *entity))).collect();
    let Limits { fuel_per_tick: fuel, parallel_programs_min, .. } = *world.resource::<Limits>();
    let mut polled: Vec<Polled> = Vec::with_capacity(entities.len());
    for (id, entity) in entities {
        let program = &mut *world.get_mut::<Program>(entity).expect("an active transaction has a program");
        // A program that is polled in several rounds of a tick has its fuel only once.
        if program.first_fuel_tick != ticks {
            program.first_fuel_tick = ticks;
            program.ledger.refuel(FIRST_FUEL.min(fuel), ticks);
        }
        let has_full_fuel = program.full_fuel_tick == ticks;
        let ledger = program.ledger.clone();
        let future = program.take().expect("a program that has not finished");
        polled.push(Polled { id, entity, future, ledger, has_full_fuel, result: Poll::Pending });
    }
    polled.iter_mut().for_each(poll);
    let is_long = |program: &&mut Polled| {
        program.result.is_pending() && program.ledger.is_out_of_fuel() && !program.has_full_fuel
    };
    let mut long_programs: Vec<&mut Polled> = polled.iter_mut().filter(is_long).collect();
    let shares = (long_programs.len() as u64).div_ceil(FULL_FUEL_PROGRAMS_MAX).max(1);
    for program in &mut long_programs {
        program.has_full_fuel = true;
        program.ledger.refuel((fuel / shares).max(FUEL_MIN).min(fuel), ticks);
        world.get_mut::<Program>(program.entity).expect("a program").full_fuel_tick = ticks;
    }
    let long_count = long_programs.len();
    let pool = world.resource::<Pool>();
    let is_parallel = match &pool.0 {
        Some(pool) if long_count >= parallel_programs_min => {
            pool.install(|| long_programs.into_par_iter().for_each(poll));
            true
        }
        _ => {
            long_programs.into_iter().for_each(poll);
            false
        }
    };
    let statistics = &mut *world.resource_mut::<Statistics>();
    statistics.polls += polled.len() as u64;
    statistics.parallel_polls += if is_parallel { long_count as u64 } else { 0 };
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

/// Let the jobs of a program be done.
fn begin_jobs(world: &mut World, id: TxnId, jobs: Vec<(u32, Job)>) {
    for (number, job) in jobs {
        let registry = &mut *world.resource_mut::<Registry>();
        registry.job_count += 1;
        let job_id = JobId(registry.job_count);
        registry.jobs.insert(job_id, (id, number));
        registry.jobs_of.insert((id, job_id));
        world.resource_mut::<Outbox>().jobs.push((job_id, job));
    }
}

/// A job is done; whoever has ended since does not want to know. One that has failed is the failure of who has asked for
/// it, as a panic of its program would be, and of nobody else.
pub fn job_done(world: &mut World, job: JobId, result: JobResult) {
    let registry = &mut *world.resource_mut::<Registry>();
    let Some((id, number)) = registry.jobs.remove(&job) else { return };
    registry.jobs_of.remove(&(id, job));
    // With whoever has ended, the pages may be gone that the job was to read.
    let Some(entity) = registry.active.get(&id).copied() else { return };
    if let JobResult::Failed(cause) = &result {
        tracing::error!(transaction = %id, "a job failed: {cause}");
        world.resource_mut::<Statistics>().failed_jobs += 1;
        interrupt(world, entity, Error::internal(cause));
        return;
    }
    let mut result = result;
    if let JobResult::Spilled(spilled) = &result {
        extend(world, id, spilled.written_bytes);
    }
    if let JobResult::MergedPart(part) = &result {
        match take_room_for_pages(world, part) {
            Ok(()) => return pages::stage(world, id, number, part),
            Err(refusal) => result = JobResult::Refused(refusal),
        }
    }
    world.get::<Program>(entity).expect("a program").ledger.finish_job(number, result);
    wake(world, id, entity);
}

/// The message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_string())
}

fn settle(world: &mut World, program: Polled) {
    let Polled { id, entity, future, ledger, result, .. } = program;
    pages::free_staged(world, id, ledger.take_freed_pages());
    match result {
        Poll::Ready(reply) => {
            // What it has locked and changed is in the ledger; the rest of it is gone.
            drop(future);
            // What else it has asked for in vain is not begun.
            let let_go = ledger.take_jobs().into_iter().filter(|(_, job)| matches!(job, Job::LetGo(_)));
            begin_jobs(world, id, let_go.collect());
            let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
            transaction.outcome = Some(reply);
            world.resource_mut::<Registry>().finished.insert(id);
        }
        Poll::Pending => {
            let wants = ledger.take_wants();
            begin_jobs(world, id, ledger.take_jobs());
            let is_out_of_fuel = ledger.is_out_of_fuel();
            world.resource_mut::<Registry>().holders.note(id, ledger.bytes());
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
