//! Pages: their content comes from storage when it is asked for, takes its place in a tree, and goes when nobody can
//! read it any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use bevy_ecs::prelude::{Entity, World};
use bytes::Bytes;
use components::hosting::storage::{Keyspace, Write};
use components::hosting::versions::{EffectLog, HostedCollections, HostedRows, PageHeader, PagePlace};
use components::rows::columns::Columns;
use components::rows::delta::Delta;
use components::rows::key::{Key, KeyRange};
use components::rows::merge::{Merged, Replaced};
use components::rows::page::{Page, PageCell, Statistics, Tree};
use components::rows::schema::{ColumnType, Layout, Schema};
use components::rows::staged::{MergedPart, Staged, StagedPart, StagedTree};
use components::rows::stored;
use components::transaction::Program;
use components::transaction::job::JobResult;
use components::value::ids::{HostedCollection, PageId, TreeId};
use components::{Error, TxnId};

use crate::limits::Limits;
use crate::progress::{extend, interrupt, wake};
use crate::tick::{Hosting, Inbox, Load, Outbox, Registry, Statistics as Counts};

/// How many pages are deleted in one tick at most.
const DELETIONS_PER_TICK_MAX: usize = 256;

/// How long a page that could not be read is left alone by what could wait, in nanoseconds.
const DAMAGED_PAUSE_NS: u64 = 10_000_000_000;

/// A transaction waits for the content of a page.
pub fn ask(world: &mut World, id: TxnId, page: PageId) {
    let registry = world.resource::<Registry>();
    let transaction = registry.active[&id];
    if registry.resident_pages.contains(&page) {
        return wake(world, id, transaction);
    }
    world.resource_mut::<Registry>().page_readers.entry(page).or_default().insert(id);
    load(world, page);
}

/// Ask for the content of a page, unless it was asked for already.
pub fn load(world: &mut World, page: PageId) {
    let registry = world.resource::<Registry>();
    let entity = *registry.pages.get(&page).expect("a page that somebody can read");
    let types = world.get::<PageHeader>(entity).expect("a page").types.clone();
    if world.resource_mut::<Registry>().loading_pages.insert(page) {
        world.resource_mut::<Outbox>().loads.push(Load::Page { page, types });
    }
}

/// Whether a page could not be read a short while ago.
pub fn is_damaged(world: &World, page: PageId) -> bool {
    let until_ns = world.resource::<Registry>().damaged_pages.get(&page);
    until_ns.is_some_and(|until_ns| *until_ns > world.resource::<Inbox>().0.monotonic_ns)
}

/// The content of a page has come, or cannot be read: then those who wait for it fail, and nobody else.
pub fn came(world: &mut World, page: PageId, content: Result<Columns, String>) {
    let registry = &mut *world.resource_mut::<Registry>();
    registry.loading_pages.remove(&page);
    let readers = registry.page_readers.remove(&page).unwrap_or_default();
    // Nobody may need it any more, and then it may be gone.
    let Some(entity) = registry.pages.get(&page).copied() else { return };
    let content = match content {
        Ok(content) => content,
        Err(cause) => return failed(world, page, entity, readers, &cause),
    };
    registry.damaged_pages.remove(&page);
    let ticks = registry.ticks;
    let header = world.get::<PageHeader>(entity).expect("a page");
    header.cell.begin_uses(ticks);
    header.cell.set_content(Some(Arc::new(content)));
    let bytes = header.cell.bytes() as u64;
    world.resource_mut::<Counts>().page_loads += 1;
    let registry = &mut *world.resource_mut::<Registry>();
    if registry.resident_pages.insert(page) {
        registry.resident_page_bytes += bytes;
    }
    for id in readers {
        if let Some(transaction) = world.resource::<Registry>().active.get(&id).copied() {
            wake(world, id, transaction);
        }
    }
}

