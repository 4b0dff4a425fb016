"""The self-checks of protocol pages 01 and 02, section 11 of each, line by line."""

import json
import urllib.parse

import pytest

import page02
import support
from page02 import ROW_1, ROW_2, ROW_3, ROWS, after
from support import HYPOTHETICAL

ANYTHING = object()
F = ["f", {"/state/scalar/op/get": ["k", [["_return", {"$k/mul": [2]}]]]}]
OP_DEFINITION = {"/state/scalar/op/get": ["k", [["r", {"$k": []}]]]}
SUM = {"/state/scalar/op/post": [["_return", {"$item/add": [{"$state": []}]}]]}
DOUBLE = {"/state/scalar/op/get": ["i", [["_return", {"$i/mul": [2]}]]]}

# (line, body of a POST to /transact/hypothetical, status, reply)
POSTED = [
    (1, [], 200, None),
    (2, [["x", 7], ["r", {"$x/div": [2]}]], 200, 3),
    (3, [["x", 7], ["r", {"$x/div": [2.0]}]], 200, 3.5),
    (4, [["x", 1.5], ["r", {"$x/div": [0]}]], 400, "bad_request"),
    (5, [["x", True], ["r", {"$x/add": [2]}]], 200, 3),
    (6, [["x", True], ["r", {"$x/add": [True]}]], 200, True),
    (7, [["x", 2], ["r", {"$x/pow": [-1]}]], 200, 0.5),
    (8, [["x", 1], ["r", {"$x/eq": ["1"]}]], 200, False),
    (9, [["x", 5], ["r", {"$x/class": [None]}]], 200, {"/state/scalar/value/number/int/64": []}),
    (10, [["x", {"a": {"b": [1, 2]}}], ["r", {"$x/a/b": [1]}]], 200, 2),
    (11, [["x", {"a": {"b": [1, 2]}}], ["r", {"$x/a/b/1/add": [5]}]], 200, 7),
    (12, [["x", [1, 2]], ["r", {"$x": [2]}]], 404, "not_found"),
    (13, [["x", {"a": 1}], ["r", {"$x": ["b"]}]], 404, "not_found"),
    (14, [["t", [1, 2, 3]], ["r", {"$t/append": [[4]]}]], 200, [1, 2, 3, 4]),
    (15, [["t", [1, 2]], ["r", {"$t/zip": [["a", "b"]]}]], 200, [[1, "a"], [2, "b"]]),
    (16, [["t", [1, 2, 3]], ["r", {"$t/fold": {"value": 0, "op": SUM}}]], 200, 6),
    (17, [["t", [1, 2]], ["r", {"$t/map": {"op": DOUBLE}}]], 200, [2, 4]),
    (18, [["t", [1, 2]], ["r", {"$t/eq": {"eq": [1, 2.0]}}]], 200, True),
    (19, [["s", "Hi {{n}}"], ["r", {"$s/render": {"n": "Ann"}}]], 200, "Hi Ann"),
    (20, [F, ["r", {"$f": [3]}]], 200, 6),
    (21, [F, ["r", {"$f": {"k": 3}}]], 405, "method_not_allowed"),
    (22, [["f", {"/state/scalar/op/put": ["k", "v", [["_return", {"$v": []}]]]}], ["r", {"$f": [1, 2]}]], 200, None),
    (23, [["x", 7], ["f", {"/state/scalar/op/get": ["k", [["_return", {"$x": []}]]]}], ["r", {"$f": [1]}]],
     404, "not_found"),
    (24, [["a", {"/error/timeout": ["t"]}], ["b", 5]], 200, 5),
    (25, [["a", {"/error/timeout": ["t"]}], ["b", {"$a": []}]], 408, "timeout"),
    (26, [["r", {"$self": []}]], 400, "bad_request"),
    (27, {"/foo/bar": []}, 200, {"/foo/bar": []}),
    (28, {"/foo/bar": [1]}, 404, "not_found"),
    (29, {"/foo/bar": 1}, 400, "bad_request"),
    (30, {"a": 1, "$b": []}, 400, "bad_request"),
    (32, {"/state/scalar/value/number/complex": [1, 2]}, 200, {"/state/scalar/value/number/complex/64": [1, 2]}),
    (33, OP_DEFINITION, 200, OP_DEFINITION),
]

# (line, verb, target, body text, headers, status, reply)
REQUESTED = [
    (31, "POST", HYPOTHETICAL, "[1,]", {}, 400, "bad_request"),
    (31, "POST", HYPOTHETICAL, "", {}, 400, "bad_request"),
    (35, "GET", "/state/scalar/value/number/uint/8?key=300", None, {}, 200, 44),
    (36, "GET", '/state/scalar/value/number?key="abc"', None, {}, 400, "bad_request"),
    (37, "PUT", '/state/scalar/value/string?key="a"', "1", {}, 405, "method_not_allowed"),
    (38, "PATCH", "/", "1", {}, 405, "method_not_allowed"),
    (38, "PATCH", "/state", "1", {}, 405, "method_not_allowed"),
    (38, "PATCH", HYPOTHETICAL, "[]", {}, 405, "method_not_allowed"),
    (39, "GET", "/nope", None, {}, 404, "not_found"),
    (40, "GET", "/state/", None, {}, 400, "bad_request"),
    (41, "GET", '/state?key=[1,"a",null]', None, {}, 200, [1, "a", None]),
    (42, "GET", "/state", None, {"Authorization": "Basic x"}, 401, "unauthorized"),
    (42, "POST", HYPOTHETICAL, "[]", {"Authorization": "Basic x"}, 401, "unauthorized"),
]

