"""Tables inside one transaction: protocol page 02, sections 1 to 3, 5 and 7. Hosted ones: test_collections_hosted.py."""

import random

import pytest

import support
from page02 import (
    COLOR, QTY, ROW_1, ROW_2, ROW_3, ROWS, SKU, TABLE, TABLE_SCHEMA, after, as_value, capture, column, delete,
    selection, table, tree)
from support import N, OP, V, call

COMPLEX = N + "/complex/64"
SCHEMA_VALUE = [
    [[as_value(SKU)], [as_value(COLOR), as_value(QTY)]], [[{"by_color": []}, [{"color": []}]]]]


@pytest.fixture
def on_table(hypothetical):
    """Evaluate one expression over `t`, the table of the page, with more entries before it."""

    return lambda expression, *entries: hypothetical([["t", table()], *entries, ["r", expression]])


# Literals and schemas (section 1)

@pytest.mark.parametrize("literal, reply", [
    (table(ROWS[::-1]), table()),
    ({TABLE: [TABLE_SCHEMA]}, table([])),
    (table([]), table([])),
    (table(ROWS + [[1, "teal", 5]]), table([[1, "teal", 5], ROW_2, ROW_3])),
    ({TABLE: [[[[SKU], [COLOR]], []], [[7, "teal"], [3, "ochre"]]]}, {TABLE: [[[[SKU], [COLOR]], []], [[3, "ochre"], [7, "teal"]]]}),
    ({TABLE: [[[SKU], [COLOR]], [[7, "teal"]]]}, {TABLE: [[[[SKU], [COLOR]], []], [[7, "teal"]]]}),
    ({TABLE: [[[SKU], []], [[7]]]}, {TABLE: [[[[SKU], []], []], [[7]]]}),
    ({TABLE: [[[["sku", N + "/uint/64"]], [["color", {V + "/string": []}, 32], ["qty", N + "/int/32", None]]], ROWS]},
     table(ROWS, [TABLE_SCHEMA[0], []])),
    ({TABLE: [SCHEMA_VALUE, ROWS]}, table()),
], ids=str)
def test_a_literal_is_answered_in_key_order_with_its_schema_in_full(hypothetical, literal, reply):
    support.assert_reply(hypothetical([["t", literal]]), 200, reply)
    support.assert_reply(hypothetical([["t", literal], ["r", {"$t": []}]]), 200, reply)
    support.assert_reply(hypothetical(literal), 200, reply)


BAD_SCHEMAS = [
    5,
    [],
    "sku",
    {"sku": N},
    [[SKU]],
    [[[SKU], [COLOR]]],
    [[[SKU], [COLOR]], [], []],
    [[[SKU], [["color", V + "/string"]]], []],
    [[[["sku", N, 8]], [COLOR]], []],
    [[[["sku", N + "/uint/7"]], [COLOR]], []],
    [[[SKU], [SKU]], []],
    [[[SKU, SKU], []], []],
    [[[SKU], [COLOR, ["color", N]]], []],
    [[[SKU], [COLOR]], [["primary", ["color"]]]],
    [[[SKU], [COLOR]], [["by_nothing", ["nothing"]]]],
    [[[SKU], [COLOR]], [["by_color", ["color", "color"]]]],
    [[[SKU], [COLOR]], [["by_color", ["color"]], ["by_color", ["color", "sku"]]]],
    [[[SKU], [COLOR]], [["by_color", "color"]]],
    [[[SKU], [COLOR]], [["by_color"]]],
    [[[SKU], [COLOR]], [["a b", ["color"]]]],
    [[[SKU], [COLOR]], ["by_color"]],
    [[[SKU], [COLOR]], 5],
]


@pytest.mark.parametrize("schema", BAD_SCHEMAS, ids=str)
def test_a_bad_schema_is_refused_wherever_it_is_given(host, hypothetical, schema):
    for reply in (
        hypothetical([["t", {TABLE: [schema]}]]),
        hypothetical([["t", {TABLE: [schema, []]}]]),
        call(host, "GET", TABLE, key=schema),
        call(host, "POST", TABLE + "/copy_from", {"schema": schema, "source": table()}),
    ):
        assert reply[0] in (400, 404), reply


@pytest.mark.parametrize("rows", [
    [[1, "red"]], [[1, "red", 10, 5]], [["x", "red", 10]], [[1, None, 10]], [[1, [1, 2], 10]], [[1, "red", "x"]],
    [[1, "x" * 33, 10]], [[-1, "red", 10]], [[1, "red", 2**31]], [1, "red", 10], 5, "red", [[]], {"sku": 1}], ids=str)
def test_a_literal_with_bad_rows(hypothetical, rows):
    support.assert_reply(hypothetical([["t", table(rows)]]), 400)
    support.assert_reply(hypothetical([["t", table(rows)], ["r", {"$t/count": [None]}]]), 400)


# Constructors (section 1.4)

SHORT = TABLE_SCHEMA[0]


@pytest.mark.parametrize("schema, indices", [
    (TABLE_SCHEMA, TABLE_SCHEMA[1]), (SHORT, []), (SCHEMA_VALUE, TABLE_SCHEMA[1]),
    ([[[["sku", N + "/uint/64"]], [["color", V + "/string", 32], ["qty", N + "/int/32"]]], [["by_color", ["color"]]]],
     TABLE_SCHEMA[1])], ids=str)
def test_a_schema_in_every_form(host, hypothetical, schema, indices):
    full = [SHORT, indices]
    support.assert_reply(call(host, "GET", TABLE, key=schema), 200, table([], full))
    support.assert_reply(hypothetical([["t", {TABLE: [schema]}]]), 200, table([], full))
    support.assert_reply(hypothetical([["t", {TABLE: [schema, ROWS]}]]), 200, table(ROWS, full))
    params = {"schema": schema, "source": table()}
    support.assert_reply(call(host, "POST", TABLE + "/copy_from", params), 200, table(ROWS, full))
    support.assert_reply(hypothetical([["r", {TABLE + "/copy_from": params}]]), 200, table(ROWS, full))