fn failed(world: &mut World, page: PageId, entity: Entity, readers: BTreeSet<TxnId>, cause: &str) {
    let tree = world.get::<PageHeader>(entity).expect("a page").tree;
    let why = format!("page {} of {} cannot be read: {cause}", page.0, shown(world, tree));
    let until_ns = world.resource::<Inbox>().0.monotonic_ns.saturating_add(DAMAGED_PAUSE_NS);
    world.resource_mut::<Counts>().failed_reads += 1;
    if world.resource_mut::<Registry>().damaged_pages.insert(page, until_ns).is_none() {
        tracing::error!("{why}");
    }
    for id in readers {
        if let Some(transaction) = world.resource::<Registry>().active.get(&id).copied() {
            interrupt(world, transaction, Error::internal(&why));
        }
    }
}

/// A tree by the names that a person knows.
fn shown(world: &World, tree: TreeId) -> String {
    let address =
        world.resource::<Hosting>().0.chains.get(&tree.chain).map(|chain| chain.address.to_string());
    let address = address.unwrap_or_else(|| format!("chain {}", tree.chain.0));
    let chain = world.resource::<Registry>().chains[&tree.chain];
    let (_, rows) = tree_of(world, chain, tree);
    match usize::from(tree.tree).checked_sub(1).map(|index| &rows.schema.indices()[index].name) {
        Some(index) => format!("{address}, index {index}"),
        None => address,
    }
}

/// Take a base that is being stored with the batch of this tick into the world.
fn spawn(world: &mut World, tree: TreeId, layout: &Layout, content: Columns) -> Arc<PageCell> {
    let page = world.resource_mut::<Registry>().next_page();
    let cell = Arc::new(PageCell::resident(page, content));
    spawn_entity(world, tree, &layout.types, cell.clone());
    let registry = &mut *world.resource_mut::<Registry>();
    registry.resident_pages.insert(page);
    registry.resident_page_bytes += cell.bytes() as u64;
    cell
}

/// The entity of a base that is being stored with the batch of this tick.
fn spawn_entity(world: &mut World, tree: TreeId, types: &Arc<[ColumnType]>, cell: Arc<PageCell>) {
    let registry = world.resource::<Registry>();
    let (page, stored) = (cell.id(), registry.batch);
    cell.begin_uses(registry.ticks);
    let header = PageHeader { cell, tree, types: types.clone(), stored };
    let entity = world.spawn(header).id();
    world.resource_mut::<Registry>().pages.insert(page, entity);
}

/// A tree, and the rows that it is of.
pub(crate) fn tree_of(world: &World, chain: Entity, tree: TreeId) -> (&Tree, &HostedRows) {
    let collections = world.get::<HostedCollections>(chain).expect("a chain around collections");
    let rows = &collections.slots[usize::from(tree.slot)];
    (&rows.trees[usize::from(tree.tree)], rows)
}

/// Put the pages of a collection into which rows were merged in the place of those that they were made of. They are
/// stored with the batch of this tick, so recovery need not repeat anything. Those in which no row is left are returned.
pub fn replace_merged(
    world: &mut World,
    collection: HostedCollection,
    id: TxnId,
    commit: u64,
    merged: &Merged,
) -> Vec<PagePlace> {
    let schema = schema_of(world, collection);
    let mut left_empty = Vec::new();
    for (tree, merged) in merged.trees.iter().enumerate() {
        let layout = &schema.layouts()[tree];
        let tree_id = TreeId::of(collection, tree as u16);
        for Replaced { range, pages } in &merged.replaced {
            let mut new = Vec::with_capacity(pages.len());
            let empty = [Columns::empty(&layout.types)];
            left_empty.extend(pages.is_empty().then(|| (tree_id, range.start.clone())));
            for (i, content) in if pages.is_empty() { &empty } else { &pages[..] }.iter().enumerate() {
                let low = if i == 0 { range.start.clone() } else { content.key(layout, 0) };
                let page = store(world, tree_id, layout, &low, content.clone(), ((id, commit), commit));
                new.push((low, page));
            }
            replace_range(world, tree_id, range, new);
        }
        count_rows(world, tree_id, merged.rows);
    }
    left_empty
}

