"""Streams of the keys of trees and the rows of tables: protocol page 02, section 6, and what section 8.3 asks of them."""

import http.client

import pytest

import support
from page02 import ROW_1, ROW_2, ROWS, STREAM, TABLE, TABLE_SCHEMA, after, capture, column, delete, table, tree
from support import N, OP, R, V

DOUBLE = {OP + "/get": ["row", [["q", {"$row": [2]}], ["_return", {"$q/mul": [2]}]]]}
SUM = {OP + "/put": ["acc", "row", [["q", {"$row": [2]}], ["_return", {"$acc/add": [{"$q": []}]}]]]}
ITSELF = {OP + "/get": ["row", [["_return", {"$row": []}]]]}
FORBIDDEN = {OP + "/get": ["row", [["_return", {"/error/forbidden": ["no"]}]]]}


@pytest.fixture
def ask(hypothetical):
    """One expression over `t`, the table of the page, `s`, the stream of its rows, `e`, of none, and `b`, the tree."""

    given = [
        ["t", table()], ["s", {"$t/rows": {}}], ["n", {TABLE: [TABLE_SCHEMA]}], ["e", {"$n/rows": {}}], ["b", tree()],
        ["k", {"$b/keys": [None]}]]
    return lambda expression, *entries: hypothetical([*given, *entries, ["r", expression]])


# Methods

@pytest.mark.parametrize("expression, expected", [
    ({"$s": []}, ROWS),
    ({"$e": []}, []),
    ({"$s/first": [None]}, [1, "red", 10]),
    ({"$s/first": [1]}, "red"),
    ({"$e/first": [None]}, None),
    ({"$k/first": [None]}, ["Bergen", 3]),
    ({"$s/class": [None]}, {STREAM: []}),
    ({"$s/map": {"op": DOUBLE}}, [20, 40, 60]),
    ({"$s/map": {"op": ITSELF}}, ROWS),
    ({"$e/map": {"op": DOUBLE}}, []),
    ({"$e/map": {"op": FORBIDDEN}}, []),
    ({"$s/fold": {"value": 0, "op": SUM}}, 60),
    ({"$e/fold": {"value": 7, "op": SUM}}, 7),
    ({"$s/for_each": {"op": ITSELF}}, None),
    ({"$e/for_each": {"op": FORBIDDEN}}, None),
    ({"$s/aggregate": [None]}, ROWS),
    ({"$e/aggregate": [None]}, []),
    ([{"$s": []}, {"$s/first": [None]}, {"$s": []}], [ROWS, ROW_1, ROWS]),
    ({"a": {"$s": []}, "b": {"$k/first": [None]}}, {"a": ROWS, "b": ["Bergen", 3]}),
], ids=str)
def test_a_method(ask, expression, expected):
    support.assert_reply(ask(expression), 200, expected)


@pytest.mark.parametrize("expression, status", [
    ({"$s/aggregate": [1]}, 400),
    ({"$s/map": {"f": ITSELF}}, 400),
    ({"$s/map": {"op": ITSELF, "extra": 1}}, 400),
    ({"$s/map": {"op": 5}}, 400),
    ({"$s/for_each": {"f": ITSELF}}, 400),
    ({"$s/for_each": {"op": ITSELF, "extra": 1}}, 400),
    ({"$s/fold": {"op": SUM}}, 400),
    ({"$s/fold": {"value": 0}}, 400),
    ({"$s/fold": {"value": 0, "op": SUM, "extra": 1}}, 400),
    ({"$s/fold": {"value": 0, "op": {OP + "/post": [["_return", 1]]}}}, 400),
    ({"$s/for_each": {"op": FORBIDDEN}}, 403),
    ({"$s/fold": {"value": 0, "op": {OP + "/put": ["a", "b", [["_return", {"/error/conflict": ["no"]}]]]}}}, 409),
    ({"$s/first": [5]}, 404),
    ({"$s/count": [None]}, 404),
    ({"$s/filter": {"op": ITSELF}}, 404),
    ({"$s/take": [1]}, 404),
    ({"$s/nope": [None]}, 404),
    ({"$s/0": [None]}, 404),
], ids=str)
def test_a_wrong_call(ask, expression, status):
    support.assert_reply(ask(expression), status)


def test_a_fold_accumulates_values_only(ask):
    op = {OP + "/put": ["acc", "row", [["_return", {"$t": []}]]]}
    support.assert_reply(ask({"$s/fold": {"value": 0, "op": capture(["t"], op)}}), 400)


