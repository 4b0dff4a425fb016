"""
Chains around collections that live in a transaction, and collections as values in histories: protocol page 04, section 4.

Chains around values are tested in test_value_chains.py, hosted chains around collections in test_collections_hosted.py.
"""

import base64
import concurrent.futures

import pytest
import tinychain as tc

import support
import tbon
from page02 import (
    BTREE, COLOR, KEYS, QTY, ROW_1, ROW_2, ROW_3, ROWS, SKU, TABLE, TABLE_SCHEMA, TREE_SCHEMA, after, capture, column,
    delete, table, tree)
from support import HYPOTHETICAL, N, OP, R, V, call, post

SHOP = "/app/shop"
KINDS = ("sync", "block")
each_kind = pytest.mark.parametrize("kind", KINDS)

DECLARED_TREE = {BTREE: [TREE_SCHEMA]}
DECLARED_TABLE = {TABLE: [TABLE_SCHEMA]}
KEYED = [column("id", V + "/id", 32), column("bytes", V + "/bytes", 32), column("x", N + "/float/32"), column("v", V, 64)]


def chain(kind, *parts):
    return {f"/state/chain/{kind}": list(parts)}


class Shop(tc.Cluster):
    """A tree, a table and both, each in both kinds of chain, and a tree of every kind of value."""

    __uri__ = tc.URI(SHOP)

    def _configure(self):
        tree_schema = [tc.Column("city", tc.String, 64), tc.Column("pop", tc.U32)]
        table_schema = tc.table.Schema(
            [tc.Column("sku", tc.U64)], [tc.Column("color", tc.String, 32), tc.Column("qty", tc.I32)]
        ).create_index("by_color", ["color"])
        keyed = [tc.Column("id", tc.Id, 32), tc.Column("bytes", tc.Bytes, 32), tc.Column("x", tc.F32), tc.Column("v", tc.Value, 64)]
        for kind, chain in {"sync": tc.chain.Sync, "block": tc.chain.Block}.items():
            setattr(self, f"{kind}_tree", chain(tc.btree.BTree(tree_schema)))
            setattr(self, f"{kind}_table", chain(tc.table.Table(table_schema)))
            setattr(self, f"{kind}_both", chain(tc.Tuple([tc.btree.BTree(tree_schema), tc.table.Table(table_schema)])))
            setattr(self, f"{kind}_keyed", chain(tc.btree.BTree(keyed)))

RAW = "/app/raw"
MANY = [["Oslo", i] for i in range(300)]
SERVICE = {RAW: {
    "log": chain("block", DECLARED_TREE),
    # Read all rows, insert one, and write to chains that were sent along: many at once begin again and again.
    "take": {OP + "/post": [
        ["count", {"$self/log/count": [None]}],
        ["spin", {R + "/while": [
            {OP + "/post": [["_return", {"$n/lt": [1000]}]]}, {OP + "/post": [["_return", {"n": {"$n/add": [1]}}]]},
            {"n": {"$count/mul": [0]}}]}],
        ["inserted", {"$self/log": [None, ["x", {"$spin/n": []}]]}],
        ["next", {"$value/add": [1]}], ["written", [{"$value": [None, {"$next": []}]}, {"$rows": [None, ["x", {"$i": []}]]}]],
        ["_return", after([{"$count": []}, {"$written": []}], {"$inserted": []}, [{"$value": [None]}, {"$rows/count": [None]}])]]},
    "insert_and_clear": {OP + "/post": [
        ["big", tree(MANY)], ["x", {"$self/log": [None, {"$big": []}]}], ["y", delete("$self/log")],
        ["_return", [{"$x": []}, {"$y": []}]]]},
    "clear_and_insert": {OP + "/post": [
        ["big", tree(MANY)], ["x", {"$self/log": [None, {"$big": []}]}], ["y", delete("$self/log")],
        ["_return", [{"$y": []}, {"$x": []}]]]},
}}



@pytest.fixture
def shop(serve):
    return serve(Shop)


def fill(host, path):
    for key in KEYS:
        assert call(host, "PUT", path, key) == (200, None)


def history(host, path):
    _, blocks = host.get(path + "/chain")["/state/chain/block"]
    return tbon.verify(blocks)