/// As [`replace_merged`], with pages that are stored already: they are garbage no more.
pub fn place_staged(
    world: &mut World,
    collection: HostedCollection,
    id: TxnId,
    commit: u64,
    staged: Staged,
) -> Vec<PagePlace> {
    let schema = schema_of(world, collection);
    let mut left_empty = Vec::new();
    // They are garbage already.
    let registry = &mut *world.resource_mut::<Registry>();
    for (tree, cell) in staged.superseded {
        let (last_id, bytes) = (registry.ids.last(), cell.bytes() as u64);
        registry.retired.retire(TreeId::of(collection, tree), cell.id(), bytes, last_id, commit);
    }
    for (tree, StagedTree { replaced, rows }) in staged.trees.into_iter().enumerate() {
        let layout = &schema.layouts()[tree];
        let tree_id = TreeId::of(collection, tree as u16);
        for (range, pages) in replaced {
            let mut new = Vec::with_capacity(pages.len());
            for (i, (low, page)) in pages.into_iter().enumerate() {
                let low = if i == 0 { range.start.clone() } else { low };
                let page = Page { horizon: (id, commit), through: commit, ..page };
                let cell = page.base.as_ref().expect("a stored page").id();
                let writes = &mut world.resource_mut::<Outbox>().writes;
                writes.push(put(
                    Keyspace::Trees,
                    stored::handle_key(tree_id, cell),
                    stored::handle(&low, &page),
                ));
                writes.push(Write { keyspace: Keyspace::Trees, key: stored::garbage_key(cell), value: None });
                new.push((low, page));
            }
            if new.is_empty() {
                let low = range.start.clone();
                let empty = Columns::empty(&layout.types);
                let page = store(world, tree_id, layout, &low, empty, ((id, commit), commit));
                left_empty.push((tree_id, low.clone()));
                new.push((low, page));
            }
            replace_range(world, tree_id, &range, new);
        }
        count_rows(world, tree_id, rows);
    }
    left_empty
}

fn schema_of(world: &World, collection: HostedCollection) -> Arc<Schema> {
    let chain = world.resource::<Registry>().chains[&collection.chain];
    let collections = world.get::<HostedCollections>(chain).expect("a chain around collections");
    collections.slots[usize::from(collection.slot)].schema.clone()
}

/// Put pages into a part of a tree, and discard those that are there.
fn replace_range(world: &mut World, tree_id: TreeId, range: &KeyRange, new: Vec<(Key, Page)>) {
    let chain = world.resource::<Registry>().chains[&tree_id.chain];
    // Folding may have cut what was merged, but nobody else has changed it, and no page reaches beyond it (see `fold`).
    let old: Vec<(Key, Arc<Page>)> = {
        let (tree, _) = tree_of(world, chain, tree_id);
        tree.pages_in(range).map(|(low, page)| (low.clone(), page.clone())).collect()
    };
    for (low, page) in old {
        discard(world, tree_id, &page);
        settle(world, chain, &(tree_id, low));
    }
    tree_mut(world, chain, tree_id).replace_range(range, new);
}

fn count_rows(world: &mut World, tree_id: TreeId, rows: i64) {
    let chain = world.resource::<Registry>().chains[&tree_id.chain];
    let tree = tree_mut(world, chain, tree_id);
    tree.rows = tree.rows.checked_add_signed(rows).expect("rows that were there");
    debug_assert_eq!(tree.rows, tree.iter().map(|(_, page)| page.rows).sum::<u64>());
}