@pytest.mark.parametrize("verb, key, body, status", [
    ("GET", None, None, 400), ("PUT", None, TABLE_SCHEMA, 405), ("PUT", SHORT, [], 405), ("DELETE", None, None, 405),
    ("DELETE", SHORT, None, 405)], ids=str)
def test_a_wrong_request_to_the_class(host, verb, key, body, status):
    support.assert_reply(call(host, verb, TABLE, body, key=key), status)


@pytest.mark.parametrize("literal, expected", [({TABLE: [TABLE_SCHEMA]}, []), (table(), ROWS)], ids=["empty", "loaded"])
def test_an_op_makes_a_table(hypothetical, literal, expected):
    op = {OP + "/get": ["k", [["t", literal], ["_return", {"$t": []}]]]}
    support.assert_reply(hypothetical([["f", op], ["r", {"$f": [None]}]]), 200, table(expected))


@pytest.mark.parametrize("source, rows", [
    ({"$t": []}, ROWS),
    ({"$t": {"bounds": {"color": "red"}}}, [ROW_1, ROW_3]),
    ({"$t/order": [[["color"], True]]}, ROWS),
    ({"$t/limit": [2]}, [ROW_1, ROW_2]),
    ({"$t/rows": {}}, ROWS),
    ({"$t/rows": {"color": "blue"}}, [ROW_2]),
    ({"$k": []}, [[1, "teal", 2], [4, "grey", 1]]),
    ({"$k/keys": [None]}, [[1, "teal", 2], [4, "grey", 1]]),
    ({"$k/reverse": [None]}, [[1, "teal", 1], [4, "grey", 1]]),
], ids=str)
def test_copy_from_any_collection_or_stream(on_table, source, rows):
    """Items are upserted one after the other: a later row replaces an earlier one of the same key."""

    keys = ["k", tree([[1, "teal", 1], [1, "teal", 2], [4, "grey", 1]], [SKU, COLOR, QTY])]
    copied = {TABLE + "/copy_from": {"schema": TABLE_SCHEMA, "source": source}}
    support.assert_reply(on_table(copied, keys), 200, table(rows))


@pytest.mark.parametrize("params", [
    {"schema": TABLE_SCHEMA},
    {"source": table()},
    {"schema": TABLE_SCHEMA, "source": table(), "extra": 1},
    {"schema": TABLE_SCHEMA, "source": ROWS},
    {"schema": TABLE_SCHEMA, "source": 5},
    {"schema": [[[SKU], [COLOR]], []], "source": table()},
    {"schema": [[[SKU], [QTY, COLOR]], []], "source": table()},
    {"schema": [[[SKU], [["color", V + "/string", 2], QTY]], []], "source": table()},
], ids=str)
def test_a_bad_copy(host, hypothetical, params):
    support.assert_reply(call(host, "POST", TABLE + "/copy_from", params), 400)
    support.assert_reply(hypothetical([["r", {TABLE + "/copy_from": params}]]), 400)


def test_a_copy_is_independent(on_table):
    copy = ["c", {TABLE + "/copy_from": {"schema": {"$t/schema": [None]}, "source": {"$t": []}}}]
    support.assert_reply(on_table(after({"$c": []}, {"$t": [[1], ["x", 1]]}, {"$c": []}), copy), 200, table())
    support.assert_reply(on_table(after({"$c": [[1], ["x", 1]]}, {"$t": []}), copy), 200, table())
    blue = {"$c": {"bounds": {"color": "blue"}}}
    support.assert_reply(on_table(after(delete("$c", [2]), blue), copy), 200, table([]))


# What columns hold (section 2): strict for keys and upserts, lenient for updates

@pytest.mark.parametrize("dtype, max_len, value, stored", [
    ("number/int/32", None, "17", 17),
    ("number/int/32", None, [4], 4),
    ("number/uint/64", None, 2**64 - 1, 2**64 - 1),
    ("number/int/64", None, -2**63, -2**63),
    ("number", None, 1.5, 1.5),
    ("number/float/64", None, 0.1, 0.1),
    ("number/complex/64", None, [1, 2], {COMPLEX: [1, 2]}),
    ("string", 10, "\u00e9\n\"", "\u00e9\n\""),
    ("string", 10, 5, "5"),
    ("string", 10, {"x": []}, "x"),
    ("string", 10, {"/a/b": []}, "/a/b"),
    ("bytes", 10, "aGk=", "aGk="),
    ("bytes", 10, "686920", "aGkg"),
    ("bytes", 10, "abcd", "abcd"),
    ("id", 10, "x", {"x": []}),
    ("tuple", 10, [1, ["a", None]], [1, ["a", None]]),
    ("none", 10, 5, None),
    ("", 10, None, None),
    ("", 10, [1, "a"], [1, "a"]),
    ("", 10, {"/a": []}, {"/a": []}),
], ids=str)
def test_a_value_is_cast_to_its_column(hypothetical, dtype, max_len, value, stored):
    typed = column("x", f"{V}/{dtype}" if dtype else V, *([] if max_len is None else [max_len]))
    schema = [[[SKU], [column("y", N), typed]], []]
    reply = table([[1, 0, stored]], schema)
    empty = ["t", {TABLE: [schema]}]
    support.assert_reply(hypothetical([["t", table([[1, 0, value]], schema)]]), 200, reply)
    support.assert_reply(hypothetical([empty, ["r", after({"$t": [[1], [0, value]]}, {"$t": []})]]), 200, reply)
    updated = after({"$t": [[1], [5, stored]]}, {"$t": [[1], {"x": value, "y": 0}]}, {"$t": []})
    support.assert_reply(hypothetical([empty, ["r", updated]]), 200, reply)


