//! Replies that are read from a snapshot, long after their transaction has ended.

use std::sync::Arc;

use components::language::collection::snapshot::{RowsReader, RowsetSnapshot};
use components::language::decode;
use components::language::reference::Verb;
use components::rows::bulk::Bulk;
use components::rows::columns::Columns;
use components::rows::scan::in_turn;
use components::rows::schema::{CollectionKind, Schema};
use components::transaction::RequestId;
use components::{Number, Request, State, Value};
use io::json;
use serde_json::json;
use world::load::page_loader;
use world::{Input, InspectQuery};

use crate::machine::{Machine, MachineOptions, get, on_program_stack, put, request};

pub const ITEMS: &str = "/app/shop/items";

/// Enough for several pages, of which memory holds hardly one.
pub const ROWS: u64 = 20_000;
const PAGE_CACHE_BYTES: u64 = 100_000;

fn schema() -> serde_json::Value {
    json!([
        [
            [["sku", "/state/scalar/value/number/uint/64"]],
            [["color", "/state/scalar/value/string", 32], ["qty", "/state/scalar/value/number/int/32"]]
        ],
        [["by_color", ["color"]]]
    ])
}

pub fn row(sku: u64, qty: i32) -> [Value; 3] {
    [sku.into(), format!("color {}", sku % 7).as_str().into(), Number::I32(qty).into()]
}

pub fn options() -> MachineOptions {
    let table = || json!({"/state/chain/sync": [{"/state/collection/table": [schema()]}]});
    let clusters = json!({"/app/shop": {"items": table(), "others": table()}});
    let mut options = MachineOptions::new(11, &clusters);
    options.limits.page_cache_bytes = PAGE_CACHE_BYTES;
    options
}

fn machine() -> Machine {
    let mut machine = Machine::new(options());
    machine.leaves_streams = true;
    machine
}

/// Put a row with this quantity in the place of every row.
pub fn stock(machine: &mut Machine, qty: i32) {
    let (status, body) = machine.call(stocking(ITEMS, qty));
    assert_eq!(status, 200, "{body}");
}

/// A request that puts a row with this quantity in the place of every row.
pub fn stocking(path: &str, qty: i32) -> Request {
    let declared = json::with_copy(schema().to_string().as_bytes(), decode::state).expect("a schema");
    let schema = Arc::new(Schema::declared(CollectionKind::Table, &declared).expect("a schema"));
    let rows: Vec<_> = (0..ROWS).map(|sku| row(sku, qty)).collect();
    let columns = Columns::from_rows(&schema.layouts()[0].types, rows.iter().map(|row| &row[..]));
    let bulk = State::Bulk(Arc::new(Bulk::new(schema, columns)));
    Request { body: bulk, ..put(path, json!(null)) }
}

/// How many rows there are in [`in_small_pages`].
pub const SMALL_ROWS: u64 = 6_000;

/// A machine with many small pages of [`ITEMS`].
pub fn in_small_pages(page_cache_bytes: u64) -> Machine {
    let mut options = options();
    options.limits.page_size.rows = 16;
    options.limits.fold_rows_min = 2;
    options.limits.effects_bytes_max = 0;
    options.limits.page_cache_bytes = page_cache_bytes;
    let mut machine = Machine::new(options);
    for first in (0..SMALL_ROWS).step_by(500) {
        let rows = (first..first + 500).map(|sku| {
            let row = json!([format!("color {}", sku % 7), 1]);
            request(Verb::Put, ITEMS, json!([sku]), row)
        });
        assert!(machine.call_all(rows.collect()).iter().all(|(status, _)| *status == 200));
    }
    machine.settle(Vec::new());
    machine
}

/// Tick until a request is answered with rows that are still to be read.
pub fn stream(machine: &mut Machine, request: Request) -> (RequestId, Arc<RowsetSnapshot>) {
    let (id, event) = machine.ask(request);
    let mut events = vec![event];
    for _ in 0..1_000 {
        let outputs = machine.tick(std::mem::take(&mut events)).expect("a disk without faults");
        for (answered, reply) in outputs.replies {
            if answered == id {
                let State::Snapshot(snapshot) = reply.expect("a good answer") else {
                    panic!("the rows were read in the transaction");
                };
                return (id, snapshot);
            }
        }
    }
    panic!("no answer");
}

/// All rows of a snapshot, without the world.
pub fn read(machine: &Machine, snapshot: &Arc<RowsetSnapshot>) -> Result<Vec<Vec<Value>>, String> {
    let storage = machine.reader();
    let mut reader = RowsReader::new(snapshot.clone());
    let mut rows = Vec::new();
    while let Some(columns) = reader.next(&page_loader(&storage), &in_turn)? {
        rows.extend((0..columns.len()).map(|row| columns.row(row).to_vec()));
    }
    Ok(rows)
}

pub fn texts(rows: impl IntoIterator<Item = Vec<Value>>) -> Vec<String> {
    rows.into_iter().map(|row| format!("{row:?}")).collect()
}

pub fn retired_pages(machine: &mut Machine) -> u64 {
    let inspected = machine.host.inspect(&InspectQuery { limit: 1, ..Default::default() });
    inspected["retired_pages"].as_u64().expect("a number")
}

#[test]
fn what_a_reply_shows_is_kept_until_it_is_read() {
    on_program_stack(|| {
        let mut machine = machine();
        stock(&mut machine, 1);
        let by_color = request(Verb::Get, &format!("{ITEMS}/order"), json!([["color"], false]), json!(null));
        let (plain_id, plain) = stream(&mut machine, get(ITEMS));
        let (ordered_id, ordered) = stream(&mut machine, by_color);
        for qty in 2..5 {
            stock(&mut machine, qty);
        }
        machine.settle(Vec::new());
        assert!(retired_pages(&mut machine) > 0, "pages that are to be read are kept");

        let expected: Vec<Vec<Value>> = (0..ROWS).map(|sku| row(sku, 1).to_vec()).collect();
        assert_eq!(texts(read(&machine, &plain).unwrap()), texts(expected.clone()));
        let mut sorted = expected.clone();
        sorted.sort_by_key(|row| (row[1].to_string(), row[0].to_string().parse::<u64>().unwrap()));
        assert_eq!(texts(read(&machine, &ordered).unwrap()), texts(sorted));

        machine.settle(vec![Input::Unpin(plain_id)]);
        assert!(retired_pages(&mut machine) > 0, "the other one is still to be read");
        machine.settle(vec![Input::Unpin(ordered_id)]);
        assert_eq!(retired_pages(&mut machine), 0);
        assert!(read(&machine, &plain).is_err(), "a page that is gone is an error, not a row less");
        let (_, now) = stream(&mut machine, get(ITEMS));
        let expected = (0..ROWS).map(|sku| row(sku, 4).to_vec());
        assert_eq!(texts(read(&machine, &now).unwrap()), texts(expected));
    });
}
