//! Snapshots against a model: a list of rows that is filtered, ordered and cut.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::rows::bound::ValueRange;
use crate::rows::columns::PAGE_ROWS;
use crate::rows::delta::Visibility;
use crate::rows::packed::PackedRows;
use crate::rows::page::PageCell;
use crate::rows::runs::{MemoryScratch, Scratch};
use crate::rows::scan::in_turn;
use crate::rows::scan::tests::{Built, COLORS, SKUS, Write, any_writes, row};
use crate::rows::schema::tests::inventory;
use crate::rows::seen::SeenPage;
use crate::value::Value;
use crate::value::ids::ChainId;
use crate::value::number::Number;

fn snapshot(built: &Built, scan: Scan) -> Arc<RowsetSnapshot> {
    Arc::new(RowsetSnapshot {
        schema: built.schema.clone(),
        columns: built.schema.columns().clone(),
        is_list: false,
        collection: built.schema.clone(),
        trees: Trees::Hosted(HostedCollection { chain: ChainId(1), slot: 0 }, built.rows()),
        scan,
        bytes: 0,
    })
}

fn read(built: &Built, scan: Scan) -> Vec<Row> {
    let load = |cell: &PageCell, _: &Layout| built.load(cell);
    snapshot(built, scan).content(&load, &in_turn, u64::MAX).unwrap().rows
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
            order: None,
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
        prop_assert_eq!(text(&read(&built, scan)), text(&expected));
    }

    #[test]
    fn a_limited_snapshot_reads_and_completes_hardly_more_than_it_must(
        base in any_writes(150), page_rows in 1usize..4, committed in any_writes(40), seen in 0usize..40,
        own in any_writes(20), question in any_question(), limit in 1..SKUS,
    ) {
        let built = Built::new(&base, page_rows, &committed, seen, &own);
        let question = Question { limit, output: None, ..question };
        let load = |cell: &PageCell, _: &Layout| built.load(cell);
        let mut reader = RowsReader::new(snapshot(&built, question.scan(&built.schema)));
        let mut rows: Vec<Row> = Vec::new();
        while let Some(columns) = reader.next(&load, &in_turn).unwrap() {
            rows.extend((0..columns.len()).map(|i| columns.row(i)));
        }
        prop_assert_eq!(text(&rows), text(&question.answer(&built.seen)));

        // One page after the other, and of each one row after the other.
        let pages = &reader.pages;
        let scan = question.scan(&built.schema);
        let (mut needed_pages, mut needed_rows, mut found) = (0, 0, 0);
        for part in pages.parts(&scan.range).filter(|part| pages.may_match(part)) {
            if found == limit {
                break;
            }
            needed_pages += 1;
            for columns in pages.find(&[part], u64::MAX, Wanted::ALL, &load, &in_turn).unwrap().rows {
                let sku = pages.layout().place(0).unwrap();
                for row in (0..columns.len()).map(|i| columns.row(i)) {
                    if found == limit {
                        break;
                    }
                    let row = &built.seen[&row[sku].to_string().parse().unwrap()];
                    needed_rows += 1;
                    found += u64::from(scan.residual.iter().all(|condition| condition.is_met(row)));
                }
            }
        }
        prop_assert!(reader.pages_read <= needed_pages + needed_pages / 8, "{} pages", reader.pages_read);
        prop_assert!(needed_pages <= reader.pages_read);
        let completed = if scan.completes { needed_rows } else { 0 };
        prop_assert!(completed <= reader.completed && reader.completed <= completed + completed / 8);
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
    let mut packed = PackedRows::new(schema.clone());
    for row in &rows {
        packed.write(&Key::of_row(layout, row), Some(row.clone()), |_| Ok::<_, ()>(())).unwrap();
    }
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
        trees: Trees::Local(Snapshot::of(packed.snapshot())),
        scan: scan.scan(&schema),
        bytes: 0,
    });
    let mut reader = RowsReader::new(snapshot);
    let mut read: Vec<Row> = Vec::new();
    let load = |_: &PageCell, _: &Layout| Err("there are no pages".into());
    while let Some(chunk) = reader.next(&load, &in_turn).unwrap() {
        assert!(!chunk.is_empty() && chunk.len() <= PAGE_ROWS);
        read.extend((0..chunk.len()).map(|i| chunk.row(i)));
    }
    let expected: Vec<Row> = rows.into_iter().skip(10).rev().take(2_500).collect();
    assert_eq!(text(&read), text(&expected));
}

proptest! {
    /// Whatever fits in memory at a time, and whether it is written.
    #[test]
    fn rows_that_no_tree_has_in_order_are_sorted_in_runs(
        base in any_writes(150), page_rows in 1usize..20, own in any_writes(20), least_qty in proptest::option::of(0i32..10),
        by in prop::sample::subsequence(vec![2usize, 1], 0..=2).prop_shuffle(), is_reversed: bool,
        limit in prop_oneof![Just(u64::MAX), 0u64..40],
        output in proptest::option::of(prop::sample::subsequence(vec![0usize, 1, 2], 1..=3).prop_shuffle()),
        run_bytes in 1usize..4_000, part_bytes in 1usize..2_000,
    ) {
        let built = Built::new(&base, page_rows, &[], 0, &own);
        let width = built.schema.columns().len();
        let question = Question {
            is_by_color: false, first: None, least_qty, least_sku: None, is_reversed: false, limit: u64::MAX, output: None,
        };
        let mut expected = question.answer(&built.seen);
        expected.sort_by(|a, b| {
            by.iter().map(|i| a[*i].collate(&b[*i])).find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        });
        if is_reversed {
            expected.reverse();
        }
        expected.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let given = output.clone().unwrap_or_else(|| (0..width).collect());
        let expected: Vec<Row> =
            expected.iter().map(|row| given.iter().map(|i| row[*i].clone()).collect()).collect();

        let order = Some(Order { by, is_reversed });
        let snapshot = snapshot(&built, Scan { order, limit, output, ..question.scan(&built.schema) });
        let load = |cell: &PageCell, _: &Layout| built.load(cell);
        prop_assert_eq!(text(&snapshot.content(&load, &in_turn, u64::MAX).unwrap().rows), text(&expected));

        let open = || Ok(Arc::new(MemoryScratch::default()) as Arc<dyn Scratch>);
        let mut sorter = snapshot.sorter(run_bytes, part_bytes).expect("an order");
        let mut reader = RowsReader::new(snapshot);
        while let Some(rows) = reader.next(&load, &in_turn).unwrap() {
            sorter.push(&rows, &open).unwrap();
        }
        let last = sorter.take(true).spill(&open).unwrap();
        let (mut sorted, mut rows): (_, Vec<Row>) = (sorter.finish(last), Vec::new());
        while let Some(columns) = sorted.next_rows().unwrap() {
            prop_assert!(!columns.is_empty());
            rows.extend((0..columns.len()).map(|i| columns.row(i)));
        }
        prop_assert_eq!(text(&rows), text(&expected));
    }
}