@pytest.mark.parametrize("dtype, max_len, value", [
    ("number/int/32", None, 4.9),
    ("number/int/32", None, None),
    ("number/int/32", None, True),
    ("number/bool", None, 3),
    ("number/bool", None, None),
    ("number/uint/8", None, 256),
    ("number/uint/64", None, -1),
    ("number/int/32", None, 2**31),
    ("number/int/16", None, "40000"),
    ("number/int/64", None, 2**63),
    ("number/int/32", None, "x"),
    ("number/int/32", None, [1, 2, 3]),
    ("string", 10, None),
    ("string", 5, "éééééé"),
    ("bytes", 10, "not bytes!"),
    ("id", 10, "a b"),
    ("tuple", 10, 5),
], ids=str)
def test_a_value_that_does_not_fit_its_column_is_refused(hypothetical, dtype, max_len, value):
    typed = column("x", f"{V}/{dtype}", *([] if max_len is None else [max_len]))
    schema = [[[SKU], [column("y", N), typed]], []]
    loaded = ["t", {TABLE: [schema]}]
    support.assert_reply(hypothetical([["t", table([[1, 0, value]], schema)]]), 400)
    support.assert_reply(hypothetical([loaded, ["r", after({"$t": [[1], [0, value]]}, {"$t": []})]]), 400)

    by_key = [[[typed], [column("y", N)]], []]
    support.assert_reply(hypothetical([["t", table([[value, 0]], by_key)]]), 400)
    support.assert_reply(hypothetical([["t", {TABLE: [by_key]}], ["r", {"$t": [[value], [0]]}]]), 400)


@pytest.mark.parametrize("value", [None, [1, 2]], ids=str)
def test_strict_columns_refuse_what_is_no_text(on_table, value):
    support.assert_reply(on_table(after({"$t": [[1], [value, 1]]}, {"$t": []})), 400)


def test_an_update_casts_leniently(on_table):
    support.assert_reply(on_table(after({"$t": [[1], {"color": [1, 2]}]}, {"$t": [[1]]})), 200, [1, "(1, 2)", 10])
    support.assert_reply(on_table(after({"$t": [[1], {"color": None}]}, {"$t": [[1]]})), 400)
    support.assert_reply(on_table(after({"$t": [[1], {"qty": 2**31}]}, {"$t": [[1]]})), 400)
    support.assert_reply(on_table(after({"$t": [[1], {"color": "x" * 33}]}, {"$t": [[1]]})), 400)


# Methods (section 5.1)

@pytest.mark.parametrize("expression, expected", [
    ({"$t": []}, table()),
    ({"$t": [None]}, table()),
    ({"$t": [[2]]}, ROW_2),
    ({"$t": [["2"]]}, ROW_2),
    ({"$t": [[9]]}, None),
    ({"$t": [[2.0]]}, ROW_2),
    ({"$t": [[2.5]]}, None),
    ({"$t": [[-1]]}, None),
    ({"$t": [[1e300]]}, None),
    ({"$t/contains": [[2.5]]}, False),
    ({"$t": [[2.5], {"qty": 11}]}, None),
    (delete("$t", [2.5]), None),
    ({"$t": [[4], ["teal", 40]]}, None),
    ({"$t": [[1], {"qty": 11}]}, None),
    (delete("$t", [3]), None),
    (delete("$t", [99]), None),
    ({"$t/contains": [[2]]}, True),
    ({"$t/contains": [[9]]}, False),
    ({"$t": {"bounds": {"color": "red"}}}, table([ROW_1, ROW_3])),
    ({"$t": {"bounds": {"color": "red"}, "other": 1}}, table([ROW_1, ROW_3])),
    ({"$t/count": [None]}, 3),
    ({"$t/rows": [None]}, ROWS),
    ({"$t/rows": {}}, ROWS),
    ({"$t/rows": []}, ROWS),
    ({"$t/rows": {"color": "red"}}, [ROW_1, ROW_3]),
    ({"$t/order": [[["color"], True]]}, table([ROW_3, ROW_1, ROW_2])),
    ({"$t/order": [[["color"], False]]}, table([ROW_2, ROW_1, ROW_3])),
    ({"$t/order": [["color"]]}, table([ROW_2, ROW_1, ROW_3])),
    ({"$t/order": [["color", "sku"]]}, table([ROW_2, ROW_1, ROW_3])),
    ({"$t/order": [[[{"color": []}], True]]}, table([ROW_3, ROW_1, ROW_2])),
    ({"$t/order": [[[], False]]}, table()),
    ({"$t/order": [[["sku"], True]]}, table(ROWS[::-1])),
    ({"$t/limit": [2]}, table([ROW_1, ROW_2])),
    ({"$t/limit": [0]}, table([])),
    ({"$t/limit": [99]}, table()),
    ({"$t/limit": [2**63]}, table()),
    ({"$t/select": [["color", "qty"]]}, selection([], [COLOR, QTY], [["red", 10], ["blue", 20], ["red", 30]])),
    ({"$t/select": [["color"]]}, selection([], [COLOR], [["red"], ["blue"], ["red"]])),
    ({"$t/select": [["sku"]]}, selection([SKU], [], [[1], [2], [3]])),
    ({"$t/select": [[{"sku": []}, {"qty": []}]]}, selection([SKU], [QTY], [[1, 10], [2, 20], [3, 30]])),
    ({"$t/select": [["qty", "color"]]}, selection([], [QTY, COLOR], [[10, "red"], [20, "blue"], [30, "red"]])),
    ({"$t/select": [["qty", "sku"]]}, selection([SKU], [QTY], [[10, 1], [20, 2], [30, 3]])),
    ({"$t/columns": [None]}, [as_value(SKU), as_value(COLOR), as_value(QTY)]),
    ({"$t/key_columns": [None]}, [as_value(SKU)]),
    ({"$t/key_names": [None]}, [{"sku": []}]),
    ({"$t/schema": [None]}, SCHEMA_VALUE),
    ({"$t/is_empty": [None]}, False),
    ({"$e/is_empty": [None]}, True),
    ({"$e/count": [None]}, 0),
    ({"$e/rows": {}}, []),
    ({"$t/class": [None]}, {TABLE: []}),
    ({"$t/is_none": [None]}, False),
    ({"a": {"$t": [[1]]}, "b": [{"$t/limit": [1]}]}, {"a": ROW_1, "b": [table([ROW_1])]}),
], ids=str)
def test_a_method(on_table, expression, expected):
    support.assert_reply(on_table(expression, ["e", {TABLE: [TABLE_SCHEMA]}]), 200, expected)


