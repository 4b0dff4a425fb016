//! Apply: committed changes become versions of subjects, entries of blocks, and writes of the tick's batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use bevy_ecs::prelude::World;
use bytes::Bytes;
use components::hosting::storage::{Keyspace, Write};
use components::hosting::versions::{
    BlockHeader, EffectLog, History, HostedCollections, PagePlace, Stored, Version, Versions,
};
use components::language::chain::{
    BLOCK_BYTES, BlockHasher, BlockPredecessor, ClosedBlock, Mutation, Recorded,
};
use components::language::encode::Stored as StoredState;
use components::language::tbon;
use components::rows::change::RowChange;
use components::rows::delta::DeltaEntry;
use components::rows::merge::Merged;
use components::rows::staged::Staged;
use components::rows::{change, stored};
use components::transaction::ledger::{Change, ChangedContent, RowsChange};
use components::value::ids::{ChainId, HostedCollection, TreeId};
use components::{State, TxnId};

use crate::fold::fold;
use crate::limits::Limits;
use crate::pages;
use crate::room::Room;
use crate::tick::{Outbox, Registry};

/// A subject up to this size is written as a whole with each commit; of a larger one, only what has changed.
const WHOLE_SUBJECT_BYTES_MAX: u64 = 2_048;

/// Apply every commit, in order.
pub fn apply(world: &mut World) {
    let commits = std::mem::take(&mut world.resource_mut::<Registry>().commits);
    let mut full = BTreeSet::new();
    for commit in commits {
        for Change { chain, content } in commit.changes {
            match content {
                ChangedContent::Value(subject, mutations) => {
                    apply_value(world, commit.id, commit.number, chain, subject, mutations);
                }
                ChangedContent::Rows(rows, recorded) => {
                    full.extend(apply_rows(world, commit.id, commit.number, chain, rows, recorded));
                }
            }
        }
    }
    // Only now, as a page that is folded holds every commit that there is.
    if world.resource::<Registry>().can_store_pages() && world.resource::<Room>().is_for_pages() {
        for place in full {
            fold(world, &place);
        }
    }
}

fn apply_value(
    world: &mut World,
    id: TxnId,
    number: u64,
    chain: ChainId,
    subject: State,
    mutations: Vec<Mutation>,
) {
    let registry = world.resource::<Registry>();
    let entity = registry.chains[&chain];
    let (oldest_active, oldest_snapshot, batch) =
        (registry.oldest_active(), registry.oldest_snapshot(), registry.batch);
    let mut writes = Vec::new();
    let stored = &mut *world.get_mut::<Stored>(entity).expect("a chain");
    write_subject(chain, id, &subject, &mutations, stored, &mut writes);
    let versions = &mut *world.get_mut::<Versions>(entity).expect("a chain");
    versions.push(Version { id, commit: number, batch, subject });
    versions.drop_before(oldest_active, oldest_snapshot);
    if world.get::<History>(entity).is_some() {
        append(world, chain, id, &Recorded::of(&mutations), batch, &mut writes);
    }
    world.resource_mut::<Outbox>().writes.append(&mut writes);
}

/// Apply a commit to rows; the pages that should be folded now, or have no rows left.
fn apply_rows(
    world: &mut World,
    id: TxnId,
    number: u64,
    chain: ChainId,
    rows: Vec<(u16, RowsChange)>,
    recorded: Recorded,
) -> Vec<PagePlace> {
    let fold_rows_min = world.resource::<Limits>().fold_rows_min;
    let fold_rows_step = fold_rows_min.div_ceil(FOLD_STEPS);
    let registry = &mut *world.resource_mut::<Registry>();
    let (entity, batch, oldest_snapshot) =
        (registry.chains[&chain], registry.batch, registry.oldest_snapshot());
    registry.dirty_chains.insert(chain);
    let collections = &mut *world.get_mut::<HostedCollections>(entity).expect("a chain around collections");
    collections.note_commit(number, id, oldest_snapshot);
    let mut dirty: Vec<PagePlace> = Vec::new();
    let mut full: Vec<PagePlace> = Vec::new();
    let mut slots: Vec<(u16, Vec<RowChange>)> = Vec::with_capacity(rows.len());
    let mut merged: Vec<(u16, Arc<Merged>)> = Vec::new();
    let mut staged: Vec<(u16, Staged)> = Vec::new();
    for (slot, changes) in rows {
        let trees = Arc::make_mut(&mut collections.slots[usize::from(slot)].trees);
        for change::Change { tree, key, row, rows } in changes.entries {
            let tree_id = TreeId { chain, slot, tree: tree as u16 };
            trees[tree].rows = trees[tree].rows.checked_add_signed(rows).expect("rows that were there");
            let (low, page) = trees[tree].page_mut(&key);
            page.commit(DeltaEntry { key, id, commit: number, row }, rows);
            let len = page.delta.len();
            // With more rows, it is dirty already.
            if len == 1 {
                dirty.push((tree_id, low.clone()));
            }
            let base = page.base.as_ref().map_or(0, |base| base.id().0 as usize);
            let fold_rows_min = fold_rows_min + fold_rows_min / (2 * FOLD_SPREAD) * (base % FOLD_SPREAD);
            if len >= fold_rows_min && (len - fold_rows_min).is_multiple_of(fold_rows_step) {
                full.push((tree_id, low.clone()));
            }
        }
        merged.extend(changes.merged.map(|merged| (slot, merged)));
        staged.extend(changes.staged.map(|staged| (slot, staged)));
        slots.push((slot, changes.rows));
    }
    let log = &mut *world.get_mut::<EffectLog>(entity).expect("a chain around collections");
    if slots.iter().any(|(_, rows)| !rows.is_empty()) {
        let slots = slots.iter().map(|(slot, rows)| (*slot, rows.iter()));
        stored::append_effects(&mut log.pending, id, number, slots);
        log.pending_last = Some(number);
    }
    log.dirty.extend(dirty);
    if world.get::<History>(entity).is_some() && !recorded.is_empty() {
        let mut writes = Vec::new();
        append(world, chain, id, &recorded, batch, &mut writes);
        world.resource_mut::<Outbox>().writes.append(&mut writes);
    }
    for (slot, merged) in merged {
        full.extend(pages::replace_merged(world, HostedCollection { chain, slot }, id, number, &merged));
    }
    for (slot, staged) in staged {
        full.extend(pages::place_staged(world, HostedCollection { chain, slot }, id, number, staged));
    }
    full
}

