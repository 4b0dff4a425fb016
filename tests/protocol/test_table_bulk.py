"""
Rows in bulk, in and out of hosted collections, as Arrow streams, CSV and JSON; read with pyarrow and pandas.

`PUT <collection>` without a key upserts all rows of its body in one transaction, or none. `Accept` asks for a collection
as an Arrow stream or as CSV.
"""

import base64
import concurrent.futures
import csv
import http.client
import io
import json
import os
import random
import shutil
import socket
import time
import urllib.parse

import pandas
import pyarrow
import pyarrow.ipc
import pytest
import tinychain as tc

import support
import tbon
from page02 import KEYS, ROW_1, ROW_2, ROW_3, ROWS, after, column, table, tree
from support import HYPOTHETICAL, N, OP, R, V

ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
JSON = "application/json"
WAREHOUSE = "/app/warehouse"
ITEMS = WAREHOUSE + "/items"
TREE = WAREHOUSE + "/tree"

COLORED = tc.table.Schema(
    [tc.Column("sku", tc.U64)],
    [tc.Column("color", tc.String, 32), tc.Column("qty", tc.I32)]).create_index("by_color", ["color"])
CITIES = [tc.Column("city", tc.String, 64), tc.Column("pop", tc.U32)]

# name, type of the column, maximum length, type in Arrow, values
TYPES = [
    ("i16", tc.I16, None, pyarrow.int16(), [-2**15, 0, 2**15 - 1]),
    ("i32", tc.I32, None, pyarrow.int32(), [-2**31, 0, 2**31 - 1]),
    ("i64", tc.I64, None, pyarrow.int64(), [-2**63, 0, 2**63 - 1]),
    ("u8", tc.U8, None, pyarrow.uint8(), [0, 1, 2**8 - 1]),
    ("u16", tc.U16, None, pyarrow.uint16(), [0, 1, 2**16 - 1]),
    ("u32", tc.U32, None, pyarrow.uint32(), [0, 1, 2**32 - 1]),
    ("u64", tc.U64, None, pyarrow.uint64(), [0, 1, 2**64 - 1]),
    ("f32", tc.F32, None, pyarrow.float32(), [-0.5, 0, 2.0**100]),
    ("f64", tc.F64, None, pyarrow.float64(), [-0.1, 0, 1e300]),
    ("bool", tc.Bool, None, pyarrow.bool_(), [True, False, True]),
    ("text", tc.String, 40, pyarrow.utf8(), ["", "é\n\"quoted\", with comma", "\U0001f600"]),
]
TYPED = tc.table.Schema(
    [tc.Column("id", tc.I64)],
    [tc.Column(name, dtype, max_len) if max_len else tc.Column(name, dtype) for name, dtype, max_len, _, _ in TYPES])
TYPED_ROWS = [list(row) for row in zip([1, 2, 3], *(values for *_, values in TYPES))]


class Warehouse(tc.Cluster):
    __uri__ = tc.URI(WAREHOUSE)

    def _configure(self):
        self.items = tc.chain.Block(tc.table.Table(COLORED))
        self.sync_items = tc.chain.Sync(tc.table.Table(COLORED))
        self.tree = tc.chain.Sync(tc.btree.BTree(CITIES))
        self.typed = tc.chain.Sync(tc.table.Table(TYPED))
        self.both = tc.chain.Sync(tc.Tuple([tc.btree.BTree(CITIES), tc.table.Table(COLORED)]))
        self.number = tc.chain.Sync(tc.Number(5))

    @tc.get_method
    def of_color(self, key: tc.String):
        return self.items.where({"color": key})

    @tc.get_method
    def newest(self):
        return self.items.order_by(["sku"], True).limit(2)

    @tc.get_method
    def cities(self, key: tc.String):
        return self.tree[key]

    @tc.get_method
    def count(self):
        return self.items.count()


@pytest.fixture
def warehouse(serve):
    return serve(Warehouse)


@pytest.fixture
def stocked(warehouse):
    """The rows and keys of page 02."""

    assert put(warehouse, ITEMS, JSON, json.dumps(ROWS)) == (200, None)
    for key in KEYS:
        warehouse.put(TREE, None, key)

    return warehouse


# Requests

def put(host, path, content_type, body):
    """PUT without a key. Returns (status, decoded reply)."""

    return support.call(host, "PUT", path, raw=body, headers={"Content-Type": content_type})


