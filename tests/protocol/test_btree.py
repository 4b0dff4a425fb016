"""BTrees inside one transaction: protocol page 02, sections 1 to 4, and 7. Hosted ones: test_collections_hosted.py."""

import random

import pytest

import support
from page02 import (
    BTREE, CITY, KEYS, POP, TREE_SCHEMA, after, as_value, capture, column, delete, table, tree)
from support import N, OP, V, call

OSLO = KEYS[1:4]
REVERSED = KEYS[::-1]
COMPLEX = N + "/complex/64"


@pytest.fixture
def on_tree(hypothetical):
    """Evaluate one expression over `t`, the tree of the page, with more entries before it."""

    return lambda expression, *entries: hypothetical([["t", tree()], *entries, ["r", expression]])


# Literals and schemas (section 1)

@pytest.mark.parametrize("literal, reply", [
    (tree(REVERSED), tree(KEYS)),
    (tree(KEYS + OSLO), tree(KEYS)),
    ({BTREE: [TREE_SCHEMA]}, tree([])),
    (tree([]), tree([])),
    ({BTREE: [[["city", {V + "/string": []}, 64], ["pop", N + "/uint/32"]], KEYS]}, tree()),
    ({BTREE: [[[{"city": []}, V + "/string", 64], [{"pop": []}, {N + "/uint/32": {}}, None]], KEYS]}, tree()),
    ({BTREE: [[as_value(CITY), as_value(POP)], KEYS]}, tree()),
    ({BTREE: [[]]}, {BTREE: [[], []]}),
], ids=str)
def test_a_literal_is_answered_in_order_with_its_schema_in_full(hypothetical, literal, reply):
    support.assert_reply(hypothetical([["t", literal]]), 200, reply)
    support.assert_reply(hypothetical([["t", literal], ["r", {"$t": []}]]), 200, reply)
    support.assert_reply(hypothetical(literal), 200, reply)


BAD_SCHEMAS = [
    5,
    "city",
    {"city": V + "/string"},
    [5],
    [[]],
    [["city"]],
    [["city", V + "/string", 64, 1]],
    [["city", V + "/string"]],
    [["city", V + "/string", None]],
    [["city", V + "/string", -1]],
    [["city", V + "/string", 1.5]],
    [["city", V + "/string", "64"]],
    [["city", V + "/bytes"]],
    [["city", V + "/id"]],
    [["city", V + "/link"]],
    [["city", V + "/tuple"]],
    [["city", V + "/none"]],
    [["city", V]],
    [["pop", N + "/uint/32", 4]],
    [["pop", N, 0]],
    [["pop", N + "/int/7"]],
    [["pop", "/state/collection/btree", 5]],
    [["pop", "/app/type"]],
    [["pop", "nonsense"]],
    [["pop", 5]],
    [["a b", N]],
    [[5, N]],
    [["", N]],
    [["pop", N], ["pop", N]],
    [["pop", N], ["city", V + "/string", 5], ["pop", N + "/int/16"]],
]


@pytest.mark.parametrize("schema", BAD_SCHEMAS, ids=str)
def test_a_bad_schema_is_refused_wherever_it_is_given(host, hypothetical, schema):
    support.assert_reply(hypothetical([["t", {BTREE: [schema]}]]), 400)
    support.assert_reply(hypothetical([["t", {BTREE: [schema, []]}]]), 400)
    support.assert_reply(call(host, "GET", BTREE, key=schema), 400)
    support.assert_reply(call(host, "POST", BTREE + "/copy_from", {"schema": schema, "source": tree()}), 400)


@pytest.mark.parametrize("dtype", [
    N, *(f"{N}/{kind}" for kind in (
        "bool", "int", "int/16", "int/32", "int/64", "uint", "uint/8", "uint/16", "uint/32", "uint/64", "float",
        "float/32", "float/64", "complex", "complex/32", "complex/64"))])
def test_a_column_of_every_number_type(hypothetical, dtype):
    schema = [column("x", dtype)]
    status, reply = hypothetical([["t", {BTREE: [schema, [[1], [0]]]}]])
    assert status == 200, reply
    [answered, keys] = reply[BTREE]
    assert answered == schema
    assert len(keys) == 2


@pytest.mark.parametrize("dtype", [V, *(f"{V}/{kind}" for kind in ("string", "bytes", "id", "link", "tuple", "none"))])
def test_a_column_of_every_other_type(hypothetical, dtype):
    support.assert_reply(hypothetical([["t", {BTREE: [[column("x", dtype, 10)]]}]]), 200, tree([], [column("x", dtype, 10)]))


# Constructors (section 1.4)

@pytest.mark.parametrize("schema", [
    TREE_SCHEMA, [["city", V + "/string", 64], ["pop", N + "/uint/32"]], [as_value(CITY), as_value(POP)]], ids=str)
