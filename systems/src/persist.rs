//! Persist: everything that the tick has committed goes to the storage as one batch.

use bevy_ecs::prelude::World;
use components::storage::Batch;

use crate::tick::{Outbox, Registry};

/// The batch of this tick, if it has committed anything.
pub fn take_batch(world: &mut World) -> Option<Batch> {
    let writes = std::mem::take(&mut world.resource_mut::<Outbox>().writes);
    if writes.is_empty() {
        return None;
    }
    let registry = &mut *world.resource_mut::<Registry>();
    let sequence = registry.batch;
    registry.batch += 1;
    Some(Batch { sequence, writes })
}
