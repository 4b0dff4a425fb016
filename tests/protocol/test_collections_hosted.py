"""
Trees and tables in chains of services: protocol page 02, sections 4, 5 and 9, page 04, sections 3 and 4.

What a method of a collection answers is tested in test_btree.py and test_table.py; here it is tested that a hosted one
is the same, that it is durable and isolated, and that many clients use it at once.
"""

import collections
import concurrent.futures
import itertools
import json
import threading
import time
import urllib.parse

import pytest
import tinychain as tc

import support
import tbon
from page02 import (
    BTREE, CITY, COLOR, KEYS, POP, QTY, ROW_1, ROW_2, ROW_3, ROWS, SKU, TABLE, TABLE_SCHEMA, TREE_SCHEMA, after,
    as_value, delete, selection, table, tree)
from support import HYPOTHETICAL, call, post

STORE = "/app/store"
KINDS = {"sync": tc.chain.Sync, "block": tc.chain.Block}
CITIES = [tc.Column("city", tc.String, 64), tc.Column("pop", tc.U32)]
ITEMS = tc.table.Schema(
    [tc.Column("sku", tc.U64)],
    [tc.Column("color", tc.String, 32), tc.Column("qty", tc.I32)]).create_index("by_color", ["color"])

TTL = 2  # seconds; what waits for a lock that is never released ends after that
SOON = 1  # second; what does not wait is done by then


def forever(first):
    """Do something, then never end."""

    @tc.post_op
    def always(i: tc.Number):
        return tc.Bool(True)

    @tc.post_op
    def same(i: tc.Number):
        return tc.Map(i=i)

    return tc.After(first, tc.While(always, same, tc.Map(i=0)))


class Store(tc.Cluster):
    """A tree and a table in each kind of chain, a chain around both, and the methods of a small shop."""

    __uri__ = tc.URI(STORE)

    def _configure(self):
        for kind, chain in KINDS.items():
            setattr(self, f"{kind}_tree", chain(tc.btree.BTree(CITIES)))
            setattr(self, f"{kind}_table", chain(tc.table.Table(ITEMS)))
            setattr(self, f"{kind}_both", chain(tc.Tuple([tc.btree.BTree(CITIES), tc.table.Table(ITEMS)])))

        self.items = tc.chain.Block(tc.table.Table(ITEMS))
        self.log = tc.chain.Sync(tc.btree.BTree(CITIES))

    @tc.post_method
    def receive(self, sku: tc.U64, color: tc.String, qty: tc.I32):
        return [self.items.insert([sku], [color, qty]), self.log.insert([color, qty])]

    @tc.post_method
    def receive_and_refuse(self, sku: tc.U64):
        return tc.After([self.items.upsert([sku], ["x", 1]), self.log.insert(["x", 1])], tc.error.Forbidden("no"))

    @tc.post_method
    def add(self, txn, sku: tc.U64, by: tc.I32):
        txn.row = tc.Tuple(self.items[[sku]])
        txn.total = tc.I32(tc.If(txn.row.is_none(), 0, txn.row[2])) + by
        return tc.After(self.items.upsert([sku], ["counted", txn.total]), txn.total)

    @tc.post_method
    def move(self, txn, source: tc.U64, target: tc.U64, qty: tc.I32):
        txn.source_row = tc.Tuple(self.items[[source]])
        txn.target_row = tc.Tuple(self.items[[target]])
        return [
            self.items.update_row([source], {"qty": tc.I32(txn.source_row[2]) - qty}),
            self.items.update_row([target], {"qty": tc.I32(txn.target_row[2]) + qty})]

    @tc.get_method
    def total(self):
        @tc.put_op
        def add(key: tc.I32, value: tc.Tuple):
            return key + tc.I32(value[2])

        return [self.items.rows().fold(tc.I32(0), add), self.items.count()]

    @tc.put_method
    def color(self, key: tc.U64, value: tc.String):
        return self.items.update_row([key], {"color": value})

    @tc.delete_method
    def forget(self, key: tc.U64):
        return self.items.delete_row([key])

    @tc.post_method
    def clear(self, color: tc.String):
        return self.items.delete({"color": color})

    @tc.post_method
    def recolor(self, color: tc.String, to: tc.String):
        return self.items.update({"color": to}, {"color": color})

    @tc.get_method
    def of_color(self, key: tc.String):
        return self.items.where({"color": key})

    @tc.get_method
    def colors(self):
        return self.items.aggregate(["color"], tc.table.Table.count)

    @tc.get_method
    def quantities(self):
        @tc.get_op
        def quantity(row: tc.Tuple):
            return row[2]

        return self.items.rows().map(quantity)

    @tc.get_method
    def max_id(self, txn):
        txn.row = tc.Tuple(self.items.order_by(["sku"], True).select(["sku"]).rows().first())
        return tc.U64(tc.If(txn.row.is_none(), 0, txn.row[0]))

    @tc.get_method
    def logged(self, key: tc.String):
        return self.log[key, 5:]

    @tc.post_method
    def write_and_hang(self, sku: tc.U64):
        return forever(self.items.upsert([sku], ["hung", 0]))

    @tc.post_method
    def read_and_hang(self):
        return forever(self.items.count())


