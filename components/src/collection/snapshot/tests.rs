//! Snapshots against a model: a list of rows that is filtered, ordered and cut.

use std::collections::BTreeMap;

use imbl::OrdMap;
use proptest::prelude::*;

use super::*;
use crate::TxnId;
use crate::collection::bound::ValueRange;
use crate::collection::change::RowChange;
use crate::collection::declare::tests::inventory;
use crate::collection::delta::DeltaEntry;
use crate::collection::local::Tree as LocalTree;
use crate::collection::page::{Statistics, Tree, Visibility};
use crate::number::Number;
use crate::value::Value;

/// How many different rows there are.
const SKUS: u64 = 60;
const COLORS: u32 = 5;

/// A row is written with a color and a quantity, or deleted.
type Write = (u64, Option<(u32, i32)>);

fn row(sku: u64, color: u32, qty: i32) -> Row {
    [sku.into(), format!("color {color}").as_str().into(), Number::I32(qty).into()].into()
}

fn any_writes(count: usize) -> impl Strategy<Value = Vec<Write>> {
    let content = prop::option::weighted(0.7, (0..COLORS, 0..10i32));
    prop::collection::vec((0..SKUS, content), 0..count)
}

/// A collection in pages, and what is in it.
struct Built {
    schema: Arc<Schema>,
    trees: Vec<Tree>,
    own: Vec<OrdMap<Key, Option<Row>>>,
    /// The content of the pages that are not in memory.
    stored: BTreeMap<PageId, Columns>,
    /// What the reader sees, by sku.
    seen: BTreeMap<u64, Row>,
}

/// The transaction that reads, and how many of the writes it sees.
const READER: u64 = 1_000;