def test_get_on_the_class_makes_an_empty_tree(host, hypothetical, schema):
    support.assert_reply(call(host, "GET", BTREE, key=schema), 200, tree([]))
    support.assert_reply(hypothetical([["s", {BTREE: [schema]}], ["r", {"$s/count": [None]}]]), 200, 0)


@pytest.mark.parametrize("verb, key, body, status", [
    ("GET", None, None, 400), ("PUT", None, TREE_SCHEMA, 405), ("PUT", [["pop", N]], [], 405), ("DELETE", None, None, 405),
    ("DELETE", [["pop", N]], None, 405)], ids=str)
def test_a_wrong_request_to_the_class(host, verb, key, body, status):
    support.assert_reply(call(host, verb, BTREE, body, key=key), status)


@pytest.mark.parametrize("literal, expected", [({BTREE: [TREE_SCHEMA]}, []), (tree(), KEYS)], ids=["empty", "loaded"])
def test_an_op_makes_a_tree(hypothetical, literal, expected):
    op = {OP + "/get": ["k", [["t", literal], ["_return", {"$t": []}]]]}
    support.assert_reply(hypothetical([["f", op], ["r", {"$f": [None]}]]), 200, tree(expected))


PAIRS = [[column("a", V + "/string", 64)], [column("b", N + "/uint/32")]]


@pytest.mark.parametrize("source, keys", [
    ({"$t": []}, KEYS),
    ({"$t": {"range": ["Oslo"]}}, OSLO),
    ({"$t": {"range": ["Oslo"], "reverse": True}}, OSLO),
    ({"$t/reverse": [None]}, KEYS),
    ({"$t/keys": [None]}, KEYS),
    ({"$t/keys": ["Oslo"]}, OSLO),
    ({"$o": []}, [["Lima", 1], ["Quito", 2]]),
    ({"$o/rows": {}}, [["Lima", 1], ["Quito", 2]]),
    ({"$o/limit": [1]}, [["Lima", 1]]),
    (tree([["Rome", 4], ["Rome", 4]]), [["Rome", 4]]),
], ids=str)
def test_copy_from_any_collection_or_stream(on_tree, source, keys):
    other = ["o", table([["Quito", 2], ["Lima", 1]], [PAIRS, []])]
    copied = {BTREE + "/copy_from": {"schema": TREE_SCHEMA, "source": source}}
    support.assert_reply(on_tree(copied, other), 200, tree(keys))


def test_copy_from_over_http(host):
    params = {"schema": TREE_SCHEMA, "source": tree(REVERSED)}
    support.assert_reply(call(host, "POST", BTREE + "/copy_from", params), 200, tree())


@pytest.mark.parametrize("params", [
    {"schema": TREE_SCHEMA},
    {"source": tree()},
    {"schema": TREE_SCHEMA, "source": tree(), "extra": 1},
    {"schema": TREE_SCHEMA, "source": KEYS},
    {"schema": TREE_SCHEMA, "source": 5},
    {"schema": TREE_SCHEMA, "source": None},
    {"schema": [CITY], "source": tree()},
    {"schema": [POP, CITY], "source": tree()},
    {"schema": [["city", V + "/string", 3], POP], "source": tree()},
    {"schema": 5, "source": tree()},
], ids=str)
def test_a_bad_copy(host, hypothetical, params):
    support.assert_reply(call(host, "POST", BTREE + "/copy_from", params), 400)
    support.assert_reply(hypothetical([["r", {BTREE + "/copy_from": params}]]), 400)


def test_a_copy_is_independent(on_tree):
    copy = ["c", {BTREE + "/copy_from": {"schema": {"$t/schema": [None]}, "source": {"$t": []}}}]
    support.assert_reply(on_tree(after({"$c": []}, {"$t": [None, ["Rome", 4]]}, {"$c": []}), copy), 200, tree())
    support.assert_reply(on_tree(after({"$c": [None, ["Rome", 4]]}, {"$t": []}), copy), 200, tree())


# What columns hold (section 2): keys are cast leniently