# Literals

@each_kind
@pytest.mark.parametrize("declared, subject", [
    (DECLARED_TREE, tree([])), (DECLARED_TABLE, table([])), ([DECLARED_TREE, DECLARED_TABLE], [tree([]), table([])]),
], ids=["tree", "table", "both"])
def test_a_schema_alone_makes_an_empty_chain(host, kind, declared, subject):
    shown = chain(kind, declared, subject if kind == "sync" else [["", {}]])
    body = [["c", chain(kind, declared)], ["r", [{"$c": [None]}, {"$c": []}, {"$c/chain": [None]}]]]
    support.assert_reply(post(host, body), 200, [subject, shown, shown])


def test_a_sync_chain_holds_the_rows_of_its_literal(host):
    literal = chain("sync", [DECLARED_TREE, DECLARED_TABLE], [tree(), table()])
    body = [["c", literal], ["r", [{"$c/0/count": [None]}, {"$c/1": [[2]]}, {"$c": []}]]]
    support.assert_reply(post(host, body), 200, [5, ROW_2, literal])


@each_kind
def test_writes_through_a_chain_are_applied_and_recorded(host, kind):
    writes = [{"$c": [[4], ["teal", 40]]}, {"$c": [[1], ["red", 10]]}, {"$c": [[4], {"qty": 41}]}, delete("$c", [1])]
    body = [["c", chain(kind, DECLARED_TABLE)], ["r", after(*writes, [{"$c": [None]}, {"$c/chain": [None]}])]]
    status, reply = post(host, body)
    assert status == 200, reply
    left = table([[4, "teal", 41]])
    assert reply[0] == left
    if kind == "sync":
        assert reply[1] == chain("sync", DECLARED_TABLE, left)
    else:
        schema, blocks = reply[1]["/state/chain/block"]
        assert schema == DECLARED_TABLE
        assert tbon.verify(blocks) == [["/", [4], ["teal", 40]], ["/", [1], ["red", 10]], ["/", [4], {"qty": 41}], ["/", [1]]]


def test_a_part_of_a_chain_around_both_is_written(host):
    writes = [{"$c/0": [None, ["Oslo", 1]]}, {"$c/1": [[1], ["red", 10]]}]
    body = [["c", chain("block", [DECLARED_TREE, DECLARED_TABLE])], ["r", after(*writes, [{"$c": [None]}, {"$c/chain": [None]}])]]
    status, [subject, shown] = post(host, body)
    assert status == 200
    assert subject == [tree([["Oslo", 1]]), table([ROW_1])]
    assert tbon.verify(shown["/state/chain/block"][1]) == [["/0", None, ["Oslo", 1]], ["/1", [1], ["red", 10]]]
    # What is shown is a literal.
    support.assert_reply(post(host, [["c", shown], ["r", {"$c": [None]}]]), 200, subject)


@pytest.mark.parametrize("literal", [
    chain("sync", DECLARED_TREE, table()),
    chain("sync", DECLARED_TREE, [tree()]),
    chain("sync", DECLARED_TREE, KEYS),
    chain("sync", DECLARED_TREE, None),
    chain("sync", tree()),
    chain("sync", [DECLARED_TREE, 1]),
    chain("sync", [DECLARED_TREE, DECLARED_TABLE], tree()),
    chain("sync", [DECLARED_TREE, DECLARED_TABLE], [tree()]),
    chain("sync", [DECLARED_TREE, DECLARED_TABLE], [table(), tree()]),
    chain("sync", {BTREE: [[["x", N + "/float/128"]]]}),
    chain("block", DECLARED_TREE, tree()),
    chain("block", DECLARED_TREE, [[]]),
    chain("block", DECLARED_TREE, [["", []]]),
    chain("block", DECLARED_TREE, [["", {"x": []}]]),
    chain("block", DECLARED_TREE, [["", {"1-1": [["/"]]}]]),
    chain("block", DECLARED_TREE, [["", {"1-1": [["/", None, ["Oslo"]]]}]]),
    chain("block", DECLARED_TREE, [["", {"1-1": [["/", None, table()]]}]]),
    chain("block", DECLARED_TREE, [["", {"1-1": [["/", None, DECLARED_TREE], [1, None]]}]]),
    chain("block", DECLARED_TREE, [["AAAA", {}]]),
    chain("block", DECLARED_TREE, [["", {}], ["", {}]]),
], ids=str)
def test_a_literal_that_is_no_chain_is_refused(host, literal):
    support.assert_reply(post(host, [["c", literal], ["r", {"$c": [None]}]]), 400)


