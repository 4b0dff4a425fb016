"""Every call of the published client (tinychain==0.5.1) on trees, tables and streams: protocol page 02, sections 4 to 6."""

import pytest
import tinychain as tc
from tinychain.collection.bound import Ex, In, Range

from page02 import (
    CITY, COLOR, KEYS, POP, QTY, ROW_1, ROW_2, ROW_3, ROWS, SKU, TABLE_SCHEMA, TREE_SCHEMA, as_value, selection, table,
    tree)
from support import HYPOTHETICAL

CITIES = [tc.Column("city", tc.String, 64), tc.Column("pop", tc.U32)]
ITEMS = tc.table.Schema(
    [tc.Column("sku", tc.U64)],
    [tc.Column("color", tc.String, 32), tc.Column("qty", tc.I32)]).create_index("by_color", ["color"])

OSLO = KEYS[1:4]


def test_the_client_writes_schemas_as_the_page_says():
    assert tc.to_json(ITEMS) == TABLE_SCHEMA
    assert tc.to_json(tc.btree.Schema(CITIES)) == TREE_SCHEMA


@pytest.fixture
def run(host):
    """Run a context as a hypothetical transaction."""

    return lambda context: host.post(HYPOTHETICAL, context)


@pytest.fixture
def on_tree(run):
    """Evaluate what a function makes of the loaded tree, after what another one writes."""

    def on_tree(result, write=None, load=tc.btree.BTree.load, schema=CITIES):
        cxt = tc.Context()
        cxt.tree = load(schema, KEYS)
        if write is None:
            cxt.result = result(cxt.tree)
        else:
            cxt.result = tc.After(write(cxt.tree), result(cxt.tree))

        return run(cxt)

    return on_tree


@pytest.fixture
def on_table(run):
    def on_table(result, write=None):
        cxt = tc.Context()
        cxt.table = tc.table.Table.load(ITEMS, ROWS)
        if write is None:
            cxt.result = result(cxt.table)
        else:
            cxt.result = tc.After(write(cxt.table), result(cxt.table))

        return run(cxt)

    return on_table


def itself(collection):
    return collection


# BTree

def test_load_a_tree(on_tree):
    assert on_tree(itself) == tree()
    assert on_tree(itself, schema=tc.btree.Schema(CITIES)) == tree()


def test_an_empty_tree_built_from_a_schema_object(run):
    """Each mention of such a tree makes an alias, and writes go through aliases."""

    cxt = tc.Context()
    cxt.tree = tc.btree.BTree(tc.btree.Schema(CITIES))
    cxt.inserted = [cxt.tree.insert(["Oslo", i]) for i in range(3)]
    cxt.deleted = tc.After(cxt.inserted, cxt.tree.delete(["Oslo", 1]))
    cxt.result = tc.After(cxt.deleted, cxt.tree)
    assert any(name.startswith("BTree_") for name, _ in tc.to_json(cxt))
    assert run(cxt) == tree([["Oslo", 0], ["Oslo", 2]])


