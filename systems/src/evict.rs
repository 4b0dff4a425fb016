//! Evict: the content of pages in memory stays within the cache; transactions that
//! together hold too much are thinned out, youngest first.

use std::ops::Bound;

use bevy_ecs::prelude::World;
use components::Error;
use components::hosting::versions::PageHeader;

use crate::limits::Limits;
use crate::progress::interrupt;
use crate::tick::{Registry, Statistics};

/// What a page takes in memory beside its content, roughly, in bytes: its entity, its versions, its statistics.
const PAGE_ENTITY_BYTES: u64 = 1_024;

/// How far below its limit the cache of pages is emptied, so that it need not be done for each page.
const EVICT_SHARE: u64 = 16;

/// The content of pages may take this part of the cache in any case, however many pages there are.
const CONTENT_SHARE_MIN: u64 = 4;

/// At how many pages one tick looks at most to find some whose content can be dropped.
const LOOKS_PER_TICK_MAX: usize = 1_024;

/// Drop the content of pages that are durable until the rest fits. A hand goes round all that are in memory: what was not
/// used since it came by is dropped, what was used often is passed by some times. So it costs in proportion to what is
/// dropped, and no tick more than `LOOKS_PER_TICK_MAX`.
pub fn evict_pages(world: &mut World) {
    let limit = world.resource::<Limits>().page_cache_bytes;
    let registry = &mut *world.resource_mut::<Registry>();
    // What is known of every page, in memory or not, is a part of the cache.
    let known_bytes = registry.pages.len() as u64 * PAGE_ENTITY_BYTES;
    let cache_bytes = limit.saturating_sub(known_bytes).max(limit / CONTENT_SHARE_MIN);
    if registry.resident_page_bytes <= cache_bytes {
        return;
    }
    let target = cache_bytes - cache_bytes / EVICT_SHARE;
    let (mut looks, mut is_moving) = (0, false);
    while looks < LOOKS_PER_TICK_MAX && world.resource::<Registry>().resident_page_bytes > target {
        let registry = world.resource::<Registry>();
        let after =
            registry.resident_pages.range((Bound::Excluded(registry.evict_hand), Bound::Unbounded)).next();
        let Some(page) = after.or(registry.resident_pages.first()).copied() else { break };
        looks += 1;
        let PageHeader { cell, stored, .. } = world.get::<PageHeader>(registry.pages[&page]).expect("a page");
        let is_durable = *stored <= registry.durable;
        let is_dropped = is_durable && cell.uses() == 0;
        // What was used often long ago is forgotten.
        if is_dropped {
            cell.set_content(None)
        } else if is_durable {
            cell.forget_uses()
        }
        is_moving |= is_durable;
        let bytes = cell.bytes() as u64;
        let registry = &mut *world.resource_mut::<Registry>();
        registry.evict_hand = page;
        if is_dropped {
            registry.resident_pages.remove(&page);
            registry.resident_page_bytes -= bytes;
            world.resource_mut::<Statistics>().page_evictions += 1;
        }
    }
    world.resource_mut::<Statistics>().eviction_looks += looks as u64;
    let registry = &mut *world.resource_mut::<Registry>();
    // If all of them are still on their way to the disk, there is nothing to do before that has got on.
    registry.is_rest_due |= is_moving && registry.resident_page_bytes > cache_bytes;
}

/// Refuse the youngest transactions as long as all of them hold more than the host can give.
pub fn shed(world: &mut World) {
    let limit = world.resource::<Limits>().transactions_bytes_max;
    loop {
        let registry = &mut *world.resource_mut::<Registry>();
        if registry.holders.bytes() <= limit {
            return;
        }
        let Some(id) = registry.holders.pop_youngest() else { return };
        let Some(entity) = registry.active.get(&id).copied() else { continue };
        interrupt(world, entity, Error::unavailable("the host is out of memory for transactions"));
    }
}
