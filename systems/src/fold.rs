//! Fold: what was committed to a page becomes a part of its base, which may become several pages; one that has become
//! small goes together with a page beside it.

use std::sync::Arc;

use bevy_ecs::prelude::{Entity, World};
use components::TxnId;
use components::hosting::storage::Keyspace;
use components::hosting::versions::{EffectLog, PagePlace};
use components::rows::columns::{Columns, ColumnsBuilder, PageSize};
use components::rows::delta::{DeltaEntry, Visibility};
use components::rows::key::{Key, KeyRange};
use components::rows::page::{Foldable, Found, Page};
use components::rows::schema::Layout;
use components::rows::{columns, stored};
use components::transaction::lock::LockTable;
use components::value::ids::TreeId;

use crate::limits::Limits;
use crate::pages::{discard, is_damaged, load, put, settle, store, tree_mut, tree_of};
use crate::tick::{Outbox, Registry, Statistics};

/// A page with less than one part in so many of what a page may hold is small.
const SMALL_PARTS: usize = 4;

/// How many of these parts two pages that go together have at most: so they are not cut again soon.
const JOINED_PARTS_MAX: usize = 3;

/// How folding a page went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Folded {
    /// It has a new base, which is stored with the batch of this tick.
    Done,
    /// Somebody may still look at what it was before.
    NotYet,
    /// Its base is not in memory; it was asked for.
    Loading,
    /// Its base cannot be read.
    Damaged,
}

/// Make a new base of a page and what was committed since; it may become several pages, or a part of the one beside it.
pub fn fold(world: &mut World, place: &PagePlace) -> Folded {
    let (folded, left_empty) = fold_once(world, place);
    if let Some(place) = left_empty {
        // The page on its other side may be without rows too: they are not left to lie side by side.
        fold_once(world, &place);
    }
    folded
}

/// As [`fold`], and where there is a page without rows now that two became.
fn fold_once(world: &mut World, place: &PagePlace) -> (Folded, Option<PagePlace>) {
    let (tree_id, low) = place;
    let registry = world.resource::<Registry>();
    let (oldest, commit_count) = (registry.oldest_visibility(tree_id.chain), registry.commit_count);
    let chain = registry.chains[&tree_id.chain];
    let (tree, rows) = tree_of(world, chain, *tree_id);
    let schema = rows.schema.clone();
    let layout = &schema.layouts()[usize::from(tree_id.tree)];
    let page = match tree.at(low) {
        Some(page) if !page.delta.is_empty() || page.rows == 0 => page.clone(),
        // It has become a part of another one, or was folded already.
        _ => {
            settle(world, chain, place);
            return (Folded::Done, None);
        }
    };
    if page.delta.is_empty() {
        // Rows that were merged have left nothing here.
        settle(world, chain, place);
        let beside = beside(world, chain, layout, place, &page, None);
        let joined = beside.and_then(|beside| join(world, chain, layout, place, page, Vec::new(), beside));
        return (Folded::Done, joined);
    }
    let Some(Foldable { changes, rest, horizon, through }) = page.foldable(oldest) else {
        return (Folded::NotYet, None);
    };
    let page_size = world.resource::<Limits>().page_size;
    let contents = match &page.base {
        // Everything is deleted, so what there was does not matter.
        _ if page.rows == 0 && rest.is_empty() => Vec::new(),
        None => columns::fold(layout, None, &changes, page_size),
        Some(cell) => match cell.content() {
            Some(base) => columns::fold(layout, Some(&*base), &changes, page_size),
            None if is_damaged(world, cell.id()) => return (Folded::Damaged, None),
            None => {
                load(world, cell.id());
                return (Folded::Loading, None);
            }
        },
    };
    let counts = &mut *world.resource_mut::<Statistics>();
    counts.page_folds += 1;
    counts.page_splits += u64::from(contents.len() > 1);
    let beside = match rest.is_empty() && contents.len() <= 1 {
        true => beside(world, chain, layout, place, &page, contents.first()),
        false => None,
    };
    let joined = match beside {
        Some(beside) => join(world, chain, layout, place, page, contents, beside),
        None => {
            let known = (horizon, through.min(commit_count));
            replace(world, layout, *tree_id, &[(low.clone(), page)], contents, rest, known);
            None
        }
    };
    (Folded::Done, joined)
}

/// A page with which the one beside it can go together.
struct Beside {
    low: Key,
    page: Arc<Page>,
    is_before: bool,
    /// Its new content; none if its base stays as it is.
    contents: Option<Vec<Columns>>,
}