@pytest.mark.parametrize("read, expected", [
    (lambda t: t["Oslo"], tree(OSLO)),
    (lambda t: t["Oslo", 5], tree([["Oslo", 5]])),
    (lambda t: t[("Oslo", 5)], tree([["Oslo", 5]])),
    (lambda t: t["Oslo", 1:9], tree(OSLO[:2])),
    (lambda t: t["Oslo", 2:], tree(OSLO[1:])),
    (lambda t: t["Oslo", :9], tree(OSLO[:2])),
    (lambda t: t["Oslo", :], tree(OSLO)),
    (lambda t: t["C":"P"], tree(OSLO)),
    (lambda t: t["P":], tree(KEYS[4:])),
    (lambda t: t[:"C"], tree(KEYS[:1])),
    (lambda t: t[:], tree()),
    (lambda t: t["Oslo", Range(1, 5)], tree(OSLO[:2])),
    (lambda t: t["Oslo", Range(Ex(1), In(9))], tree(OSLO[1:])),
    (lambda t: t["Oslo", Range(Ex(1), Ex(9))], tree(OSLO[1:2])),
    (lambda t: t["Oslo", Range(5)], tree(OSLO[1:])),
    (lambda t: t["Oslo", Range(None, 5)], tree(OSLO[:2])),
    (lambda t: t["Oslo", Range()], tree(OSLO)),
    (lambda t: t["Oslo"].reverse(), tree(OSLO[::-1])),
    (lambda t: t.reverse()["Oslo"], tree(OSLO[::-1])),
    (lambda t: t.reverse().reverse(), tree()),
    (lambda t: t["C":"Z"]["Oslo", 5:], tree(OSLO[1:])),
    (lambda t: t.reverse(), tree(KEYS[::-1])),
    (lambda t: t.count(), 5),
    (lambda t: t.count("Oslo"), None),
    (lambda t: t.count(["Oslo"]), 3),
    (lambda t: t.count(("Oslo", slice(2, 10))), 2),
    (lambda t: t.count(["Oslo", Range(Ex(1), In(9))]), 2),
    (lambda t: t["Oslo"].count(), 3),
    (lambda t: t.reverse().count(), 5),
    (lambda t: t.first(), {"city": "Bergen", "pop": 3}),
    (lambda t: t.reverse().first(), {"city": "Paris", "pop": 2}),
    (lambda t: t["Oslo"].first(), {"city": "Oslo", "pop": 1}),
    (lambda t: t.keys(), KEYS),
    (lambda t: t.keys(["Oslo"]), OSLO),
    (lambda t: t.keys(("Oslo", slice(2, None))), OSLO[1:]),
    (lambda t: t.keys([slice("P", None)]), KEYS[4:]),
    (lambda t: t.keys().first(), ["Bergen", 3]),
    (lambda t: t.schema(), [as_value(CITY), as_value(POP)]),
    (lambda t: t.copy(), tree()),
    (lambda t: t["Oslo"].copy(), tree(OSLO)),
    (lambda t: t.reverse().copy(), tree()),
])
def test_read_a_tree(on_tree, read, expected):
    if expected is None:
        # the client takes a string apart; each letter becomes an element of the prefix, which is longer than a key
        with pytest.raises(tc.error.BadRequest):
            on_tree(read)
    else:
        assert on_tree(read) == expected


@pytest.mark.parametrize("write, keys", [
    (lambda t: t.insert(["Rome", 4]), KEYS + [["Rome", 4]]),
    (lambda t: t.insert(("Rome", 4)), KEYS + [["Rome", 4]]),
    (lambda t: t.insert(["Oslo", 5]), KEYS),
    (lambda t: [t.insert(["Rome", i]) for i in range(3)], KEYS + [["Rome", 0], ["Rome", 1], ["Rome", 2]]),
    (lambda t: t.delete(), []),
    (lambda t: t.delete(["Oslo"]), [["Bergen", 3], ["Paris", 2]]),
    (lambda t: t.delete(["Oslo", 5]), [["Bergen", 3], ["Oslo", 1], ["Oslo", 9], ["Paris", 2]]),
    (lambda t: t.delete(["Oslo", slice(2, None)]), [["Bergen", 3], ["Oslo", 1], ["Paris", 2]]),
    (lambda t: t.delete(["Oslo", Range(1, 5)]), [["Bergen", 3], ["Oslo", 9], ["Paris", 2]]),
    (lambda t: t.delete([slice("C", "P")]), [["Bergen", 3], ["Paris", 2]]),
    (lambda t: t.delete([slice("X", "Z")]), KEYS),
])
def test_write_a_tree(on_tree, write, keys):
    assert on_tree(itself, write) == tree(keys)
    assert on_tree(lambda t: t.count(), write) == len(keys)


def test_first_of_an_empty_tree_is_not_found(on_tree):
    with pytest.raises(tc.error.NotFound):
        on_tree(lambda t: t["Rome"].first())


@pytest.mark.parametrize("call", [
    lambda t: t["Oslo", 5, 6],
    lambda t: t["Oslo", "five"],
    lambda t: t.insert(["Oslo"]),
    lambda t: t["Oslo"].insert(["Oslo", 7]),
    lambda t: t.reverse().delete(),
])
def test_a_wrong_call_of_a_tree(on_tree, call):
    with pytest.raises(tc.error.BadRequest):
        on_tree(call)


def test_copy_a_tree_from_rows_and_a_table_from_keys(run):
    """The example in the client's own documentation."""

    columns = [tc.Column("first", tc.String, 128), tc.Column("second", tc.String, 128)]
    cxt = tc.Context()
    cxt.btree = tc.btree.BTree.load(tc.btree.Schema(columns), [["hello", "world"], ["bye", "moon"]])
    cxt.table = tc.table.Table.copy_from(tc.table.Schema([columns[0]], [columns[1]]), cxt.btree.keys())
    cxt.again = tc.btree.BTree.copy_from(tc.btree.Schema(columns), cxt.table.rows())
    cxt.result = [cxt.table.count(), cxt.again.keys()]
    assert run(cxt) == [2, [["bye", "moon"], ["hello", "world"]]]