def linked(*blocks):
    """Blocks with the hashes that they follow."""

    previous = ""
    for transactions in blocks:
        block = [previous, transactions]
        yield block
        previous = base64.b64encode(tbon.block_hash(block)).decode()


def test_a_history_is_replayed_in_the_order_of_its_transactions(host):
    blocks = list(linked({"9-1": [["/", [1], ["red", 1]]], "10-1": [["/", [1], {"qty": 10}]]}, {"11-0": [["/", [2], ["blue", 2]]]}))
    body = [["c", chain("block", DECLARED_TABLE, blocks)], ["r", [{"$c": [None]}, {"$c/chain": [None]}]]]
    support.assert_reply(post(host, body), 200, [table([[1, "red", 10], [2, "blue", 2]]), chain("block", DECLARED_TABLE, blocks)])


@pytest.mark.parametrize("second", [{"9-1": []}, {"8-1": []}], ids=["again", "older"])
def test_a_transaction_that_is_not_newer_is_refused(host, second):
    body = chain("block", DECLARED_TABLE, list(linked({"9-1": [["/", [1], ["red", 1]]]}, second)))
    support.assert_reply(post(host, [["c", body], ["r", {"$c": [None]}]]), 400)


def test_a_forged_block_is_refused(host):
    blocks = list(linked({"9-1": [["/", [1], ["red", 1]]]}, {"10-1": [["/", [1]]]}))
    blocks[0][1]["9-1"][0][2][1] = 2
    support.assert_reply(post(host, [["c", chain("block", DECLARED_TABLE, blocks)], ["r", {"$c": [None]}]]), 400)


@each_kind
def test_each_call_of_an_op_makes_a_chain_of_its_own(host, kind):
    made = [{f"/state/chain/{kind}": [DECLARED_TREE]}]
    if kind == "sync":
        made.append({f"/state/chain/{kind}": [DECLARED_TREE, tree([["Oslo", 1]])]})

    for i, literal in enumerate(made):
        op = {OP + "/get": ["k", [["c", literal], ["_return", after({"$c": [None, ["Rome", {"$k": []}]]}, {"$c/keys": [None]})]]]}
        body = [["f", op], ["a", {"$f": [7]}], ["r", [{"$a": []}, after({"$a": []}, {"$f": [8]})]]]
        first = [["Oslo", 1]] * i
        support.assert_reply(post(host, body), 200, [first + [["Rome", 7]], first + [["Rome", 8]]])


def test_a_chain_is_a_parameter(host):
    op = {OP + "/post": [["w", {"$c": [[5], ["x", 5]]}], ["_return", after({"$w": []}, {"$c/count": [None]})]]}
    body = [["f", op], ["r", {"$f": {"c": chain("sync", DECLARED_TABLE, table())}}]]
    support.assert_reply(post(host, body), 200, 4)


def test_a_chain_in_a_row_of_a_literal_is_refused(host):
    support.assert_reply(post(host, [["t", tree([[chain("sync", 0), 1]])]]), 400)


# What a service shows is a literal

WRITES = [("_tree", None, ["Rome", 4]), ("_tree", None, ["Oslo", "7"]), ("_table", [4], ["teal", 40]), ("_table", [4], {"qty": 41})]