/// A page beside one of which everything is folded that is committed, and which has this content then, none if it has no
/// rows: if there is one with which it should go together, and can without waiting for anything.
///
/// What is left of both holds all commits that there are, so recovery repeats the same for all of its range. Nobody who
/// can read one of them now has to begin again.
fn beside(
    world: &World,
    chain: Entity,
    layout: &Layout,
    (tree_id, low): &PagePlace,
    page: &Page,
    content: Option<&Columns>,
) -> Option<Beside> {
    let oldest = world.resource::<Registry>().oldest_visibility(tree_id.chain);
    if !page.is_readable(oldest) || is_locked_whole(world, chain, *tree_id) {
        return None;
    }
    let page_size = world.resource::<Limits>().page_size;
    let (tree, _) = tree_of(world, chain, *tree_id);
    let [before, after] = tree.beside(low);
    [(before, true), (after, false)].into_iter().find_map(|(neighbor, is_before)| {
        let (low, page) = neighbor?;
        let can_join = page.is_readable(oldest) && page.is_all_visible(oldest);
        if !can_join || !should_join(content, page, page_size) {
            return None;
        }
        let contents = match &page.base {
            Some(_) if content.is_none() && page.delta.is_empty() => None,
            _ if page.rows == 0 => Some(Vec::new()),
            base => {
                let changes = page.foldable(oldest).map(|foldable| foldable.changes).unwrap_or_default();
                let base = match base {
                    None => None,
                    Some(cell) => Some(cell.content()?),
                };
                Some(columns::fold(layout, base.as_deref(), &changes, page_size))
            }
        };
        Some(Beside { low: low.clone(), page: page.clone(), is_before, contents })
    })
}

/// Whether somebody may be merging rows into a whole tree. What comes of that takes the places of the pages as they
/// were when it was locked.
///
/// **Invariant.** As long as it is locked, pages may be cut, but no page begins to reach beyond the place of one that
/// there was (`Tree::replace_range` asserts it).
fn is_locked_whole(world: &World, chain: Entity, tree: TreeId) -> bool {
    world.get::<LockTable>(chain).expect("a chain").is_written_whole(tree)
}

/// Whether a page should go together with one of this content, as far as is known without folding it.
fn should_join(content: Option<&Columns>, page: &Page, size: PageSize) -> bool {
    let Some(content) = content else { return true };
    if page.rows == 0 {
        return true;
    }
    let base = page.base.as_ref().map_or((0, 0), |base| (base.rows(), base.bytes()));
    let (rows, bytes) = (base.0 + page.delta.len(), base.1 + page.delta.bytes());
    let is_small = |rows, bytes| SMALL_PARTS * rows < size.rows && SMALL_PARTS * bytes < size.bytes;
    let (rows_joined, bytes_joined) = (content.len() + rows, content.bytes() + bytes);
    (is_small(content.len(), content.bytes()) || is_small(rows, bytes))
        && SMALL_PARTS * rows_joined <= JOINED_PARTS_MAX * size.rows
        && SMALL_PARTS * bytes_joined <= JOINED_PARTS_MAX * size.bytes
}

/// Put a page that has this content now together with the one beside it; where that is if it has no rows.
fn join(
    world: &mut World,
    chain: Entity,
    layout: &Layout,
    (tree_id, low): &PagePlace,
    page: Arc<Page>,
    contents: Vec<Columns>,
    beside: Beside,
) -> Option<PagePlace> {
    let tree_id = *tree_id;
    let registry = world.resource::<Registry>();
    let (oldest, through) = (registry.oldest_visibility(tree_id.chain), registry.commit_count);
    let mut horizon = (TxnId::ZERO, 0);
    for page in [&page, &beside.page] {
        let one = page.foldable(oldest).map_or(page.horizon, |foldable| {
            assert!(foldable.rest.is_empty(), "all of both is folded");
            foldable.horizon
        });
        horizon = (horizon.0.max(one.0), horizon.1.max(one.1));
    }
    let counts = &mut *world.resource_mut::<Statistics>();
    counts.page_joins += 1;
    counts.page_folds += u64::from(!beside.page.delta.is_empty());
    let this = (low.clone(), page);
    let that = (beside.low, beside.page);
    let least = (&this.0).min(&that.0).clone();
    match beside.contents {
        None => give_range(world, chain, tree_id, this, that, (horizon, through)),
        Some(contents_beside) => {
            let (old, mut contents) = match beside.is_before {
                true => ([that, this], [contents_beside, contents].concat()),
                false => ([this, that], [contents, contents_beside].concat()),
            };
            if old.iter().all(|(_, page)| page.rows > 0) {
                let mut joined = ColumnsBuilder::new(&layout.types);
                contents.iter().for_each(|rows| joined.push_range(rows, 0..rows.len()));
                contents = vec![joined.finish()];
            }
            replace(world, layout, tree_id, &old, contents, Vec::new(), (horizon, through));
        }
    }
    let is_empty = tree_of(world, chain, tree_id).0.at(&least).is_some_and(|page| page.rows == 0);
    is_empty.then_some((tree_id, least))
}