def fetch(host, path, accept, key=None, verb="GET", body=None):
    """Returns (status, content type, bytes)."""

    query = "" if key is None else "?key=" + urllib.parse.quote(json.dumps(key), safe="")
    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=60)
    try:
        connection.request(verb, path + query, None if body is None else json.dumps(body), {"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def fetch_arrow(host, path, **request):
    status, content_type, body = fetch(host, path, ARROW, **request)
    assert status == 200, body
    assert content_type == ARROW
    return pyarrow.ipc.open_stream(body).read_all()


def fetch_csv(host, path, **request):
    """The header and the rows, all as text."""

    status, content_type, body = fetch(host, path, CSV, **request)
    assert status == 200, body
    assert content_type.split(";")[0].strip() == CSV
    header, *rows = csv.reader(io.StringIO(body.decode("utf-8"), newline=""))
    return header, rows


def arrow_body(table_or_batches, schema=None):
    sink = io.BytesIO()
    batches = table_or_batches.to_batches() if schema is None else table_or_batches
    with pyarrow.ipc.new_stream(sink, schema or table_or_batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)

    return sink.getvalue()


def arrow_table(rows, names=("sku", "color", "qty"), types=(pyarrow.uint64(), pyarrow.utf8(), pyarrow.int32())):
    columns = zip(*rows) if rows else [[] for _ in names]
    return pyarrow.table([pyarrow.array(list(column), dtype) for column, dtype in zip(columns, types)], names=list(names))


def csv_body(rows, names=("sku", "color", "qty")):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    return text.getvalue()


def bodies(rows):
    """The same rows of the table in each form."""

    return {ARROW: arrow_body(arrow_table(rows)), CSV: csv_body(rows), JSON: json.dumps(rows)}


each_form = pytest.mark.parametrize("form", [ARROW, CSV, JSON], ids=["arrow", "csv", "json"])


# In

@each_form
@pytest.mark.parametrize("path", [ITEMS, WAREHOUSE + "/sync_items", WAREHOUSE + "/both/1"])
def test_rows_are_upserted_in_bulk(warehouse, form, path):
    """Inserted, replaced, in any order; indices follow, and a restart keeps it all."""

    assert put(warehouse, path, form, bodies(ROWS[::-1])[form]) == (200, None)
    assert warehouse.get(path) == table()
    assert put(warehouse, path, form, bodies([[4, "teal", 40], [1, "blue", 11]])[form]) == (200, None)
    left = [[1, "blue", 11], ROW_2, ROW_3, [4, "teal", 40]]
    for _ in range(2):
        assert warehouse.get(path) == table(left)
        assert warehouse.get(path + "/order", [["color"], False]) == table(sorted(left, key=lambda row: (row[1], row[0])))
        assert warehouse.post(path, {"bounds": {"color": "red"}}) == table([ROW_3])
        support.kill(warehouse)
        support.start(warehouse)


@each_form
def test_a_later_row_of_a_body_replaces_an_earlier_one(warehouse, form):
    assert put(warehouse, ITEMS, form, bodies([[1, "red", 1], [2, "red", 2], [1, "blue", 3]])[form]) == (200, None)
    assert warehouse.get(ITEMS) == table([[1, "blue", 3], [2, "red", 2]])
    assert warehouse.get(WAREHOUSE + "/of_color", "red") == table([[2, "red", 2]])


@each_form
def test_no_rows_are_fine(stocked, form):
    assert put(stocked, ITEMS, form, bodies([])[form]) == (200, None)
    assert stocked.get(ITEMS) == table()


@each_form
def test_a_bulk_write_is_one_transaction_of_its_chain(warehouse, form):
    warehouse.put(ITEMS, [9], ["first", 9])
    assert put(warehouse, ITEMS, form, bodies(ROWS)[form]) == (200, None)
    warehouse.put(ITEMS, [10], ["last", 10])
    _, blocks = warehouse.get(ITEMS + "/chain")["/state/chain/block"]
    tbon.verify(blocks)
    assert sum(len(transactions) for _, transactions in blocks) == 3


@each_form
def test_keys_are_inserted_in_bulk(warehouse, form):
    keys = [["Rome", 4], *KEYS, ["Rome", 4]]
    types = [pyarrow.utf8(), pyarrow.uint32()]
    body = {
        ARROW: arrow_body(arrow_table(keys, ["city", "pop"], types)), CSV: csv_body(keys, ["city", "pop"]),
        JSON: json.dumps(keys)}[form]
    for path in (TREE, WAREHOUSE + "/both/0"):
        assert put(warehouse, path, form, body) == (200, None)
        assert warehouse.get(path) == tree(KEYS + [["Rome", 4]])


def test_a_single_key_is_still_a_key(warehouse):
    assert support.call(warehouse, "PUT", TREE, ["Oslo", 5]) == (200, None)
    assert warehouse.get(TREE) == tree([["Oslo", 5]])


@pytest.mark.parametrize("names", [("qty", "sku", "color"), ("color", "qty", "sku")], ids=str)
def test_columns_are_found_by_name(warehouse, names):
    position = ["sku", "color", "qty"]
    rows = [[row[position.index(name)] for name in names] for row in ROWS]
    types = {"sku": pyarrow.uint64(), "color": pyarrow.utf8(), "qty": pyarrow.int32()}
    for path, form, body in [
        (ITEMS, CSV, csv_body(rows, names)),
        (WAREHOUSE + "/sync_items", ARROW, arrow_body(arrow_table(rows, names, [types[name] for name in names]))),
    ]:
        assert put(warehouse, path, form, body) == (200, None)
        assert warehouse.get(path) == table()


@pytest.mark.parametrize("names", [["sku", "color"], ["sku", "color", "nope"], ["color", "qty"], ["sku", "color", "QTY"]], ids=str)
def test_a_missing_column_is_refused_by_its_name(stocked, names):
    missing = next(name for name in ("sku", "color", "qty") if name not in names)
    types = [pyarrow.utf8() if name == "color" else pyarrow.int64() for name in names]
    rows = [["x" if name == "color" else 5 for name in names]]
    for form, body in [(CSV, csv_body(rows, names)), (ARROW, arrow_body(arrow_table(rows, names, types)))]:
        reply = put(stocked, ITEMS, form, body)
        support.assert_reply(reply, 400)
        assert missing in str(reply[1])

    assert stocked.get(ITEMS) == table()


@pytest.mark.parametrize("types", [
    (pyarrow.int8(), pyarrow.large_utf8(), pyarrow.int64()),
    (pyarrow.int64(), pyarrow.utf8(), pyarrow.uint8()),
    (pyarrow.float64(), pyarrow.utf8(), pyarrow.float32()),
    (pyarrow.uint64(), pyarrow.dictionary(pyarrow.int8(), pyarrow.utf8()), pyarrow.int16()),
    (pyarrow.utf8(), pyarrow.utf8(), pyarrow.utf8()),
], ids=str)
def test_other_arrow_types_are_cast(warehouse, types):
    rows = [[str(sku), color, str(qty)] for sku, color, qty in ROWS] if types[0] == pyarrow.utf8() else ROWS
    reply = put(warehouse, ITEMS, ARROW, arrow_body(arrow_table(rows, types=types)))
    assert reply == (200, None), reply
    assert warehouse.get(ITEMS) == table()


def test_many_batches_are_one_transaction(warehouse):
    rows = [[i, f"color {i % 3}", i] for i in range(1000)]
    parts = arrow_table(rows)
    body = arrow_body(parts.to_batches(max_chunksize=7), parts.schema)
    assert put(warehouse, ITEMS, ARROW, body) == (200, None)
    assert warehouse.get(ITEMS) == table(rows)


def test_pandas_writes_a_table(warehouse):
    frame = pandas.DataFrame({"qty": [10, 20, 30], "sku": [1, 2, 3], "color": ["red", "blue", "red"]})
    body = arrow_body(pyarrow.Table.from_pandas(frame, preserve_index=False))
    assert put(warehouse, ITEMS, ARROW, body) == (200, None)
    assert warehouse.get(ITEMS) == table()
    assert put(warehouse, WAREHOUSE + "/sync_items", CSV, frame.to_csv(index=False)) == (200, None)
    assert warehouse.get(WAREHOUSE + "/sync_items") == table()


@pytest.mark.parametrize("text", [
    "sku,color,qty\n1,red,10\n2,blue,20\n3,red,30\n",
    "sku,color,qty\r\n1,red,10\r\n2,blue,20\r\n3,red,30\r\n",
    "sku,color,qty\n1,red,10\n2,blue,20\n3,red,30",
    '"sku","color","qty"\n"1","red","10"\n"2","blue","20"\n"3","red","30"\n',
    "qty,color,sku\n30,red,3\n20,blue,2\n10,red,1\n",
], ids=repr)
def test_csv_in_the_wild(warehouse, text):
    assert put(warehouse, ITEMS, CSV, text) == (200, None)
    assert warehouse.get(ITEMS) == table()
    assert put(warehouse, WAREHOUSE + "/sync_items", CSV + "; charset=utf-8", text) == (200, None)
    assert warehouse.get(WAREHOUSE + "/sync_items") == table()


def test_csv_text_may_hold_anything(warehouse):
    texts = ["", " ", "a,b", 'say "hi"', "two\nlines", "two\r\nlines", "é\U0001f600", "'", "1", "null", "\\n"]
    rows = [[i, text, i] for i, text in enumerate(texts)]
    assert put(warehouse, ITEMS, CSV, csv_body(rows).encode()) == (200, None)
    assert warehouse.get(ITEMS) == table(rows)


# A bad row is named, and nothing is written

def with_bad_third_row(bad):
    return [[4, "teal", 40], [5, "teal", 50], bad, [6, "teal", 60]]


@pytest.mark.parametrize("form, bad", [
    (JSON, [7, "teal"]),
    (JSON, [7, "teal", 70, 1]),
    (JSON, ["x", "teal", 70]),
    (JSON, [7, None, 70]),
    (JSON, [7, "x" * 33, 70]),
    (JSON, [7, "teal", 2**31]),
    (JSON, [-7, "teal", 70]),
    (JSON, 7),
    (JSON, {"sku": 7}),
    (CSV, ["x", "teal", 70]),
    (CSV, ["", "teal", 70]),
    (CSV, [7, "x" * 33, 70]),
    (CSV, [7, "teal", 2**31]),
    (CSV, [-7, "teal", 70]),
    (CSV, [7, "teal"]),
    (CSV, [7, "teal", 70, 1]),
    (ARROW, [7, "x" * 33, 70]),
    (ARROW, [7, None, 70]),
    (ARROW, [7, "teal", 2**31]),
    (ARROW, [-7, "teal", 70]),
], ids=str)
def test_a_bad_row_is_named_and_nothing_is_written(stocked, form, bad):
    rows = with_bad_third_row(bad)
    wide = (pyarrow.int64(), pyarrow.utf8(), pyarrow.int64())
    body = arrow_body(arrow_table(rows, types=wide)) if form == ARROW else bodies_of(rows, form)
    before = stocked.get(ITEMS + "/chain")
    reply = put(stocked, ITEMS, form, body)
    support.assert_reply(reply, 400)
    assert "row 3" in str(reply[1]), reply
    assert stocked.get(ITEMS + "/chain") == before
    assert stocked.get(WAREHOUSE + "/of_color", "teal") == table([])


def bodies_of(rows, form):
    return csv_body(rows) if form == CSV else json.dumps(rows)


def test_a_bad_row_of_a_later_batch_is_counted_from_the_first(stocked):
    rows = [[i, "x" * 33 if i == 95 else "teal", i] for i in range(100)]
    parts = arrow_table(rows)
    reply = put(stocked, ITEMS, ARROW, arrow_body(parts.to_batches(max_chunksize=10), parts.schema))
    support.assert_reply(reply, 400)
    assert "row 96" in str(reply[1])
    assert stocked.get(ITEMS) == table()


def test_a_bad_key_of_a_tree_is_named(stocked):
    reply = put(stocked, TREE, JSON, json.dumps([["Rome", 1], ["Rome", 2], ["Rome", -1]]))
    support.assert_reply(reply, 400)
    assert "row 3" in str(reply[1])
    assert stocked.get(TREE) == tree()


def truncated(body):
    return body[:len(body) // 2]


@pytest.mark.parametrize("form, body", [
    (ARROW, b""),
    (ARROW, b"not arrow"),
    (ARROW, bytes(1000)),
    (ARROW, b"\xff" * 1000),
    (ARROW, arrow_body(arrow_table(ROWS))[:100]),
    (ARROW, truncated(arrow_body(arrow_table(ROWS)))),
    (ARROW, arrow_body(arrow_table(ROWS))[:-16]),
    (ARROW, b"ARROW1\0\0" + arrow_body(arrow_table(ROWS))),
    (ARROW, csv_body(ROWS).encode()),
    (ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
    (CSV, b""),
    (CSV, b"\xff\xfe"),
    (CSV, b"sku,color,qty\n1,\xff,1\n"),
    (CSV, b'sku,color,qty\n1,"unclosed,1\n'),
    (CSV, b"sku,sku,color,qty\n1,1,red,1\n"),
    (JSON, b""),
    (JSON, b"[[1, \"red\", 10]"),
    (JSON, b"5"),
    (JSON, b"\"red\""),
], ids=map(str, range(19)))
def test_a_broken_body_is_refused_and_nothing_is_written(stocked, form, body):
    before = stocked.get(ITEMS + "/chain")
    support.assert_reply(put(stocked, ITEMS, form, body), 400)
    assert stocked.get(ITEMS + "/chain") == before


def test_corrupted_arrow_never_harms_the_host(stocked):
    """Any byte may be anything: the answer is a 400, or a 200 and rows that fit."""

    body = bytearray(arrow_body(arrow_table([[i, f"color {i}", i] for i in range(20)])))
    random_bytes = random.Random(7)
    for _ in range(150):
        corrupted = bytearray(body)
        for _ in range(random_bytes.randint(1, 4)):
            corrupted[random_bytes.randrange(len(corrupted))] = random_bytes.randrange(256)

        status, reply = put(stocked, ITEMS, ARROW, bytes(corrupted))
        assert status in (200, 400, 413), reply

    assert support.is_running(stocked)
    rows = stocked.get(ITEMS + "/rows")
    assert all(len(row) == 3 and len(row[1]) <= 32 for row in rows)
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    # The index has each row once, where its color is.
    for color in {row[1] for row in rows}:
        found = stocked.post(ITEMS + "/rows", {"color": color})
        assert sorted(found) == [row for row in rows if row[1] == color]


@pytest.mark.parametrize("path", [WAREHOUSE + "/number", WAREHOUSE + "/of_color", WAREHOUSE + "/nope", "/state", HYPOTHETICAL])
@pytest.mark.parametrize("form", [ARROW, CSV], ids=["arrow", "csv"])
def test_only_collections_take_rows(stocked, path, form):
    status, reply = put(stocked, path, form, bodies(ROWS)[form])
    assert 400 <= status < 500, reply
    assert stocked.get(WAREHOUSE + "/number") == 5


def test_bulk_writes_and_single_writes_at_once(warehouse):
    """Every reply is a 200, and every row is what one of its writers wrote."""

    def bulk(i):
        return put(warehouse, ITEMS, JSON, json.dumps([[sku, f"bulk {i}", i] for sku in range(100)]))

    def single(i):
        return support.call(warehouse, "PUT", ITEMS, [f"single {i}", i], key=[i % 100])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = [pool.submit(bulk if i % 10 == 0 else single, i) for i in range(200)]
        assert {reply.result() for reply in replies} == {(200, None)}

    rows = warehouse.get(ITEMS + "/rows")
    assert [sku for sku, _, _ in rows] == list(range(100))
    assert all(color in (f"bulk {qty}", f"single {qty}") for _, color, qty in rows)


# Out

def test_arrow_has_the_types_of_the_columns(warehouse):
    assert put(warehouse, WAREHOUSE + "/typed", JSON, json.dumps(TYPED_ROWS)) == (200, None)
    fetched = fetch_arrow(warehouse, WAREHOUSE + "/typed")
    assert fetched.schema.names == ["id", *(name for name, *_ in TYPES)]
    assert [field.type for field in fetched.schema] == [pyarrow.int64(), *(dtype for _, _, _, dtype, _ in TYPES)]
    assert [list(row.values()) for row in fetched.to_pylist()] == TYPED_ROWS
    assert all(column.null_count == 0 for column in fetched.columns)

    frame = fetched.to_pandas()
    assert frame["u64"].tolist() == [0, 1, 2**64 - 1]
    assert frame["text"].tolist() == TYPES[-1][-1]


@pytest.mark.parametrize("form, accept", [(ARROW, ARROW), (CSV, CSV)], ids=["arrow", "csv"])
def test_what_comes_out_goes_in_again(warehouse, form, accept):
    assert put(warehouse, WAREHOUSE + "/typed", JSON, json.dumps(TYPED_ROWS)) == (200, None)
    before = warehouse.get(WAREHOUSE + "/typed")
    _, _, body = fetch(warehouse, WAREHOUSE + "/typed", accept)
    for sku in (1, 2, 3):
        warehouse.delete(WAREHOUSE + "/typed", [sku])

    assert warehouse.get(WAREHOUSE + "/typed/count") == 0
    assert put(warehouse, WAREHOUSE + "/typed", form, body) == (200, None)
    assert warehouse.get(WAREHOUSE + "/typed") == before


def test_columns_of_other_types_are_json_text(host):
    complex_number = {N + "/complex/64": [1, 2]}
    columns = [column("id", N + "/uint/64"), column("any", V, 99), column("link", V + "/link", 99), column("tuple", V + "/tuple", 99),
               column("z", N + "/complex/64"), column("bytes", V + "/bytes", 99)]
    rows = [[1, None, {"/a": []}, [1, "a"], complex_number, base64.b64encode(b"\x00\xff").decode()]]
    body = [["t", table(rows, [[columns[:1], columns[1:]], []])]]
    fetched = fetch_arrow(host, HYPOTHETICAL, verb="POST", body=body)
    assert [field.type for field in fetched.schema] == [
        pyarrow.uint64(), *[pyarrow.utf8()] * 4, pyarrow.binary()]
    [row] = fetched.to_pylist()
    assert row["bytes"] == b"\x00\xff"
    assert row["any"] is None
    assert [json.loads(row[name]) for name in ("link", "tuple", "z")] == rows[0][2:5]


COLUMNS = ["sku", "color", "qty"]

READS = [
    (ITEMS, {}, COLUMNS, ROWS),
    (ITEMS, {"verb": "POST", "body": {"bounds": {"color": "red"}}}, COLUMNS, [ROW_1, ROW_3]),
    (ITEMS, {"verb": "POST", "body": {"bounds": {"sku": 99}}}, COLUMNS, []),
    (ITEMS + "/order", {"key": [["color"], True]}, COLUMNS, [ROW_3, ROW_1, ROW_2]),
    (ITEMS + "/order", {"key": [["qty"], True]}, COLUMNS, [ROW_3, ROW_2, ROW_1]),
    (ITEMS + "/limit", {"key": 2}, COLUMNS, [ROW_1, ROW_2]),
    (ITEMS + "/select", {"key": ["sku", "qty"]}, ["sku", "qty"], [[1, 10], [2, 20], [3, 30]]),
    (ITEMS + "/select", {"key": ["color"]}, ["color"], [["red"], ["blue"], ["red"]]),
    (TREE, {}, ["city", "pop"], KEYS),
    (TREE, {"key": ["Oslo"]}, ["city", "pop"], KEYS[1:4]),
    (TREE, {"verb": "POST", "body": {"range": ["Oslo"], "reverse": True}}, ["city", "pop"], KEYS[3:0:-1]),
    (TREE + "/reverse", {}, ["city", "pop"], KEYS[::-1]),
    (WAREHOUSE + "/of_color", {"key": "red"}, COLUMNS, [ROW_1, ROW_3]),
    (WAREHOUSE + "/newest", {}, COLUMNS, [ROW_3, ROW_2]),
    (WAREHOUSE + "/cities", {"key": "Oslo"}, ["city", "pop"], KEYS[1:4]),
    (WAREHOUSE + "/both/1", {}, COLUMNS, []),
    (HYPOTHETICAL, {"verb": "POST", "body": [["t", table()], ["r", {"$t/order": [["color"]]}]]}, COLUMNS, [ROW_2, ROW_1, ROW_3]),
    (HYPOTHETICAL, {"verb": "POST", "body": [["t", tree()], ["r", {"$t/reverse": [None]}]]}, ["city", "pop"], KEYS[::-1]),
    (HYPOTHETICAL, {"verb": "POST", "body": [
        ["w", {ITEMS: [[4], ["teal", 40]]}], ["r", {"/state/scalar/ref/after": [{"$w": []}, {ITEMS: [None]}]}]]},
     COLUMNS, ROWS + [[4, "teal", 40]]),
]

each_read = pytest.mark.parametrize("path, request_, names, rows", READS, ids=str)


@each_read
def test_arrow_out(stocked, path, request_, names, rows):
    fetched = fetch_arrow(stocked, path, **request_)
    assert fetched.schema.names == names
    types = {"sku": pyarrow.uint64(), "color": pyarrow.utf8(), "qty": pyarrow.int32(), "city": pyarrow.utf8(), "pop": pyarrow.uint32()}
    assert [field.type for field in fetched.schema] == [types[name] for name in names]
    assert [list(row.values()) for row in fetched.to_pylist()] == rows


@each_read
def test_csv_out(stocked, path, request_, names, rows):
    header, lines = fetch_csv(stocked, path, **request_)
    assert header == names
    assert lines == [[str(value) for value in row] for row in rows]


def test_pandas_reads_a_table(stocked):
    frame = fetch_arrow(stocked, ITEMS).to_pandas()
    assert frame.columns.tolist() == COLUMNS
    assert frame.values.tolist() == ROWS
    assert frame.groupby("color")["qty"].sum().to_dict() == {"blue": 20, "red": 40}

    _, _, body = fetch(stocked, ITEMS, CSV)
    pandas.testing.assert_frame_equal(pandas.read_csv(io.BytesIO(body)), frame, check_dtype=False)


def test_csv_out_of_any_text(warehouse):
    texts = ["", " ", "a,b", 'say "hi"', "two\nlines", "two\r\nlines", "é\U0001f600", "'"]
    assert put(warehouse, ITEMS, JSON, json.dumps([[i, text, i] for i, text in enumerate(texts)])) == (200, None)
    _, rows = fetch_csv(warehouse, ITEMS)
    assert [row[1] for row in rows] == texts


@pytest.mark.parametrize("accept", [ARROW, CSV], ids=["arrow", "csv"])
@pytest.mark.parametrize("path, key", [
    (ITEMS + "/count", None), (ITEMS, [1]), (WAREHOUSE + "/count", None), (WAREHOUSE + "/number", None), ("/state", 5), (WAREHOUSE + "/both", None)],
    ids=str)
def test_what_is_no_collection_is_a_clear_bad_request(stocked, accept, path, key):
    status, _, body = fetch(stocked, path, accept, key=key)
    support.assert_reply((status, json.loads(body)), 400)
    [message] = json.loads(body).values()
    assert accept in message or "collection" in message.lower(), message


@pytest.mark.parametrize("accept", [ARROW, CSV], ids=["arrow", "csv"])
@pytest.mark.parametrize("path, key, status", [
    (WAREHOUSE + "/nope", None, 404), (ITEMS + "/select", ["nope"], 404), (ITEMS + "/limit", -1, 400), (ITEMS, 5, 400)], ids=str)
def test_an_error_is_json_whatever_was_accepted(stocked, accept, path, key, status):
    actual, content_type, body = fetch(stocked, path, accept, key=key)
    assert content_type.split(";")[0] == JSON
    support.assert_reply((actual, json.loads(body)), status)


@pytest.mark.parametrize("accept", ["*/*", JSON, "application/json, */*;q=0.5", "text/html"])
def test_everything_else_is_answered_as_json(stocked, accept):
    status, content_type, body = fetch(stocked, ITEMS, accept)
    assert (status, content_type.split(";")[0]) == (200, JSON)
    assert json.loads(body) == table()


# Size

def test_fifty_thousand_rows(warehouse):
    """Through Arrow, CSV and JSON, in random order, and out again."""

    count = 50_000
    rows = [[i, f"color {i % 100}", i * 7 % 1000] for i in range(count)]
    shuffled = rows[:]
    random.Random(3).shuffle(shuffled)
    half = count // 2
    assert put(warehouse, ITEMS, ARROW, arrow_body(arrow_table(shuffled[:half]))) == (200, None)
    assert put(warehouse, ITEMS, CSV, csv_body(shuffled[half:])) == (200, None)
    assert put(warehouse, WAREHOUSE + "/sync_items", JSON, json.dumps(shuffled)) == (200, None)
    assert warehouse.get(ITEMS + "/count") == count

    fetched = fetch_arrow(warehouse, ITEMS)
    assert not any(field.nullable for field in fetched.schema)
    assert fetched.cast(arrow_table(rows).schema).equals(arrow_table(rows))
    assert fetch_arrow(warehouse, WAREHOUSE + "/sync_items").equals(fetched)
    _, lines = fetch_csv(warehouse, ITEMS)
    assert len(lines) == count
    assert lines[-1] == [str(value) for value in rows[-1]]
    by_color = fetch_arrow(warehouse, ITEMS + "/order", key=[["color"], False])
    assert by_color["color"].to_pylist() == sorted(row[1] for row in rows)
    assert fetch_arrow(warehouse, WAREHOUSE + "/of_color", key="color 7").num_rows == 500

    support.kill(warehouse)
    support.start(warehouse)
    assert fetch_arrow(warehouse, ITEMS).equals(fetched)
    assert warehouse.get(ITEMS, [12345]) == rows[12345]


SYNC_ITEMS = WAREHOUSE + "/sync_items"
BEFORE = [[i, "before", -1] for i in range(1000, 3000)]


def many_rows(count, seed):
    """Rows in random order. Some keys come twice, with another color."""

    shuffled = random.Random(seed)
    rows = [[i, f"color {i % 100}", i * 7 % 1000] for i in range(count)] + [[i, "again", 1] for i in range(0, count, 50)]
    shuffled.shuffle(rows)
    return rows


def large_body(form, rows):
    if form == CSV:
        return csv_body(rows)

    batches = arrow_table(rows).to_batches(max_chunksize=2_000)
    return arrow_body(pyarrow.Table.from_batches(batches))


def everything(host):
    """All rows, which the index has, too."""

    rows = fetch_arrow(host, SYNC_ITEMS)
    by_color = fetch_arrow(host, SYNC_ITEMS + "/order", key=[["color"], False])
    assert by_color.sort_by("sku").equals(rows)
    assert host.get(SYNC_ITEMS + "/count") == rows.num_rows
    return rows


@pytest.fixture
def small(serve):
    """A host that holds a megabyte of the rows of a body in memory."""

    host = serve(Warehouse, cache_size="10M", flags=["--max_rows_bytes=20000000"])
    assert put(host, SYNC_ITEMS, ARROW, arrow_body(arrow_table(BEFORE))) == (200, None)
    return host


def workspace_of(tmp_path):
    return os.listdir(tmp_path / "host" / "workspace")


@pytest.mark.parametrize("form", [ARROW, CSV])
def test_a_body_larger_than_memory_is_one_transaction(small, tmp_path, form):
    rows = many_rows(60_000, seed=1)
    body = large_body(form, rows)
    assert len(body) > 1 << 20
    assert put(small, SYNC_ITEMS, form, body) == (200, None)
    last = {row[0]: row for row in rows}
    expected = arrow_table([last[sku] for sku in sorted(last)])
    loaded = everything(small)
    assert loaded.cast(expected.schema).equals(expected)
    _, inspected = support.call(small, "GET", "/debug/world?kind=page&limit=1")
    assert inspected["statistics"]["page_stagings"] > 10
    assert inspected["staged_pages"] == 0
    assert workspace_of(tmp_path) == []

    support.kill(small)
    support.start(small)
    assert everything(small).equals(loaded)


@pytest.mark.parametrize("form", [ARROW, CSV])
def test_a_bad_row_at_the_end_of_a_body_larger_than_memory_leaves_nothing(small, tmp_path, form):
    rows = many_rows(60_000, seed=2)
    before = everything(small)
    status, reply = put(small, SYNC_ITEMS, form, large_body(form, [*rows, [7, "x" * 33, 7]]))
    assert status == 400
    assert f"row {len(rows) + 1}, column color" in reply["/error/bad_request"]
    assert everything(small).equals(before)
    assert workspace_of(tmp_path) == []
    assert put(small, SYNC_ITEMS, form, large_body(form, rows)) == (200, None)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(small, tmp_path):
    before = everything(small)
    body = large_body(CSV, many_rows(60_000, seed=3))
    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(small))
    connection.putrequest("PUT", SYNC_ITEMS)
    connection.putheader("Content-Type", CSV)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body.encode())
    connection.close()
    cut = socket.create_connection(("127.0.0.1", support.port_of(small)))
    cut.sendall(f"PUT {SYNC_ITEMS} HTTP/1.1\r\nHost: x\r\nContent-Type: {CSV}\r\nContent-Length: 9000000\r\n\r\n".encode())
    cut.sendall(body[:1_100_000].encode())
    cut.close()
    deadline = time.monotonic() + 30
    while support.call(small, "GET", "/debug/world?kind=transaction")[1]["entities"]["transaction"]["total"] > 0:
        assert time.monotonic() < deadline

    # The first body was complete: whether it was written before its client went away is not known.
    assert everything(small).num_rows in (before.num_rows, 60_000)
    _, inspected = support.call(small, "GET", "/debug/world?kind=page&limit=1")
    assert inspected["staged_pages"] == 0
    assert workspace_of(tmp_path) == []


def test_a_workspace_that_fails_is_an_error_and_not_the_end(small, tmp_path):
    body = large_body(ARROW, many_rows(60_000, seed=5))
    before = everything(small)
    shutil.rmtree(tmp_path / "host" / "workspace")
    status, reply = put(small, SYNC_ITEMS, ARROW, body)
    assert (status, support.error_name(reply)) == (503, "unavailable")
    assert "workspace" in reply["/error/unavailable"]
    assert everything(small).equals(before)
    (tmp_path / "host" / "workspace").mkdir()
    assert put(small, SYNC_ITEMS, ARROW, body) == (200, None)


def test_kill_during_a_load_that_does_not_fit_in_memory(small, tmp_path):
    body = large_body(ARROW, many_rows(60_000, seed=4))
    before = everything(small)
    kills = 0
    for delay in [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            writing = pool.submit(put, small, SYNC_ITEMS, ARROW, body)
            concurrent.futures.wait([writing], timeout=delay)
            support.kill(small)
            is_written = writing.exception() is None

        support.start(small)
        assert workspace_of(tmp_path) == []
        after = everything(small)
        _, inspected = support.call(small, "GET", "/debug/world?kind=page&limit=0")
        assert inspected["staged_pages"] == 0
        if is_written or not after.equals(before):
            assert after.num_rows == 60_000
            break

        kills += 1

    assert kills > 0
    assert put(small, SYNC_ITEMS, ARROW, body) == (200, None)


@pytest.mark.parametrize("path,bytes_max", [(SYNC_ITEMS, 20_000_000), (ITEMS, 8 << 20)])
def test_the_largest_body_of_rows(small, path, bytes_max):
    """Rows that a history records are in memory: an eighth of the cache, 8 MiB at least, is the limit for them."""

    for length, status in [(bytes_max, 200), (bytes_max + 1, 413)]:
        connection = http.client.HTTPConnection("127.0.0.1", support.port_of(small), timeout=10)
        connection.putrequest("PUT", path)
        connection.putheader("Content-Type", CSV)
        connection.putheader("Content-Length", str(length))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        answer = connection.sock.recv(100).decode()
        connection.close()
        assert answer.startswith(f"HTTP/1.1 {413 if status == 413 else 100} "), answer


def test_explain_a_hosted_table(warehouse):
    count = 20_000
    assert put(warehouse, ITEMS, ARROW, arrow_body(arrow_table([[i, f"color {i % 100}", i % 1000] for i in range(count)]))) == (200, None)

    def plan(body):
        status, plan = support.post(warehouse, [["v", body], ["r", {"$v/explain": [None]}]])
        assert status == 200, plan
        assert {"index", "pages", "pages_read", "rows_read", "rows"} <= set(plan)
        return plan

    for bounds, index, rows in [
        ({"sku": 500}, "primary", 1),
        ({"sku": [["in", 500], ["ex", 600]]}, "primary", 100),
        ({"color": "color 5"}, "by_color", 200),
    ]:
        answered = plan({ITEMS: {"bounds": bounds}})
        assert (answered["index"], answered["rows"]) == (index, rows)
        assert answered["rows_read"] < count
        if index == "primary":
            assert answered["pages_read"] < answered["pages"]

    limited = plan({ITEMS + "/limit": [5]})
    assert limited["rows"] == 5
    assert limited["pages_read"] < limited["pages"]

    status, hosted = support.call(warehouse, "GET", ITEMS + "/explain")
    assert (status, hosted["rows"]) == (200, count)


def test_few_rows_wait_for_no_others(serve):
    """A list of them is as if each had come alone: only these rows are locked, and pages are not written anew."""

    endless = {R + "/while": [{OP + "/post": [["r", True]]}, {OP + "/post": [["r", {"i": 0}]]}, {"i": 0}]}
    hold = {OP + "/post": [["done", {"$self/t": [[1], [0]]}], ["_return", after({"$done": []}, endless)]]}
    rows = {"/state/collection/table": [[[[["k", {N + "/int/64": {}}]], [["v", {N + "/int/64": {}}]]], [["by_v", ["v"]]]]]}
    host = serve({"/app/few": {"t": {"/state/chain/sync": [rows]}, "hold": hold}}, request_ttl="4")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        holder = pool.submit(support.call, host, "POST", "/app/few/hold", {})
        deadline = time.monotonic() + 3
        while support.call(host, "GET", "/debug/world?kind=lock")[1]["entities"]["lock"]["total"] == 0:
            assert time.monotonic() < deadline, "nothing is locked"

        support.assert_reply(support.call(host, "PUT", "/app/few/t", [[2, 5], [3, 6], [2, 7]]), 200)
        assert not holder.done(), "they have waited"
        support.assert_reply(holder.result(), 408)

    assert support.call(host, "GET", "/app/few/t/rows")[1] == [[2, 7], [3, 6]]