@pytest.mark.parametrize("dtype, max_len, value, stored", [
    ("number/uint/32", None, 4, 4),
    ("number/uint/32", None, 4.0, 4),
    ("number/uint/32", None, "17", 17),
    ("number/uint/32", None, {"/state/scalar/value/string": "17"}, 17),
    ("number/uint/32", None, [4], 4),
    ("number/int/16", None, -32768, -32768),
    ("number/int/64", None, -2**63, -2**63),
    ("number/uint/64", None, 2**63 - 1, 2**63 - 1),
    ("number/uint/64", None, 2**63, 2**63),
    ("number/uint/64", None, 2**64 - 1, 2**64 - 1),
    ("number/int", None, 2**53 + 1, 2**53 + 1),
    ("number", None, 5, 5),
    ("number", None, 1.5, 1.5),
    ("number/bool", None, 0, False),
    ("number/bool", None, 1, True),
    ("number", None, True, True),
    ("number/int/32", None, {COMPLEX: [3, 0]}, 3),
    ("number/float/64", None, "1.5", 1.5),
    ("number/float/64", None, 0.1, 0.1),
    ("number/float/32", None, 0.5, 0.5),
    ("number/complex/64", None, [1, 2], {COMPLEX: [1, 2]}),
    ("number/complex/64", None, 3, {COMPLEX: [3, 0]}),
    ("string", 10, "a\nb\"\\", "a\nb\"\\"),
    ("string", 10, "", ""),
    ("string", 10, "\u00e9\U0001f600", "\u00e9\U0001f600"),
    ("string", 10, 5, "5"),
    ("string", 10, 1.5, "1.5"),
    ("string", 10, [1, 2], "(1, 2)"),
    ("string", 10, {"x": []}, "x"),
    ("string", 10, {"/a/b": []}, "/a/b"),
    ("bytes", 10, "aGk=", "aGk="),
    ("bytes", 10, "686920", "aGkg"),
    ("bytes", 10, [104, 105], "aGk="),
    ("id", 10, "x", {"x": []}),
    ("id", 10, {"x": []}, {"x": []}),
    ("link", 10, "/a/b", {"/a/b": []}),
    ("link", 10, {"/a/b": []}, {"/a/b": []}),
    ("tuple", 10, [1, ["a", None]], [1, ["a", None]]),
    ("none", 10, 5, None),
    ("none", 10, None, None),
    ("", 10, None, None),
    ("", 10, 5, 5),
    ("", 10, "a", "a"),
    ("", 10, {"x": []}, {"x": []}),
    ("", 10, {"/a": []}, {"/a": []}),
    ("", 10, [1, "a"], [1, "a"]),
], ids=str)
def test_a_key_is_cast_to_its_column(hypothetical, dtype, max_len, value, stored):
    path = f"{V}/{dtype}" if dtype else V
    schema = [column("x", path, *([] if max_len is None else [max_len]))]
    reply = tree([[stored]], schema)
    support.assert_reply(hypothetical([["t", tree([[value]], schema)]]), 200, reply)
    inserted = [["t", {BTREE: [schema]}], ["r", after({"$t": [None, [value]]}, {"$t": []})]]
    support.assert_reply(hypothetical(inserted), 200, reply)
    copied = {BTREE + "/copy_from": {"schema": schema, "source": {"$t": []}}}
    support.assert_reply(hypothetical([["t", tree([[value]], schema)], ["r", copied]]), 200, reply)


@pytest.mark.parametrize("dtype, max_len, value", [
    ("number/uint/32", None, 4.9),
    ("number/int/32", None, -4.9),
    ("number/int/64", None, "4.9"),
    ("number/uint/32", None, None),
    ("number/uint/32", None, [None]),
    ("number/uint/32", None, True),
    ("number/uint/32", None, [True]),
    ("number/float/64", None, False),
    ("number/float/64", None, 2**53 + 1),
    ("number/float/32", None, 2**24 + 1),
    ("number/complex/64", None, 2**53 + 1),
    ("number/int/32", None, {COMPLEX: [3, 4]}),
    ("number/float/64", None, {COMPLEX: [3, 4]}),
    ("number", None, None),
    ("number/bool", None, 5),
    ("number/bool", None, 0.5),
    ("number/bool", None, None),
    ("bytes", 10, None),
    ("link", 10, None),
    ("number/uint/8", None, 256),
    ("number/uint/8", None, -1),
    ("number/uint/16", None, 65536),
    ("number/uint/32", None, 2**32),
    ("number/uint/64", None, -1),
    ("number/uint/64", None, 2**64),
    ("number/int/16", None, 32768),
    ("number/int/16", None, -32769),
    ("number/int/32", None, 4294967299),
    ("number/int/64", None, 2**63),
    ("number/int/32", None, 1e30),
    ("number/uint/32", None, "4294967296"),
    ("number/uint/32", None, "x"),
    ("number/uint/32", None, "a b"),
    ("number/uint/32", None, [1, 2, 3]),
    ("number/uint/32", None, {"/a": []}),
    ("string", 10, None),
    ("string", 5, "123456"),
    ("string", 5, "éééééé"),
    ("string", 5, 123456),
    ("string", 0, "a"),
    ("bytes", 10, "not bytes!"),
    ("bytes", 10, [256]),
    ("bytes", 10, ["a"]),
    ("id", 10, "a b"),
    ("id", 10, 5.5),
    ("tuple", 10, 5),
    ("tuple", 10, "a"),
], ids=str)
def test_a_key_that_does_not_fit_its_column_is_refused(hypothetical, dtype, max_len, value):
    schema = [column("x", f"{V}/{dtype}", *([] if max_len is None else [max_len]))]
    support.assert_reply(hypothetical([["t", tree([[value]], schema)]]), 400)
    inserted = [["t", {BTREE: [schema]}], ["r", after({"$t": [None, [value]]}, {"$t": []})]]
    support.assert_reply(hypothetical(inserted), 400)


