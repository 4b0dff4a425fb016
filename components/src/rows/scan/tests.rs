//! Scans of a collection in pages, of which some are not in memory, some were changed, and some by the reader itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use imbl::OrdMap;
use proptest::prelude::*;

use super::*;
use crate::TxnId;
use crate::rows::Row;
use crate::rows::bound::ValueRange;
use crate::rows::change::RowChange;
use crate::rows::delta::{DeltaEntry, Visibility};
use crate::rows::key::Key;
use crate::rows::page::Statistics;
use crate::rows::schema::Schema;
use crate::rows::schema::tests::inventory;
use crate::value::ids::PageId;
use crate::value::number::Number;

/// How many different rows there are.
pub(crate) const SKUS: u64 = 60;
pub(crate) const COLORS: u32 = 5;

/// A row is written with a color and a quantity, or deleted.
pub(crate) type Write = (u64, Option<(u32, i32)>);

pub(crate) fn row(sku: u64, color: u32, qty: i32) -> Row {
    [sku.into(), format!("color {color}").as_str().into(), Number::I32(qty).into()].into()
}

pub(crate) fn any_writes(count: usize) -> impl Strategy<Value = Vec<Write>> {
    let content = prop::option::weighted(0.7, (0..COLORS, 0..10i32));
    prop::collection::vec((0..SKUS, content), 0..count)
}

/// A collection in pages, and what is in it.
pub(crate) struct Built {
    pub(crate) schema: Arc<Schema>,
    pub(crate) trees: Vec<Tree>,
    pub(crate) own: Vec<OrdMap<Key, Option<Row>>>,
    /// The content of the pages that are not in memory.
    pub(crate) stored: BTreeMap<PageId, Columns>,
    /// What the reader sees, by sku.
    pub(crate) seen: BTreeMap<u64, Row>,
}

/// The transaction that reads, and how many of the writes it sees.
const READER: u64 = 1_000;

impl Built {
    pub(crate) fn new(
        base: &[Write],
        page_rows: usize,
        committed: &[Write],
        seen: usize,
        own: &[Write],
    ) -> Self {
        let schema = Arc::new(inventory());
        let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
        for (sku, content) in base {
            apply(&mut rows, *sku, content);
        }
        let mut stored = BTreeMap::new();
        let trees = schema.layouts().iter().map(|layout| in_pages(layout, &rows, page_rows, &mut stored));
        let mut built = Self {
            trees: trees.collect(),
            own: vec![OrdMap::new(); schema.layouts().len()],
            stored,
            seen: rows.clone(),
            schema,
        };
        for (i, (sku, content)) in committed.iter().enumerate() {
            let change = apply(&mut rows, *sku, content);
            // Those that are not seen are of newer transactions.
            let id = TxnId::new(if i < seen { 1 + i as u64 } else { READER + 1 + i as u64 }, 1);
            for change in change.in_trees(&built.schema) {
                let entry = DeltaEntry { key: change.key, id, commit: 1 + i as u64, row: change.row };
                let (_, page) = built.trees[change.tree].page_mut(&entry.key.clone());
                page.commit(entry, change.rows);
            }
            if i < seen {
                apply(&mut built.seen, *sku, content);
            }
        }
        for (sku, content) in own {
            for change in apply(&mut built.seen, *sku, content).in_trees(&built.schema) {
                built.own[change.tree].insert(change.key, change.row);
            }
        }
        built
    }

    /// What the reader sees of it.
    pub(crate) fn rows(&self) -> RowsSnapshot {
        RowsSnapshot {
            schema: self.schema.clone(),
            trees: Arc::new(self.trees.clone()),
            is_own: false,
            own: self.own.clone(),
            visibility: Visibility { before: TxnId::new(READER, 1), commit: u64::MAX },
        }
    }

    /// The content of a page that is not in memory.
    pub(crate) fn load(&self, cell: &PageCell) -> Result<Arc<Columns>, String> {
        Ok(Arc::new(self.stored[&cell.id()].clone()))
    }
}

/// Write to a model, and say what that changes.
fn apply(rows: &mut BTreeMap<u64, Row>, sku: u64, content: &Option<(u32, i32)>) -> RowChange {
    let new = content.map(|(color, qty)| row(sku, color, qty));
    let old = match &new {
        Some(new) => rows.insert(sku, new.clone()),
        None => rows.remove(&sku),
    };
    RowChange { old, new }
}