# (what changes from the reference host, body of a POST to /transact/hypothetical, status, reply)
IMPROVED = [
    ("a cast of a reference", [["x", 5], ["r", {"/state/scalar/value/string": {"$x": []}}]], 200, "5"),
    ("an argument-free POST", [["f", {"/state/scalar/op/post": [["_return", 42]]}], ["r", {"$f": {}}]], 200, 42),
    ("Tuple.extend", [["t", [1]], ["r", {"$t/extend": [[2]]}]], 200, [1, 2]),
    ("a DELETE op", [
        ["f", {"/state/scalar/op/delete": ["k", [["_return", None]]]}],
        ["r", {"/state/scalar/ref/op/delete": [{"$f": []}, 1]}]], 200, None),
    ("POST on a class", [
        ["C", {"/state/object/class": {"n": 5}}], ["o", {"$C": {"a": 1}}], ["r", {"$o/n": [None]}]], 200, 5),
    ("escapes in strings", "\u00e9\n", 200, "é\n"),
    ("a cycle", [["a", {"$b": []}], ["b", {"$a": []}]], 400, "bad_request"),
    ("mixed equality", [["x", 2], ["r", {"$x/eq": [2.5]}]], 200, False),
]


def check(reply, status, expected):
    if status == 200:
        support.assert_reply(reply, 200, expected)
    else:
        support.assert_reply(reply, status)
        assert support.error_name(reply[1]) == expected


@pytest.mark.parametrize("line, body, status, expected", POSTED, ids=[f"line {case[0]}" for case in POSTED])
def test_posted_bodies_get_the_documented_replies(hypothetical, line, body, status, expected):
    check(hypothetical(body), status, expected)


@pytest.mark.parametrize(
    "line, verb, target, body, headers, status, expected", REQUESTED,
    ids=[f"line {case[0]} {case[1]} {case[2]} {case[3]}" for case in REQUESTED])
def test_requests_get_the_documented_replies(host, line, verb, target, body, headers, status, expected):
    target = urllib.parse.quote(target, safe="/?=")
    check(support.call(host, verb, target, raw=body, headers=headers), status, expected)


def test_line_34_the_root_answers_a_public_key(host):
    status, key = support.call(host, "GET", "/")
    assert status == 200
    assert support.is_public_key(key), key


@pytest.mark.parametrize("what, body, status, expected", IMPROVED, ids=[case[0] for case in IMPROVED])
def test_advised_improvements_are_there(hypothetical, what, body, status, expected):
    check(hypothetical(body), status, expected)


def test_strings_reach_the_host_as_escapes_of_the_client(host):
    """The client writes ASCII only, so the improved string line really travels as escapes."""

    assert json.dumps("\u00e9\n") == r'"\u00e9\n"'
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=r'"\u00e9\n"'), 200, "é\n")


# Page 02: over `tree`, the data of its section 4, and `table`, that of section 5.1

DELETE_ROW = {"/state/scalar/op/delete": ["key", [["_return", page02.delete("$table", {"$key": []})]]]}
CLIENT_DELETE = {"$rows/for_each": {"op": page02.capture(["table"], DELETE_ROW)}}
CLIENT_INSERT = {"/state/scalar/ref/if": [
    {"$table/contains": [[1]]}, {"/error/bad_request": ["cannot insert: key already exists"]}, {"$table": [[1], ["x", 1]]}]}

# (line, entries after the data, status, reply)
COLLECTIONS = [
    (1, [["r", after({"$tree": [None, ["Oslo", 5]]}, {"$tree/count": [None]})]], 200, 5),
    (2, [["r", {"$tree": {"range": ["Oslo", [["ex", 1], ["in", 9]]]}}]], 200, page02.tree([["Oslo", 5], ["Oslo", 9]])),
    (3, [["r", {"$tree": {"range": ["Oslo", "5"]}}]], 200, page02.tree([["Oslo", 5]])),
    (4, [["r", {"$tree": {"range": ["Oslo", 5, 6]}}]], 400, "bad_request"),
    (5, [["r", {"$tree": [None, ["Oslo"]]}]], 400, "bad_request"),
    (6, [["r", after({"$table": [[1], ["blue", 11]]}, {"$table": {"bounds": {"color": "red"}}})]], 200, page02.table([ROW_3])),
    (7, [["r", after({"$table": [[1], {"color": "zinc"}]}, {"$table/order": [["color"]]})]], 200,
     page02.table([ROW_2, ROW_3, [1, "zinc", 10]])),
    (8, [["r", after({"$table": [[99], {"qty": 1}]}, {"$table/count": [None]})]], 200, 3),
    (9, [["o", {"$table/order": [[["color"], True]]}], ["l", {"$o/limit": [2]}], ["r", {"$l/rows": {}}]], 200, [ROW_3, ROW_1]),
    (10, [
        ["where", {"$table": {"bounds": {"color": "red"}}}], ["keys", {"$where/select": [{"$table/key_names": [None]}]}],
        ["rows", {"$keys/rows": {}}], ["r", after(CLIENT_DELETE, {"$table/rows": {}})]], 200, [ROW_2]),
    (11, [["r", CLIENT_INSERT]], 400, "bad_request"),
    (12, [["s", {"$table/rows": {}}], ["r", after({"$table": [[4], ["teal", 40]]}, {"$s": []})]], 200, ROWS + [[4, "teal", 40]]),
    (13, [["r", {"$table": {"bounds": {"qty": 10}}}]], 200, page02.table([ROW_1])),
    (14, [["r", {"$table/select": [["nope"]]}]], 404, "not_found"),
]


@pytest.mark.parametrize("line, entries, status, expected", COLLECTIONS, ids=[f"line {case[0]}" for case in COLLECTIONS])
def test_collections_give_the_documented_replies(hypothetical, line, entries, status, expected):
    check(hypothetical([["tree", page02.tree()], ["table", page02.table()], *entries]), status, expected)
