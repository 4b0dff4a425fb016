//! Persist: everything that the tick has committed goes to the storage as one batch.

use bevy_ecs::prelude::World;
use components::hosting::storage::{Batch, Keyspace};
use components::rows::stored;
use components::value::ids::PageId;

use crate::pages::put;
use crate::tick::{Outbox, Registry};

/// How many names of pages are used up at once.
const PAGE_NAMES_RESERVED: u64 = 1_024;

/// The batch of this tick, if it has committed anything.
pub fn take_batch(world: &mut World) -> Option<Batch> {
    let writes = std::mem::take(&mut world.resource_mut::<Outbox>().writes);
    if writes.is_empty() {
        return None;
    }
    let registry = &mut *world.resource_mut::<Registry>();
    let mut writes = writes;
    if registry.last_page > registry.reserved_page {
        // A name is never used twice, also if nothing is left of the page that had it. Many at once, so that few batches
        // have to say so.
        registry.reserved_page = PageId(registry.last_page.0 + PAGE_NAMES_RESERVED);
        writes.push(put(Keyspace::Meta, stored::last_page_key(), stored::last_page(registry.reserved_page)));
    }
    let sequence = registry.batch;
    registry.batch += 1;
    Some(Batch { sequence, writes })
}
