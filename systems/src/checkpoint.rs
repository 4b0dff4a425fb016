//! Checkpoint: pages that have changed are stored, a few in each tick, so that recovery has little to repeat and memory
//! holds little that is not in storage (DESIGN.md §5).

use std::ops::Bound;

use bevy_ecs::prelude::{Entity, World};
use bytes::Bytes;
use components::cluster::ChainId;
use components::collection::stored;
use components::storage::{Keyspace, Write};
use components::versions::{EffectLog, PageCheckpoint, PagePlace};

use crate::fold::{Folded, fold};
use crate::pages::release;
use crate::room::Room;
use crate::tick::{Limits, Outbox, Registry, Statistics};

/// How many pages one tick stores for checkpoints at least: each takes as long as ten requests, which wait meanwhile.
const PAGES_PER_TICK_MIN: u64 = 1;

/// How many more it stores, at most, the more effects there are beyond what a checkpoint begins with: with twice as many,
/// all of them. So effects do not come faster than they go.
const PAGES_PER_TICK_BEHIND: u64 = 64;

/// How many pages a checkpoint looks at in one tick at most: those that cannot be stored yet cost little.
const LOOKS_PER_TICK_MAX: usize = 128;

/// How many effects are dropped in one tick at most.
const DROPS_PER_TICK_MAX: usize = 1_024;

/// Store what the changes of this tick did, and make checkpoints of the chains that call for one.
pub fn checkpoint(world: &mut World) {
    let registry = world.resource::<Registry>();
    if registry.dirty_chains.is_empty() && registry.retired_pages.is_empty() {
        return;
    }
    let chains: Vec<ChainId> = registry.dirty_chains.iter().copied().collect();
    for chain in chains {
        store_effects(world, chain);
        advance(world, chain);
    }
    release(world);
}

/// What the transactions of this tick changed is stored as one value.
fn store_effects(world: &mut World, chain: ChainId) {
    let entity = world.resource::<Registry>().chains[&chain];
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    let Some(last) = log.pending_last.take() else { return };
    let value = Bytes::from(std::mem::take(&mut log.pending));
    log.entries.insert(last, value.len() as u64);
    log.bytes += value.len() as u64;
    let write =
        Write { keyspace: Keyspace::Values, key: stored::effects_key(chain, last), value: Some(value) };
    world.resource_mut::<Outbox>().writes.push(write);
}

/// Begin a checkpoint if there is enough to store, and go on with one that has begun.
fn advance(world: &mut World, chain: ChainId) {
    let effects_bytes_max = world.resource::<Limits>().effects_bytes_max;
    let registry = world.resource::<Registry>();
    let (entity, commit_count) = (registry.chains[&chain], registry.commit_count);
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    if log.checkpoint.is_none() && log.bytes > effects_bytes_max {
        log.checkpoint =
            Some(PageCheckpoint { through: commit_count, pages: log.dirty.clone(), after: None });
    }
    let is_full = log.checkpoint.is_some() && store_pages(world, entity);
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    if let Some(checkpoint) = &log.checkpoint
        && checkpoint.pages.is_empty()
    {
        log.obsolete = checkpoint.through;
        log.checkpoint = None;
        world.resource_mut::<Statistics>().checkpoints += 1;
    }
    let is_rest = drop_effects(world, chain);
    let log = world.get::<EffectLog>(entity).expect("a chain around collections");
    let is_clean = log.checkpoint.is_none() && !is_rest;
    let registry = &mut *world.resource_mut::<Registry>();
    registry.is_checkpoint_due |= is_full || is_rest;
    if is_clean {
        registry.dirty_chains.remove(&chain);
    }
}

/// Store some of the pages of a checkpoint; true if that was not all that can be done now.
fn store_pages(world: &mut World, chain: Entity) -> bool {
    if !world.resource::<Registry>().can_store_pages() || !world.resource::<Room>().is_for_pages() {
        // What becomes durable lets it go on.
        return false;
    }
    let effects_bytes_max = world.resource::<Limits>().effects_bytes_max;
    let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
    let excess_bytes = log.bytes.saturating_sub(effects_bytes_max);
    let behind = PAGES_PER_TICK_BEHIND.saturating_mul(excess_bytes) / effects_bytes_max.max(1);
    let pages_max = PAGES_PER_TICK_MIN + behind.min(PAGES_PER_TICK_BEHIND);
    let checkpoint = log.checkpoint.as_mut().expect("a checkpoint that is being made");
    // It goes round, so that pages which cannot be stored yet do not keep back the others.
    let start = checkpoint.after.take().map_or(Bound::Unbounded, Bound::Excluded);
    let places: Vec<PagePlace> =
        checkpoint.pages.range((start, Bound::Unbounded)).take(LOOKS_PER_TICK_MAX).cloned().collect();
    let mut stored = 0;
    for (i, place) in places.iter().enumerate() {
        if fold(world, place) == Folded::Done {
            stored += 1;
        }
        if stored == pages_max || i + 1 == LOOKS_PER_TICK_MAX {
            let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
            log.checkpoint.as_mut().expect("a checkpoint that is being made").after = Some(place.clone());
            return true;
        }
    }
    false
}

/// Drop effects that every page holds; true if there are more of them.
fn drop_effects(world: &mut World, chain: ChainId) -> bool {
    let entity = world.resource::<Registry>().chains[&chain];
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    let mut writes = Vec::new();
    while let Some(entry) = log.entries.first_entry()
        && *entry.key() <= log.obsolete
    {
        if writes.len() == DROPS_PER_TICK_MAX {
            break;
        }
        let (last, bytes) = entry.remove_entry();
        log.bytes -= bytes;
        writes.push(Write { keyspace: Keyspace::Values, key: stored::effects_key(chain, last), value: None });
    }
    let is_rest = log.entries.first_key_value().is_some_and(|(last, _)| *last <= log.obsolete);
    world.resource_mut::<Outbox>().writes.append(&mut writes);
    is_rest
}