@pytest.mark.parametrize("expression, status", [
    ({"$t": [2]}, 400),
    ({"$t": ["2"]}, 400),
    ({"$t": [[1, 2]]}, 400),
    ({"$t": [["x"]]}, 400),
    ({"$t/contains": [2]}, 400),
    ({"$t/contains": [None]}, 400),
    ({"$t/contains": [[1, 2]]}, 400),
    ({"$t/contains": [["x"]]}, 400),
    ({"$t/count": [1]}, 400),
    ({"$t/count": [[1]]}, 400),
    ({"$t/rows": [1]}, 400),
    ({"$t/rows": [[1]]}, 400),
    ({"$t/columns": [1]}, 400),
    ({"$t/key_columns": [1]}, 400),
    ({"$t/key_names": [1]}, 400),
    ({"$t/limit": [None]}, 400),
    ({"$t/limit": [-1]}, 400),
    ({"$t/limit": [1.9]}, 400),
    ({"$t/limit": ["2"]}, 400),
    ({"$t/limit": ["x"]}, 400),
    ({"$t/limit": [[1]]}, 400),
    ({"$t/order": ["color"]}, 400),
    ({"$t/order": [5]}, 400),
    ({"$t/order": [["nope"]]}, 400),
    ({"$t/order": [[["color", "nope"], True]]}, 400),
    ({"$t/order": [[["color"], "x"]]}, 400),
    ({"$t/select": [["nope"]]}, 404),
    ({"$t/select": [["sku", "nope"]]}, 404),
    ({"$t/select": [["color", "color"]]}, 400),
    ({"$t/select": ["color"]}, 400),
    ({"$t/select": [5]}, 400),
    ({"$t": {"x": 1}}, 400),
    ({"$t/nope": [None]}, 404),
    ({"$t/count": {"x": 1}}, 405),
    ({"$t/order": {"x": 1}}, 405),
    ({"$t/limit": {"x": 1}}, 405),
    ({"$t/count": [None, 1]}, 405),
    ({"$t/rows": [None, 1]}, 405),
    (delete("$t/rows"), 405),
    (delete("$t/contains", [1]), 405),
], ids=str)
def test_a_wrong_call(on_table, expression, status):
    support.assert_reply(on_table(expression), status)


def test_a_row_answers_by_position_and_by_column_name(on_table):
    row = ["row", {"$t": [[2]]}]
    for key, expected in [(0, 2), (1, "blue"), ("sku", 2), ("color", "blue"), ("qty", 20), ({"qty": []}, 20)]:
        support.assert_reply(on_table({"$row": [key]}, row), 200, expected)

    support.assert_reply(on_table({"$row": []}, row), 200, ROW_2)
    assert on_table({"$row": ["nope"]}, row)[0] in (400, 404)
    support.assert_reply(on_table({"$row": [3]}, row), 404)
    support.assert_reply(on_table({"$row/eq": {"eq": ROW_2}}, row), 200, True)


def test_an_absent_row_is_none(on_table):
    row = ["row", {"$t": [[9]]}]
    support.assert_reply(on_table({"$row/is_none": [None]}, row), 200, True)
    support.assert_reply(on_table({"$row/is_none": [None]}, ["row", {"$t": [[2]]}]), 200, False)


# Writes (section 5.3)

@pytest.mark.parametrize("write, rows", [
    ({"$t": [[4], ["teal", 40]]}, ROWS + [[4, "teal", 40]]),
    ({"$t": [["4"], ["teal", "40"]]}, ROWS + [[4, "teal", 40]]),
    ({"$t": [[0], ["teal", 40]]}, [[0, "teal", 40]] + ROWS),
    ({"$t": [[1], ["teal", 40]]}, [[1, "teal", 40], ROW_2, ROW_3]),
    ({"$t": [[1], {"qty": 11}]}, [[1, "red", 11], ROW_2, ROW_3]),
    ({"$t": [[1], {"qty": 11, "color": "x"}]}, [[1, "x", 11], ROW_2, ROW_3]),
    ({"$t": [[99], {"qty": 11}]}, ROWS),
    ({"$t": [[1], {}]}, ROWS),
    (delete("$t", [1]), [ROW_2, ROW_3]),
    (delete("$t", ["1"]), [ROW_2, ROW_3]),
    (delete("$t", [99]), ROWS),
    ([{"$t": [[i], ["x", i]]} for i in (1, 2, 3, 4)], [[i, "x", i] for i in (1, 2, 3, 4)]),
    ([{"$t": [[4], ["a", 1]]}, {"$t": [[4], {"qty": 2}]}, delete("$t", [1])], [ROW_2, ROW_3, [4, "a", 2]]),
    (after(delete("$t", [1]), {"$t": [[1], ["red", 10]]}), ROWS),
    (after({"$t": [[4], ["x", 1]]}, delete("$t", [4])), ROWS),
], ids=str)
def test_every_index_follows_a_write(on_table, write, rows):
    by_color = sorted(rows, key=lambda row: (row[1], row[0]))
    support.assert_reply(on_table(after(write, {"$t": []})), 200, table(rows))
    support.assert_reply(on_table(after(write, {"$t/count": [None]})), 200, len(rows))
    support.assert_reply(on_table(after(write, {"$t/order": [["color"]]})), 200, table(by_color))
    support.assert_reply(on_table(after(write, {"$t/order": [[["color"], True]]})), 200, table(by_color[::-1]))
    for color in ("red", "blue", "teal", "x"):
        expected = [row for row in rows if row[1] == color]
        support.assert_reply(on_table(after(write, {"$t": {"bounds": {"color": color}}})), 200, table(expected))