class Reseller(tc.Cluster):
    """A service that uses the collections and the methods of another one."""

    __uri__ = tc.URI("/app/reseller")

    def _configure(self):
        self.sales = tc.chain.Sync(tc.table.Table(ITEMS))

    @tc.post_method
    def upsert(self, sku: tc.U64, color: tc.String, qty: tc.I32):
        return tc.use(Store).items.upsert([sku], [color, qty])

    @tc.post_method
    def update(self, sku: tc.U64, qty: tc.I32):
        return tc.use(Store).items.update_row([sku], {"qty": qty})

    @tc.post_method
    def delete(self, sku: tc.U64):
        return tc.use(Store).items.delete_row([sku])

    @tc.post_method
    def log(self, city: tc.String, pop: tc.U32):
        return tc.use(Store).log.insert([city, pop])

    @tc.get_method
    def count_of_color(self, key: tc.String):
        return tc.use(Store).items.where({"color": key}).count()

    @tc.get_method
    def of_color(self, key: tc.String):
        return tc.use(Store).of_color(key)

    @tc.get_method
    def row(self, key: tc.U64):
        return tc.use(Store).items[[key]]

    @tc.post_method
    def sell(self, sku: tc.U64):
        sold = self.sales.upsert([sku], ["sold", 1])
        return tc.After(sold, tc.use(Store).forget(sku))

    @tc.post_method
    def sell_and_refuse(self, sku: tc.U64):
        sold = [self.sales.upsert([sku], ["sold", 1]), tc.use(Store).items.delete_row([sku])]
        return tc.After(sold, tc.error.Forbidden("no"))

    @tc.post_method
    def copy_of(self, color: tc.String):
        @tc.closure
        @tc.get_op
        def sell(row: tc.Tuple):
            return self.sales.upsert([row[0]], [row[1], row[2]])

        return tc.use(Store).items.rows({"color": color}).for_each(sell)


each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def store(serve):
    return serve(Store, Reseller)


@pytest.fixture
def impatient(serve):
    """A store in which what waits ends soon."""

    host = serve(Store, Reseller, request_ttl=str(TTL))
    fill_items(host)
    return host


@pytest.fixture
def items(store):
    """A store with the rows of the page."""

    fill_items(store)
    return store


def fill_items(host):
    for sku, *values in ROWS:
        host.put(STORE + "/items", [sku], values)


def fill(host, path, keys=KEYS, rows=ROWS):
    for key in keys or ():
        assert call(host, "PUT", path, key) == (200, None)

    for sku, *values in rows or ():
        assert call(host, "PUT", path, values, key=[sku]) == (200, None)


def content(host):
    """Everything that a store remembers, histories included."""

    chains = [f"{kind}_{name}" for kind in KINDS for name in ("tree", "table", "both")] + ["items", "log"]
    return {name: host.get(f"{STORE}/{name}/chain") for name in chains} | {"sales": host.get("/app/reseller/sales/chain")}


def in_parallel(function, arguments, threads=64):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, arguments))


# The same collection as in section 4 and section 5.1

def test_the_client_declares_chains_around_collections():
    form = tc.to_json(tc.form_of(Store))
    assert form["sync_tree"] == {"/state/chain/sync": [{BTREE: [TREE_SCHEMA]}]}
    assert form["block_table"] == {"/state/chain/block": [{TABLE: [TABLE_SCHEMA]}]}
    assert form["sync_both"] == {"/state/chain/sync": [[{BTREE: [TREE_SCHEMA]}, {TABLE: [TABLE_SCHEMA]}]]}


@each_kind
def test_a_collection_starts_empty(store, kind):
    assert store.get(f"{STORE}/{kind}_tree") == tree([])
    assert store.get(f"{STORE}/{kind}_table") == table([])
    assert store.get(f"{STORE}/{kind}_tree/count") == 0
    assert store.get(f"{STORE}/{kind}_table/is_empty") is True


TREE_READS = [
    ("GET", "", None, None, 200, tree()),
    ("GET", "", ["Oslo"], None, 200, tree(KEYS[1:4])),
    ("GET", "", "Oslo", None, 200, tree(KEYS[1:4])),
    ("GET", "", ["Oslo", [["in", 5], ["ex", None]]], None, 200, tree(KEYS[2:4])),
    ("POST", "", None, {"range": ["Oslo"], "reverse": True}, 200, tree(KEYS[3:0:-1])),
    ("GET", "/count", None, None, 200, 5),
    ("GET", "/count", ["Oslo"], None, 200, 3),
    ("GET", "/first", None, None, 200, {"city": "Bergen", "pop": 3}),
    ("GET", "/keys", None, None, 200, KEYS),
    ("GET", "/keys", ["Oslo"], None, 200, KEYS[1:4]),
    ("GET", "/reverse", None, None, 200, tree(KEYS[::-1])),
    ("GET", "/schema", None, None, 200, [as_value(CITY), as_value(POP)]),
    ("GET", "/class", None, None, 200, {BTREE: []}),
    ("GET", "/is_none", None, None, 200, False),
    ("GET", "", ["Oslo", "x"], None, 400, None),
    ("GET", "/first", 1, None, 400, None),
    ("PUT", "", ["Oslo"], ["Oslo", 1], 400, None),
    ("PUT", "", None, ["Oslo"], 400, None),
    ("PUT", "", None, "Oslo", 400, None),
    ("PUT", "", None, None, 400, None),
    ("PUT", "/count", None, 1, 405, None),
    ("DELETE", "/keys", None, None, 405, None),
    ("DELETE", "", ["Oslo", "x"], None, 400, None),
]