/// Store what a part of a large merge has made: as garbage, so that it is gone after a crash. Who waits for it goes on
/// when that is durable, so that no more is on its way to the disk than the parts that are merged at once.
pub fn stage(world: &mut World, id: TxnId, number: u32, part: &MergedPart) {
    let registry = &mut *world.resource_mut::<Registry>();
    let (batch, chain) = (registry.batch, registry.chains[&part.tree.chain]);
    let (_, rows) = tree_of(world, chain, part.tree);
    let types = rows.schema.layouts()[usize::from(part.tree.tree)].types.clone();
    let (mut replaced, mut commit_bytes) = (Vec::with_capacity(part.replaced.len()), 0);
    let mut is_stored = true;
    for (range, pages) in &part.replaced {
        let mut staged = Vec::with_capacity(pages.len());
        for new in pages {
            let id_of_page = world.resource_mut::<Registry>().next_page();
            let cell = Arc::new(PageCell::stored(id_of_page, new.rows, new.bytes));
            spawn_entity(world, part.tree, &types, cell.clone());
            let registry = &mut *world.resource_mut::<Registry>();
            registry.staged_pages.entry(id).or_default().insert(id_of_page);
            let page = Page {
                base: Some(cell),
                rows: new.rows as u64,
                statistics: new.statistics.clone(),
                ..Page::empty()
            };
            commit_bytes += COMMIT_BYTES_PER_PAGE + stored::handle(&new.low, &page).len() as u64;
            let writes = &mut world.resource_mut::<Outbox>().writes;
            writes.push(put(Keyspace::Pages, stored::page_key(id_of_page), new.content.clone()));
            writes.push(put(Keyspace::Trees, stored::garbage_key(id_of_page), Bytes::new()));
            staged.push((new.low.clone(), page));
            is_stored = false;
            world.resource_mut::<Counts>().page_stagings += 1;
        }
        // The pages that are replaced.
        commit_bytes += COMMIT_BYTES_PER_PAGE;
        replaced.push((range.clone(), staged));
    }
    let stored_bytes =
        part.replaced.iter().flat_map(|(_, pages)| pages).map(|page| page.content.len() as u64).sum();
    extend(world, id, stored_bytes);
    let part =
        StagedPart { replaced, rows: part.rows, entries: part.entries.clone(), commit_bytes, stored_bytes };
    let registry = &mut *world.resource_mut::<Registry>();
    if is_stored {
        return finish_part(world, id, number, Arc::new(part));
    }
    registry.staged_parts.entry(batch).or_default().push((id, number, Arc::new(part)));
}

/// What a commit stores of each page beside its handle, about, in bytes: keys, and the marks of garbage.
const COMMIT_BYTES_PER_PAGE: u64 = 96;

/// Everything up to a batch is durable: those who wait for parts in it go on.
pub fn staged(world: &mut World, durable: u64) {
    while let Some(entry) = world.resource_mut::<Registry>().staged_parts.first_entry()
        && *entry.key() <= durable
    {
        for (id, number, part) in entry.remove() {
            finish_part(world, id, number, part);
        }
    }
}

fn finish_part(world: &mut World, id: TxnId, number: u32, part: Arc<StagedPart>) {
    // Who has ended does not want to know.
    let Some(entity) = world.resource::<Registry>().active.get(&id).copied() else { return };
    world.get::<Program>(entity).expect("a program").ledger.finish_job(number, JobResult::Staged(part));
    wake(world, id, entity);
}

/// Pages that were stored for a transaction are in none of its trees any more, and it does not look at them.
pub fn free_staged(world: &mut World, id: TxnId, pages: Vec<PageId>) {
    if pages.is_empty() {
        return;
    }
    let registry = &mut *world.resource_mut::<Registry>();
    let staged = registry.staged_pages.get_mut(&id).expect("a transaction with pages of its own");
    let count = pages.len() as u64;
    for page in &pages {
        assert!(staged.remove(page), "a page that was stored for the transaction");
    }
    registry.retired.leave(pages);
    world.resource_mut::<Counts>().page_unstagings += count;
}

/// What was stored for a transaction that has not committed it is of no use.
pub fn unstage(world: &mut World, id: TxnId) {
    let registry = &mut *world.resource_mut::<Registry>();
    let pages = registry.staged_pages.remove(&id).unwrap_or_default();
    let count = pages.len() as u64;
    registry.retired.leave(pages);
    world.resource_mut::<Counts>().page_unstagings += count;
}

/// A tree, to be changed.
pub(crate) fn tree_mut(world: &mut World, chain: Entity, tree: TreeId) -> &mut Tree {
    let collections =
        world.get_mut::<HostedCollections>(chain).expect("a chain around collections").into_inner();
    let trees = Arc::make_mut(&mut collections.slots[usize::from(tree.slot)].trees);
    &mut trees[usize::from(tree.tree)]
}