def test_max_len_counts_characters(hypothetical):
    schema = [column("x", V + "/string", 5)]
    support.assert_reply(hypothetical([["t", tree([["é\U0001f600ééé"]], schema)]]), 200, tree([["é\U0001f600ééé"]], schema))


# Collation (section 2.2)

@pytest.mark.parametrize("dtype, max_len, ordered", [
    ("string", 10, ["", "10", "9", "B", "a", "é", "\U0001f600"]),
    ("id", 10, [{"B": []}, {"a": []}, {"aa": []}, {"b": []}]),
    ("link", 10, [{"/a": []}, {"/a/b": []}, {"/b": []}]),
    ("tuple", 10, [[], [1], [1, 0], [1, "a"], [2], ["a"]]),
    ("bytes", 10, ["", "AA==", "AAE=", "/w=="]),
    ("number", None, [-1.5, 0, 1, 1.5, 2, 2**53, 2**53 + 1, 2**64 - 1]),
    ("number/int/64", None, [-2**63, -1, 0, 1, 2**63 - 1]),
    ("number/uint/64", None, [0, 1, 2**63, 2**64 - 1]),
    ("number/float/64", None, [-1e300, -0.5, 0, 1e-300, 2.5]),
    # What has no imaginary part is a real number, and comes first; then by magnitude.
    ("number/complex/64", None, [{COMPLEX: [-7, 0]}, {COMPLEX: [2, 0]}, {COMPLEX: [0, 1]}, {COMPLEX: [-3, 4]}]),
    ("number/bool", None, [False, True]),
    ("", 10, [None, -1.5, 5, {"x": []}, "A", "a", {"/a": []}, [1], [1, 2]]),
], ids=str)
def test_keys_are_in_collation_order(hypothetical, dtype, max_len, ordered):
    schema = [column("x", f"{V}/{dtype}" if dtype else V, *([] if max_len is None else [max_len]))]
    shuffled = [[value] for value in ordered]
    random.Random(5).shuffle(shuffled)
    expected = [[value] for value in ordered]
    support.assert_reply(hypothetical([["t", tree(shuffled, schema)]]), 200, tree(expected, schema))
    body = [["t", tree(shuffled, schema)], ["v", {"$t/reverse": [None]}], ["r", {"$v/keys": [None]}]]
    support.assert_reply(hypothetical(body), 200, expected[::-1])


def test_values_that_are_equal_are_one_key(hypothetical):
    schema = [column("x", N)]
    body = [["t", tree([[True], [1], [1.0], [2]], schema)], ["r", {"$t/count": [None]}]]
    support.assert_reply(hypothetical(body), 200, 2)


# Ranges (section 3): the same answer by every route that takes one