TABLE_READS = [
    ("GET", "", None, None, 200, table()),
    ("GET", "", [2], None, 200, ROW_2),
    ("GET", "", [9], None, 200, None),
    ("GET", "/contains", [2], None, 200, True),
    ("GET", "/contains", [9], None, 200, False),
    ("POST", "", None, {"bounds": {"color": "red"}}, 200, table([ROW_1, ROW_3])),
    ("POST", "", None, {"bounds": {}}, 200, table()),
    ("GET", "/count", None, None, 200, 3),
    ("GET", "/rows", None, None, 200, ROWS),
    ("POST", "/rows", None, {"color": "red"}, 200, [ROW_1, ROW_3]),
    ("POST", "/rows", None, {}, 200, ROWS),
    ("GET", "/order", [["color"], True], None, 200, table([ROW_3, ROW_1, ROW_2])),
    ("GET", "/limit", 2, None, 200, table([ROW_1, ROW_2])),
    ("GET", "/select", ["qty"], None, 200, selection([], [QTY], [[10], [20], [30]])),
    ("GET", "/columns", None, None, 200, [as_value(SKU), as_value(COLOR), as_value(QTY)]),
    ("GET", "/key_columns", None, None, 200, [as_value(SKU)]),
    ("GET", "/key_names", None, None, 200, [{"sku": []}]),
    ("GET", "/schema", None, None, 200,
     [[[as_value(SKU)], [as_value(COLOR), as_value(QTY)]], [[{"by_color": []}, [{"color": []}]]]]),
    ("GET", "/is_empty", None, None, 200, False),
    ("GET", "/class", None, None, 200, {TABLE: []}),
    ("GET", "/is_none", None, None, 200, False),
    ("GET", "", 2, None, 400, None),
    ("GET", "", ["x"], None, 400, None),
    ("GET", "/count", 1, None, 400, None),
    ("GET", "/select", ["nope"], None, 404, None),
    ("GET", "/nope", None, None, 404, None),
    ("PUT", "", 5, ["grey", 1], 400, None),
    ("PUT", "", [5], ["grey"], 400, None),
    ("PUT", "", [5], "grey", 400, None),
    ("PUT", "", [1], {"nope": 1}, 400, None),
    ("PUT", "", [1], {"sku": 5}, 400, None),
    ("POST", "", None, {"bounds": {"nope": 1}}, 400, None),
    ("POST", "/count", None, {"x": 1}, 405, None),
    ("DELETE", "", None, None, 400, None),
    ("DELETE", "", 1, None, 400, None),
    ("DELETE", "/rows", None, None, 405, None),
]


@each_kind
@pytest.mark.parametrize("name, requests", [("tree", TREE_READS), ("table", TABLE_READS)], ids=["tree", "table"])
@pytest.mark.parametrize("place", ["alone", "both"])
def test_requests_that_change_nothing(store, kind, name, requests, place):
    path = f"{STORE}/{kind}_{name}" if place == "alone" else f"{STORE}/{kind}_both/{('tree', 'table').index(name)}"
    fill(store, path, **{"keys": None} if name == "table" else {"rows": None})
    before = content(store)
    for verb, suffix, key, body, status, expected in requests:
        raw = "null" if verb == "PUT" and body is None else None
        reply = call(store, verb, path + suffix, body, key=key, raw=raw)
        support.assert_reply(reply, status, expected)

    assert content(store) == before


@each_kind
def test_the_same_collection_within_a_context(store, kind):
    path = f"{STORE}/{kind}_table"
    fill(store, path, keys=None)
    body = [
        ["red", {path: {"bounds": {"color": "red"}}}], ["order", {"$red/order": [[["qty"], True]]}],
        ["rows", {"$order/rows": {}}], ["r", [{path + "/count": [None]}, {"$rows": []}, {path: [[2]]}]]]
    support.assert_reply(post(store, body), 200, [3, [ROW_3, ROW_1], ROW_2])


# Writes, and what a chain keeps of them (page 04, section 4)

TREE_WRITES = [("PUT", None, ["Rome", 4]), ("PUT", None, ["Rome", 4]), ("PUT", None, ["Oslo", "7"]), ("DELETE", ["Oslo", 5], None),
               ("DELETE", "Paris", None), ("DELETE", ["Nowhere"], None)]
TREE_LEFT = [["Bergen", 3], ["Oslo", 1], ["Oslo", 7], ["Oslo", 9], ["Rome", 4]]
TABLE_WRITES = [("PUT", [4], ["teal", 40]), ("PUT", [1], {"qty": 11}), ("PUT", [2], ["red", 5]), ("PUT", [99], {"qty": 1}),
                ("DELETE", [3], None), ("DELETE", [99], None)]
TABLE_LEFT = [[1, "red", 11], [2, "red", 5], [4, "teal", 40]]


def write(host, path, writes):
    for verb, key, body in writes:
        assert call(host, verb, path, body, key=key) == (200, None)


def mutations(path, writes):
    return [[path, key, body] if verb == "PUT" else [path, key] for verb, key, body in writes]


def filled(path, keys=(), rows=ROWS):
    return [[path, None, key] for key in keys] + [[path, row[:1], row[1:]] for row in rows]