# What each kind of op receives

def mapped_to(value):
    """Entries of a stream of other items: `$m` maps each row to this value."""

    return ["m", {"$s/map": {"op": {OP + "/get": ["row", [["_return", value]]]}}}]


PAIRS = mapped_to([{"$row": [1]}, {"$row": [2]}])
OBJECTS = mapped_to({"color": {"$row": [1]}, "qty": {"$row": [2]}})


@pytest.mark.parametrize("entries, expression, expected", [
    ([PAIRS], {"$m": []}, [["red", 10], ["blue", 20], ["red", 30]]),
    ([OBJECTS], {"$m": []}, [{"color": "red", "qty": 10}, {"color": "blue", "qty": 20}, {"color": "red", "qty": 30}]),
    ([PAIRS], {"$m/first": [None]}, ["red", 10]),
    ([OBJECTS], {"$m/first": ["qty"]}, 10),
    ([PAIRS], {"$m/map": {"op": {OP + "/get": ["x", [["_return", {"$x": [1]}]]]}}}, [10, 20, 30]),
    ([PAIRS], {"$m/map": {"op": {OP + "/put": ["k", "v", [["_return", [{"$v": []}, {"$k": []}]]]]}}},
     [[10, "red"], [20, "blue"], [30, "red"]]),
    ([], {"$k/map": {"op": {OP + "/put": ["k", "v", [["_return", {"$v": []}]]]}}}, [3, 1, 5, 9, 2]),
    ([OBJECTS], {"$m/map": {"op": {OP + "/post": [["_return", {"$qty": []}]]}}}, [10, 20, 30]),
    ([], {"$s/map": {"op": {OP + "/delete": ["row", [["_return", {"$row": [0]}]]]}}}, [1, 2, 3]),
    ([], {"$s/fold": {"value": 0, "op": {OP + "/get": ["x", [
        ["acc", {"$x": [0]}], ["row", {"$x": [1]}], ["q", {"$row": [2]}], ["_return", {"$acc/add": [{"$q": []}]}]]]}}}, 60),
    ([], {"$s/fold": {"value": 0, "op": {OP + "/delete": ["x", [
        ["acc", {"$x": [0]}], ["row", {"$x": [1]}], ["q", {"$row": [2]}], ["_return", {"$acc/add": [{"$q": []}]}]]]}}}, 60),
    ([], {"$s/fold": {"value": 100, "op": {OP + "/put": ["acc", "row", [["q", {"$row": [2]}], ["_return", {"$acc/sub": [{"$q": []}]}]]]}}}, 40),
    ([["n5", 5]], {"$s/map": {"op": capture(["n5"], {OP + "/get": ["row", [["q", {"$row": [2]}], ["_return", {"$q/add": [{"$n5": []}]}]]]})}},
     [15, 25, 35]),
    ([["m", {"$s/map": {"op": DOUBLE}}]], {"$m/fold": {"value": 0, "op": {OP + "/put": ["a", "b", [["_return", {"$a/add": [{"$b": []}]}]]]}}}, 120),
], ids=str)
def test_an_op_receives_items(ask, entries, expression, expected):
    support.assert_reply(ask(expression, *entries), 200, expected)


def test_items_may_be_collections(ask):
    op = {OP + "/get": ["row", [["sku", {"$row": [0]}], ["_return", {"$t": {"bounds": {"sku": {"$sku": []}}}}]]]}
    support.assert_reply(ask({"$s/map": {"op": capture(["t"], op)}}), 200, [table([row]) for row in ROWS])


@pytest.mark.parametrize("op", [
    {OP + "/put": ["k", "v", [["_return", {"$v": []}]]]}, {OP + "/post": [["_return", 1]]}], ids=["put", "post"])
def test_an_item_that_does_not_fit_its_op_is_refused(ask, op):
    """A row of three is no pair of key and value, and no parameters."""

    support.assert_reply(ask({"$s/for_each": {"op": op}}), 400)
    support.assert_reply(ask({"$m/first": [None]}, ["m", {"$s/map": {"op": op}}]), 400)