impl Built {
    fn new(base: &[Write], page_rows: usize, committed: &[Write], seen: usize, own: &[Write]) -> Self {
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

    fn read(self, scan: Scan) -> Vec<Row> {
        let snapshot = RowsetSnapshot {
            schema: self.schema.clone(),
            columns: self.schema.columns().clone(),
            is_list: false,
            collection: self.schema.clone(),
            trees: Trees::Hosted(RowsSnapshot {
                schema: self.schema,
                trees: Arc::new(self.trees),
                own: self.own,
                visibility: Visibility { before: TxnId::new(READER, 1), commit: u64::MAX },
            }),
            scan,
            bytes: 0,
        };
        let content =
            Arc::new(snapshot).content(&mut |page, _| Ok(self.stored[&page].clone()), u64::MAX).unwrap();
        content.rows
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

/// A question to either tree.
#[derive(Clone, Debug)]
struct Question {
    is_by_color: bool,
    /// Which first values of the key, if not all.
    first: Option<u64>,
    least_qty: Option<i32>,
    least_sku: Option<u64>,
    is_reversed: bool,
    limit: u64,
    output: Option<Vec<usize>>,
}

fn any_question() -> impl Strategy<Value = Question> {
    let limit = prop_oneof![Just(u64::MAX), 0..SKUS];
    let output = prop::option::of(prop::sample::subsequence(vec![0usize, 1, 2], 1..3).prop_shuffle());
    (
        any::<bool>(),
        prop::option::of(0..COLORS as u64),
        prop::option::of(0..10i32),
        prop::option::of(0..SKUS),
        any::<bool>(),
        limit,
        output,
    )
        .prop_map(|(is_by_color, first, least_qty, least_sku, is_reversed, limit, output)| Question {
            is_by_color,
            first,
            least_qty,
            least_sku,
            is_reversed,
            limit,
            output,
        })
}

impl Question {
    fn first_value(&self) -> Option<Value> {
        let first = self.first?;
        Some(if self.is_by_color { format!("color {first}").as_str().into() } else { first.into() })
    }

    fn scan(&self, schema: &Schema) -> Scan {
        let tree = usize::from(self.is_by_color);
        let layout = &schema.layouts()[tree];
        let at_least = |column: usize, value: Value| Condition {
            column,
            range: ValueRange { start: std::ops::Bound::Included(value), end: std::ops::Bound::Unbounded },
        };
        let qty = self.least_qty.map(|qty| at_least(2, Number::I32(qty).into()));
        let sku = |sku: u64| at_least(layout.place(0).unwrap(), sku.into());
        let mut conditions: Vec<Condition> = self.least_sku.map(sku).into_iter().collect();
        let mut residual = Vec::new();
        if self.is_by_color { &mut residual } else { &mut conditions }.extend(qty);
        Scan {
            tree,
            range: match self.first_value() {
                Some(value) => KeyRange::prefix(Key::of_prefix(layout, &[value])),
                None => KeyRange::all(),
            },
            is_reversed: self.is_reversed,
            conditions,
            completes: self.is_by_color,
            residual,
            output: self.output.clone(),
            limit: self.limit,
        }
    }

    /// The answer by a look at every row.
    fn answer(&self, seen: &BTreeMap<u64, Row>) -> Vec<Row> {
        let mut rows: Vec<(u64, Row)> = seen.iter().map(|(sku, row)| (*sku, row.clone())).collect();
        if self.is_by_color {
            rows.sort_by_key(|(sku, row)| (row[1].to_string(), *sku));
        }
        if self.is_reversed {
            rows.reverse();
        }
        let first = self.first_value();
        let is_met = |(sku, row): &(u64, Row)| {
            let qty: i32 = row[2].to_string().parse().unwrap();
            first.as_ref().is_none_or(|first| row[usize::from(self.is_by_color)].collate(first).is_eq())
                && self.least_qty.is_none_or(|least| qty >= least)
                && self.least_sku.is_none_or(|least| *sku >= least)
        };
        let rows = rows.into_iter().filter(is_met).take(self.limit as usize);
        let project = |row: Row| match &self.output {
            Some(output) => output.iter().map(|i| row[*i].clone()).collect(),
            None => row,
        };
        rows.map(|(_, row)| project(row)).collect()
    }
}

fn text(rows: &[Row]) -> String {
    format!("{rows:?}")
}

proptest! {
    #[test]
    fn a_snapshot_shows_what_its_transaction_saw(
        base in any_writes(100), page_rows in 1usize..20, committed in any_writes(40), seen in 0usize..40,
        own in any_writes(20), question in any_question(),
    ) {
        let built = Built::new(&base, page_rows, &committed, seen, &own);
        let (scan, expected) = (question.scan(&built.schema), question.answer(&built.seen));
        prop_assert_eq!(text(&built.read(scan)), text(&expected));
    }
}

#[test]
fn rows_of_a_page_without_changes_are_not_copied() {
    let base: Vec<Write> = (0..SKUS).map(|sku| (sku, Some((1, 1)))).collect();
    let built = Built::new(&base, 1_000, &[], 0, &[]);
    let columns = built.stored.values().next().unwrap().clone();
    let (_, page) = built.trees[0].page(&Key::EMPTY);
    let visibility = Visibility::NEWEST;
    let (seen, _) = SeenPage::new(
        &built.schema.layouts()[0],
        page,
        Some(Arc::new(columns.clone())),
        &KeyRange::all(),
        &built.own[0],
        visibility,
    );
    let rows = seen.columns(&built.schema.layouts()[0], &[]);
    let address = |columns: &Columns| columns.array(0).unwrap().to_data().buffers()[0].as_ptr();
    assert_eq!(address(&rows), address(&columns));
}

#[test]
fn a_snapshot_of_a_local_collection_reads_in_chunks() {
    let schema = Arc::new(inventory());
    let layout = &schema.layouts()[0];
    let rows: Vec<Row> = (0..3_000).map(|sku| row(sku, 1, sku as i32)).collect();
    let tree: LocalTree = rows.iter().map(|row| (Key::of_row(layout, row), row.clone())).collect();
    let scan = Question {
        is_by_color: false,
        first: None,
        least_qty: Some(10),
        least_sku: None,
        is_reversed: true,
        limit: 2_500,
        output: None,
    };
    let snapshot = Arc::new(RowsetSnapshot {
        schema: schema.clone(),
        columns: schema.columns().clone(),
        is_list: true,
        collection: schema.clone(),
        trees: Trees::Local(Snapshot::of(vec![tree, LocalTree::new()])),
        scan: scan.scan(&schema),
        bytes: 0,
    });
    let mut reader = RowsReader::new(snapshot);
    let mut read: Vec<Row> = Vec::new();
    while let Some(chunk) = reader.next(&mut |_, _| Err("there are no pages".into())).unwrap() {
        assert!(!chunk.is_empty() && chunk.len() <= LOCAL_CHUNK_ROWS);
        read.extend((0..chunk.len()).map(|i| chunk.row(i)));
    }
    let expected: Vec<Row> = rows.into_iter().skip(10).rev().take(2_500).collect();
    assert_eq!(text(&read), text(&expected));
}