def test_a_sync_chain_around_a_tree(store):
    path = STORE + "/sync_tree"
    fill(store, path, rows=None)
    write(store, path, TREE_WRITES)
    assert store.get(path) == tree(TREE_LEFT)
    assert store.get(path + "/chain") == {"/state/chain/sync": [{BTREE: [TREE_SCHEMA]}, tree(TREE_LEFT)]}
    assert store.delete(path) is None
    assert store.get(path) == tree([])


def test_a_sync_chain_around_a_table(store):
    path = STORE + "/sync_table"
    fill(store, path, keys=None)
    write(store, path, TABLE_WRITES)
    assert store.get(path) == table(TABLE_LEFT)
    assert store.get(path + "/chain") == {"/state/chain/sync": [{TABLE: [TABLE_SCHEMA]}, table(TABLE_LEFT)]}


def test_a_block_chain_around_a_tree(store):
    path = STORE + "/block_tree"
    fill(store, path, rows=None)
    write(store, path, TREE_WRITES + [("DELETE", None, None)])
    schema, blocks = store.get(path + "/chain")["/state/chain/block"]
    assert schema == {BTREE: [TREE_SCHEMA]}
    assert tbon.verify(blocks) == filled("/", KEYS, []) + mutations("/", TREE_WRITES) + [["/", None]]
    assert store.get(path) == tree([])


def test_a_block_chain_around_a_table(store):
    path = STORE + "/block_table"
    fill(store, path, keys=None)
    write(store, path, TABLE_WRITES)
    schema, blocks = store.get(path + "/chain")["/state/chain/block"]
    assert schema == {TABLE: [TABLE_SCHEMA]}
    assert tbon.verify(blocks) == filled("/") + mutations("/", TABLE_WRITES)
    assert store.get(path) == table(TABLE_LEFT)


def test_chains_around_both(store):
    for kind in KINDS:
        path = f"{STORE}/{kind}_both"
        fill(store, path + "/0", rows=None)
        fill(store, path + "/1", keys=None)
        write(store, path + "/0", TREE_WRITES)
        write(store, path + "/1", TABLE_WRITES)
        assert store.get(path + "/0") == tree(TREE_LEFT)
        assert store.get(path + "/1") == table(TABLE_LEFT)
        assert store.get(path + "/1", [4]) == [4, "teal", 40]
        assert store.get(path) == [tree(TREE_LEFT), table(TABLE_LEFT)]

    schema = [{BTREE: [TREE_SCHEMA]}, {TABLE: [TABLE_SCHEMA]}]
    assert store.get(STORE + "/sync_both/chain") == {"/state/chain/sync": [schema, [tree(TREE_LEFT), table(TABLE_LEFT)]]}
    answered, blocks = store.get(STORE + "/block_both/chain")["/state/chain/block"]
    assert answered == schema
    assert tbon.verify(blocks) == [
        *filled("/0", KEYS, []), *filled("/1"), *mutations("/0", TREE_WRITES), *mutations("/1", TABLE_WRITES)]


def test_a_tree_inserted_into_a_hosted_tree(store):
    path = STORE + "/block_tree"
    support.assert_reply(call(store, "PUT", path, tree(KEYS[::-1])), 200, None)
    assert store.get(path) == tree()
    [[_, transactions]] = store.get(path + "/chain")["/state/chain/block"][1]
    [[mutation]] = transactions.values()
    assert mutation[:2] == ["/", None]
    assert mutation[2] in (tree(), tree(KEYS[::-1]))


@pytest.mark.parametrize("value", [{STORE + "/items/rows": [None]}, {STORE + "/log/keys": [None]}], ids=["rows", "keys"])
def test_a_chain_keeps_no_stream(items, value):
    before = content(items)
    support.assert_reply(post(items, [["r", {STORE + "/block_tree": [None, value]}]]), 400)
    support.assert_reply(call(items, "PUT", STORE + "/block_tree", value), 400)
    assert content(items) == before


def test_many_writes_of_one_method_are_one_transaction(items):
    assert items.post(STORE + "/clear", {"color": "red"}) is None
    assert items.get(STORE + "/items") == table([ROW_2])
    _, blocks = items.get(STORE + "/items/chain")["/state/chain/block"]
    [*_, last] = blocks[-1][1].values()
    assert sorted(last) == [["/", [1]], ["/", [3]]]
    tbon.verify(blocks)


@pytest.mark.parametrize("literal, reply", [
    ({"/state/chain/sync": [{BTREE: [TREE_SCHEMA]}, tree()]}, tree()),
    ({"/state/chain/sync": [{TABLE: [TABLE_SCHEMA]}, table()]}, table()),
    ({"/state/chain/sync": [{TABLE: [TABLE_SCHEMA]}]}, table([])),
    ({"/state/chain/block": [{BTREE: [TREE_SCHEMA]}, [["", {"1-1": [["/", None, ["Oslo", 5]], ["/", None, ["Rome", 4]], ["/", ["Oslo"]]]}]]]},
     tree([["Rome", 4]])),
    ({"/state/chain/block": [{TABLE: [TABLE_SCHEMA]}, [["", {"1-1": [["/", [1], ["red", 10]], ["/", [1], {"qty": 5}]]}]]]},
     table([[1, "red", 5]])),
], ids=str)
def test_a_chain_literal_holds_its_collection(host, literal, reply):
    support.assert_reply(post(host, [["c", literal], ["r", {"$c": [None]}]]), 200, reply)