/// A tree of pages of so many rows, of which every other one is not in memory.
fn in_pages(
    layout: &Layout,
    rows: &BTreeMap<u64, Row>,
    page_rows: usize,
    stored: &mut BTreeMap<PageId, Columns>,
) -> Tree {
    let rows: BTreeMap<Key, Row> =
        rows.values().map(|row| layout.project(row)).map(|row| (Key::of_row(layout, &row), row)).collect();
    let rows: Vec<(Key, Row)> = rows.into_iter().collect();
    let mut pages = Vec::new();
    for (i, part) in rows.chunks(page_rows).enumerate() {
        let columns = Columns::from_rows(&layout.types, part.iter().map(|(_, row)| &**row));
        let id = PageId(stored.len() as u64 + 100 * layout.key_len as u64 + i as u64);
        let low = if i == 0 { Key::from(Vec::new()) } else { part[0].0.clone() };
        let mut page = Page::empty();
        page.rows = part.len() as u64;
        page.statistics = Arc::new(Statistics::of(&columns));
        page.base = Some(Arc::new(if i % 2 == 0 {
            PageCell::stored(id, columns.len(), columns.bytes())
        } else {
            PageCell::resident(id, columns.clone())
        }));
        stored.insert(id, columns);
        pages.push((low, page));
    }
    if pages.is_empty() { Tree::empty() } else { Tree::of(pages) }
}

/// A scan of a tree for the rows with a first value in a range, and with a sku from some on.
#[derive(Clone, Debug)]
struct Asked {
    is_by_color: bool,
    from: Option<u64>,
    to: Option<u64>,
    least_sku: Option<u64>,
    is_reversed: bool,
}

fn any_scan() -> impl Strategy<Value = Asked> {
    let bound = || prop::option::of(0..SKUS);
    (any::<bool>(), bound(), bound(), bound(), any::<bool>()).prop_map(
        |(is_by_color, from, to, least_sku, is_reversed)| Asked {
            is_by_color,
            from,
            to,
            least_sku,
            is_reversed,
        },
    )
}

impl Asked {
    /// The scan, of which keys, and what it finds by a look at every row.
    fn of(&self, built: &Built) -> (PageScan, KeyRange, Vec<Row>) {
        let tree = usize::from(self.is_by_color);
        let layout = &built.schema.layouts()[tree];
        let at_least =
            |value: u64| ValueRange { start: Bound::Included(value.into()), end: Bound::Unbounded };
        let condition = |sku| Condition { column: layout.place(0).unwrap(), range: at_least(sku) };
        let conditions = self.least_sku.map(condition).into_iter().collect();
        let scan = PageScan { rows: built.rows(), tree, is_reversed: self.is_reversed, conditions };
        // A color for each of the keys, so that a range may begin and end anywhere.
        let key = |sku: u64| match self.is_by_color {
            true => Key::of_prefix(layout, &[format!("color {}", sku % 7).as_str().into(), sku.into()]),
            false => Key::of_prefix(layout, &[sku.into()]),
        };
        let range = KeyRange { start: self.from.map_or(KeyRange::all().start, key), end: self.to.map(key) };
        let rows = built.seen.values().map(|row| layout.project(row));
        let mut expected: Vec<(Key, Row)> = rows
            .map(|row| (Key::of_row(layout, &row), row))
            .filter(|(key, row)| range.contains(key) && scan.conditions.iter().all(|one| one.is_met(row)))
            .collect();
        expected.sort_by(|(this, _), (that, _)| this.cmp(that));
        if self.is_reversed {
            expected.reverse();
        }
        let expected = expected.into_iter().map(|(_, row)| row).collect();
        (scan, range, expected)
    }
}

fn rows_of(found: &Found) -> Vec<Row> {
    found.rows.iter().flat_map(|rows| (0..rows.len()).map(|i| rows.row(i))).collect()
}

/// No more pages than these may be read where so many must be: it is not known where a scan ends.
fn read_max(needed: u64) -> u64 {
    needed + needed / READ_BEYOND_SHARE
}

/// The order in which tasks are done must not matter.
fn backwards(a: Task<'_>, b: Task<'_>) {
    in_turn(b, a);
}

/// Both at the same time.
fn in_threads(a: Task<'_>, b: Task<'_>) {
    std::thread::scope(|scope| {
        scope.spawn(a);
        b();
    });
}

