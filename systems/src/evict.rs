//! Evict: the content of pages in memory stays within the cache, least frequently used first; transactions that
//! together hold too much are thinned out, youngest first.

use bevy_ecs::prelude::World;
use components::Error;
use components::transaction::{Program, Transaction};
use components::versions::PageHeader;

use crate::tick::{Limits, Registry, Statistics};

/// What a page takes in memory beside its content, roughly, in bytes: its entity, its versions, its statistics.
const PAGE_ENTITY_BYTES: u64 = 1_024;

/// How far below its limit the cache of pages is emptied, so that it need not be done for each page.
const EVICT_SHARE: u64 = 16;

/// Drop the content of pages that are durable, least frequently used first, until the rest fits.
pub fn evict_pages(world: &mut World) {
    let registry = world.resource::<Registry>();
    // What is known of every page, in memory or not, is a part of the cache.
    let known_bytes = registry.pages.len() as u64 * PAGE_ENTITY_BYTES;
    let cache_bytes = world.resource::<Limits>().page_cache_bytes.saturating_sub(known_bytes);
    if registry.resident_page_bytes <= cache_bytes {
        return;
    }
    let durable = registry.durable;
    let entities: Vec<_> = registry.resident_pages.iter().map(|page| (*page, registry.pages[page])).collect();
    let mut candidates = Vec::with_capacity(entities.len());
    for (page, entity) in entities {
        let PageHeader { cell, stored, .. } = world.get::<PageHeader>(entity).expect("a page");
        // What was used often long ago is forgotten.
        cell.halve_uses();
        if *stored <= durable {
            candidates.push((cell.uses(), cell.last_used(), page, entity));
        }
    }
    candidates.sort_unstable_by_key(|(uses, last_used, page, _)| (*uses, *last_used, *page));
    let target = cache_bytes - cache_bytes / EVICT_SHARE;
    for (_, _, page, entity) in candidates {
        let cell = world.get::<PageHeader>(entity).expect("a page").cell.clone();
        cell.set_content(None);
        let registry = &mut *world.resource_mut::<Registry>();
        registry.resident_pages.remove(&page);
        registry.resident_page_bytes -= cell.bytes() as u64;
        let is_done = registry.resident_page_bytes <= target;
        world.resource_mut::<Statistics>().page_evictions += 1;
        if is_done {
            return;
        }
    }
}

/// Refuse the youngest transactions as long as all of them hold more than the host can give.
pub fn shed(world: &mut World) {
    let limit = world.resource::<Limits>().transactions_bytes_max;
    let bytes = |entity| world.get::<Program>(entity).map_or(0, |program| program.ledger.bytes());
    let active = world.resource::<Registry>().active.iter();
    let mut transactions: Vec<_> = active.map(|(id, entity)| (*id, *entity, bytes(*entity))).collect();
    let mut total: u64 = transactions.iter().map(|(_, _, bytes)| bytes).sum();
    while total > limit
        && let Some((id, entity, bytes)) = transactions.pop()
    {
        total -= bytes;
        if bytes == 0 {
            continue;
        }
        let transaction = &mut *world.get_mut::<Transaction>(entity).expect("a transaction");
        if transaction.outcome.is_none() {
            transaction.outcome = Some(Err(Error::unavailable("the host is out of memory for transactions")));
            let registry = &mut *world.resource_mut::<Registry>();
            registry.runnable.remove(&id);
            registry.out_of_fuel.remove(&id);
            registry.finished.insert(id);
        }
    }
}