# Methods

def test_methods_of_the_store(store):
    for sku, color, qty in ROWS:
        assert store.post(STORE + "/receive", {"sku": sku, "color": color, "qty": qty}) == [None, None]

    assert store.get(STORE + "/items") == table()
    assert store.get(STORE + "/log") == tree([["blue", 20], ["red", 10], ["red", 30]])
    assert store.get(STORE + "/of_color", "red") == table([ROW_1, ROW_3])
    assert store.get(STORE + "/colors") == [[["blue"], 1], [["red"], 2]]
    assert store.get(STORE + "/quantities") == [10, 20, 30]
    assert store.get(STORE + "/total") == [60, 3]
    assert store.get(STORE + "/max_id") == 3
    assert store.get(STORE + "/logged", "red") == tree([["red", 10], ["red", 30]])
    assert store.put(STORE + "/color", 2, "cyan") is None
    assert store.get(STORE + "/colors") == [[["cyan"], 1], [["red"], 2]]
    assert store.post(STORE + "/recolor", {"color": "red", "to": "cyan"}) is None
    assert store.get(STORE + "/colors") == [[["cyan"], 3]]
    assert store.delete(STORE + "/forget", 1) is None
    assert store.get(STORE + "/items", [1]) is None
    assert store.post(STORE + "/clear", {"color": "cyan"}) is None
    assert store.get(STORE + "/items") == table([])
    assert store.get(STORE + "/max_id") == 0


def test_an_error_rolls_everything_back(items):
    before = content(items)
    with pytest.raises(tc.error.BadRequest):  # the key is there
        items.post(STORE + "/receive", {"sku": 1, "color": "x", "qty": 1})
    with pytest.raises(tc.error.Forbidden):
        items.post(STORE + "/receive_and_refuse", {"sku": 9})
    with pytest.raises(tc.error.Forbidden):
        items.post("/app/reseller/sell_and_refuse", {"sku": 1})
    with pytest.raises(tc.error.BadRequest):
        items.post(STORE + "/recolor", {"color": "red", "to": "x" * 33})

    assert content(items) == before


def test_methods_of_another_service(items):
    reseller = "/app/reseller"
    assert items.post(reseller + "/upsert", {"sku": 4, "color": "red", "qty": 40}) is None
    assert items.post(reseller + "/update", {"sku": 1, "qty": 11}) is None
    assert items.post(reseller + "/delete", {"sku": 2}) is None
    assert items.post(reseller + "/log", {"city": "Oslo", "pop": 5}) is None
    assert items.get(STORE + "/items") == table([[1, "red", 11], ROW_3, [4, "red", 40]])
    assert items.get(STORE + "/log") == tree([["Oslo", 5]])
    assert items.get(reseller + "/count_of_color", "red") == 3
    assert items.get(reseller + "/of_color", "red") == table([[1, "red", 11], ROW_3, [4, "red", 40]])
    assert items.get(reseller + "/row", 3) == ROW_3
    assert items.get(reseller + "/row", 2) is None
    assert items.post(reseller + "/sell", {"sku": 3}) is None
    assert items.get(STORE + "/items/contains", [3]) is False
    assert items.get(reseller + "/sales") == table([[3, "sold", 1]])
    assert items.post(reseller + "/copy_of", {"color": "red"}) is None
    assert items.get(reseller + "/sales") == table([[1, "red", 11], [3, "sold", 1], [4, "red", 40]])


# Hypothetical transactions

HYPOTHETICAL_WRITES = [
    ({STORE + "/items": [[4], ["teal", 40]]}, {STORE + "/items/count": [None]}, 4),
    ({STORE + "/items": [[1], {"qty": 11}]}, {STORE + "/items": [[1]]}, [1, "red", 11]),
    (delete(STORE + "/items", [1]), {STORE + "/items/rows": {}}, [ROW_2, ROW_3]),
    ({STORE + "/log": [None, ["Oslo", 5]]}, {STORE + "/log": [None]}, tree([["Oslo", 5]])),
    ({STORE + "/sync_both/0": [None, ["Oslo", 5]]}, {STORE + "/sync_both/0/count": [None]}, 1),
    ({STORE + "/receive": {"sku": 9, "color": "x", "qty": 1}}, {STORE + "/of_color": ["x"]}, table([[9, "x", 1]])),
    ({STORE + "/clear": {"color": "red"}}, {STORE + "/items": [None]}, table([ROW_2])),
    ({"/app/reseller/sell": {"sku": 1}}, {"/app/reseller/sales/count": [None]}, 1),
    ([{STORE + "/items": [[i], ["x", i]]} for i in range(10, 20)], {STORE + "/total": [None]}, [205, 13]),
]


@pytest.mark.parametrize("write, read, expected", HYPOTHETICAL_WRITES, ids=str)
def test_a_hypothetical_write_is_seen_and_leaves_no_trace(items, write, read, expected):
    before = content(items)
    support.assert_reply(post(items, [["w", write], ["r", after({"$w": []}, read)]]), 200, expected)
    assert content(items) == before


def test_the_client_tries_something_hypothetically(items):
    store = tc.use(Store)
    cxt = tc.Context()
    cxt.received = store.items.upsert([4], ["teal", 40])
    cxt.result = tc.After(cxt.received, store.items.order_by(["color"]).limit(3))
    before = content(items)
    assert items.post(HYPOTHETICAL, cxt) == table([ROW_2, ROW_1, ROW_3])
    assert content(items) == before


