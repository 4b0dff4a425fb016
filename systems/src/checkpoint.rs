//! Checkpoint: pages that have changed are stored, a few in each tick, so that recovery has little to repeat and memory
//! holds little that is not in storage.

use std::collections::BTreeSet;
use std::ops::Bound;

use bevy_ecs::prelude::{Entity, World};
use bytes::Bytes;
use components::hosting::storage::{Keyspace, Write};
use components::hosting::versions::{EffectLog, PageCheckpoint, PagePlace};
use components::rows::stored;
use components::value::ids::ChainId;

use crate::fold::{Folded, fold};
use crate::limits::Limits;
use crate::pages::{is_damaged, release, tree_of};
use crate::room::Room;
use crate::tick::{Outbox, Registry, Statistics};

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
    if registry.dirty_chains.is_empty() && registry.retired.is_empty() {
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

/// How large the effects of a chain grow before its pages are stored, in bytes.
fn effects_bytes_max(world: &World) -> u64 {
    world.resource::<Room>().effects_bytes_max(world.resource::<Limits>().effects_bytes_max)
}

/// Begin a checkpoint if there is enough to store, and go on with one that has begun.
fn advance(world: &mut World, chain: ChainId) {
    let effects_bytes_max = effects_bytes_max(world);
    let registry = world.resource::<Registry>();
    let (entity, commit_count) = (registry.chains[&chain], registry.commit_count);
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    if log.checkpoint.is_none() && log.bytes > effects_bytes_max {
        log.checkpoint = Some(PageCheckpoint {
            through: commit_count,
            pages: log.dirty.clone(),
            after: None,
            looked_at: 0,
            held_back: None,
        });
    }
    relieve(world, chain, entity);
    let log = world.get::<EffectLog>(entity).expect("a chain around collections");
    let is_full = log.checkpoint.is_some() && store_pages(world, chain, entity);
    if let Some(lacking) = lacking(world, entity) {
        let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
        let checkpoint = log.checkpoint.take().expect("a checkpoint that is complete");
        log.checkpointed(checkpoint.through, &lacking);
        world.resource_mut::<Statistics>().checkpoints += 1;
    }
    let is_rest = drop_effects(world, chain);
    let log = world.get::<EffectLog>(entity).expect("a chain around collections");
    let is_clean = log.checkpoint.is_none() && !is_rest;
    let registry = &mut *world.resource_mut::<Registry>();
    registry.is_rest_due |= is_full || is_rest;
    if is_clean {
        registry.dirty_chains.remove(&chain);
    }
}

/// Bound what is kept of a chain because older transactions may look at what was before: beyond a limit those do not count
/// that have asked for nothing of the chain, and begin again if they come; beyond twice as much the oldest of the others
/// begins again.
fn relieve(world: &mut World, chain: ChainId, entity: Entity) {
    let kept_bytes_max = world.resource::<Limits>().kept_effects_bytes_max;
    let log = world.get::<EffectLog>(entity).expect("a chain around collections");
    let bytes = log.bytes;
    let is_held_back = log.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.held_back.is_some());
    let registry = &mut *world.resource_mut::<Registry>();
    if bytes <= kept_bytes_max / 2 {
        registry.pressed_chains.remove(&chain);
    } else if bytes > kept_bytes_max && is_held_back {
        registry.pressed_chains.insert(chain);
    }
    // What cannot be read holds back pages too, and is nobody's fault.
    if bytes / 2 > kept_bytes_max && is_held_back && registry.damaged_pages.is_empty() {
        registry.end_oldest_reader(chain);
    }
}

/// If all pages of a checkpoint are stored that can be read: the commits that those lack which cannot.
fn lacking(world: &World, chain: Entity) -> Option<BTreeSet<u64>> {
    let log = world.get::<EffectLog>(chain).expect("a chain around collections");
    let checkpoint = log.checkpoint.as_ref()?;
    let mut lacking = BTreeSet::new();
    if checkpoint.pages.is_empty() {
        return Some(lacking);
    }
    // Most often there is none.
    if checkpoint.pages.len() > world.resource::<Registry>().damaged_pages.len() {
        return None;
    }
    for (tree, low) in &checkpoint.pages {
        let page = tree_of(world, chain, *tree).0.at(low)?;
        let base = page.base.as_ref()?.id();
        if !is_damaged(world, base) {
            return None;
        }
        lacking.extend(page.delta.as_added().map(|entry| entry.commit));
    }
    Some(lacking)
}

/// Store some of the pages of a checkpoint; true if that was not all that can be done now.
fn store_pages(world: &mut World, id: ChainId, chain: Entity) -> bool {
    if !world.resource::<Registry>().can_store_pages() || !world.resource::<Room>().is_for_pages() {
        // What becomes durable lets it go on.
        return false;
    }
    let now = (world.resource::<Registry>().oldest_visibility(id), world.resource::<Statistics>().page_loads);
    // What could not be read is tried again after a while.
    let has_damage = !world.resource::<Registry>().damaged_pages.is_empty();
    let effects_bytes_max = effects_bytes_max(world);
    let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
    if !has_damage && log.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.held_back == Some(now)) {
        // Nothing has changed since all of them were looked at.
        return false;
    }
    let excess_bytes = log.bytes.saturating_sub(effects_bytes_max);
    let behind = PAGES_PER_TICK_BEHIND.saturating_mul(excess_bytes) / effects_bytes_max.max(1);
    let pages_max = PAGES_PER_TICK_MIN + behind.min(PAGES_PER_TICK_BEHIND);
    let checkpoint = log.checkpoint.as_mut().expect("a checkpoint that is being made");
    // It goes round, so that pages which cannot be stored yet do not keep back the others.
    let start = checkpoint.after.take().map_or(Bound::Unbounded, Bound::Excluded);
    let places: Vec<PagePlace> =
        checkpoint.pages.range((start, Bound::Unbounded)).take(LOOKS_PER_TICK_MAX).cloned().collect();
    let (mut stored, mut looked_at) = (0, checkpoint.looked_at);
    let mut after = None;
    for (i, place) in places.iter().enumerate() {
        match fold(world, place) {
            Folded::Done => (stored, looked_at) = (stored + 1, 0),
            Folded::NotYet | Folded::Loading | Folded::Damaged => looked_at += 1,
        }
        if stored == pages_max || i + 1 == LOOKS_PER_TICK_MAX {
            after = Some(place.clone());
            break;
        }
    }
    let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
    let checkpoint = log.checkpoint.as_mut().expect("a checkpoint that is being made");
    let is_more = after.is_some();
    (checkpoint.after, checkpoint.looked_at) = (after, looked_at);
    // Those that came first were looked at twice at most.
    let is_held_back = looked_at >= checkpoint.pages.len();
    checkpoint.held_back = is_held_back.then_some(now);
    if is_held_back {
        checkpoint.looked_at = 0;
    }
    is_more && !is_held_back
}

/// Drop effects that every page holds; true if there are more of them.
fn drop_effects(world: &mut World, chain: ChainId) -> bool {
    let entity = world.resource::<Registry>().chains[&chain];
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    let drops = log.obsolete.len().min(DROPS_PER_TICK_MAX);
    let mut writes: Vec<Write> = log
        .obsolete
        .drain(..drops)
        .map(|last| Write { keyspace: Keyspace::Values, key: stored::effects_key(chain, last), value: None })
        .collect();
    let is_rest = !log.obsolete.is_empty();
    world.resource_mut::<Outbox>().writes.append(&mut writes);
    is_rest
}
