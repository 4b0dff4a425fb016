//! What plans choose, and that every view reads as if its operations were done one after the other.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use components::hosting::cluster::Catalog;
use components::language::collection::local::LocalCollection;
use components::language::collection::view::Rowset;
use components::language::collection::{Collection, Source};
use components::rows::Row;
use components::rows::bound::{Condition, ValueRange};
use components::rows::coerce::table_row;
use components::rows::delta::Visibility;
use components::rows::key::Key;
use components::rows::schema::{CollectionKind, Column, ColumnType, Index, Schema};
use components::transaction::ledger::Ledger;
use components::{Id, NumberType, TxnId, Value};
use proptest::prelude::*;

use super::plan::{Plan, plan};
use crate::limits::JobLimits;
use crate::scalar::Interpreter;

const SKU: usize = 0;
const COLOR: usize = 1;
const QUANTITY: usize = 2;

/// `sku -> color, quantity`, with indices by color, and by color and quantity.
fn schema() -> Schema {
    let column = |name, class| Column { name: Id::literal(name), class, max_len: None };
    let number = ColumnType::Number(NumberType::I64);
    let columns = [column("sku", number), column("color", ColumnType::Value), column("quantity", number)];
    let index = |name, columns: &[usize]| Index { name: Id::literal(name), columns: columns.into() };
    let indices = [index("by_color", &[COLOR]), index("by_both", &[COLOR, QUANTITY])];
    Schema::new(CollectionKind::Table, columns.into(), 1, indices.into())
}

fn equal(column: usize, value: i64) -> Condition {
    Condition { column, range: ValueRange::equal(value.into()) }
}

fn from(column: usize, value: i64) -> Condition {
    let range = ValueRange { start: std::ops::Bound::Included(value.into()), ..ValueRange::ALL };
    Condition { column, range }
}

fn planned(conditions: &[Condition], order: Option<&[usize]>, needed: &[usize]) -> Plan {
    plan(&schema(), conditions, order, false, needed)
}

const ALL: [usize; 3] = [SKU, COLOR, QUANTITY];

#[test]
fn the_longest_run_of_bounds_wins_and_of_equal_ones_the_first() {
    let tree = |conditions: &[Condition]| planned(conditions, None, &[]).tree;
    assert_eq!(tree(&[]), 0);
    assert_eq!(tree(&[equal(SKU, 1), equal(COLOR, 1)]), 0);
    assert_eq!(tree(&[equal(COLOR, 1)]), 1);
    assert_eq!(tree(&[equal(COLOR, 1), from(QUANTITY, 1)]), 2);
    assert_eq!(tree(&[from(COLOR, 1), equal(QUANTITY, 1)]), 1, "nothing counts after a range");
    assert_eq!(tree(&[equal(COLOR, 1), from(SKU, 1)]), 1, "the rest of an index is the key");
    assert_eq!(tree(&[equal(QUANTITY, 1)]), 0, "nothing helps: a scan");
}

#[test]
fn bounds_beyond_the_run_are_met_in_the_tree_or_after_it() {
    let scan = planned(&[from(COLOR, 1), equal(QUANTITY, 1)], None, &[]);
    assert_eq!((scan.tree, scan.conditions.len(), scan.residual.len()), (1, 0, 1));
    assert!(scan.completes, "the quantity is not in the index");
    let scan = planned(&[from(SKU, 1), equal(QUANTITY, 1)], None, &ALL);
    assert_eq!((scan.conditions.len(), scan.residual.len(), scan.completes), (1, 0, false));
}

#[test]
fn an_index_with_all_that_is_needed_is_enough() {
    let condition = [equal(COLOR, 1)];
    assert!(!planned(&condition, None, &[]).completes);
    assert!(!planned(&condition, None, &[SKU, COLOR]).completes);
    assert!(planned(&condition, None, &ALL).completes);
}

#[test]
fn an_order_is_read_from_a_tree_that_has_it() {
    let chosen = |conditions: &[Condition], order: &[usize]| {
        let plan = planned(conditions, Some(order), &[]);
        (plan.tree, plan.sorts)
    };
    assert_eq!(chosen(&[], &[SKU]), (0, false));
    assert_eq!(chosen(&[], &[SKU, QUANTITY]), (0, false), "the key is unique");
    assert_eq!(chosen(&[], &[COLOR, SKU]), (1, false));
    assert_eq!(chosen(&[], &[COLOR, QUANTITY]), (2, false));
    assert_eq!(chosen(&[], &[QUANTITY]), (0, true));
    assert_eq!(chosen(&[equal(COLOR, 1)], &[QUANTITY]), (2, false), "there is one color");
    assert_eq!(chosen(&[equal(QUANTITY, 1)], &[COLOR, SKU]), (1, false), "nothing is sorted for a filter");
    assert_eq!(chosen(&[from(COLOR, 1)], &[SKU]), (1, true));
}