RANGES = [
    (None, KEYS),
    ([], KEYS),
    ("Oslo", OSLO),
    (["Oslo"], OSLO),
    (["Oslo", 5], [["Oslo", 5]]),
    (["Oslo", "5"], [["Oslo", 5]]),
    (["Oslo", 7], []),
    (["Oslo", 5.0], [["Oslo", 5]]),
    (["Oslo", 5.5], []),
    (["Oslo", -1], []),
    (["Oslo", 2**32], []),
    (["Oslo", [["in", 1.5], ["ex", 9]]], [["Oslo", 5]]),
    (["Oslo", [["ex", 0.5], ["in", 5.5]]], [["Oslo", 1], ["Oslo", 5]]),
    (["Oslo", [["in", -1], ["ex", 1e300]]], OSLO),
    (["Oslo", [["ex", 2**32], ["in", None]]], []),
    (["Rome"], []),
    ("", []),
    (["Oslo", [["in", 1], ["ex", 9]]], [["Oslo", 1], ["Oslo", 5]]),
    (["Oslo", [["ex", 1], ["in", 9]]], [["Oslo", 5], ["Oslo", 9]]),
    (["Oslo", [["in", 1], ["in", 9]]], OSLO),
    (["Oslo", [["ex", 1], ["ex", 9]]], [["Oslo", 5]]),
    (["Oslo", [["in", "1"], ["ex", "9"]]], [["Oslo", 1], ["Oslo", 5]]),
    (["Oslo", [1, 9]], [["Oslo", 1], ["Oslo", 5]]),
    (["Oslo", [1, ["in", 9]]], OSLO),
    (["Oslo", [["ex", 1], 9]], [["Oslo", 5]]),
    (["Oslo", [["in", 5], ["ex", None]]], [["Oslo", 5], ["Oslo", 9]]),
    (["Oslo", [["in", 5], ["in", None]]], [["Oslo", 5], ["Oslo", 9]]),
    (["Oslo", [["in", 5], None]], [["Oslo", 5], ["Oslo", 9]]),
    (["Oslo", [None, ["in", 5]]], [["Oslo", 1], ["Oslo", 5]]),
    (["Oslo", [["in", None], ["ex", 5]]], [["Oslo", 1]]),
    (["Oslo", [["ex", None], ["ex", 5]]], [["Oslo", 1]]),
    (["Oslo", [None, 5]], [["Oslo", 1]]),
    (["Oslo", [None, None]], OSLO),
    (["Oslo", [["in", None], ["ex", None]]], OSLO),
    (["Oslo", [["in", 9], ["ex", 1]]], []),
    (["Oslo", [["in", 5], ["ex", 5]]], []),
    (["Oslo", [["in", 5], ["in", 5]]], [["Oslo", 5]]),
    ([[["in", "C"], ["ex", "P"]]], OSLO),
    ([[["in", "Oslo"], ["ex", "Paris"]]], OSLO),
    ([[["ex", "Oslo"], ["in", "Paris"]]], [["Paris", 2]]),
    ([["C", "P"]], OSLO),
    ([[["in", None], ["ex", "Oslo"]]], [["Bergen", 3]]),
    ([[["in", "Oslo"], ["ex", None]]], OSLO + [["Paris", 2]]),
    ([[None, None]], KEYS),
    ([[["in", None], ["ex", None]]], KEYS),
]

each_range = pytest.mark.parametrize("range_, keys", RANGES, ids=str)


@each_range
def test_a_posted_range(on_tree, range_, keys):
    support.assert_reply(on_tree({"$t": {"range": range_}}), 200, tree(keys))
    support.assert_reply(on_tree({"$t": {"range": range_, "reverse": False}}), 200, tree(keys))
    support.assert_reply(on_tree({"$t": {"range": range_, "reverse": True}}), 200, tree(keys[::-1]))


@each_range
def test_a_range_as_key(on_tree, range_, keys):
    support.assert_reply(on_tree({"$t/keys": [range_]}), 200, keys)
    support.assert_reply(on_tree({"$t/count": [range_]}), 200, len(keys))
    support.assert_reply(on_tree({"$t": [range_]}), 200, tree(keys))


@each_range
def test_delete_of_a_range(on_tree, range_, keys):
    left = [key for key in KEYS if key not in keys]
    support.assert_reply(on_tree(delete("$t", range_)), 200, None)
    support.assert_reply(on_tree(after(delete("$t", range_), {"$t": []})), 200, tree(left))
    support.assert_reply(on_tree(after(delete("$t", range_), {"$t/count": [None]})), 200, len(left))


@each_range
def test_a_range_given_by_reference(on_tree, range_, keys):
    support.assert_reply(on_tree({"$t": {"range": {"$k": []}}}, ["k", range_]), 200, tree(keys))
    op = {OP + "/get": ["key", [["_return", {"$t": {"range": {"$key": []}}}]]]}
    support.assert_reply(on_tree({"$f": [range_]}, ["f", capture(["t"], op)]), 200, tree(keys))


@pytest.mark.parametrize("range_", [
    ["Oslo", 5, 6],
    ["Oslo", 5, [1, 2]],
    ["Oslo", "x"],
    ["Oslo", [["in", "x"], ["ex", 9]]],
    ["Oslo", [["in", 1], ["ex", "x"]]],
    ["Oslo", [["a", 1], ["b", 2]]],
    ["Oslo", [["in", 1], ["b", 2]]],
    ["Oslo", [["un", None], ["ex", 2]]],
    [None, 5],
    [[["in", 1], ["ex", 2]], 5],
    [[["in", "a"], ["ex", "b"]], [["in", 1], ["ex", 2]]],
], ids=str)
def test_a_bad_range(on_tree, range_):
    support.assert_reply(on_tree({"$t": {"range": range_}}), 400)
    support.assert_reply(on_tree({"$t": [range_]}), 400)
    support.assert_reply(on_tree({"$t/keys": [range_]}), 400)
    support.assert_reply(on_tree({"$t/count": [range_]}), 400)
    support.assert_reply(on_tree(after(delete("$t", range_), {"$t": []})), 400)


@pytest.mark.parametrize("range_, keys", [
    ([None], KEYS), ([None, None], KEYS), (["Oslo", None], OSLO), (None, KEYS), ([], KEYS)], ids=str)