/// Folding a page is tried again when this part of the rows has come once more, if somebody still looks at what it was
/// before.
const FOLD_STEPS: usize = 8;

/// Pages are folded with so many different numbers of rows, up to half as many more: those that fill at the same rate
/// are not all folded in the same ticks.
const FOLD_SPREAD: usize = 64;

fn write_subject(
    chain: ChainId,
    id: TxnId,
    subject: &State,
    mutations: &[Mutation],
    stored: &mut Stored,
    writes: &mut Vec<Write>,
) {
    let delta_bytes: u64 = mutations.iter().map(Mutation::bytes).sum();
    let is_whole =
        subject.bytes() <= WHOLE_SUBJECT_BYTES_MAX || delta_bytes + stored.delta_bytes >= subject.bytes();
    if is_whole {
        for delta in stored.deltas.drain(..) {
            writes.push(Write { keyspace: Keyspace::Values, key: delta_key(chain, delta), value: None });
        }
        stored.delta_bytes = 0;
        let value = Some(Bytes::from(tbon::encode(&(id.to_string(), StoredState(subject)))));
        writes.push(Write { keyspace: Keyspace::Values, key: subject_key(chain), value });
    } else {
        stored.deltas.push(id);
        stored.delta_bytes += delta_bytes;
        let value = Some(Bytes::from(Recorded::of(mutations).stored()));
        writes.push(Write { keyspace: Keyspace::Values, key: delta_key(chain, id), value });
    }
}

/// Where the subject of a chain is stored as a whole, with the id of its last transaction: chain, 0.
pub fn subject_key(chain: ChainId) -> Vec<u8> {
    [&chain.0.to_be_bytes()[..], &[0]].concat()
}

/// Where the changes of a transaction are stored that the whole subject lacks: chain, 1, transaction.
pub fn delta_key(chain: ChainId, id: TxnId) -> Vec<u8> {
    [&chain.0.to_be_bytes()[..], &[1], &id.to_bytes()].concat()
}

/// Where it is stored what a block follows ([`BlockPredecessor`]): chain, ordinal.
pub fn block_key(chain: ChainId, ordinal: u32) -> Vec<u8> {
    [chain.0.to_be_bytes(), ordinal.to_be_bytes()].concat()
}

/// Where a transaction of a block is stored: chain, ordinal, transaction.
pub fn block_entry_key(chain: ChainId, ordinal: u32, id: TxnId) -> Vec<u8> {
    [&block_key(chain, ordinal)[..], &id.to_bytes()].concat()
}

/// Add a transaction to the open block of a chain; close the block when it is large enough (page 04 §4.4).
fn append(
    world: &mut World,
    chain: ChainId,
    id: TxnId,
    recorded: &Recorded,
    batch: u64,
    writes: &mut Vec<Write>,
) {
    let entity = world.resource::<Registry>().chains[&chain];
    let history = &mut *world.get_mut::<History>(entity).expect("a chain that keeps its blocks");
    history.open.add_recorded(id, recorded);
    let bytes = history.open.bytes();
    let hash = history.open.hash();
    let ordinal = history.blocks.len() as u32 - 1;
    let open = *history.blocks.last().expect("a chain has a block");
    let value = Some(Bytes::from(recorded.stored()));
    writes.push(Write { keyspace: Keyspace::Blocks, key: block_entry_key(chain, ordinal, id), value });
    let header = &mut *world.get_mut::<BlockHeader>(open).expect("a block");
    header.transactions += 1;
    (header.bytes, header.batch, header.newest) = (bytes, batch, id);
    let transactions = header.transactions as u64;
    if bytes < BLOCK_BYTES {
        return;
    }
    // All of it is in batches up to this one, so whoever reads this can trust it.
    let closed = BlockPredecessor::Known(ClosedBlock { hash, bytes, transactions, newest: id });
    let next = BlockHeader {
        chain,
        ordinal: ordinal + 1,
        previous: Some(hash),
        transactions: 0,
        bytes: 0,
        batch,
        newest: TxnId::ZERO,
    };
    let value = Some(Bytes::from(closed.encode()));
    writes.push(Write { keyspace: Keyspace::Blocks, key: block_key(chain, ordinal + 1), value });
    let next = world.spawn(next).id();
    let history = &mut *world.get_mut::<History>(entity).expect("a chain that keeps its blocks");
    history.blocks.push(next);
    history.open = BlockHasher::new(&hash);
}