/// A page of this content, which is stored with the batch of this tick.
pub(crate) fn store(
    world: &mut World,
    tree: TreeId,
    layout: &Layout,
    low: &Key,
    content: Columns,
    (horizon, through): ((TxnId, u64), u64),
) -> Page {
    let (rows, statistics) = (content.len() as u64, Arc::new(Statistics::of(&content)));
    let stored_content = content.encode();
    let cell = spawn(world, tree, layout, content);
    let page = cell.id();
    let new = Page { base: Some(cell), delta: Delta::default(), rows, statistics, horizon, through };
    let handle = stored::handle(low, &new);
    let writes = &mut world.resource_mut::<Outbox>().writes;
    writes.push(put(Keyspace::Pages, stored::page_key(page), stored_content));
    writes.push(put(Keyspace::Trees, stored::handle_key(tree, page), handle));
    new
}

/// The base of a page is in no tree any more, also not in storage.
pub(crate) fn discard(world: &mut World, tree: TreeId, page: &Page) {
    let Some(cell) = &page.base else { return };
    let writes = &mut world.resource_mut::<Outbox>().writes;
    writes.push(Write { keyspace: Keyspace::Trees, key: stored::handle_key(tree, cell.id()), value: None });
    writes.push(put(Keyspace::Trees, stored::garbage_key(cell.id()), Bytes::new()));
    let registry = &mut *world.resource_mut::<Registry>();
    let (last_id, commit) = (registry.ids.last(), registry.commit_count);
    registry.retired.retire(tree, cell.id(), cell.bytes() as u64, last_id, commit);
}

/// A page holds nothing that its stored form lacks.
pub(crate) fn settle(world: &mut World, chain: Entity, place: &PagePlace) {
    let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
    log.dirty.remove(place);
    if let Some(checkpoint) = &mut log.checkpoint {
        checkpoint.pages.remove(place);
    }
}

/// Something to be stored.
pub(crate) fn put(keyspace: Keyspace, key: Vec<u8>, value: Bytes) -> Write {
    Write { keyspace, key, value: Some(value) }
}

/// Let go of some of the bases that nobody can read any more, and of answers that have kept too many.
pub fn release(world: &mut World) {
    let bytes_max = world.resource::<Limits>().pinned_bytes_max;
    let registry = &mut *world.resource_mut::<Registry>();
    // Taken out, as who reads a chain is in the registry too.
    let mut retired = std::mem::take(&mut registry.retired);
    let oldest = |tree: TreeId| registry.oldest_reader(tree.chain);
    let revoked = retired.revoke(oldest, bytes_max);
    let mut free = Vec::new();
    while free.len() < DELETIONS_PER_TICK_MAX
        && let Some(page) = retired.pop(oldest)
    {
        free.push(page);
    }
    registry.retired = retired;
    registry.is_rest_due |= free.len() == DELETIONS_PER_TICK_MAX;
    let counts = &mut *world.resource_mut::<Counts>();
    counts.page_deletions += free.len() as u64;
    counts.revoked_pins += revoked.len() as u64;
    for request in &revoked {
        tracing::warn!(
            "answer {} is read too slowly: it keeps more than {bytes_max} bytes of old pages",
            request.0
        );
    }
    world.resource_mut::<Outbox>().revoked.extend(revoked);
    for page in free {
        delete(world, page);
    }
}

/// Nobody can read a page any more.
fn delete(world: &mut World, page: PageId) {
    let registry = &mut *world.resource_mut::<Registry>();
    registry.damaged_pages.remove(&page);
    // What another world has left behind is in storage only.
    if let Some(entity) = registry.pages.remove(&page) {
        let is_resident = registry.resident_pages.remove(&page);
        let bytes = world.get::<PageHeader>(entity).expect("a page").cell.bytes() as u64;
        world.despawn(entity);
        if is_resident {
            world.resource_mut::<Registry>().resident_page_bytes -= bytes;
        }
    }
    let writes = &mut world.resource_mut::<Outbox>().writes;
    for (keyspace, key) in
        [(Keyspace::Pages, stored::page_key(page)), (Keyspace::Trees, stored::garbage_key(page))]
    {
        writes.push(Write { keyspace, key, value: None });
    }
}