# Order within a transaction, and laziness, over a hosted table

def test_after_orders_writes_and_reads_of_a_hosted_table(items):
    path = STORE + "/items"
    body = [
        ["rows", {path + "/rows": {}}],
        ["first", [{path: [[i], ["x", i]]} for i in (4, 5)]],
        ["second", after({"$first": []}, [delete(path, [4]), {path: [[5], {"qty": 50}]}])],
        ["r", after({"$second": []}, {"$rows": []})]]
    support.assert_reply(post(items, body), 200, ROWS + [[5, "x", 50]])


def test_views_of_a_hosted_table_are_read_when_they_are_consumed(items):
    path = STORE + "/items"
    body = [
        ["red", {path: {"bounds": {"color": "red"}}}], ["rows", {"$red/rows": {}}],
        ["built", [{"$red/is_none": [None]}, {"$rows/class": [None]}]],
        ["written", after({"$built": []}, {path: [[4], ["red", 40]]})],
        ["r", after({"$written": []}, [{"$red/count": [None]}, {"$rows": []}])]]
    support.assert_reply(post(items, body), 200, [3, [ROW_1, ROW_3, [4, "red", 40]]])


def test_rows_of_a_hosted_table_are_written_while_they_are_read(items):
    path = STORE + "/items"
    op = {"/state/scalar/op/get": ["row", [
        ["id", {"$row": [0]}], ["next", {"$id/add": [100]}], ["_return", {path: [[{"$next": []}], ["new", {"$id": []}]]}]]]}
    body = [["rows", {path + "/rows": {}}], ["w", {"$rows/for_each": {"op": op}}], ["r", after({"$w": []}, {path: [None]})]]
    support.assert_reply(post(items, body), 200, table(ROWS + [[101, "new", 1], [102, "new", 2], [103, "new", 3]]))


# Durability

def stop_and_start(host):
    return support.restart(host)


def kill_and_start(host):
    support.kill(host)
    return support.start(host)


@pytest.mark.parametrize("again", [stop_and_start, kill_and_start])
def test_a_restart_keeps_everything(store, again):
    for kind in KINDS:
        fill(store, f"{STORE}/{kind}_tree", rows=None)
        fill(store, f"{STORE}/{kind}_table", keys=None)
        fill(store, f"{STORE}/{kind}_both/0", rows=None)
        fill(store, f"{STORE}/{kind}_both/1", keys=None)

    fill_items(store)
    for round_ in range(3):
        store.post(STORE + "/receive", {"sku": 100 + round_, "color": "é\n", "qty": round_})
        store.post(STORE + "/add", {"sku": 1, "by": 1})
        write(store, STORE + "/block_table", TABLE_WRITES)
        write(store, STORE + "/sync_both/1", TABLE_WRITES)
        store.delete(STORE + "/sync_tree", ["Oslo", round_ * 4 + 1])
        before = content(store)
        by_color = store.get(STORE + "/block_table/order", [["color"], False])
        again(store)
        assert content(store) == before
        assert store.get(STORE + "/block_table/order", [["color"], False]) == by_color
        assert store.get(STORE + "/of_color", "é\n")[TABLE][1] == [[100 + i, "é\n", i] for i in range(round_ + 1)]

    assert store.get(STORE + "/sync_tree") == tree([["Bergen", 3], ["Paris", 2]])
    assert store.get(STORE + "/items", [1]) == [1, "counted", 13]


def test_a_tiny_cache_never_fails_a_request(serve):
    """Each row is larger than the cache."""

    text = tc.Column("text", tc.String, 100_000)

    class Texts(tc.Cluster):
        __uri__ = tc.URI("/app/texts")

        def _configure(self):
            self.texts = tc.chain.Sync(tc.table.Table(tc.table.Schema([tc.Column("id", tc.U64)], [text])))

    host = serve(Texts, cache_size="5K")
    for i in range(50):
        host.put("/app/texts/texts", [i], [f"{i} " + "x" * 20_000])

    for i in range(50):
        assert host.get("/app/texts/texts", [i])[1].startswith(f"{i} x")

    kill_and_start(host)
    rows = host.get("/app/texts/texts/rows")
    assert [row[0] for row in rows] == list(range(50))
    assert all(row[1].startswith(f"{row[0]} x") for row in rows)


# Isolation (section 9)

def slice_json(start, end):
    return [["in", start], ["ex", end]]


def now():
    """A transaction id of the caller's own choice."""

    return f"{time.time_ns()}-7"


def at(host, verb, path, txn_id, body=None, key=None):
    query = f"txn_id={txn_id}"
    if key is not None:
        query += "&key=" + urllib.parse.quote(json.dumps(key), safe="")

    return call(host, verb, path, body, query=query)


def test_a_read_sees_exactly_the_commits_before_it(items):
    txn_id = now()
    items.put(STORE + "/items", [4], ["teal", 40])
    status, reply = at(items, "GET", STORE + "/items/count", txn_id)
    assert (status, reply) == (200, 3)
    status, reply = at(items, "GET", STORE + "/items", now(), key=[4])
    assert (status, reply) == (200, [4, "teal", 40])