/// **Invariant.** New pages hold all commits `through` a number in their whole range and none after it, so it is not less
/// than that of any page that they are made of: else recovery would repeat what is in a base. Who cannot read one of those
/// cannot read the new ones. Of pages that go together all commits are folded, so `through` is right for both.
fn assert_known<'a>(old: impl IntoIterator<Item = &'a Page>, (horizon, through): ((TxnId, u64), u64)) {
    for page in old {
        assert!(page.through <= through, "recovery repeats nothing that is in a base");
        let is_readable = page.horizon.0 <= horizon.0 && page.horizon.1 <= horizon.1;
        assert!(is_readable, "who cannot read a page cannot read what takes its place");
    }
}

/// Remove a page without rows, so that the one beside it has its range too: only the handle of that one changes, under
/// its name, in the batch in which the other handle goes.
fn give_range(
    world: &mut World,
    chain: Entity,
    tree_id: TreeId,
    (low, page): (Key, Arc<Page>),
    (low_beside, beside): (Key, Arc<Page>),
    (horizon, through): ((TxnId, u64), u64),
) {
    assert!(page.rows == 0 && beside.delta.is_empty(), "no row changes");
    assert_known([&*page, &*beside], (horizon, through));
    discard(world, tree_id, &page);
    let base = beside.base.as_ref().expect("a stored page").id();
    let joined = Page { horizon, through, ..(*beside).clone() };
    let least = (&low).min(&low_beside).clone();
    let handle = stored::handle(&least, &joined);
    let writes = &mut world.resource_mut::<Outbox>().writes;
    writes.push(put(Keyspace::Trees, stored::handle_key(tree_id, base), handle));
    let end = tree_of(world, chain, tree_id).0.place((&low).max(&low_beside)).range.end;
    let range = KeyRange { start: least.clone(), end };
    tree_mut(world, chain, tree_id).replace_range(&range, vec![(least, joined)]);
    settle(world, chain, &(tree_id, low));
    settle(world, chain, &(tree_id, low_beside));
}

/// Put pages of these contents in the place of others that lie beside one another, and have the same rows with `rest`,
/// which cannot be folded yet.
fn replace(
    world: &mut World,
    layout: &Layout,
    tree_id: TreeId,
    old: &[(Key, Arc<Page>)],
    mut contents: Vec<Columns>,
    rest: Vec<DeltaEntry>,
    (horizon, through): ((TxnId, u64), u64),
) {
    assert_known(old.iter().map(|(_, page)| &**page), (horizon, through));
    let chain = world.resource::<Registry>().chains[&tree_id.chain];
    let (low, last) = (&old[0].0, &old[old.len() - 1].0);
    let end = tree_of(world, chain, tree_id).0.place(last).range.end;
    let range = KeyRange { start: low.clone(), end };
    if contents.is_empty() {
        contents.push(Columns::empty(&layout.types));
    }
    let mut pages: Vec<(Key, Page)> = Vec::with_capacity(contents.len());
    for (i, content) in contents.into_iter().enumerate() {
        let key = if i == 0 { low.clone() } else { content.key(layout, 0) };
        let new = store(world, tree_id, layout, &key, content, (horizon, through));
        pages.push((key, new));
    }
    // What cannot be folded yet goes on top of the page that it belongs to.
    let mut dirty = Vec::new();
    for entry in rest {
        let at = pages.partition_point(|(low, _)| *low <= entry.key).saturating_sub(1);
        let (low, page) = &mut pages[at];
        let is_there = match page.find(layout, &entry.key, Visibility::NEWEST) {
            Found::Row(row, _) => row.is_some(),
            Found::NotResident(_) => unreachable!("the new base is in memory"),
        };
        let rows = i64::from(entry.row.is_some()) - i64::from(is_there);
        page.commit(entry, rows);
        dirty.push((tree_id, low.clone()));
    }
    let rows: u64 = pages.iter().map(|(_, page)| page.rows).sum();
    assert_eq!(rows, old.iter().map(|(_, page)| page.rows).sum::<u64>(), "folding changes no row");
    tree_mut(world, chain, tree_id).replace_range(&range, pages);
    for (low, page) in old {
        discard(world, tree_id, page);
        settle(world, chain, &(tree_id, low.clone()));
    }
    let log = &mut *world.get_mut::<EffectLog>(chain).expect("a chain around collections");
    if let Some(checkpoint) = &mut log.checkpoint
        && through < checkpoint.through
    {
        checkpoint.pages.extend(dirty.iter().cloned());
    }
    log.dirty.extend(dirty);
}