@pytest.mark.parametrize("write", [
    {"$t": [5, ["grey", 1]]},
    {"$t": [None, ["grey", 1]]},
    {"$t": [[], ["grey", 1]]},
    {"$t": [[1, 2], ["grey", 1]]},
    {"$t": [["x"], ["grey", 1]]},
    {"$t": [[5], ["grey"]]},
    {"$t": [[5], ["grey", 1, 2]]},
    {"$t": [[5], []]},
    {"$t": [[5], ["grey", "x"]]},
    {"$t": [[5], None]},
    {"$t": [[5], "grey"]},
    {"$t": [[5], 1]},
    {"$t": [[5], {"$t": []}]},
    {"$t": [[5], {"$t/rows": {}}]},
    {"$t": [[1], {"nope": 1}]},
    {"$t": [[1], {"qty": 1, "nope": 1}]},
    {"$t": [[99], {"nope": 1}]},
    {"$t": [[1], {"sku": 5}]},
    {"$t": [[1], {"sku": 1}]},
    {"$t": [[1], {"qty": "x"}]},
    {"$t": [1, {"qty": 1}]},
    delete("$t"),
    delete("$t", []),
    delete("$t", 1),
    delete("$t", [1, 2]),
    delete("$t", ["x"]),
], ids=str)
def test_a_bad_write(on_table, write):
    support.assert_reply(on_table(after(write, {"$t/count": [None]})), 400)


def test_a_table_without_values(hypothetical):
    schema = [[[SKU, COLOR], []], []]
    loaded = ["t", table([[1, "red"], [1, "blue"], [2, "red"]], schema)]
    support.assert_reply(hypothetical([loaded, ["r", {"$t": [[1, "red"]]}]]), 200, [1, "red"])
    support.assert_reply(hypothetical([loaded, ["r", {"$t": [[1]]}]]), 400)
    support.assert_reply(
        hypothetical([loaded, ["r", after({"$t": [[3, "x"], []]}, {"$t": []})]]), 200,
        table([[1, "blue"], [1, "red"], [2, "red"], [3, "x"]], schema))
    support.assert_reply(
        hypothetical([loaded, ["r", {"$t": {"bounds": {"sku": 1}}}]]), 200, table([[1, "blue"], [1, "red"]], schema))
    support.assert_reply(
        hypothetical([loaded, ["r", {"$t/order": [[["sku"], True]]}]]), 200,
        table([[2, "red"], [1, "red"], [1, "blue"]], schema))


# Bounds (sections 3.3 and 3.4): any is answered

BOUNDS = [
    ({}, ROWS),
    ([], ROWS),
    ({"sku": 2}, [ROW_2]),
    ({"sku": "2"}, [ROW_2]),
    ({"sku": 9}, []),
    ({"color": "red"}, [ROW_1, ROW_3]),
    ({"color": {"red": []}}, [ROW_1, ROW_3]),
    ([["color", "red"]], [ROW_1, ROW_3]),
    ([["color", "red"], ["sku", 3]], [ROW_3]),
    ([[{"color": []}, "red"]], [ROW_1, ROW_3]),
    ({"qty": 10}, [ROW_1]),
    ({"qty": 30, "sku": 3}, [ROW_3]),
    ({"qty": 30, "sku": 1}, []),
    ({"sku": 3, "color": "red", "qty": 30}, [ROW_3]),
    ({"sku": 3, "color": "red", "qty": [["in", 30], ["ex", 40]]}, [ROW_3]),
    ({"color": "red", "qty": [["in", 20], ["ex", None]]}, [ROW_3]),
    ({"color": [["in", "a"], ["ex", "c"]], "qty": [["in", 0], ["in", 20]]}, [ROW_2]),
    ({"sku": [["in", 1], ["ex", 4]], "color": "red"}, [ROW_1, ROW_3]),
    ({"sku": [["in", 2], ["ex", None]]}, [ROW_2, ROW_3]),
    ({"sku": [["in", 2], ["in", None]]}, [ROW_2, ROW_3]),
    ({"sku": [["in", 2], None]}, [ROW_2, ROW_3]),
    ({"sku": [["ex", 2], ["in", 9]]}, [ROW_3]),
    ({"sku": [["in", "2"], ["in", "9"]]}, [ROW_2, ROW_3]),
    ({"sku": [None, ["in", 2]]}, [ROW_1, ROW_2]),
    ({"sku": [["in", None], ["ex", 2]]}, [ROW_1]),
    ({"sku": [["ex", None], ["ex", 2]]}, [ROW_1]),
    ({"sku": [["in", 2], 3]}, [ROW_2]),
    ({"sku": [2, ["in", 3]]}, [ROW_2, ROW_3]),
    ({"sku": [["in", None], ["ex", None]]}, ROWS),
    ({"sku": [["in", None], None]}, ROWS),
    ({"sku": [["in", 3], ["ex", 1]]}, []),
    ({"color": [["in", "b"], ["ex", "r"]]}, [ROW_2]),
    ({"color": [["ex", "blue"], ["in", "red"]]}, [ROW_1, ROW_3]),
    ({"color": [["in", None], ["ex", "red"]]}, [ROW_2]),
    ({"qty": [["ex", 10], ["in", 30]]}, [ROW_2, ROW_3]),
    ({"qty": [["in", None], ["ex", None]], "color": "red"}, [ROW_1, ROW_3]),
    ({"qty": None}, []),
    ({"qty": 10.0}, [ROW_1]),
    ({"qty": 10.5}, []),
    ({"qty": 2**31}, []),
    ({"sku": -1}, []),
    ({"sku": True}, [ROW_1]),
    ({"sku": [1, 0]}, [ROW_1]),
    ({"sku": [2, 9]}, []),
    ({"qty": [["in", 9.5], ["ex", 20.5]]}, [ROW_1, ROW_2]),
    ({"qty": [["ex", 10.5], ["in", 29.5]]}, [ROW_2]),
    ({"sku": [["in", -0.5], ["in", 1.5]]}, [ROW_1]),
    ({"qty": [["in", -2**40], ["ex", 2**40]]}, ROWS),
    ({"qty": [["ex", 1e300], None]}, []),
    ({"qty": 10.5, "color": "red"}, []),
]

