//! Pages in columns, alone on one thread: `cargo bench -p components --bench columns`.
//!
//! Each figure is the best of some rounds.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark reads the clock"
)]

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use components::rows::Row;
use components::rows::bound::{Condition, ValueRange};
use components::rows::columns::{Columns, PageSize, cut, fold, sort};
use components::rows::key::Key;
use components::rows::schema::{ColumnType, Layout};
use components::{NumberType, Value};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(60);
const ROWS: usize = 1_000_000;

/// The best of some rounds, in microseconds.
fn time<T>(mut run: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (mut count, start) = (0_u32, Instant::now());
        while count == 0 || start.elapsed() < ROUND {
            black_box(run());
            count += 1;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / 1000.0 / f64::from(count));
    }
    best
}

fn layout(types: &[ColumnType]) -> Layout {
    Layout { types: types.into(), columns: (0..types.len()).collect(), key_len: 1 }
}

fn pages_of(layout: &Layout, rows: impl Iterator<Item = Row>) -> Vec<Columns> {
    let rows: Vec<Row> = rows.collect();
    cut(&Columns::from_rows(&layout.types, rows.iter().map(|row| &row[..])))
}

/// A row that looks random, but is the same each time.
fn scattered(i: usize) -> i32 {
    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(33) as i32
}

fn condition(column: usize, start: Value, end: Value) -> Condition {
    Condition { column, range: ValueRange { start: Bound::Included(start), end: Bound::Excluded(end) } }
}

fn count(pages: &[Columns], conditions: &[Condition]) -> usize {
    pages.iter().map(|page| page.select(conditions, 0..page.len()).count()).sum()
}

fn main() {
    let number = |class| ColumnType::Number(class);
    let row = |what: &str, us: f64, unit: &str, figure: f64| {
        println!("{what:<58} {us:>10.2} us {figure:>10.1} {unit}")
    };
    let per_row = |us: f64, rows: usize| us * 1000.0 / rows as f64;

    let narrow = layout(&[number(NumberType::I32), number(NumberType::I32), number(NumberType::F64)]);
    let narrow_pages = pages_of(
        &narrow,
        (0..ROWS)
            .map(|i| Row::from([(i as i32).into(), scattered(i).into(), f64::from(scattered(i)).into()])),
    );
    println!("{ROWS} rows [i32, i32, f64] in {} pages", narrow_pages.len());
    let third = condition(1, 0.into(), (i32::MAX / 3).into());
    let us = time(|| count(&narrow_pages, std::slice::from_ref(&third)));
    row("select and count, one range of i32", us, "ns a row", per_row(us, ROWS));
    let both = [third, condition(2, (-1e9).into(), 1e9.into())];
    let us = time(|| count(&narrow_pages, &both));
    row("select and count, i32 and f64", us, "ns a row", per_row(us, ROWS));
    let us = time(|| narrow_pages.iter().map(|page| page.statistics().len()).sum::<usize>());
    row("statistics of all columns", us, "ns a row", per_row(us, ROWS));

    let table = layout(&[number(NumberType::I64), ColumnType::String, number(NumberType::I32)]);
    let table_row = |i: usize| -> Row {
        Row::from([
            (i as i64).into(),
            Value::String(format!("customer {}", scattered(i)).into()),
            scattered(i).into(),
        ])
    };
    let table_pages = pages_of(&table, (0..200_000).map(|i| table_row(i * 2)));
    let rows = table_pages.iter().map(Columns::len).sum::<usize>();
    let page = &table_pages[1];
    println!("\n{rows} rows [i64, string, i32]; a page has {} rows and {} bytes", page.len(), page.bytes());
    let range = condition(1, "customer 1".into(), "customer 2".into());
    let us = time(|| count(&table_pages, std::slice::from_ref(&range)));
    row("select and count, one range of string", us, "ns a row", per_row(us, rows));
    let key = page.key(&table, 777);
    let us = time(|| page.find(&table, black_box(&key)));
    row("find a key in a page", us, "M a second", 1.0 / us);
    let us = time(|| page.row(black_box(777)));
    row("one row as values", us, "M a second", 1.0 / us);
    for changes in [1_usize, 64] {
        let first = match page.value(0, 0) {
            Value::Number(number) => number.as_i64().unwrap() as usize,
            other => panic!("{other:?}"),
        };
        // Every other key is new, over the whole page.
        let changes: Vec<(Key, Option<Row>)> = (0..changes)
            .map(|i| table_row(first + i * (2 * page.len() / changes / 2 * 2) / 2 * 2 + i % 2))
            .map(|row| (Key::of_row(&table, &row), Some(row)))
            .collect();
        let us = time(|| fold(&table, Some(page), &changes, PageSize::default()));
        row(
            &format!("fold {} changes into a page", changes.len()),
            us,
            "MB/s of page",
            page.bytes() as f64 / us,
        );
    }
    let us = time(|| page.encode());
    row("encode a page", us, "MB/s", page.bytes() as f64 / us);
    let stored = page.encode();
    let us = time(|| Columns::decode(&table.types, stored.clone()).unwrap());
    row("decode a page, aligned", us, "MB/s", page.bytes() as f64 / us);
    let shifted = bytes::Bytes::from([&[0], &stored[..]].concat()).slice(1..);
    let us = time(|| Columns::decode(&table.types, shifted.clone()).unwrap());
    row("decode a page, not aligned", us, "MB/s", page.bytes() as f64 / us);
    let mut text = Vec::new();
    let us = time(|| {
        text.clear();
        (0..page.len()).for_each(|i| page.write_json_row(i, &[0, 1, 2], &mut text).unwrap());
    });
    row("a page as JSON", us, "MB/s", text.len() as f64 / us);
    let types: Arc<[ColumnType]> = table.types.clone();
    let values: Vec<Row> = (0..page.len()).map(|i| page.row(i)).collect();
    let us = time(|| Columns::from_rows(&types, values.iter().map(|row| &row[..])));
    row("a page out of rows", us, "ns a row", per_row(us, page.len()));

    println!("\nsort of {ROWS} rows [i32, i32, f64]");
    let all: Vec<usize> = (0..ROWS).collect();
    let whole = {
        let mut builder = components::rows::columns::ColumnsBuilder::with_capacity(&narrow.types, ROWS);
        narrow_pages.iter().for_each(|page| builder.push_range(page, 0..page.len()));
        builder.finish()
    };
    let us = time(|| sort(&narrow, whole.clone()));
    row("sorted already", us, "ns a row", per_row(us, ROWS));
    let backwards = whole.project(&[1, 0, 2]).take(&all);
    let us = time(|| sort(&narrow, backwards.clone()));
    row("scattered", us, "ns a row", per_row(us, ROWS));
    let us = time(|| cut(&whole));
    row("cut into pages", us, "ns a row", per_row(us, ROWS));
}