def test_a_null_at_the_end_of_a_posted_range_leaves_it_open(on_tree, range_, keys):
    support.assert_reply(on_tree({"$t": {"range": range_}}), 200, tree(keys))
    support.assert_reply(on_tree({"$t": {"range": range_, "reverse": True}}), 200, tree(keys[::-1]))


def test_a_post_without_a_range_is_the_whole_tree(on_tree):
    support.assert_reply(on_tree({"$t": {"reverse": True}}), 200, tree(REVERSED))
    support.assert_reply(on_tree({"$t": {"range": ["Oslo"], "other": 1}}), 200, tree(OSLO))


@pytest.mark.parametrize("reverse", [5, "yes", [1, 2]], ids=str)
def test_reverse_is_a_bool(on_tree, reverse):
    status, reply = on_tree({"$t": {"range": [], "reverse": reverse}})
    assert status in (200, 400), reply


# Methods (section 4)

@pytest.mark.parametrize("expression, expected", [
    ({"$t": []}, tree()),
    ({"$t": [None]}, tree()),
    ({"$t": [["Oslo"]]}, tree(OSLO)),
    ({"$t": ["Oslo"]}, tree(OSLO)),
    ({"$t/count": [None]}, 5),
    ({"$t/count": []}, 5),
    ({"$t/first": [None]}, {"city": "Bergen", "pop": 3}),
    ({"$t/keys": [None]}, KEYS),
    ({"$t/keys": [["Oslo"]]}, OSLO),
    ({"$t/reverse": [None]}, tree(REVERSED)),
    ({"$t/schema": [None]}, [as_value(CITY), as_value(POP)]),
    ({"$t/class": [None]}, {BTREE: []}),
    ({"$t/is_none": [None]}, False),
    ({"$t": [None, ["Rome", 4]]}, None),
    (delete("$t", ["Oslo", 5]), None),
    (delete("$t", ["Nowhere"]), None),
    (delete("$t"), None),
    ([{"$t/count": [None]}, {"$t": ["Paris"]}], [5, tree([["Paris", 2]])]),
    ({"n": {"$t/count": [None]}, "slice": {"$t": ["Paris"]}}, {"n": 5, "slice": tree([["Paris", 2]])}),
], ids=str)
def test_a_method(on_tree, expression, expected):
    support.assert_reply(on_tree(expression), 200, expected)


@pytest.mark.parametrize("write, keys", [
    ({"$t": [None, ["Rome", 4]]}, KEYS + [["Rome", 4]]),
    ({"$t": [None, ["Oslo", 5]]}, KEYS),
    ({"$t": [None, ["Oslo", "7"]]}, [["Bergen", 3], ["Oslo", 1], ["Oslo", 5], ["Oslo", 7], ["Oslo", 9], ["Paris", 2]]),
    ({"$t": [[], ["Rome", 4]]}, KEYS + [["Rome", 4]]),
    ({"$t": [None, tree([["Rome", 4], ["Oslo", 1]])]}, KEYS + [["Rome", 4]]),
    ({"$t": [None, {"$o": []}]}, KEYS + [["Rome", 1], ["Rome", 4]]),
    ({"$t": [None, {"$o": {"range": ["Rome", [["ex", 1], ["in", 4]]]}}]}, KEYS + [["Rome", 4]]),
    ({"$t": [None, {"$t": []}]}, KEYS),
    (delete("$t"), []),
    (delete("$t", []), []),
    (delete("$t", ["Oslo"]), [["Bergen", 3], ["Paris", 2]]),
    (delete("$t", "Oslo"), [["Bergen", 3], ["Paris", 2]]),
    (delete("$t", ["Oslo", 5]), [["Bergen", 3], ["Oslo", 1], ["Oslo", 9], ["Paris", 2]]),
    (delete("$t", ["Nowhere"]), KEYS),
    ([{"$t": [None, ["Rome", i]]} for i in range(3)], KEYS + [["Rome", 0], ["Rome", 1], ["Rome", 2]]),
    (after({"$t": [None, ["Rome", 4]]}, delete("$t", "Rome")), KEYS),
    (after(delete("$t"), {"$t": [None, ["Rome", 4]]}), [["Rome", 4]]),
], ids=str)
def test_a_write(on_tree, write, keys):
    other = ["o", tree([["Rome", 4], ["Rome", 1]])]
    support.assert_reply(on_tree(after(write, {"$t": []}), other), 200, tree(keys))
    support.assert_reply(on_tree(after(write, {"$t/count": [None]}), other), 200, len(keys))
    support.assert_reply(on_tree(after(write, {"$t/reverse": [None]}), other), 200, tree(keys[::-1]))