/// Run a program that waits for nothing but fuel.
fn run<T>(interpreter: &Interpreter, program: impl Future<Output = T>) -> T {
    let mut program = pin!(program);
    loop {
        interpreter.ledger.refuel(1_000, 0);
        if let Poll::Ready(result) = program.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Filter(usize, i64, bool),
    Order(Vec<usize>, bool),
    Reverse,
    Limit(u64),
    Select(Vec<usize>),
}

fn any_filter() -> impl Strategy<Value = Operation> {
    (0usize..3, 0i64..4, any::<bool>())
        .prop_map(|(column, value, is_equal)| Operation::Filter(column, value, is_equal))
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let columns = || prop::sample::subsequence(ALL.to_vec(), 0..=3).prop_shuffle();
    prop_oneof![
        any_filter(),
        (columns(), any::<bool>()).prop_map(|(columns, reverse)| Operation::Order(columns, reverse)),
        Just(Operation::Reverse),
        (0u64..12).prop_map(Operation::Limit),
        columns().prop_map(Operation::Select),
    ]
}

/// Filters, then an order that no two rows share, then anything: so that there is one right sequence of rows.
fn any_operations() -> impl Strategy<Value = Vec<Operation>> {
    let order = (Just(ALL.to_vec()).prop_shuffle(), any::<bool>());
    let order = order.prop_map(|(columns, reverse)| Operation::Order(columns, reverse));
    let filters = prop::collection::vec(any_filter(), 0..3);
    (filters, order, prop::collection::vec(any_operation(), 0..5)).prop_map(|(mut all, order, rest)| {
        all.push(order);
        all.extend(rest);
        all
    })
}

/// The operation on rows of these columns: the columns that it names are positions among those that are left.
fn model(rows: &mut Vec<Vec<i64>>, width: usize, operation: &Operation) {
    match operation {
        Operation::Filter(column, value, is_equal) if *column < width => {
            rows.retain(|row| if *is_equal { row[*column] == *value } else { row[*column] >= *value });
        }
        Operation::Order(columns, reverse) => {
            let columns: Vec<usize> = columns.iter().copied().filter(|column| *column < width).collect();
            rows.sort_by_key(|row| columns.iter().map(|column| row[*column]).collect::<Vec<_>>());
            if *reverse {
                rows.reverse();
            }
        }
        Operation::Reverse => rows.reverse(),
        Operation::Limit(limit) => rows.truncate(*limit as usize),
        Operation::Select(columns) => {
            for row in rows {
                *row = columns.iter().filter(|column| **column < width).map(|column| row[*column]).collect();
            }
        }
        Operation::Filter(..) => {}
    }
}

fn view(rows: &Rowset, operation: &Operation) -> Rowset {
    let width = rows.columns().len();
    let within = |columns: &[usize]| columns.iter().copied().filter(|i| *i < width).collect::<Vec<usize>>();
    let view = match operation {
        Operation::Filter(column, ..) if *column >= width => return rows.clone(),
        Operation::Filter(column, value, true) => rows.filtered(vec![equal(*column, *value)]),
        Operation::Filter(column, value, false) => rows.filtered(vec![from(*column, *value)]),
        Operation::Order(columns, reverse) => rows.ordered(&within(columns), *reverse),
        Operation::Reverse => rows.reversed(),
        Operation::Limit(limit) => rows.limited(*limit),
        Operation::Select(columns) => rows.selected(&within(columns)),
    };
    Rowset::View(Arc::new(view.unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_view_reads_as_if_each_operation_was_done_after_the_other(
        content in prop::collection::btree_map(0i64..60, (0i64..4, 0i64..4), 0..50),
        operations in any_operations(),
    ) {
        let ledger = Arc::new(Ledger::new(Visibility { before: TxnId::new(1, 1), commit: 0 }, Default::default()));
        let interpreter = Interpreter {
            catalog: Arc::new(Catalog::default()),
            ledger: ledger.clone(),
            jobs: JobLimits::default(),
        };
        let schema = Arc::new(schema());
        let local = Arc::new(LocalCollection::new(schema.clone(), ledger.clone()));
        let collection = Collection { schema: schema.clone(), source: Source::Local(local) };
        let mut expected: Vec<Vec<i64>> = Vec::new();
        for (sku, (color, quantity)) in &content {
            let row = table_row(&schema, &[(*sku).into(), (*color).into(), (*quantity).into()]).unwrap();
            let key = Key::of_row(&schema.layouts()[0], &row);
            run(&interpreter, interpreter.write(&collection, &key, Some(row))).unwrap();
            expected.push(vec![*sku, *color, *quantity]);
        }
        let stored = ledger.bytes();
        let mut rows = Rowset::Collection(collection);
        let mut width = ALL.len();
        for operation in &operations {
            model(&mut expected, width, operation);
            rows = view(&rows, operation);
            width = rows.columns().len();
        }
        let read = run(&interpreter, async {
            let mut all: Vec<Row> = Vec::new();
            let mut reader = interpreter.open_rows(&rows).await.unwrap();
            while let Some(chunk) = interpreter.next_rows(&mut reader).await.unwrap() {
                assert!(!chunk.is_empty());
                all.extend(chunk);
            }
            all
        });
        let number = |value: &Value| match value {
            Value::Number(number) => number.as_i64().unwrap(),
            other => panic!("{other:?}"),
        };
        let read: Vec<Vec<i64>> = read.iter().map(|row| row.iter().map(number).collect()).collect();
        prop_assert_eq!(&read, &expected);
        prop_assert_eq!(run(&interpreter, interpreter.count_rows(&rows)).unwrap(), expected.len() as u64);
        let first = run(&interpreter, interpreter.first_row(&rows)).unwrap();
        prop_assert_eq!(first.map(|row| row.iter().map(number).collect::<Vec<_>>()), expected.first().cloned());
        prop_assert_eq!(ledger.bytes(), stored, "what a sort has held is given back");
    }
}
