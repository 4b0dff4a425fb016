//! How fast bodies become rows in columns: `cargo bench -p io --bench bulk`.
//!
//! A million rows of a u64, a text and an i32, sorted by key and not, on one thread; sorting is counted by itself.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use components::rows::bulk::Bulk;
use components::rows::columns::Columns;
use components::rows::schema::{CollectionKind, Column, ColumnType, Schema};
use components::{Id, NumberType};
use io::http::bulk::{arrow, csv, json};

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const ROWS: u64 = 1_000_000;
const ROUNDS: usize = 5;

fn schema() -> Arc<Schema> {
    let column = |(name, class, max_len)| Column { name: Id::literal(name), class, max_len };
    let columns = [
        ("sku", ColumnType::Number(NumberType::U64), None),
        ("color", ColumnType::String, Some(32)),
        ("qty", ColumnType::Number(NumberType::I32), None),
    ];
    Arc::new(Schema::new(CollectionKind::Table, columns.into_iter().map(column).collect(), 1, [].into()))
}

fn row(i: u64, is_sorted: bool) -> (u64, String, i32) {
    // An odd factor only reorders.
    let key = if is_sorted { i } else { i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1 };
    (key, format!("color {}", i % 1_000), (i % 10_000) as i32 - 5_000)
}

fn stream(rows: &[(u64, String, i32)]) -> Vec<u8> {
    let arrays: [(&str, ArrayRef); 3] = [
        ("sku", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ("color", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1)))),
        ("qty", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.2)))),
    ];
    let batch = RecordBatch::try_from_iter(arrays).unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// The best of some rounds, of what `work` does with a copy of the bytes.
fn time<T>(bytes: &[u8], work: impl Fn(Vec<u8>) -> T) -> Duration {
    let round = |_| {
        let copy = bytes.to_vec();
        let start = Instant::now();
        black_box(work(copy));
        start.elapsed()
    };
    (0..ROUNDS).map(round).min().unwrap()
}

fn main() {
    let schema = schema();
    for is_sorted in [true, false] {
        let rows: Vec<_> = (0..ROWS).map(|i| row(i, is_sorted)).collect();
        println!("{}", if is_sorted { "sorted by key" } else { "in no order" });
        let mut text = String::from("[");
        rows.iter().for_each(|(sku, color, qty)| text.push_str(&format!("[{sku}, \"{color}\", {qty}], ")));
        text.truncate(text.len() - 2);
        text.push(']');
        let mut lines = String::from("sku,color,qty\n");
        rows.iter().for_each(|(sku, color, qty)| lines.push_str(&format!("{sku},{color},{qty}\n")));
        let stream = stream(&rows);
        let free = &mut |_| Ok(());
        let report = |name: &str, bytes: &[u8], decode: &dyn Fn(Vec<u8>) -> Columns| {
            let took = time(bytes, decode);
            assert_eq!(decode(bytes.to_vec()).len() as u64, ROWS);
            println!(
                "  {name:6} {:6.1} MB {:8.1} ms {:12.0} rows/s",
                bytes.len() as f64 / 1e6,
                took.as_secs_f64() * 1e3,
                ROWS as f64 / took.as_secs_f64()
            );
        };
        report("arrow", &stream, &|bytes| arrow(&schema, bytes, &mut |_| Ok(())).unwrap());
        report("json", text.as_bytes(), &|bytes| json(&schema, &bytes, &mut |_| Ok(())).unwrap().unwrap());
        report("csv", lines.as_bytes(), &|bytes| csv(&schema, &bytes, &mut |_| Ok(())).unwrap());
        let columns = arrow(&schema, stream, free).unwrap();
        let took = time(&[], |_| Bulk::new(schema.clone(), columns.clone()));
        println!("  to sort {:18.1} ms", took.as_secs_f64() * 1e3);
    }
}