@pytest.mark.parametrize("newer", [
    lambda host: host.put(STORE + "/items", [1], ["x", 1]),
    lambda host: host.delete(STORE + "/items", [1]),
    lambda host: host.get(STORE + "/items", [1]),
    lambda host: host.get(STORE + "/items/rows"),
    lambda host: host.get(STORE + "/items/count"),
    lambda host: host.get(STORE + "/items/contains", [1]),
    lambda host: host.post(STORE + "/items", {"bounds": {"sku": slice_json(0, 2)}}),
    lambda host: host.post(STORE + "/add", {"sku": 1, "by": 1}),
], ids=["put", "delete", "get", "rows", "count", "contains", "where", "method"])
def test_a_write_before_what_somebody_has_read_or_written_is_a_conflict(items, newer):
    earlier, later = now(), now()
    newer(items)
    before = content(items)
    support.assert_reply(at(items, "PUT", STORE + "/items", later, ["late", 0], key=[1]), 409)
    support.assert_reply(at(items, "DELETE", STORE + "/items", earlier, key=[1]), 409)
    assert content(items) == before


@pytest.mark.parametrize("newer", [
    lambda host: host.get(STORE + "/items", [99]),
    lambda host: host.get(STORE + "/items/contains", [99]),
    lambda host: host.get(STORE + "/items/count"),
    lambda host: host.post(STORE + "/items/rows", {"sku": slice_json(50, 200)}),
    lambda host: host.post(STORE + "/items/rows", {"color": "late"}),
], ids=["get", "contains", "count", "range", "index"])
def test_a_row_never_appears_in_what_somebody_has_read(items, newer):
    """No phantoms: that a row is absent has been read as well."""

    txn_id = now()
    newer(items)
    support.assert_reply(at(items, "PUT", STORE + "/items", txn_id, ["late", 0], key=[99]), 409)
    assert items.get(STORE + "/items", [99]) is None


def test_what_another_transaction_has_not_committed_is_waited_for(impatient):
    """A row that is being written is read when its writer has ended, here by its time limit, and is then as it was."""

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        hung = pool.submit(call, impatient, "POST", STORE + "/write_and_hang", {"sku": 1})
        time.sleep(0.3)
        started = time.monotonic()
        reply = call(impatient, "GET", STORE + "/items", key=[1])
        waited = time.monotonic() - started
        support.assert_reply(hung.result(), 408)

    assert reply == (200, ROW_1)
    assert waited > 0.5
    assert impatient.get(STORE + "/items") == table()


def test_clients_on_different_keys_do_not_wait_for_each_other(impatient):
    """While one client has written row 2 and does not end, others read and write every other row."""

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        hung = pool.submit(call, impatient, "POST", STORE + "/write_and_hang", {"sku": 2})
        time.sleep(0.3)
        started = time.monotonic()
        assert impatient.put(STORE + "/items", [1], ["red", 11]) is None
        assert impatient.put(STORE + "/items", [3], {"qty": 33}) is None
        assert impatient.put(STORE + "/items", [50], ["new", 5]) is None
        assert impatient.delete(STORE + "/items", [50]) is None
        assert impatient.get(STORE + "/items", [1]) == [1, "red", 11]
        assert impatient.get(STORE + "/items/contains", [3]) is True
        assert impatient.post(STORE + "/items/rows", {"sku": slice_json(3, 90)}) == [[3, "red", 33]]
        assert time.monotonic() - started < SOON
        assert not hung.done()
        support.assert_reply(hung.result(), 408)

    assert impatient.get(STORE + "/items") == table([[1, "red", 11], ROW_2, [3, "red", 33]])


def test_readers_never_wait_for_later_writers_nor_writers_for_earlier_readers(impatient):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        hung = pool.submit(call, impatient, "POST", STORE + "/read_and_hang", {})
        time.sleep(0.3)
        started = time.monotonic()
        assert impatient.put(STORE + "/items", [1], ["red", 11]) is None
        assert impatient.get(STORE + "/items/count") == 3
        assert impatient.get(STORE + "/items", [1]) == [1, "red", 11]
        assert time.monotonic() - started < SOON
        support.assert_reply(hung.result(), 408)