proptest! {
    #[test]
    fn many_pages_at_once_give_what_one_page_after_the_other_does(
        base in any_writes(100), page_rows in 1usize..12, committed in any_writes(40), seen in 0usize..40,
        own in any_writes(20), asked in any_scan(), parts_max in 1usize..9, bytes_max in prop_oneof![Just(0), 0u64..1_000, Just(u64::MAX)],
    ) {
        let built = Built::new(&base, page_rows, &committed, seen, &own);
        let load = |cell: &PageCell, _: &Layout| built.load(cell);
        let (scan, range, expected) = asked.of(&built);
        let (mut one_by_one, mut looked_at): (Vec<Row>, _) = (Vec::new(), LookedAt::default());
        for part in scan.parts(&range).filter(|part| scan.may_match(part)) {
            let found = scan.find(&[part], u64::MAX, Wanted::ALL, &load, &in_turn).unwrap();
            one_by_one.extend(rows_of(&found));
            looked_at = looked_at.and(found.looked_at);
        }
        prop_assert_eq!(format!("{one_by_one:?}"), format!("{expected:?}"));

        let (mut at_once, mut looked_at_at_once): (Vec<Row>, _) = (Vec::new(), LookedAt::default());
        let mut left = range.clone();
        while !left.is_empty() {
            let batch = scan.batch(&left, parts_max, u64::MAX).expect("pages that can be read");
            prop_assert!(batch.parts.len() <= parts_max && batch.parts.len() + batch.passed > 0);
            let found = scan.find(&batch.parts, bytes_max, Wanted::ALL, &load, &backwards).unwrap();
            left = match batch.parts.get(found.parts) {
                Some(next) => scan.rest_from(&left, &next.range),
                None => batch.rest,
            };
            prop_assert!(found.rows.iter().all(|rows| !rows.is_empty()));
            prop_assert_eq!(found.bytes, found.rows.iter().map(|rows| rows.bytes() as u64).sum::<u64>());
            at_once.extend(rows_of(&found));
            looked_at_at_once = looked_at_at_once.and(found.looked_at);
        }
        prop_assert_eq!(format!("{at_once:?}"), format!("{expected:?}"));
        prop_assert_eq!(looked_at_at_once, looked_at);

        let (known, parts) = scan.plan_count(&range, u64::MAX).expect("pages that can be read");
        let counted = known.and(scan.count(&parts, Wanted::ALL, &load, &backwards).unwrap());
        prop_assert_eq!(counted.rows, expected.len() as u64);
    }

    #[test]
    fn a_scan_with_a_limit_finds_the_first_rows_in_hardly_more_pages_than_it_must_read(
        base in any_writes(150), page_rows in 1usize..4, committed in any_writes(40), seen in 0usize..40,
        own in any_writes(20), asked in any_scan(), parts_max in 1usize..60, limit in 1..SKUS,
    ) {
        let built = Built::new(&base, page_rows, &committed, seen, &own);
        let load = |cell: &PageCell, _: &Layout| built.load(cell);
        let (scan, range, expected) = asked.of(&built);
        let expected: Vec<Row> = expected.into_iter().take(limit as usize).collect();

        let (mut needed, mut rows) = (0, 0);
        for part in scan.parts(&range).filter(|part| scan.may_match(part)) {
            if rows < limit {
                needed += 1;
                let found = scan.find(&[part], u64::MAX, Wanted::ALL, &load, &in_turn).unwrap();
                rows += rows_of(&found).len() as u64;
            }
        }

        let read = |join: &Join<'_>| {
            let (mut found_rows, mut pages, mut left) = (Vec::new(), 0, range.clone());
            let mut read: Vec<String> = Vec::new();
            while !left.is_empty() && (found_rows.len() as u64) < limit {
                let batch = scan.batch(&left, parts_max, u64::MAX).expect("pages that can be read");
                let wanted = Wanted { rows: limit - found_rows.len() as u64, pages_read: pages };
                let found = scan.find(&batch.parts, u64::MAX, wanted, &load, join).unwrap();
                left = match batch.parts.get(found.parts) {
                    Some(next) => scan.rest_from(&left, &next.range),
                    None => batch.rest,
                };
                pages += found.looked_at.pages;
                found_rows.extend(rows_of(&found));
                read.push(format!("{found:?}"));
            }
            (found_rows, pages, read)
        };
        let (mut found, pages, all) = read(&in_turn);
        prop_assert_eq!(&read(&in_threads).2, &all, "the same on any number of threads");
        found.truncate(limit as usize);
        prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        prop_assert!(needed <= pages && pages <= read_max(needed), "{} pages, not {}", pages, needed);

        let (known, parts) = scan.plan_count(&range, limit).expect("pages that can be read");
        let wanted = limit.saturating_sub(known.rows);
        let (mut needed, mut rows) = (0, 0);
        for part in &parts {
            if rows < wanted {
                needed += 1;
                rows += scan.count(std::slice::from_ref(part), Wanted::ALL, &load, &in_turn).unwrap().rows;
            }
        }
        let wanted = Wanted { rows: wanted, pages_read: 0 };
        let counted = scan.count(&parts, wanted, &load, &in_turn).unwrap();
        prop_assert_eq!(scan.count(&parts, wanted, &load, &in_threads).unwrap(), counted);
        prop_assert_eq!((known.rows + counted.rows).min(limit), expected.len() as u64);
        let pages = counted.looked_at.pages;
        prop_assert!(needed <= pages && pages <= read_max(needed), "{} pages, not {}", pages, needed);
    }
}