@each_kind
@pytest.mark.parametrize("name", ["tree", "table", "both", "keyed"])
def test_what_a_service_shows_is_a_literal(shop, kind, name):
    path = f"{SHOP}/{kind}_{name}"
    trees = {"tree": [path], "both": [path + "/0"]}.get(name, [])
    tables = {"table": [path], "both": [path + "/1"]}.get(name, [])
    for tree_path in trees:
        fill(shop, tree_path)
        assert call(shop, "PUT", tree_path, tree([["Rome", 4], ["Oslo", 2]])) == (200, None)
        assert call(shop, "DELETE", tree_path, key=["Paris"]) == (200, None)

    for table_path in tables:
        for sku, *values in ROWS:
            assert call(shop, "PUT", table_path, values, key=[sku]) == (200, None)

        assert call(shop, "PUT", table_path, {"qty": 11}, key=[1]) == (200, None)
        assert call(shop, "DELETE", table_path, key=[3]) == (200, None)

    if name == "keyed":
        rows = [[{"x": []}, "AAE=", 0.1, {"/a/b": []}], [{"y": []}, "AA==", -2.5, None], [{"z": []}, "/w==", 3, [1, {"w": []}, "é"]]]
        assert call(shop, "PUT", path, rows[0]) == (200, None)
        assert call(shop, "PUT", path, {BTREE: [KEYED, rows[1:]]}) == (200, None)

    subject = shop.get(path)
    literal = shop.get(path + "/chain")
    body = [["c", literal], ["r", [{"$c": [None]}, {"$c/chain": [None]}]]]
    support.assert_reply(post(shop, body), 200, [subject, literal])
    support.kill(shop)
    support.start(shop)
    assert shop.get(path) == subject
    assert shop.get(path + "/chain") == literal


# Collections as values (section 4.1)

def test_a_tree_as_a_value_is_recorded_in_full(shop):
    path = SHOP + "/block_tree"
    assert call(shop, "PUT", path, tree(KEYS[::-1])) == (200, None)
    assert history(shop, path) == [["/", None, tree()]]
    assert shop.get(path) == tree()


def test_a_slice_is_recorded_as_its_rows(shop):
    path = SHOP + "/block_tree"
    fill(shop, path)
    fill(shop, SHOP + "/sync_tree")
    before = history(shop, path)
    body = [
        ["slice", {SHOP + "/sync_tree": {"range": ["Oslo"], "reverse": True}}],
        ["r", after(delete(path), {path: [None, {"$slice": []}]}, {path: [None]})]]
    # A context of the client is hypothetical, but it sees what it would have recorded.
    support.assert_reply(post(shop, body[:1] + [["r", after({path: [None, {"$slice": []}]}, {path + "/chain": [None]})]])[:1] + (None,), 200)
    status, shown = post(shop, body[:1] + [["r", after({path: [None, {"$slice": []}]}, {path + "/chain": [None]})]])
    assert status == 200
    assert tbon.verify(shown["/state/chain/block"][1]) == before + [["/", None, tree(KEYS[3:0:-1])]]
    support.assert_reply(post(shop, body), 200, tree(KEYS[1:4]))


def test_a_tree_is_inserted_into_itself(shop):
    path = SHOP + "/block_tree"
    fill(shop, path)
    body = [["r", after({path: [None, {path: {"range": ["Oslo"]}}]}, [{path: [None]}, {path + "/chain": [None]}])]]
    status, [subject, shown] = post(shop, body)
    assert status == 200
    assert subject == tree()
    assert tbon.verify(shown["/state/chain/block"][1])[-1] == ["/", None, tree(KEYS[1:4])]


CAPTURED = capture(["t"], {OP + "/get": ["k", [["_return", {"$k": []}]]]})


@each_kind
@pytest.mark.parametrize("value", [
    {"$t/keys": [None]}, CAPTURED, {OP + "/get": ["k", []]}, chain("sync", 0), chain("sync", DECLARED_TREE), table(),
    {SHOP + "/block_table": [None]}, [["Oslo", 1]], [tree()], None,
], ids=str)
def test_what_a_chain_around_a_tree_cannot_store(shop, kind, value):
    path = f"{SHOP}/{kind}_tree"
    fill(shop, path)
    body = [["t", tree()], ["v", value], ["r", {path: [None, {"$v": []}]}]]
    support.assert_reply(post(shop, body), 400)
    assert shop.get(path) == tree()


def test_a_chain_around_a_value_stores_no_collection(host):
    for kind in KINDS:
        body = [["c", chain(kind, 0)], ["t", tree()], ["r", {"$c": [None, {"$t": []}]}]]
        support.assert_reply(post(host, body), 400)