# Table

def test_load_a_table(on_table):
    assert on_table(itself) == table()


def test_an_empty_table(run):
    cxt = tc.Context()
    cxt.table = tc.table.Table(ITEMS)
    cxt.result = [cxt.table, cxt.table.count(), cxt.table.is_empty(), cxt.table.rows(), cxt.table.rows().first()]
    assert run(cxt) == [table([]), 0, True, [], None]


@pytest.mark.parametrize("read, expected", [
    (lambda t: t[[2]], ROW_2),
    (lambda t: t[(2,)], ROW_2),
    (lambda t: t[[9]], None),
    (lambda t: t.contains([2]), True),
    (lambda t: t.contains([9]), False),
    (lambda t: t.columns(), [as_value(SKU), as_value(COLOR), as_value(QTY)]),
    (lambda t: t.key_columns(), [as_value(SKU)]),
    (lambda t: t.key_names(), [{"sku": []}]),
    (lambda t: t.schema(), [[[as_value(SKU)], [as_value(COLOR), as_value(QTY)]], [[{"by_color": []}, [{"color": []}]]]]),
    (lambda t: t.is_empty(), False),
    (lambda t: t.where({"sku": 9}).is_empty(), True),
    (lambda t: t.count(), 3),
    (lambda t: t.count({"color": "red"}), 2),
    (lambda t: t.count({"sku": slice(2, None)}), 2),
    (lambda t: t.count({}), 3),
    (lambda t: t.rows(), ROWS),
    (lambda t: t.rows({"color": "red"}), [ROW_1, ROW_3]),
    (lambda t: t.rows({"sku": slice(2, 3)}), [ROW_2]),
    (lambda t: t.rows(None), ROWS),
    (lambda t: t.rows().first(), ROW_1),
    (lambda t: t.rows({"sku": 9}).first(), None),
    (lambda t: t.where(None), table()),
    (lambda t: t.where({}), table()),
    (lambda t: t.where({"color": "red"}), table([ROW_1, ROW_3])),
    (lambda t: t.where({"qty": 20}), table([ROW_2])),
    (lambda t: t.where({"sku": 3, "color": "red", "qty": 30}), table([ROW_3])),
    (lambda t: t.where({"sku": slice(1, 3)}), table([ROW_1, ROW_2])),
    (lambda t: t.where({"sku": slice(2, None)}), table([ROW_2, ROW_3])),
    (lambda t: t.where({"sku": slice(None, 3)}), table([ROW_1, ROW_2])),
    (lambda t: t.where({"sku": slice(None)}), table()),
    (lambda t: t.where({"sku": Range(2, 9)}), table([ROW_2, ROW_3])),
    (lambda t: t.where({"sku": Range(Ex(2), In(9))}), table([ROW_3])),
    (lambda t: t.where({"sku": Range(2)}), table([ROW_2, ROW_3])),
    (lambda t: t.where({"sku": Range(None, 2)}), table([ROW_1, ROW_2])),
    (lambda t: t.where({"sku": Range()}), table()),
    (lambda t: t.where({"color": slice("b", "r")}), table([ROW_2])),
    (lambda t: t.where(tc.Map({"color": "red"})), table([ROW_1, ROW_3])),
    (lambda t: t.where({"color": "red"}).where({"sku": slice(2, None)}), table([ROW_3])),
    (lambda t: t.where({"color": "red"}).count(), 2),
    (lambda t: t.where({"color": "red"}).rows(), [ROW_1, ROW_3]),
    (lambda t: t.where({"color": "red"}).select(["sku", "qty"]).rows(), [[1, 10], [3, 30]]),
    (lambda t: t.order_by(["color"]), table([ROW_2, ROW_1, ROW_3])),
    (lambda t: t.order_by(["color"], True), table([ROW_3, ROW_1, ROW_2])),
    (lambda t: t.order_by(["qty"], True), table([ROW_3, ROW_2, ROW_1])),
    (lambda t: t.order_by(["color"], True).limit(2).rows(), [ROW_3, ROW_1]),
    (lambda t: t.order_by(["color"]).select(["color"]).rows(), [["blue"], ["red"], ["red"]]),
    (lambda t: t.limit(2), table([ROW_1, ROW_2])),
    (lambda t: t.limit(2).count(), 2),
    (lambda t: t.select(["color"]), selection([], [COLOR], [["red"], ["blue"], ["red"]])),
    (lambda t: t.select(["color"]).columns(), [as_value(COLOR)]),
    (lambda t: t.select(["color", "qty"]).rows(), [["red", 10], ["blue", 20], ["red", 30]]),
    (lambda t: t.select(t.key_names()).rows(), [[1], [2], [3]]),
    (lambda t: t.group_by(["color"]), [["blue"], ["red"]]),
    (lambda t: t.group_by(["color"]).first(), ["blue"]),
    (lambda t: t.group_by(["color", "qty"]), [["blue", 20], ["red", 10], ["red", 30]]),
    (lambda t: t.where({"color": "red"}).group_by(["color"]), [["red"]]),
    (lambda t: t.aggregate(["color"], tc.table.Table.count), [[["blue"], 1], [["red"], 2]]),
    (lambda t: t.aggregate(["color", "qty"], tc.table.Table.count), [[["blue", 20], 1], [["red", 10], 1], [["red", 30], 1]]),
    (lambda t: t.aggregate(["color"], lambda group: group.rows().first()), [[["blue"], ROW_2], [["red"], ROW_1]]),
    (lambda t: t.index(), tree(ROWS, [SKU, COLOR, QTY])),
    (lambda t: t.index().keys().first(), ROW_1),
    (lambda t: t.select(["color"]).index(), tree([["blue"], ["red"]], [COLOR])),
    (lambda t: t.where({"color": "red"}).index().count(), 2),
    (lambda t: t.copy(), table()),
    (lambda t: t.copy().order_by(["color"]).limit(1), table([ROW_2])),
    (lambda t: t.where({"color": "red"}).copy(), table([ROW_1, ROW_3])),
    (lambda t: t.order_by(["sku"], True).select(["sku"]).rows().first(), [3]),
])
def test_read_a_table(on_table, read, expected):
    assert on_table(read) == expected