@pytest.mark.parametrize("write", [
    {"$t": [["Oslo"], ["Oslo", 1]]},
    {"$t": [1, ["Oslo", 1]]},
    {"$t": [None, "Oslo"]},
    {"$t": [None, 5]},
    {"$t": [None, None]},
    {"$t": [None, {"city": "Oslo", "pop": 1}]},
    {"$t": [None, ["Oslo"]]},
    {"$t": [None, ["Oslo", 1, 2]]},
    {"$t": [None, ["Oslo", "x"]]},
    {"$t": [None, ["x" * 65, 1]]},
    {"$t": [None, [None, 1]]},
    {"$t": [None, ["Oslo", -1]]},
    {"$t": [None, table([["Rome", 1]], [PAIRS, []])]},
    {"$t": [None, {"$t/keys": [None]}]},
    {"$t": [None, tree([[1]], [POP])]},
], ids=str)
def test_a_bad_insert(on_tree, write):
    support.assert_reply(on_tree(after(write, {"$t/count": [None]})), 400)


@pytest.mark.parametrize("keys", [[["Oslo"]], [["Oslo", 1, 2]], [["Oslo", "x"]], ["Oslo"], 5, "Oslo", {"city": "Oslo"}], ids=str)
def test_a_literal_with_bad_keys(hypothetical, keys):
    support.assert_reply(hypothetical([["t", tree(keys)]]), 400)


@pytest.mark.parametrize("expression, status", [
    ({"$t/first": ["Oslo"]}, 400),
    ({"$e/first": [None]}, 404),
    ({"$t/nope": [None]}, 404),
    ({"$t/count": {"x": 1}}, 405),
    ({"$t/first": {"x": 1}}, 405),
    ({"$t/keys": {"range": []}}, 405),
    ({"$t/reverse": {"x": 1}}, 405),
    ({"$t/schema": {"x": 1}}, 405),
    ({"$t/keys": [None, 1]}, 405),
    ({"$t/count": [None, 1]}, 405),
    (delete("$t/keys"), 405),
    (delete("$t/count"), 405),
], ids=str)
def test_a_wrong_call(on_tree, expression, status):
    support.assert_reply(on_tree(expression, ["e", tree([])]), status)


# Slices and reversals

VIEWS = [
    ({"$s": {"range": ["Oslo", [["in", 1], ["ex", 9]]]}}, ["Oslo"], False, [["Oslo", 1], ["Oslo", 5]]),
    ({"$s": {"range": ["Oslo"]}}, [[["in", "C"], ["ex", "Z"]]], False, OSLO),
    ({"$s": {"range": ["Oslo", [["in", 0], ["ex", 6]]]}}, ["Oslo", [["in", 5], ["in", 9]]], False, [["Oslo", 5]]),
    ({"$s": {"range": [[["in", "A"], ["ex", "Oz"]]]}}, [[["in", "C"], ["ex", "Z"]]], False, OSLO),
    ({"$s": {"range": []}}, ["Oslo"], False, OSLO),
    ({"$s": {"range": ["Paris"]}}, ["Oslo"], False, []),
    ({"$s": ["Oslo"]}, [[["in", "C"], ["ex", "Z"]]], False, OSLO),
    ({"$s/reverse": [None]}, ["Oslo"], False, OSLO[::-1]),
    ({"$s/reverse": [None]}, ["Oslo", [["in", 5], ["ex", None]]], False, [["Oslo", 9], ["Oslo", 5]]),
    ({"$s/reverse": [None]}, [], True, KEYS),
    ({"$s/reverse": [None]}, ["Oslo"], True, OSLO),
    ({"$s": {"range": ["Oslo"]}}, [], True, OSLO[::-1]),
    ({"$s": {"range": ["Oslo", [["ex", 1], ["in", 9]]]}}, [], True, [["Oslo", 9], ["Oslo", 5]]),
    ({"$s": {"range": ["Oslo"], "reverse": True}}, [], True, OSLO),
    ({"$s": {"range": [], "reverse": True}}, [], False, REVERSED),
    ({"$s": ["Oslo"]}, [], True, OSLO[::-1]),
]


@pytest.mark.parametrize("view, range_, reverse, keys", VIEWS, ids=str)
def test_a_view_of_a_view(on_tree, view, range_, reverse, keys):
    entries = ["s", {"$t": {"range": range_, "reverse": reverse}}], ["v", view]
    support.assert_reply(on_tree({"$v": []}, *entries), 200, tree(keys))
    support.assert_reply(on_tree({"$v/count": [None]}, *entries), 200, len(keys))
    support.assert_reply(on_tree({"$v/keys": [None]}, *entries), 200, keys)
    support.assert_reply(on_tree({"$v/keys": [["Oslo", 5]]}, *entries), 200, [["Oslo", 5]] if ["Oslo", 5] in keys else [])
    support.assert_reply(on_tree({"$v/reverse": [None]}, *entries), 200, tree(keys[::-1]))
    support.assert_reply(on_tree({"$v/schema": [None]}, *entries), 200, [as_value(CITY), as_value(POP)])
    if keys:
        support.assert_reply(on_tree({"$v/first": [None]}, *entries), 200, dict(zip(["city", "pop"], keys[0])))
    else:
        support.assert_reply(on_tree({"$v/first": [None]}, *entries), 404)


