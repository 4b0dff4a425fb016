//! Respond: answers leave when everything that they depend on is durable.

use bevy_ecs::prelude::World;
use components::transaction::Transaction;

use crate::tick::{Outbox, Registry};

/// How many answers leave in one tick; the next one goes on at once.
const ANSWERS_PER_TICK_MAX: usize = 2_048;

/// Let go of the answers whose batch is durable.
pub fn respond(world: &mut World) {
    let mut left = ANSWERS_PER_TICK_MAX;
    while left > 0 && world.resource::<Registry>().has_answers() {
        let registry = &mut *world.resource_mut::<Registry>();
        let mut first = registry.held.first_entry().expect("held answers");
        let count = first.get().len().min(left);
        let entities: Vec<_> = first.get_mut().drain(..count).collect();
        left -= count;
        if first.get().is_empty() {
            first.remove();
        }
        for entity in entities {
            let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
            let reply = transaction.outcome.take().expect("an answer");
            let (request_id, deadline_ns) = (transaction.request_id, transaction.deadline_ns);
            let rows_written = transaction.rows_written;
            world.despawn(entity);
            let registry = &mut *world.resource_mut::<Registry>();
            registry.requests.remove(&request_id);
            registry.deadlines.remove(&(deadline_ns, request_id));
            let outbox = &mut *world.resource_mut::<Outbox>();
            outbox.replies.push((request_id, reply));
            outbox.rows_written.extend(rows_written.map(|rows| (request_id, rows)));
        }
    }
}