@pytest.mark.parametrize("write, rows", [
    (lambda t: t.insert([4], ["teal", 40]), ROWS + [[4, "teal", 40]]),
    (lambda t: [t.insert([i], ["teal", i]) for i in range(4, 30)], ROWS + [[i, "teal", i] for i in range(4, 30)]),
    (lambda t: t.upsert([4], ["teal", 40]), ROWS + [[4, "teal", 40]]),
    (lambda t: t.upsert([1], ["teal", 40]), [[1, "teal", 40], ROW_2, ROW_3]),
    (lambda t: t.upsert((1,), ("teal", 40)), [[1, "teal", 40], ROW_2, ROW_3]),
    (lambda t: t.update_row([1], {"qty": 11}), [[1, "red", 11], ROW_2, ROW_3]),
    (lambda t: t.update_row([9], {"qty": 11}), ROWS),
    (lambda t: t.update_row([1], {"color": "zinc"}), [[1, "zinc", 10], ROW_2, ROW_3]),
    (lambda t: t.delete_row([1]), [ROW_2, ROW_3]),
    (lambda t: t.delete_row([9]), ROWS),
    (lambda t: t.delete(), []),
    (lambda t: t.delete({"color": "red"}), [ROW_2]),
    (lambda t: t.delete({"qty": slice(20, None)}), [ROW_1]),
    (lambda t: t.delete({"sku": slice(2, 3)}), [ROW_1, ROW_3]),
    (lambda t: t.delete({"color": "none"}), ROWS),
    (lambda t: t.update({"qty": 0}), [[1, "red", 0], [2, "blue", 0], [3, "red", 0]]),
    (lambda t: t.update({"qty": 0}, {"color": "red"}), [[1, "red", 0], ROW_2, [3, "red", 0]]),
    (lambda t: t.update({"color": "grey"}, {"color": "red"}), [[1, "grey", 10], ROW_2, [3, "grey", 30]]),
    (lambda t: t.update({"color": "grey", "qty": 1}, {"sku": slice(2, None)}), [ROW_1, [2, "grey", 1], [3, "grey", 1]]),
    (lambda t: t.update({"qty": 0}, {"color": "none"}), ROWS),
])
def test_write_a_table(on_table, write, rows):
    assert on_table(itself, write) == table(rows)
    assert on_table(lambda t: t.count(), write) == len(rows)
    assert on_table(lambda t: t.order_by(["color"]), write) == table(sorted(rows, key=lambda row: (row[1], row[0])))
    assert on_table(lambda t: t.where({"color": "red"}), write) == table([row for row in rows if row[1] == "red"])