each_bounds = pytest.mark.parametrize("bounds, rows", BOUNDS, ids=str)


def in_some_order(reply, rows):
    """More than one group of bounds: the page leaves the order of rows to the host."""

    status, body = reply
    assert status == 200, body
    assert body[TABLE][0] == TABLE_SCHEMA
    assert sorted(body[TABLE][1]) == rows


@each_bounds
def test_where(on_table, bounds, rows):
    where = {"$t": {"bounds": bounds}}
    view = ["v", where]
    in_some_order(on_table(where), rows)
    if len(bounds) == 1:
        support.assert_reply(on_table(where), 200, table(rows))

    support.assert_reply(on_table({"$v/count": [None]}, view), 200, len(rows))
    support.assert_reply(on_table({"$v/is_empty": [None]}, view), 200, not rows)
    status, streamed = on_table({"$v/rows": {}}, view)
    assert status == 200, streamed
    assert sorted(streamed) == rows


@pytest.mark.parametrize("bounds, rows", [case for case in BOUNDS if isinstance(case[0], dict)], ids=str)
def test_rows_within_bounds(on_table, bounds, rows):
    status, streamed = on_table({"$t/rows": bounds})
    assert status == 200, streamed
    assert sorted(streamed) == rows


@each_bounds
def test_bounds_given_by_reference(on_table, bounds, rows):
    in_some_order(on_table({"$t": {"bounds": {"$b": []}}}, ["b", bounds]), rows)
    op = {OP + "/post": [["_return", {"$t": {"bounds": {"$b": []}}}]]}
    in_some_order(on_table({"$f": {"b": bounds}}, ["f", capture(["t"], op)]), rows)


@each_bounds
def test_an_index_never_changes_what_is_found(hypothetical, bounds, rows):
    for indices in ([], [["a", ["qty"]], ["b", ["color", "qty"]], ["c", ["qty", "color"]]]):
        schema = [TABLE_SCHEMA[0], indices]
        status, reply = hypothetical([["t", table(ROWS, schema)], ["r", {"$t": {"bounds": bounds}}]])
        assert status == 200, reply
        assert sorted(reply[TABLE][1]) == rows


@pytest.mark.parametrize("bounds", [
    {"nope": 1},
    {"nope": 1, "color": "red"},
    {"nope": [["in", None], ["ex", None]]},
    {"color": None},
    {"color": [1, 2]},
    {"sku": "x"},
    {"sku": [["in", "x"], ["ex", 5]]},
    {"sku": [["in", 1], ["a", 2]]},
    {"sku": [["a", 1], ["in", 2]]},
    5,
    "color",
    ["color"],
    [["color", "red", 1]],
], ids=str)
def test_bad_bounds(on_table, bounds):
    support.assert_reply(on_table({"$t": {"bounds": bounds}}), 400)
    if isinstance(bounds, dict):
        support.assert_reply(on_table({"$t/rows": bounds}), 400)


def test_a_two_element_list_is_equality(hypothetical):
    """On a complex column [2, 9] is 2+9i, not a range."""

    schema = [[[column("z", COMPLEX)], [QTY]], []]
    loaded = ["t", table([[[2, 9], 1], [[3, 0], 2]], schema)]
    support.assert_reply(
        hypothetical([loaded, ["r", {"$t": {"bounds": {"z": [2, 9]}}}]]), 200, table([[{COMPLEX: [2, 9]}, 1]], schema))


# Orders (section 3.5): any is answered

@pytest.mark.parametrize("columns, key", [
    (["sku"], lambda row: row[0]),
    (["color"], lambda row: (row[1], row[0])),
    (["color", "qty"], lambda row: (row[1], row[2])),
    (["qty"], lambda row: row[2]),
    (["qty", "sku", "color"], lambda row: row[2]),
    (["sku", "color"], lambda row: row[0]),
    (["color", "sku", "qty"], lambda row: (row[1], row[0])),
], ids=support.name)
@pytest.mark.parametrize("indices", [[], [["by_color", ["color"]]], [["by_qty", ["qty", "color"]]]], ids=str)
def test_order(hypothetical, columns, key, indices):
    rows = [[1, "red", 30], [2, "blue", 20], [3, "red", 10], [4, "blue", 40], [5, "", -1]]
    schema = [TABLE_SCHEMA[0], indices]
    loaded = ["t", table(rows, schema)]
    expected = sorted(rows, key=key)
    support.assert_reply(hypothetical([loaded, ["r", {"$t/order": [columns]}]]), 200, table(expected, schema))
    support.assert_reply(hypothetical([loaded, ["r", {"$t/order": [[columns, False]]}]]), 200, table(expected, schema))
    support.assert_reply(hypothetical([loaded, ["r", {"$t/order": [[columns, True]]}]]), 200, table(expected[::-1], schema))
    limited = ["v", {"$t/order": [[columns, True]]}], ["r", {"$v/limit": [2]}]
    support.assert_reply(hypothetical([loaded, *limited]), 200, table(expected[:-3:-1], schema))


def test_an_index_of_several_columns_breaks_ties_by_its_other_columns(hypothetical):
    rows = [[1, "red", 3], [2, "red", 1], [3, "red", 2], [4, "blue", 9]]
    schema = [TABLE_SCHEMA[0], [["by_color_and_qty", ["color", "qty"]]]]
    loaded = ["t", table(rows, schema)]
    expected = [[4, "blue", 9], [2, "red", 1], [3, "red", 2], [1, "red", 3]]
    support.assert_reply(hypothetical([loaded, ["r", {"$t/order": [["color"]]}]]), 200, table(expected, schema))
    support.assert_reply(hypothetical([loaded, ["r", {"$t/order": [[["color"], True]]}]]), 200, table(expected[::-1], schema))
    support.assert_reply(
        hypothetical([loaded, ["r", {"$t": {"bounds": {"color": "red"}}}]]), 200, table(expected[1:], schema))


# Views of views (section 5.2): all compose