@pytest.mark.parametrize("view", [
    {"$t": {"range": ["Oslo"]}}, {"$t": ["Oslo"]}, {"$t/reverse": [None]}, {"$t": {"range": [], "reverse": True}}], ids=str)
@pytest.mark.parametrize("write", [
    {"$v": [None, ["Oslo", 7]]}, delete("$v"), delete("$v", ["Oslo", 5])], ids=["insert", "truncate", "delete"])
def test_a_view_cannot_be_written(on_tree, view, write):
    support.assert_reply(on_tree(after(write, {"$t": []}), ["v", view]), 400)


def test_views_are_read_when_they_are_consumed(on_tree):
    views = ["s", {"$t": {"range": ["Oslo"]}}], ["b", {"$t/reverse": [None]}], ["k", {"$s/keys": [None]}]
    built = after([{"$s": []}, {"$b": []}], {"$t": [None, ["Oslo", 7]]}, [{"$s/count": [None]}, {"$b/count": [None]}, {"$k": []}])
    support.assert_reply(
        on_tree(built, *views), 200, [4, 6, [["Oslo", 1], ["Oslo", 5], ["Oslo", 7], ["Oslo", 9]]])


# Names, and what is evaluated (section 0)

def test_every_name_of_a_tree_is_the_same_tree(on_tree):
    aliases = ["a", {"$t": []}], ["b", {"$a": []}]
    write = after({"$b": [None, ["Rome", 4]]}, delete("$a", "Oslo"))
    left = [["Bergen", 3], ["Paris", 2], ["Rome", 4]]
    for name in ("$t", "$a", "$b"):
        support.assert_reply(on_tree(after(write, {name: []}), *aliases), 200, tree(left))


def test_a_tree_passed_to_an_op_is_the_same_tree(on_tree):
    op = {OP + "/post": [["w", {"$x": [None, ["Rome", 4]]}], ["_return", after({"$w": []}, {"$x/count": [None]})]]}
    called = after({"$f": {"x": {"$t": []}}}, {"$t/count": [None]})
    support.assert_reply(on_tree(called, ["f", op]), 200, 6)


def test_a_write_that_nothing_refers_to_is_not_executed(on_tree):
    support.assert_reply(on_tree({"$t/count": [None]}, ["w", delete("$t")], ["bad", {"$t": [None, 5]}]), 200, 5)


def test_the_branch_that_is_not_chosen_is_not_executed(on_tree):
    chosen = {"/state/scalar/ref/if": [{"$t/is_none": [None]}, {"$w": []}, {"$t/count": [None]}]}
    support.assert_reply(on_tree(chosen, ["w", delete("$t")]), 200, 5)


def test_an_error_ends_the_request(on_tree):
    support.assert_reply(on_tree([{"$t": [None, ["Rome", 4]]}, {"$t": [None, ["Rome"]]}]), 400)


# Size

def test_many_keys(host, hypothetical):
    """Enough for several pages, inserted twice, in different orders."""

    numbers = list(range(3000))
    random.Random(1).shuffle(numbers)
    schema = [column("n", N + "/int/64"), column("text", V + "/string", 20)]
    keys = [[n, f"text {n}"] for n in numbers]
    again = {"$t": [None, tree(sorted(keys), schema)]}
    loaded = ["t", tree(keys, schema)]

    support.assert_reply(hypothetical([loaded, ["r", after(again, {"$t/count": [None]})]]), 200, 3000)
    support.assert_reply(hypothetical([loaded, ["r", after(again, {"$t": []})]]), 200, tree(sorted(keys), schema))
    support.assert_reply(hypothetical([loaded, ["r", {"$t/keys": [[[["in", 1000], ["ex", 1003]]]]}]]), 200, [
        [1000, "text 1000"], [1001, "text 1001"], [1002, "text 1002"]])
    deleted = after(delete("$t", [[["in", 10], ["ex", 2990]]]), {"$t/count": [None]})
    support.assert_reply(hypothetical([loaded, ["r", deleted]]), 200, 20)


def test_a_thousand_inserts_in_one_context(hypothetical):
    inserts = [{"$t": [None, ["Oslo", i]]} for i in range(1000)]
    body = [["t", {BTREE: [TREE_SCHEMA]}], ["w", inserts], ["w2", after({"$w": []}, inserts)], ["r", after({"$w2": []}, {"$t/count": [None]})]]
    support.assert_reply(hypothetical(body), 200, 1000)