@pytest.mark.parametrize("call", [
    lambda t: t.insert([1], ["x", 1]),
    lambda t: t[2],
    lambda t: t.upsert(5, ["grey", 1]),
    lambda t: t.upsert([5], ["grey"]),
    lambda t: t.upsert([5], ["grey", "x"]),
    lambda t: t.insert([5]),
    lambda t: t.update_row([1], {"nope": 1}),
    lambda t: t.update_row([1], {"sku": 5}),
    lambda t: t.where({"nope": 1}),
    lambda t: t.order_by(["nope"]),
    lambda t: t.limit(-1),
    lambda t: t.limit(2).upsert([5], ["grey", 1]),
    lambda t: t.where({"color": "red"}).delete_row([1]),
    lambda t: t.delete_row(1),
])
def test_a_wrong_call_of_a_table(on_table, call):
    with pytest.raises(tc.error.BadRequest):
        on_table(call)


def test_select_of_an_unknown_column_is_not_found(on_table):
    with pytest.raises(tc.error.NotFound):
        on_table(lambda t: t.select(["nope"]))


def test_an_insert_without_values(run):
    cxt = tc.Context()
    cxt.table = tc.table.Table(tc.table.Schema([tc.Column("sku", tc.U64)]))
    cxt.inserted = [cxt.table.insert([i]) for i in (2, 1)]
    cxt.result = tc.After(cxt.inserted, cxt.table.rows())
    assert run(cxt) == [[1], [2]]


def test_a_copy_is_independent(run):
    cxt = tc.Context()
    cxt.table = tc.table.Table.load(ITEMS, ROWS)
    cxt.copy = cxt.table.copy()
    cxt.changed = tc.After(cxt.copy.delete(), cxt.table.upsert([4], ["teal", 40]))
    cxt.result = tc.After(cxt.changed, [cxt.table.count(), cxt.copy.count()])
    assert run(cxt) == [4, 0]


def max_id(table, key):
    """`max_id` of a table in the client's graph library."""

    row = tc.Tuple(table.order_by([key], True).select([key]).rows().first())
    return tc.U64(tc.If(row.is_none(), 0, row[0]))


@pytest.mark.parametrize("rows, expected", [(ROWS, 3), ([], 0)], ids=["rows", "no rows"])
def test_max_id(run, rows, expected):
    cxt = tc.Context()
    cxt.table = tc.table.Table.load(ITEMS, rows)
    cxt.result = max_id(cxt.table, "sku")
    assert run(cxt) == expected


# Streams

def test_map_and_fold_a_stream(on_table):
    @tc.get_op
    def double(row: tc.Tuple):
        return tc.I32(row[2]) * 2

    @tc.put_op
    def add(key: tc.I32, value: tc.I32):
        return key + value

    assert on_table(lambda t: t.rows().map(double)) == [20, 40, 60]
    assert on_table(lambda t: t.rows().map(double).fold(tc.I32(1), add)) == 121
    assert on_table(lambda t: t.where({"color": "red"}).rows().map(double)) == [20, 60]
    assert on_table(lambda t: t.rows().map(double).first()) == 20


def test_for_each_writes_to_another_collection(run):
    cxt = tc.Context()
    cxt.table = tc.table.Table.load(ITEMS, ROWS)
    cxt.tree = tc.btree.BTree(CITIES)

    @tc.closure
    @tc.get_op
    def copy(row: tc.Tuple):
        return cxt.tree.insert([row[1], row[2]])

    cxt.copied = cxt.table.rows().for_each(copy)
    cxt.result = tc.After(cxt.copied, cxt.tree)
    assert run(cxt) == tree([["blue", 20], ["red", 10], ["red", 30]])


def test_an_aggregate_of_values(run):
    """Any function of a group: here the sum of a column."""

    @tc.put_op
    def add(key: tc.I32, value: tc.Tuple):
        return key + tc.I32(value[0])

    cxt = tc.Context()
    cxt.table = tc.table.Table.load(ITEMS, ROWS)
    cxt.result = cxt.table.aggregate(["color"], lambda group: group.select(["qty"]).rows().fold(tc.I32(0), add))
    assert run(cxt) == [[["blue"], 20], [["red"], 40]]