def test_an_error_in_a_mapped_stream_is_never_a_short_list(ask):
    op = {OP + "/get": ["row", [["id", {"$row": [0]}], ["_return", {R + "/if": [
        {"$id/eq": [2]}, {"/error/conflict": ["the second row"]}, {"$id": []}]}]]]}

    try:
        status, reply = ask({"$s/map": {"op": op}})
    except (http.client.HTTPException, ConnectionError, ValueError):
        return

    assert status == 409, reply


# Aggregation

@pytest.mark.parametrize("view, expected", [
    ({"$t/order": [["color"]]}, [["blue"], ["red"]]),
    ({"$t/order": [[["color"], True]]}, [["red"], ["blue"]]),
    ({"$t": []}, [["red"], ["blue"], ["red"]]),
], ids=str)
def test_aggregate_reduces_runs_of_equal_items(ask, view, expected):
    entries = ["v", view], ["c", {"$v/select": [["color"]]}], ["rows", {"$c/rows": {}}]
    support.assert_reply(ask({"$rows/aggregate": [None]}, *entries), 200, expected)
    support.assert_reply(ask({"$a/first": [None]}, *entries, ["a", {"$rows/aggregate": [None]}]), 200, expected[0])


# Writes while a stream is consumed (section 9)

def for_each(stream, names, op):
    return {stream + "/for_each": {"op": capture(names, op)}}


UPSERT_TEN_MORE = {OP + "/get": ["row", [
    ["id", {"$row": [0]}], ["next", {"$id/add": [10]}], ["_return", {"$t": [[{"$next": []}], ["new", {"$id": []}]]}]]]}


@pytest.mark.parametrize("write, rows", [
    (for_each("$s", ["t"], UPSERT_TEN_MORE), ROWS + [[11, "new", 1], [12, "new", 2], [13, "new", 3]]),
    (for_each("$s", ["t"], {OP + "/get": ["row", [["_return", {"$t": [[{"$row": [0]}], {"qty": 0}]}]]]}),
     [[1, "red", 0], [2, "blue", 0], [3, "red", 0]]),
    (for_each("$s", ["t"], {OP + "/get": ["row", [["_return", delete("$t", [{"$row": [0]}])]]]}), []),
    (for_each("$ids", ["t"], {OP + "/delete": ["key", [["_return", delete("$t", {"$key": []})]]]}), []),
    (for_each("$red", ["t"], {OP + "/delete": ["key", [["_return", delete("$t", {"$key": []})]]]}), [ROW_2]),
    (for_each("$red", ["t"], {OP + "/get": ["key", [["_return", {"$t": [{"$key": []}, {"color": "grey"}]}]]]}),
     [[1, "grey", 10], ROW_2, [3, "grey", 30]]),
    (for_each("$colors", ["t"], {OP + "/get": ["row", [["_return", {"$t": [[{"$row": [0]}], {"color": "aaa"}]}]]]}),
     [[1, "aaa", 10], [2, "aaa", 20], [3, "aaa", 30]]),
], ids=["upsert", "update", "delete", "client delete", "client delete where", "update what was filtered by", "update the order"])
def test_rows_are_written_while_they_are_read(ask, write, rows):
    """Neither a deadlock, nor a row skipped, repeated, or read that was not there when consumption began."""

    entries = [
        ["key", {"$t/select": [["sku"]]}], ["ids", {"$key/rows": {}}],
        ["where", {"$t": {"bounds": {"color": "red"}}}], ["red_key", {"$where/select": [{"$t/key_names": [None]}]}],
        ["red", {"$red_key/rows": {}}], ["order", {"$t/order": [[["color"], True]]}], ["colors", {"$order/rows": {}}]]

    support.assert_reply(ask(after(write, {"$t": []}), *entries), 200, table(rows))
    by_color = sorted(rows, key=lambda row: (row[1], row[0]))
    support.assert_reply(ask(after(write, {"$t/order": [["color"]]}), *entries), 200, table(by_color))


def test_keys_are_written_while_they_are_read(ask):
    insert = {OP + "/put": ["city", "n", [["next", {"$n/add": [100]}], ["_return", {"$b": [None, [{"$city": []}, {"$next": []}]]}]]]}
    support.assert_reply(ask(after(for_each("$k", ["b"], insert), {"$b/count": [None]})), 200, 10)
    remove = {OP + "/get": ["key", [["_return", delete("$b", {"$key": []})]]]}
    support.assert_reply(ask(after(for_each("$k", ["b"], remove), {"$b/count": [None]})), 200, 0)


# Laziness