def test_hypothetical_transactions_delay_nobody(impatient):
    loop = tc.Context()
    loop.result = forever(tc.use(Store).items.upsert([1], ["x", 1]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        hung = pool.submit(post, impatient, tc.to_json(loop))
        time.sleep(0.3)
        started = time.monotonic()
        assert impatient.put(STORE + "/items", [1], ["red", 11]) is None
        assert impatient.get(STORE + "/items", [1]) == [1, "red", 11]
        assert time.monotonic() - started < SOON
        support.assert_reply(hung.result(), 408)


# Many clients at once

THREADS = 64
HOT = 10


def test_64_clients_upsert_10_hot_rows(store):
    """No 409, nothing lost: each reply is a 200, each write is in the history, each row is what was written last."""

    writes = [(i % HOT, [f"color {i}", i]) for i in range(THREADS * 10)]
    replies = in_parallel(lambda write: call(store, "PUT", STORE + "/items", write[1], key=[write[0]]), writes, THREADS)
    assert collections.Counter(status for status, _ in replies) == {200: len(writes)}

    _, blocks = store.get(STORE + "/items/chain")["/state/chain/block"]
    recorded = tbon.verify(blocks)
    assert sorted((key[0], values) for _, key, values in recorded) == sorted(writes)
    last = {key[0]: values for _, key, values in recorded}
    assert store.get(STORE + "/items") == table([[sku, *last[sku]] for sku in range(HOT)])
    for sku, (color, qty) in last.items():
        assert store.get(STORE + "/of_color", color) == table([[sku, color, qty]])

    by_color = sorted(([sku, *values] for sku, values in last.items()), key=lambda row: (row[1], row[0]))
    assert store.get(STORE + "/items/order", [["color"], False]) == table(by_color)


def test_64_clients_increment_10_hot_rows(store):
    counts = [(i % HOT) for i in range(THREADS * 10)]
    replies = in_parallel(lambda sku: call(store, "POST", STORE + "/add", {"sku": sku, "by": 1}), counts, THREADS)
    assert collections.Counter(status for status, _ in replies) == {200: len(counts)}
    per_row = len(counts) // HOT
    assert store.get(STORE + "/items") == table([[sku, "counted", per_row] for sku in range(HOT)])
    answers = collections.defaultdict(list)
    for sku, (_, total) in zip(counts, replies):
        answers[sku].append(total)

    assert all(sorted(totals) == list(range(1, per_row + 1)) for totals in answers.values())


def test_clients_on_different_keys(store):
    skus = range(THREADS * 10)
    replies = in_parallel(lambda sku: call(store, "PUT", STORE + "/items", ["even" if sku % 2 == 0 else "odd", sku], key=[sku]), skus, THREADS)
    assert collections.Counter(status for status, _ in replies) == {200: len(skus)}
    assert store.get(STORE + "/items/count") == len(skus)
    assert store.get(STORE + "/colors") == [[["even"], len(skus) // 2], [["odd"], len(skus) // 2]]
    replies = in_parallel(lambda sku: call(store, "DELETE", STORE + "/items", key=[sku]), skus[::2], THREADS)
    assert collections.Counter(status for status, _ in replies) == {200: len(skus) // 2}
    assert store.get(STORE + "/colors") == [[["odd"], len(skus) // 2]]


def test_clients_insert_into_one_tree(store):
    keys = [["Oslo", i % 200] for i in range(400)]
    replies = in_parallel(lambda key: call(store, "PUT", STORE + "/log", key), keys)
    assert collections.Counter(status for status, _ in replies) == {200: len(keys)}
    assert store.get(STORE + "/log") == tree([["Oslo", i] for i in range(200)])


def test_only_one_client_inserts_a_row(store):
    """`insert` of the client is a read and a write: of many at once with the same key, one succeeds."""

    replies = in_parallel(lambda i: call(store, "POST", STORE + "/receive", {"sku": 7, "color": "x", "qty": i}), range(32), 32)
    assert collections.Counter(status for status, _ in replies) == {200: 1, 400: 31}
    [winner] = [i for i, (status, _) in enumerate(replies) if status == 200]
    assert store.get(STORE + "/items") == table([[7, "x", winner]])
    assert store.get(STORE + "/log") == tree([["x", winner]])


def test_every_reader_sees_a_whole_transaction(store):
    """While quantities move between rows, their sum, and the number of rows, is always the same."""

    rows = [[i, "x", 100] for i in range(HOT)]
    fill(store, STORE + "/items", keys=None, rows=rows)
    done = threading.Event()
    totals = []

    def read():
        while not done.is_set():
            totals.append(call(store, "GET", STORE + "/total"))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()

    pairs = list(itertools.islice(itertools.permutations(range(HOT), 2), 80)) * 2
    try:
        replies = in_parallel(
            lambda pair: call(store, "POST", STORE + "/move", {"source": pair[0], "target": pair[1], "qty": 1}), pairs, 8)
    finally:
        done.set()
        for reader in readers:
            reader.join()

    assert collections.Counter(status for status, _ in replies) == {200: len(pairs)}
    assert totals and all(total == (200, [100 * HOT, HOT]) for total in totals)
    expected = {i: 100 for i in range(HOT)}
    for source, target in pairs:
        expected[source] -= 1
        expected[target] += 1

    assert store.get(STORE + "/items") == table([[sku, "x", qty] for sku, qty in expected.items()])


def test_indices_agree_with_rows_while_everything_changes(store):
    """Rows are recoloured, deleted and written again; an index never shows another row than the table does."""

    def change(i):
        sku = i % 20
        if i % 5 == 0:
            return call(store, "DELETE", STORE + "/items", key=[sku])
        elif i % 5 == 1:
            return call(store, "PUT", STORE + "/items", {"color": f"color {i % 3}"}, key=[sku])
        else:
            return call(store, "PUT", STORE + "/items", [f"color {i % 4}", i], key=[sku])

    body = [
        ["rows", {STORE + "/items/rows": {}}], ["v", {STORE + "/items/order": [["color"]]}], ["ordered", {"$v/rows": {}}],
        ["r", [{"$rows": []}, {"$ordered": []}]]]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        changes = [pool.submit(change, i) for i in range(600)]
        for _ in range(20):
            status, reply = post(store, body)
            assert status == 200, reply
            rows, ordered = reply
            assert ordered == sorted(rows, key=lambda row: (row[1], row[0]))

        assert {change.result() for change in changes} == {(200, None)}

    rows = store.get(STORE + "/items/rows")
    kill_and_start(store)
    assert store.get(STORE + "/items/rows") == rows
    assert store.get(STORE + "/items/order", [["color"], False]) == table(sorted(rows, key=lambda row: (row[1], row[0])))