def where(**bounds):
    return lambda view: {view: {"bounds": bounds}}


def order(*columns, reverse=False):
    return lambda view: {view + "/order": [[list(columns), reverse]]}


def limit(n):
    return lambda view: {view + "/limit": [n]}


def select(*columns):
    return lambda view: {view + "/select": [list(columns)]}


COMPOSED = [
    ([where(color="red"), where(sku=[["in", 2], ["ex", None]])], [ROW_3]),
    ([where(color="red"), where(color="blue")], []),
    ([where(sku=[["in", 1], ["in", 2]]), where(sku=[["in", 2], ["in", 3]])], [ROW_2]),
    ([where(qty=[["in", 20], None]), where(color="red")], [ROW_3]),
    ([where(color="red"), order("sku", reverse=True)], [ROW_3, ROW_1]),
    ([where(color="red"), order("qty", reverse=True)], [ROW_3, ROW_1]),
    ([where(color="red"), limit(1)], [ROW_1]),
    ([order("color", reverse=True), where(color="red")], [ROW_3, ROW_1]),
    ([order("sku", reverse=True), where(qty=[["in", 20], None])], [ROW_3, ROW_2]),
    ([order("color"), order("sku", reverse=True)], [ROW_3, ROW_2, ROW_1]),
    ([order("sku", reverse=True), order("qty")], ROWS),
    ([order("color", reverse=True), limit(2)], [ROW_3, ROW_1]),
    ([limit(2), where(color="red")], [ROW_1]),
    ([limit(2), order("sku", reverse=True)], [ROW_2, ROW_1]),
    ([limit(2), limit(1)], [ROW_1]),
    ([limit(1), limit(2)], [ROW_1]),
    ([order("sku", reverse=True), limit(2), order("sku")], [ROW_2, ROW_3]),
    ([order("sku", reverse=True), limit(2), where(color="red"), order("color"), limit(5)], [ROW_3]),
    ([where(color="red"), order("sku", reverse=True), limit(1), where(sku=3)], [ROW_3]),
    ([where(color="red"), order("sku", reverse=True), limit(1), where(sku=1)], []),
]


def compose(steps):
    """The context entries of these steps, and the name of the last one."""

    entries = []
    view = "$t"
    for i, step in enumerate(steps):
        entries.append([f"v{i}", step(view)])
        view = f"$v{i}"

    return entries, view


def each_composition(names, compositions):
    """Parametrise, named by what the steps send."""

    ids = [" ".join(str(step("$")) for step in steps) for steps, *_ in compositions]
    return pytest.mark.parametrize(names, compositions, ids=ids)


@each_composition("steps, rows", COMPOSED)
def test_views_compose(on_table, steps, rows):
    entries, view = compose(steps)
    support.assert_reply(on_table({view: []}, *entries), 200, table(rows))
    support.assert_reply(on_table({view + "/count": [None]}, *entries), 200, len(rows))
    support.assert_reply(on_table({view + "/is_empty": [None]}, *entries), 200, not rows)
    support.assert_reply(on_table({view + "/rows": {}}, *entries), 200, rows)
    support.assert_reply(on_table({view + "/rows": [None]}, *entries), 200, rows)
    support.assert_reply(on_table({view + "/rows": {"sku": 3}}, *entries), 200, [ROW_3] if ROW_3 in rows else [])
    support.assert_reply(on_table({view + "/schema": [None]}, *entries), 200, SCHEMA_VALUE)
    support.assert_reply(on_table({view + "/key_names": [None]}, *entries), 200, [{"sku": []}])
    support.assert_reply(
        on_table({view + "/select": [["qty", "sku"]]}, *entries), 200,
        selection([SKU], [QTY], [[qty, sku] for sku, _, qty in rows]))
    for row in ROWS:
        support.assert_reply(on_table({view: [row[:1]]}, *entries), 200, row if row in rows else None)
        support.assert_reply(on_table({view + "/contains": [row[:1]]}, *entries), 200, row in rows)

    copied = {TABLE + "/copy_from": {"schema": {view + "/schema": [None]}, "source": {view: []}}}
    support.assert_reply(on_table(copied, *entries), 200, table(sorted(rows)))


@each_composition("steps, key, values, rows", [
    ([select("color"), limit(2)], [], [COLOR], [["red"], ["blue"]]),
    ([select("color"), order("color")], [], [COLOR], [["blue"], ["red"], ["red"]]),
    ([select("color"), where(color="red")], [], [COLOR], [["red"], ["red"]]),
    ([select("sku", "color"), where(color="red")], [SKU], [COLOR], [[1, "red"], [3, "red"]]),
    ([select("sku", "qty"), order("qty", reverse=True), limit(2)], [SKU], [QTY], [[3, 30], [2, 20]]),
    ([select("sku", "color", "qty"), select("qty")], [], [QTY], [[10], [20], [30]]),
    ([where(color="red"), select("qty")], [], [QTY], [[10], [30]]),
    ([order("color"), select("color")], [], [COLOR], [["blue"], ["red"], ["red"]]),
    ([order("qty", reverse=True), select("sku")], [SKU], [], [[3], [2], [1]]),
    ([limit(2), select("qty", "color")], [], [QTY, COLOR], [[10, "red"], [20, "blue"]]),
])
def test_selections_compose(on_table, steps, key, values, rows):
    entries, view = compose(steps)
    support.assert_reply(on_table({view: []}, *entries), 200, selection(key, values, rows))
    support.assert_reply(on_table({view + "/rows": {}}, *entries), 200, rows)
    support.assert_reply(on_table({view + "/count": [None]}, *entries), 200, len(rows))
    support.assert_reply(on_table({view + "/columns": [None]}, *entries), 200, [as_value(c) for c in key + values])
    support.assert_reply(on_table({view + "/key_columns": [None]}, *entries), 200, [as_value(c) for c in key])
    support.assert_reply(
        on_table({view + "/schema": [None]}, *entries), 200, [[[as_value(c) for c in key], [as_value(c) for c in values]], []])


