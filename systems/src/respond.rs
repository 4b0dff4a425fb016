//! Respond: answers leave when everything that they depend on is durable.

use bevy_ecs::prelude::World;
use components::transaction::Transaction;

use crate::tick::{Outbox, Registry};

/// Let go of every answer whose batch is durable.
pub fn respond(world: &mut World) {
    loop {
        let registry = &mut *world.resource_mut::<Registry>();
        match registry.held.first_key_value() {
            Some((batch, _)) if *batch <= registry.durable => {}
            _ => return,
        }
        let (_, entities) = registry.held.pop_first().expect("held answers");
        for entity in entities {
            let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
            let reply = transaction.outcome.take().expect("an answer");
            let (request_id, deadline_ns) = (transaction.request_id, transaction.deadline_ns);
            world.despawn(entity);
            let registry = &mut *world.resource_mut::<Registry>();
            registry.requests.remove(&request_id);
            registry.deadlines.remove(&(deadline_ns, request_id));
            world.resource_mut::<Outbox>().replies.push((request_id, reply));
        }
    }
}