def test_a_stream_is_read_when_it_is_consumed(ask):
    upsert = {"$t": [[4], ["teal", 40]]}
    rows = ROWS + [[4, "teal", 40]]
    support.assert_reply(ask(after({"$s": []}, upsert, {"$s": []})), 200, rows)
    support.assert_reply(ask(after({"$s": []}, upsert, {"$s/fold": {"value": 0, "op": SUM}})), 200, 100)
    support.assert_reply(ask(after({"$m": []}, upsert, {"$m": []}), ["m", {"$s/map": {"op": DOUBLE}}]), 200, [20, 40, 60, 80])
    support.assert_reply(ask(after({"$e/first": [None]}, {"$n": [[1], ["x", 1]]}, {"$e/first": [None]})), 200, [1, "x", 1])
    support.assert_reply(ask(after({"$e": []}, {"$n": [[1], ["x", 1]]}, {"$e/first": [None]})), 200, [1, "x", 1])
    support.assert_reply(ask(after({"$k": []}, delete("$b", "Oslo"), {"$k": []})), 200, [["Bergen", 3], ["Paris", 2]])


def test_building_a_stream_calls_nothing(ask):
    broken = ["m", {"$s/map": {"op": FORBIDDEN}}]
    support.assert_reply(ask(after({"$m": []}, {"$t/count": [None]}), broken), 200, 3)
    support.assert_reply(ask({"$m/class": [None]}, broken), 200, {STREAM: []})
    support.assert_reply(ask({"$m/first": [None]}, broken), 403)


def test_relations_of_a_row_that_is_written_after_its_stream_was_built(hypothetical):
    """The shape that the client's graph library sends for an insert (section 8.3), with a table in place of the relation."""

    books = [[[column("isbn", N + "/uint/64")], [column("author_id", N + "/uint/64"), column("title", V + "/string", 99)]],
             [["author", ["author_id"]]]]
    wrote = [[[column("from", N + "/uint/64"), column("to", N + "/uint/64")], []], []]
    relate = {OP + "/put": ["new_id", "key", [["_return", {"$wrote": [[{"$new_id": []}, {"$key": []}], []]}]]]}
    pair = {OP + "/get": ["row", [["T", {"$row": []}], ["_return", [{"$author_id": []}, {"$T": [0]}]]]]}

    def insert(isbn):
        return [
            ["books", table([[7, 1, "first"], [8, 2, "other"]], books)],
            ["wrote", {TABLE: [wrote]}],
            ["isbn", isbn],
            ["author_id", 1],
            ["R", {"$books": [[{"$isbn": []}]]}],
            ["Z", {"$R/is_none": [None]}],
            ["W", {"$books": {"bounds": {"author_id": {"$author_id": []}}}}],
            ["Q", {"$W/rows": {}}],
            ["P", {"$Q/map": {"op": capture(["author_id"], pair)}}],
            ["old", {"$R": ["author_id"]}],
            ["I", {R + "/if": [{"$Z/not": [None]}, {"$wrote": [[{"$old": []}, 0], []]}, None]}],
            ["done", {R + "/if": [
                {"$books/contains": [[9]]}, {"/error/bad_request": ["no"]}, {R + "/after": [
                    {"$books": [[{"$isbn": []}], [{"$author_id": []}, "new"]]},
                    [{R + "/after": [{"$I": []}, {"$P/for_each": {"op": capture(["wrote"], relate)}}]}]]}]}],
            ["result", after({"$done": []}, {"$wrote/rows": {}})]]

    support.assert_reply(hypothetical(insert(5)), 200, [[1, 5], [1, 7]])
    support.assert_reply(hypothetical(insert(8)), 200, [[1, 7], [1, 8], [2, 0]])
    support.assert_reply(hypothetical(insert(9)), 200, [[1, 7], [1, 9]])


def test_a_long_stream(hypothetical):
    rows = [[i, f"color {i % 10}", i] for i in range(2000)]
    loaded = [["t", table(rows)], ["s", {"$t/rows": {}}]]
    support.assert_reply(hypothetical([*loaded, ["r", {"$s/fold": {"value": 0, "op": SUM}}]]), 200, sum(range(2000)))
    support.assert_reply(hypothetical([*loaded, ["r", {"$s/map": {"op": DOUBLE}}]]), 200, [2 * i for i in range(2000)])
    support.assert_reply(hypothetical([*loaded, ["r", {"$s/first": [None]}]]), 200, rows[0])