#[test]
fn a_wave_has_what_must_be_read_or_an_eighth_of_what_was() {
    let base: Vec<Write> = (0..SKUS).map(|sku| (sku, Some((1, 1)))).collect();
    let built = Built::new(&base, 2, &[], 0, &[]);
    let scan = PageScan { rows: built.rows(), tree: 0, is_reversed: false, conditions: Vec::new() };
    let parts: Vec<Part> = scan.parts(&KeyRange::all()).collect();
    let pages = |rows, pages_read| scan.wave(&parts, u64::MAX, Wanted { rows, pages_read }).len();
    assert_eq!([pages(1, 0), pages(2, 0), pages(3, 0), pages(10, 0)], [1, 1, 2, 5], "two rows in each page");
    assert_eq!([pages(1, 15), pages(1, 16), pages(1, 80), pages(1, 800)], [1, 2, 10, 30]);
    assert_eq!(pages(u64::MAX, 0), parts.len(), "without a limit all of them");
    let bytes = 2 * parts[0].bytes();
    assert_eq!(scan.wave(&parts, bytes, Wanted::ALL).len(), 2);
    assert_eq!(scan.wave(&parts, bytes, Wanted { rows: 1, pages_read: 800 }).len(), 2);
}

#[test]
fn a_batch_ends_with_the_bytes_and_a_wave_with_what_was_found() {
    let base: Vec<Write> = (0..SKUS).map(|sku| (sku, Some((1, 1)))).collect();
    let built = Built::new(&base, 10, &[], 0, &[]);
    let rows = built.rows();
    let scan = PageScan { rows, tree: 0, is_reversed: false, conditions: Vec::new() };
    let bytes = scan.parts(&KeyRange::all()).next().unwrap().bytes();
    let batch = |bytes_max| scan.batch(&KeyRange::all(), usize::MAX, bytes_max).unwrap().parts;
    assert_eq!(batch(1).len(), 1, "one page is read in any case");
    assert_eq!(batch(2 * bytes).len(), 2);
    let all = batch(u64::MAX);
    assert_eq!(all.len(), 6);
    let load = |cell: &PageCell, _: &Layout| built.load(cell);
    let found = |bytes_max| scan.find(&all, bytes_max, Wanted::ALL, &load, &in_turn).unwrap().parts;
    assert_eq!(found(1), 1);
    assert_eq!(found(2 * bytes + bytes / 2), 4, "two waves of two pages");
    assert_eq!(found(u64::MAX), 6);
}

#[test]
fn what_cannot_be_read_is_an_error_and_what_was_folded_away_is_noticed() {
    let base: Vec<Write> = (0..SKUS).map(|sku| (sku, Some((1, 1)))).collect();
    let mut built = Built::new(&base, 10, &[], 0, &[]);
    let scan =
        |built: &Built| PageScan { rows: built.rows(), tree: 0, is_reversed: true, conditions: Vec::new() };
    let load = |_: &PageCell, _: &Layout| Err("the disk is gone".to_string());
    let all: Vec<Part> = scan(&built).parts(&KeyRange::all()).collect();
    let why = scan(&built).find(&all, u64::MAX, Wanted::ALL, &load, &in_turn).unwrap_err();
    assert_eq!(why, "the disk is gone");
    let last = Key::of_prefix(&built.schema.layouts()[0], &[(SKUS - 1).into()]);
    built.trees[0].page_mut(&last).1.horizon = (TxnId::new(READER, 1), 0);
    assert!(scan(&built).batch(&KeyRange::all(), 1, u64::MAX).is_none());
    assert!(scan(&built).plan_count(&KeyRange::all(), u64::MAX).is_none());
}