@each_composition("steps, status", [
    ([select("color"), where(qty=10)], 400),
    ([select("color"), order("qty")], 400),
    ([select("color"), select("qty")], 404),
])
def test_a_column_that_was_not_selected_is_unknown(on_table, steps, status):
    entries, view = compose(steps)
    support.assert_reply(on_table({view: []}, *entries), status)


@pytest.mark.parametrize("view", [where(color="red"), order("color"), limit(2), select("sku", "qty")], ids=[
    "where", "order", "limit", "select"])
@pytest.mark.parametrize("write", [
    {"$v": [[1], ["x", 1]]}, {"$v": [[1], [1]]}, {"$v": [[1], {"qty": 1}]}, delete("$v", [1])],
    ids=["upsert", "short upsert", "update", "delete"])
def test_a_view_cannot_be_written(on_table, view, write):
    support.assert_reply(on_table(after(write, {"$t": []}), ["v", view("$t")]), 400)


@pytest.mark.parametrize("step", [where(color="red"), order("color"), limit(9), select("color", "qty")], ids=[
    "where", "order", "limit", "select"])
def test_views_are_read_when_they_are_consumed(on_table, step):
    expected = on_table({"$v": []}, ["t2", after({"$t": [[4], ["red", 40]]}, {"$t": []})], ["v", step("$t2")])
    view = ["v", step("$t")]
    late = on_table(after({"$v": []}, {"$t": [[4], ["red", 40]]}, {"$v": []}), view)
    support.assert_reply(late, 200, expected[1])
    assert len(late[1][TABLE][1]) == (3 if "bounds" in str(step("$t")) else 4)


# Names, and what is evaluated

def test_every_name_of_a_table_is_the_same_table(on_table):
    aliases = ["a", {"$t": []}], ["b", {"$a": []}]
    for name in ("$t", "$a", "$b"):
        support.assert_reply(on_table(after({"$b": [[4], ["x", 1]]}, {name + "/count": [None]}), *aliases), 200, 4)


def test_a_write_that_nothing_refers_to_is_not_executed(on_table):
    support.assert_reply(on_table({"$t/count": [None]}, ["w", delete("$t", [1])], ["bad", delete("$t")]), 200, 3)


def test_all_writes_of_a_request_or_none(on_table):
    support.assert_reply(on_table([{"$t": [[4], ["x", 1]]}, {"$t": [[5], ["x", "y"]]}]), 400)


# Size

COUNT = 3000


def big_table(hypothetical):
    """Rows in random order, colours that repeat, two indices."""

    rows = [[i, f"color {i % 7}", i * 31 % 1000] for i in range(COUNT)]
    shuffled = rows[:]
    random.Random(2).shuffle(shuffled)
    schema = [TABLE_SCHEMA[0], [["by_color", ["color"]], ["by_qty", ["qty", "color"]]]]
    loaded = ["t", table(shuffled, schema)]
    return rows, schema, lambda expression, *entries: hypothetical([loaded, *entries, ["r", expression]])


def test_many_rows(hypothetical):
    rows, schema, ask = big_table(hypothetical)
    support.assert_reply(ask({"$t": []}), 200, table(rows, schema))
    support.assert_reply(ask({"$t/order": [["color"]]}), 200, table(sorted(rows, key=lambda r: (r[1], r[0])), schema))
    for bounds, found in [
        ({"color": "color 3"}, lambda sku, color, qty: color == "color 3"),
        ({"qty": [["in", 100], ["ex", 120]]}, lambda sku, color, qty: 100 <= qty < 120),
        ({"qty": 500, "color": "color 1"}, lambda sku, color, qty: qty == 500 and color == "color 1"),
        ({"sku": [["in", 1000], ["in", 2000]], "color": "color 5"}, lambda sku, color, qty: 1000 <= sku <= 2000 and color == "color 5"),
    ]:
        expected = [row for row in rows if found(*row)]
        support.assert_reply(ask({"$v/count": [None]}, ["v", {"$t": {"bounds": bounds}}]), 200, len(expected))
        status, reply = ask({"$t": {"bounds": bounds}})
        assert (status, sorted(reply[TABLE][1])) == (200, expected)


def test_every_row_replaced(hypothetical):
    rows, schema, ask = big_table(hypothetical)
    op = {OP + "/get": ["row", [["_return", {"$t": [[{"$row": [0]}], ["same", {"$row": [2]}]]}]]]}
    replaced = {"$s/for_each": {"op": capture(["t"], op)}}
    stream = ["s", {"$t/rows": {}}]
    support.assert_reply(ask(after(replaced, {"$t/count": [None]}), stream), 200, COUNT)
    support.assert_reply(ask(after(replaced, {"$v/count": [None]}), stream, ["v", {"$t": {"bounds": {"color": "same"}}}]), 200, COUNT)
    support.assert_reply(
        ask(after(replaced, {"$v/count": [None]}), stream, ["v", {"$t": {"bounds": {"color": "color 1"}}}]), 200, 0)


# A plan says what it reads

def test_explain(on_table):
    for step, index, count in [(where(color="red"), "by_color", 2), (where(sku=2), "primary", 1), (order("color"), "by_color", 3)]:
        status, plan = on_table({"$v/explain": [None]}, ["v", step("$t")])
        assert status == 200, plan
        assert {"index", "pages", "pages_read", "rows_read", "rows"} <= set(plan)
        assert (plan["index"], plan["rows"]) == (index, count)
        assert all(isinstance(plan[name], int) for name in ("pages", "pages_read", "rows_read"))

    status, plan = on_table({"$t/explain": [None]})
    assert status == 200, plan
    assert plan["rows"] == 3


def test_a_query_reads_no_more_than_it_must(hypothetical):
    _, _, ask = big_table(hypothetical)
    for step, count in [(where(sku=[["in", 100], ["ex", 110]]), 10), (where(color="color 3"), 429)]:
        status, plan = ask({"$v/explain": [None]}, ["v", step("$t")])
        assert status == 200, plan
        assert plan["rows"] == count
        assert plan["rows_read"] < COUNT