@pytest.mark.parametrize("method", ["insert_and_clear", "clear_and_insert"])
def test_writes_at_once_are_recorded_as_they_happened(serve, method):
    """Entries that do not depend on each other run at once; the history must say in which order."""

    host = serve(SERVICE)
    for i in range(3):
        assert host.put(RAW + "/log", None, ["Paris", i]) is None
        assert host.post(f"{RAW}/{method}", {}) == [None, None]
        assert len(history(host, RAW + "/log")) == 3 * (i + 1)
        body = [["c", host.get(RAW + "/log/chain")], ["r", {"$c": [None]}]]
        support.assert_reply(post(host, body), 200, host.get(RAW + "/log"))
        assert host.get(RAW + "/log/count") in (0, len(MANY))


NAMES = {
    "the member": [["t", {"$self/items": []}]],
    "a call of the member": [["t", {"$self/items": {}}]],
    "its subject": [["t", {"$self/items": [None]}]],
    "an alias": [["a", {"$self/items": []}], ["t", {"$a": []}]],
    "a member of the cluster": [["t", {"$self": ["items"]}]],
    "the chain as it is shown": [["t", {"$self/items/chain": [None]}]],
    "an instance": [["t", {R + "/new": [{"/state/object/class": {TABLE: {"m": 1}}}, {"$self/items": []}]}]],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_write_is_recorded_by_whatever_name_it_is_done(serve, names):
    write = {OP + "/post": names + [["_return", {"$t": [[5], ["x", 1]]}]]}
    erase = {OP + "/post": names + [["_return", delete("$t", [5])]]}
    host = serve({RAW: {"items": chain("block", DECLARED_TABLE), "write": write, "erase": erase}})
    assert host.post(RAW + "/write", {}) is None
    assert host.get(RAW + "/items/rows") == [[5, "x", 1]]
    assert host.post(RAW + "/erase", {}) is None
    assert host.get(RAW + "/items/rows") == []
    assert history(host, RAW + "/items") == [["/", [5], ["x", 1]], ["/", [5]]]


@pytest.mark.parametrize("names", [
    [["t", {"$c": [None]}]], [["t", {"$c": {}}]], [["t", {"$c": []}]], [["t", {"$c/chain": [None]}]],
], ids=str)
def test_a_write_to_a_local_chain_is_recorded_by_whatever_name_it_is_done(host, names):
    body = [["c", chain("block", DECLARED_TABLE)], *names, ["r", after({"$t": [[5], ["x", 1]]}, {"$c/chain": [None]})]]
    status, shown = post(host, body)
    assert status == 200, shown
    assert tbon.verify(shown["/state/chain/block"][1]) == [["/", [5], ["x", 1]]]


def test_a_tuple_is_written_by_a_name_of_a_part_of_it(serve):
    name = [["both", {"$self/both": [None]}], ["t", {"$both": [1]}]]
    host = serve({RAW: {
        "both": chain("block", [DECLARED_TREE, DECLARED_TABLE]),
        "write": {OP + "/post": name + [["_return", {"$t": [[5], ["x", 1]]}]]}}})
    assert host.post(RAW + "/write", {}) is None
    assert history(host, RAW + "/both") == [["/1", [5], ["x", 1]]]


def test_updates_of_a_row_at_once_are_both_done(serve):
    update = lambda column, value: {"$self/items": [[1], {column: value}]}
    host = serve({RAW: {
        "items": chain("block", DECLARED_TABLE),
        "both": {OP + "/post": [["a", update("color", "x")], ["b", update("qty", 5)], ["_return", [{"$a": []}, {"$b": []}]]]}}})
    host.put(RAW + "/items", [1], ["red", 1])
    assert host.post(RAW + "/both", {}) == [None, None]
    assert host.get(RAW + "/items") == table([[1, "x", 5]])
    body = [["c", host.get(RAW + "/items/chain")], ["r", {"$c": [None]}]]
    support.assert_reply(post(host, body), 200, host.get(RAW + "/items"))


def test_a_transaction_that_begins_again_has_a_chain_of_its_own(serve):
    host = serve(SERVICE)

    def take(i):
        return call(host, "POST", RAW + "/take", {"i": i, "value": chain("block", 0), "rows": chain("sync", DECLARED_TREE, tree())})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(take, range(96)))

    assert replies == [(200, [1, 6])] * 96
