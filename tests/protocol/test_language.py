"""The language as raw JSON: the examples and tables of protocol page 01, sections 2 to 7.

Each case is (what it shows, body of a POST to /transact/hypothetical, status, reply); an error case has no reply.
"""

import http.client

import pytest

import support
from support import HYPOTHETICAL, N, OP, R, V


def cases(*rows):
    rows = [row if len(row) == 4 else (*row, None) for row in rows]
    return pytest.mark.parametrize("what, body, status, expected", rows, ids=[row[0] for row in rows])


def get_op(key, *body):
    return {OP + "/get": [key, list(body)]}


def put_op(key, value, *body):
    return {OP + "/put": [key, value, list(body)]}


def post_op(*body):
    return {OP + "/post": list(body)}


def delete_op(key, *body):
    return {OP + "/delete": [key, list(body)]}


def ref(name):
    return {f"${name}": []}


def on(value, method, *args):
    """A context that calls a GET method of a value."""

    return [["x", value], ["r", {f"$x/{method}": list(args) or [None]}]]


def delete(subject, key):
    return {R + "/op/delete": [subject, key]}


BAD = {"/error/bad_request": ["never evaluated"]}


# Names, links, objects

@cases(
    ("a bare link with an empty list", {"/foo/bar": []}, 200, {"/foo/bar": []}),
    ("a bare link with an empty object", {"/foo/bar": {}}, 200, {"/foo/bar": []}),
    ("a bare link with null", {"/foo/bar": None}, 200, {"/foo/bar": []}),
    ("a typed link", {V + "/link": "/a/b"}, 200, {"/a/b": []}),
    ("a link to an address", {"http://127.0.0.1:8702/a": []}, 200, {"http://127.0.0.1:8702/a": []}),
    ("an address is printed with a path", {"http://127.0.0.1:80": []}, 200, {"http://127.0.0.1:80/": []}),
    ("a slash after the address is dropped", {"http://127.0.0.1:80/a/": []}, 200, {"http://127.0.0.1:80/a": []}),
    ("a link to a host name", {"http://example.com/x": []}, 200, {"http://example.com/x": []}),
    ("text that is no link", {V + "/link": "foo"}, 400),
    ("a typed id", {V + "/id": "name"}, 200, {"name": []}),
    ("a class as a value", {N + "/int/32": {}}, 200, {N + "/int/32": []}),
    ("a map", {"a": 1, "b": [True, None]}, 200, {"a": 1, "b": [True, None]}),
    ("an empty map", {}, 200, {}),
    ("a map with a non-ASCII name", {"Ā": 1}, 200, {"Ā": 1}),
    ("names may hold digits, - _ . + , [ %", {"1-_.+,[%": 1}, 200, {"1-_.+,[%": 1}),
    ("two entries after a class", {N: 1, "b": 2}, 400),
    ("two entries after a link", {"/a/b": [], "/c/d": []}, 400),
    ("two entries after a reference", {"$a": [], "b": 2}, 400),
    ("a reference as a later name", {"a": 1, "$b": []}, 400),
    ("a link as a later name", {"a": 1, "/b": []}, 400),
)
def test_objects_are_decided_by_their_first_name(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("bad", list("~`&|=^{}<>'\"?:@#() \t\n\x00") + ["..", "", "a/b"])
def test_a_map_refuses_a_name_that_is_no_id(hypothetical, bad):
    name = f"a{bad}b" if bad else ""
    support.assert_reply(hypothetical({"ok": 1, name: 2}), 400)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": {"a": 1, "b": 2, "a": 1}}', '[["r", {"a": 1, "a": 1}]]'])
def test_a_duplicate_name_is_refused(host, text):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=text), 400)


def test_members_of_an_object_are_sorted_by_name_in_the_reply(host):
    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=30)
    connection.request("POST", HYPOTHETICAL, '{"b": 1, "c": {"z": 1, "y": 2}, "a": 3}')
    text = connection.getresponse().read().decode()
    connection.close()
    positions = [text.index(f'"{name}"') for name in ["a", "b", "c", "y", "z"]]
    assert positions == sorted(positions), text


# Numbers and text as JSON tokens

@pytest.mark.parametrize("number", [
    0, -1, 2**31, 2**53 + 1, 2**63 - 1, -2**63, 2**63, 2**64 - 1, 1.5, -0.25, 1e21, 1e-7, 5e-324, 1.7976931348623157e308,
    0.1, 123456789.123456789])
def test_numbers_are_exact_in_bodies_and_in_keys(host, number):
    support.assert_reply(support.post(host, number), 200, number)
    support.assert_reply(support.call(host, "GET", "/state", key=number), 200, number)


@pytest.mark.parametrize("text", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 400])
def test_an_integer_out_of_range_is_refused_in_bodies_and_in_keys(host, text):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=text), 400)
    support.assert_reply(support.call(host, "GET", "/state", query=f"key={text}"), 400)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "01", ".5", "1.", "0x10", "--1", "1e400", "tru", "nul"])
def test_what_is_no_json_number_is_refused(host, text):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=text), 400)
    support.assert_reply(support.call(host, "GET", "/state", query=f"key={text}"), 400)


@pytest.mark.parametrize("text, number", [("1e5", 100000), ("1E5", 100000), ("1.5e3", 1500), ("25e-1", 2.5), ("-2E2", -200)])
def test_exponents_are_read_in_any_case(host, text, number):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=text), 200, number)


@pytest.mark.parametrize("text", [
    "", "plain", "é", "日本語", "😀", "\n\t\r\b\f", "\x00\x01\x1f\x7f", "\"\\/", "\u2028\u2029", "{{x}}", "$x", "a" * 100_000],
    ids=lambda text: ascii(text[:20]))
def test_text_round_trips_through_bodies_and_keys(host, text):
    support.assert_reply(support.post(host, text), 200, text)
    support.assert_reply(support.post(host, [["x", {"a": [text]}], ["r", {"$x/a": [0]}]]), 200, text)
    if len(text) < 1000:
        support.assert_reply(support.call(host, "GET", "/state", key=text), 200, text)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\x"', '"\n"', '"open', r'"\u12"'])
def test_a_malformed_string_is_refused(host, text):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=text), 400)


# Typed literals and casts

@cases(
    ("a string", {V + "/string": "x"}, 200, "x"),
    ("a tuple as text", {V + "/string": ["x"]}, 200, "(x)"),
    ("an empty tuple as text", {V + "/string": []}, 200, "()"),
    ("the class itself", {V + "/string": {}}, 200, {V + "/string": []}),
    ("text as a number", {N: "5"}, 200, 5),
    ("a one-tuple as a number", {N: [5]}, 200, 5),
    ("a pair as a complex number", {N: [1, 2]}, 200, {N + "/complex/64": [1, 2]}),
    ("complex 32", {N + "/complex/32": [1, 2]}, 200, {N + "/complex/32": [1, 2]}),
    ("an empty list after a class is the class", {N: []}, 200, {N: []}),
    ("text that is no number", {N: "abc"}, 400),
    ("an integer", {N + "/int/16": 5}, 200, 5),
    ("float 32", {N + "/float/32": 1.5}, 200, 1.5),
    ("u64 of the upper half", {N + "/uint/64": 2**64 - 1}, 200, 2**64 - 1),
    ("none", {V + "/none": 5}, 200, None),
    ("base64 with padding", {V + "/bytes": "YWI="}, 200, "YWI="),
    ("base64 without padding", {V + "/bytes": "YWJj"}, 200, "YWJj"),
    ("a list of bytes", {V + "/bytes": [1, 2]}, 200, "AQI="),
    ("text that is neither base64 nor hex", {V + "/bytes": "!"}, 400),
    ("a tuple", {V + "/tuple": [1, "a"]}, 200, [1, "a"]),
    ("a scalar tuple of the members of a map", {"/state/scalar/tuple": {"a": 1}}, 200, [1]),
    ("a scalar map from pairs", {"/state/scalar/map": [["a", 1]]}, 200, {"a": 1}),
    ("a map", {"/state/map": {"a": 1}}, 200, {"a": 1}),
    ("a map from pairs", {"/state/map": [[["a", 1]]]}, 200, {"a": 1}),
    ("a state tuple", {"/state/tuple": [1, 2]}, 200, [1, 2]),
)
def test_a_typed_literal_casts_its_operand(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@cases(
    ("a bare reference", [["x", 5], ["r", {V + "/string": ref("x")}]], 200, "5"),
    ("a reference in a list", [["x", 5], ["r", {V + "/string": [ref("x")]}]], 200, "5"),
    ("a call", [["x", 5], ["r", {V + "/string": {"$x/add": [1]}}]], 200, "6"),
    ("a number to a float class", [["x", 5], ["r", {N + "/float/32": ref("x")}]], 200, 5),
    ("a float to an integer class", [["x", 5.9], ["r", {N + "/int/64": ref("x")}]], 200, 5),
    ("a tuple with a reference", [["x", 5], ["r", {V + "/tuple": [1, ref("x")]}]], 200, [1, 5]),
    ("pairs to a map", [["p", [["a", 1]]], ["r", {"/state/map": [ref("p")]}]], 200, {"a": 1}),
    ("pairs to a map inside an op", [
        ["f", get_op("k", ["p", [["a", ref("k")]]], ["r", {"/state/map": [ref("p")]}])], ["r", {"$f": [1]}]],
     200, {"a": 1}),
    ("an impossible cast", [["x", "abc"], ["r", {N: ref("x")}]], 400),
    ("an integer is exact as f64", [["x", {N + "/int/32": 16777217}], ["r", {N + "/float/64": ref("x")}]], 200, 16777217),
)
def test_a_cast_resolves_its_operand_first(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@cases(
    ("a value class", [["x", 5], ["r", {V: ref("x")}]], 200, 5),
    ("the class of all states", [["x", {"a": 1}], ["r", {"/state": ref("x")}]], 200, {"a": 1}),
    ("what is no value", [["x", {"a": 1}], ["r", {V: ref("x")}]], 400),
    ("a map inside an op", [["f", post_op(["r", {"/state/map": ref("p")}])], ["r", {"$f": {"p": [["a", 1]]}}]], 200, {"a": 1}),
    ("a tuple inside an op", [["f", post_op(["r", {"/state/tuple": ref("p")}])], ["r", {"$f": {"p": {"a": 1}}}]], 200, [1]),
)
def test_a_cast_into_a_class_without_typed_literals(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("cast", [
    {N + "/float/32": ref("x")}, {V + "/tuple": [1, ref("x")]}, {V + "/tuple": [[ref("x")]]}, {"/state/scalar/map": {"a": ref("x")}},
    {"/state/scalar/tuple": [ref("x"), ref("x")]}, {"/state/map": [ref("x")]}, {"/state/tuple": [ref("x")]}], ids=str)
def test_a_cast_in_an_op_is_answered_as_it_was_sent(hypothetical, cast):
    support.assert_reply(hypothetical(get_op("x", ["r", cast])), 200, get_op("x", ["r", cast]))


# "None"

@pytest.mark.parametrize("value, expected", [
    (None, True), ([], True), ({}, True), ({"/": []}, True), (0, False), ("", False), (False, False), ([None], False)])
def test_is_none_knows_the_empty_states(hypothetical, value, expected):
    support.assert_reply(hypothetical(on(value, "is_none")), 200, expected)


def test_is_none_takes_no_key(hypothetical):
    support.assert_reply(hypothetical(on(5, "is_none", 1)), 404)


# The shapes of a reference

@cases(
    ("$id with []", [["x", 5], ["r", {"$x": []}]], 200, 5),
    ("$id with null", [["x", 5], ["r", {"$x": None}]], 200, 5),
    ("$id with {}", [["x", 5], ["r", {"$x": {}}]], 200, 5),
    ("$id with [null]", [["x", 5], ["r", {"$x": [None]}]], 200, 5),
    ("$id with [[]]", [["x", 5], ["r", {"$x": [[]]}]], 200, 5),
    ("$id/path with []", [["x", -5], ["r", {"$x/abs": []}]], 200, 5),
    ("$id/path with null", [["x", -5], ["r", {"$x/abs": None}]], 200, 5),
    ("$id/path with {}", [["x", -5], ["r", {"$x/abs": {}}]], 200, 5),
    ("$id/path with [k]", [["x", 5], ["r", {"$x/add": [1]}]], 200, 6),
    ("PUT on a value", [["x", 5], ["r", {"$x": [1, 2]}]], 405),
    ("POST on a GET method", [["x", 5], ["r", {"$x/add": {"a": 1}}]], 405),
    ("three arguments", [["x", 5], ["r", {"$x": [1, 2, 3]}]], 400),
    ("a string", [["x", 5], ["r", {"$x": "a"}]], 400),
    ("a number", [["x", 5], ["r", {"$x": 1}]], 400),
    ("a bool", [["x", 5], ["r", {"$x": True}]], 400),
    ("a lone reference", [["x", 5], ["r", {"$x": {"$x": []}}]], 400),
    ("an unknown method", [["x", 5], ["r", {"$x/nope": [1]}]], 404),
    ("a key on a number", [["x", 5], ["r", {"$x": [1]}]], 404),
    ("a map as a key", [["x", 5], ["r", {"$x/add": [{"a": 1}]}]], 400),
    ("an op as a key", [["x", 5], ["r", {"$x/add": [get_op("k")]}]], 400),
)
def test_the_shape_of_the_arguments_decides_the_verb(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


DOUBLE = get_op("k", ["_return", {"$k/mul": [2]}])


@pytest.mark.parametrize("subject", [{"$f": []}, "$f"], ids=["object", "string"])
def test_explicit_op_references_call_their_subject(hypothetical, subject):
    def call(op, reference):
        return hypothetical([["f", op], ["r", reference]])

    support.assert_reply(call(DOUBLE, {R + "/op/get": [subject, 4]}), 200, 8)
    support.assert_reply(call(put_op("k", "v", ["_return", ref("v")]), {R + "/op/put": [subject, 1, 2]}), 200, None)
    support.assert_reply(call(post_op(["r", {"$a/add": [1]}]), {R + "/op/post": [subject, {"a": 1}]}), 200, 2)
    support.assert_reply(call(post_op(["r", {"$a/add": [1]}]), {R + "/op/post": [subject, [["a", 1]]]}), 200, 2)
    support.assert_reply(call(post_op(["r", 42]), {R + "/op/post": [subject, {}]}), 200, 42)
    support.assert_reply(call(delete_op("k", ["_return", None]), {R + "/op/delete": [subject, 1]}), 200, None)


@pytest.mark.parametrize("subject", ["/error/conflict", {"/error/conflict": []}, {"/error/conflict": {}}], ids=str)
def test_explicit_op_references_take_links(hypothetical, subject):
    support.assert_reply(hypothetical([["r", {R + "/op/get": [subject, "busy"]}]]), 409)


@pytest.mark.parametrize("subject", ["$x/y", {"$x/y": []}, {"$x/y": {}}], ids=str)
def test_delete_takes_a_path_below_an_id(hypothetical, subject):
    body = [["x", {"y": delete_op("k", ["e", {"/error/conflict": ["ran"]}])}], ["r", delete(subject, 1)]]
    support.assert_reply(hypothetical(body), 409)


@cases(
    ("a POST op is called without parameters", [["f", post_op(["r", 42])], ["r", {"$f": {}}]], 200, 42),
    ("a GET op is called with null", [["f", get_op("k", ["r", {"$k/is_none": [None]}])], ["r", {"$f": {}}]], 200, True),
    ("a POST member of a map is called", [["m", {"f": post_op(["r", 42])}], ["r", {"$m/f": {}}]], 200, 42),
)
def test_a_call_without_arguments_follows_the_target(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


# Conditionals

def if_(cond, then, or_else):
    return {R + "/if": [cond, then, or_else]}


def case_(cond, switch, case):
    return {R + "/case": [cond, switch, case]}


@cases(
    ("then", [["x", True], ["r", if_(ref("x"), "yes", BAD)]], 200, "yes"),
    ("else", [["x", False], ["r", if_(ref("x"), BAD, "no")]], 200, "no"),
    ("a number is no condition", [["x", 1], ["r", if_(ref("x"), 1, 2)]], 400),
    ("null is no condition", [["x", None], ["r", if_(ref("x"), 1, 2)]], 400),
    ("a literal is no condition", [["r", if_(True, 1, 2)]], 400),
    ("the chosen branch is resolved", [["x", True], ["y", 5], ["r", if_(ref("x"), {"$y/add": [1]}, 2)]], 200, 6),
    ("entries that only the other branch needs do not run",
     [["x", True], ["y", BAD], ["r", if_(ref("x"), 1, ref("y"))]], 200, 1),
    ("an error in the chosen branch is the error",
     [["x", True], ["r", if_(ref("x"), {"/error/conflict": ["m"]}, 2)]], 409),
    ("a conditional as condition", [["x", True], ["r", if_(if_(ref("x"), True, False), 1, 2)]], 200, 1),
    ("a conditional as branch", [["x", True], ["r", if_(ref("x"), if_(ref("x"), ref("x"), 1), 2)]], 200, True),
    ("a conditional as key", [["x", True], ["y", 5], ["r", {"$y/add": [if_(ref("x"), ref("y"), 1)]}]], 200, 10),
    ("a conditional as parameter",
     [["x", True], ["y", 5], ["f", post_op(["r", ref("a")])], ["r", {"$f": {"a": if_(ref("x"), ref("y"), 1)}}]], 200, 5),
    ("a conditional inside data", [["x", True], ["y", 5], ["r", [1, {"a": if_(ref("x"), ref("y"), 1)}]]], 200, [1, {"a": 5}]),
    ("outside a context", if_({"/state": [True]}, {"/state": [5]}, 2), 200, 5),
)
def test_if_evaluates_the_chosen_branch_only(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@cases(
    ("a match", [["x", 2], ["r", case_(ref("x"), [1, 2], [BAD, "b", BAD])]], 200, "b"),
    ("the first match wins", [["x", 1], ["r", case_(ref("x"), [1, 1], ["a", BAD, BAD])]], 200, "a"),
    ("the default", [["x", 5], ["r", case_(ref("x"), [1, 2], ["a", "b", "c"])]], 200, "c"),
    ("switches may be references", [["x", 2], ["y", 2], ["r", case_(ref("x"), [ref("y")], ["a", "b"])]], 200, "a"),
    ("switches are compared by value", [["x", 2], ["r", case_(ref("x"), ["2", 2.0], ["a", "b", "c"])]], 200, "b"),
    ("tuples", [["x", [1]], ["r", case_(ref("x"), [[2], [1]], ["a", "b", "c"])]], 200, "b"),
    ("the branch is resolved", [["x", 1], ["r", case_(ref("x"), [1], [{"$x/add": [1]}, BAD])]], 200, 2),
)
def test_case_evaluates_the_first_match_only(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("switch, branches", [([1, 2], ["a", "b"]), ([1], ["a", "b", "c"])])
def test_case_needs_one_branch_per_switch_and_a_default(hypothetical, switch, branches):
    status, _ = hypothetical([["x", 1], ["r", case_(ref("x"), switch, branches)]])
    assert status in (400, 405)


# Order

@cases(
    ("the result of after", [["x", 1], ["r", {R + "/after": [ref("x"), 2]}]], 200, 2),
    ("an error in when", [["x", 1], ["r", {R + "/after": [{"/error/conflict": ["first"]}, ref("x")]}]], 409),
    ("when comes first", [["r", {R + "/after": [{"/error/conflict": ["1"]}, {"/error/forbidden": ["2"]}]}]], 409),
    ("when may be a conditional", [["x", True], ["r", {R + "/after": [if_(ref("x"), 1, BAD), 2]}]], 200, 2),
    ("the result of before", [["x", 1], ["r", {R + "/before": [ref("x"), 2]}]], 200, 2),
    ("an error in when of before", [["r", {R + "/before": [{"/error/conflict": ["m"]}, 2]}]], 409),
)
def test_after_and_before_order_their_parts(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


def while_(cond, step, state):
    return {R + "/while": [cond, step, state]}


BELOW_5 = post_op(["_return", {"$i/lt": [5]}])
INCREMENT = post_op(["_return", {"i": {"$i/add": [1]}}])


@cases(
    ("POST ops over a map", [["r", while_(BELOW_5, INCREMENT, {"i": 0})]], 200, {"i": 5}),
    ("GET ops over a number", [
        ["r", while_(get_op("i", ["r", {"$i/lt": [5]}]), get_op("i", ["r", {"$i/add": [1]}]), 0)]], 200, 5),
    ("a false condition at once", [["r", while_(BELOW_5, post_op(["r", BAD]), {"i": 9})]], 200, {"i": 9}),
    ("named ops and state", [["c", BELOW_5], ["s", INCREMENT], ["z", {"i": 3}], ["r", while_(ref("c"), ref("s"), ref("z"))]],
     200, {"i": 5}),
    ("a closure", [
        ["n", 3],
        ["c", {R + "/with": [["n"], post_op(["r", {"$i/lt": [ref("n")]}])]}],
        ["r", while_(ref("c"), INCREMENT, {"i": 0})]], 200, {"i": 3}),
    ("a step that returns a conditional", [
        ["r", while_(BELOW_5, post_op(["b", {"$i/gte": [0]}], ["r", if_(ref("b"), {"i": {"$i/add": [2]}}, BAD)]), {"i": 0})]],
     200, {"i": 6}),
    ("a condition that is no bool", [["r", while_(post_op(["r", 1]), INCREMENT, {"i": 0})]], 400),
    ("an error in the step", [["r", while_(BELOW_5, post_op(["r", {"/error/conflict": ["m"]}]), {"i": 0})]], 409),
    ("10,000 rounds", [
        ["r", while_(get_op("i", ["r", {"$i/lt": [10_000]}]), get_op("i", ["r", {"$i/add": [1]}]), 0)]], 200, 10_000),
)
def test_while_repeats_its_step(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


# Contexts

@cases(
    ("the last entry is the result", [["a", 1], ["b", 2]], 200, 2),
    ("an empty context", [], 200, None),
    ("entries may refer to later ones", [["a", ref("b")], ["b", 7], ["r", {"$a/add": [ref("b")]}]], 200, 14),
    ("a list of pairs is always a context", [["x", 1]], 200, 1),
    ("a name may be a typed id", [[{V + "/id": "x"}, 1]], 200, 1),
    ("a name may be a reference", [[{"$x": []}, 1]], 200, 1),
    ("a bad name makes it data", [["a b", 1], ["c", 2]], 200, [["a b", 1], ["c", 2]]),
    ("a number as name makes it data", [[1, 1], ["c", 2]], 200, [[1, 1], ["c", 2]]),
    ("a triple makes it data", [["a", 1, 2], ["c", 2]], 200, [["a", 1, 2], ["c", 2]]),
    ("data is answered as it is", {"a": 1, "b": [True, None]}, 200, {"a": 1, "b": [True, None]}),
    ("references in data are resolved", {"a": {"/state": [5]}}, 200, {"a": 5}),
    ("an id without a context", {"$x": []}, 404),
    ("an unknown name", [["r", ref("nope")]], 404),
    ("an entry that nothing needs", [["a", BAD], ["b", ref("nope")], ["c", 5]], 200, 5),
    ("the last definition of a name", [["a", 1], ["a", 2], ["r", ref("a")]], 200, 2),
    ("a redefinition in terms of itself", [["a", 1], ["a", {"$a/add": [1]}]], 400),
    ("$self without an instance", [["r", ref("self")]], 400),
    ("$self is not the entry of that name", [["self", 5], ["r", ref("self")]], 400),
    ("tuples and maps are resolved", [["a", 1], ["r", [ref("a"), {"b": ref("a")}]]], 200, [1, {"b": 1}]),
)
def test_a_context_answers_its_last_entry(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@cases(
    ("itself", [["chicken", ref("chicken")]], 400),
    ("two entries", [["chicken", ref("egg")], ["egg", ref("chicken")]], 400),
    ("three entries", [["chicken", ref("egg")], ["egg", {"$nest/add": [1]}], ["nest", [ref("chicken")]]], 400),
    ("a cycle below the result", [["chicken", {"a": ref("egg")}], ["egg", [ref("chicken")]], ["r", {"$egg": [0]}]], 400),
    ("a cycle in an op", [
        ["f", post_op(["chicken", ref("egg")], ["egg", ref("chicken")])], ["r", {"$f": {}}]], 400),
)
def test_a_cycle_is_refused_and_named(hypothetical, what, body, status, expected):
    reply = hypothetical(body)
    support.assert_reply(reply, status)
    assert "chicken" in str(reply[1]), reply


def test_a_cycle_that_nothing_needs_is_no_error(hypothetical):
    support.assert_reply(hypothetical([["a", ref("b")], ["b", ref("a")], ["r", 5]]), 200, 5)


def test_a_long_chain_of_entries_is_resolved(hypothetical):
    body = [["x0", 0]] + [[f"x{i}", {f"$x{i - 1}/add": [1]}] for i in range(1, 1001)]
    support.assert_reply(hypothetical(body), 200, 1000)


def test_200_levels_of_nesting_are_accepted(hypothetical):
    nested = 1
    for _ in range(200):
        nested = [nested]
    support.assert_reply(hypothetical(nested), 200, nested)

    nested = 1
    for _ in range(200):
        nested = {"a": nested}
    support.assert_reply(hypothetical(nested), 200, nested)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]], ids=" ".join)
@pytest.mark.parametrize("order", [
    lambda a, b, c: [ref(a), ref(b), ref(c)],
    lambda a, b, c: {"1": ref(a), "2": [ref(b), ref(a)], "3": ref(c)},
    lambda a, b, c: {R + "/after": [ref(a), {R + "/after": [ref(b), ref(c)]}]}], ids=["tuple", "map", "after"])
def test_named_writes_that_are_ready_together_happen_in_the_order_in_which_they_are_mentioned(hypothetical, names, order):
    writes = [[name, {"$chain": [None, i]}] for i, name in enumerate(names)]
    body = [
        ["chain", {"/state/chain/block": [None]}], *sorted(writes), ["all", order(*names)],
        ["r", {R + "/after": [ref("all"), {"$chain/chain": [None]}]}]]
    status, reply = hypothetical(body)
    assert status == 200
    [[_, transactions]] = reply["/state/chain/block"][1]
    [mutations] = transactions.values()
    assert mutations == [["/", None, 0], ["/", None, 1], ["/", None, 2]]


# Ops

RUNS = {"/error/conflict": ["the body ran"]}  # PUT and DELETE answer null, so an error shows that they ran
OPS = {
    "GET": get_op("k", ["_return", RUNS]),
    "PUT": put_op("k", "v", ["_return", RUNS]),
    "POST": post_op(["_return", RUNS]),
    "DELETE": delete_op("k", ["_return", RUNS]),
}
CALLS = {"GET": {"$f": [1]}, "PUT": {"$f": [1, 2]}, "POST": {"$f": {"k": 1}}, "DELETE": delete(ref("f"), 1)}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("op", OPS)
def test_an_op_answers_its_own_verb_only(hypothetical, op, call):
    support.assert_reply(hypothetical([["f", OPS[op]], ["r", CALLS[call]]]), 409 if op == call else 405)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("op", OPS)
def test_a_closure_answers_the_verb_of_its_op_only(hypothetical, op, call):
    closure = {R + "/with": [["n"], OPS[op]]}
    support.assert_reply(hypothetical([["n", 1], ["f", closure], ["r", CALLS[call]]]), 409 if op == call else 405)


@pytest.mark.parametrize("definition", OPS.values(), ids=OPS)
def test_an_op_definition_is_data(hypothetical, definition):
    support.assert_reply(hypothetical(definition), 200, definition)
    support.assert_reply(hypothetical([["f", definition], ["m", {"f": ref("f")}], ["r", {"$m": ["f"]}]]), 200, definition)


@cases(
    ("the key", [["f", DOUBLE], ["r", {"$f": [3]}]], 200, 6),
    ("a key name written as a reference",
     [["f", {OP + "/get": [{"$k": []}, [["_return", {"$k/mul": [2]}]]]}], ["r", {"$f": [3]}]], 200, 6),
    ("parameters", [["f", post_op(["r", {"$a/sub": [ref("b")]}])], ["r", {"$f": {"a": 5, "b": 3}}]], 200, 2),
    ("parameters may be references", [["x", 5], ["f", post_op(["r", ref("a")])], ["r", {"$f": {"a": ref("x")}}]], 200, 5),
    ("extra parameters", [["f", post_op(["r", ref("a")])], ["r", {"$f": {"a": 5, "b": 3}}]], 200, 5),
    ("a missing parameter", [["f", post_op(["r", ref("a")])], ["r", {"$f": {"b": 3}}]], 400),
    ("a missing parameter that nothing needs", [["f", post_op(["x", ref("a")], ["r", 1])], ["r", {"$f": {"b": 3}}]], 200, 1),
    ("local entries shadow parameters", [["f", get_op("k", ["k", 7], ["r", ref("k")])], ["r", {"$f": [1]}]], 200, 7),
    ("an empty body", [["f", get_op("k")], ["r", {"$f": [1]}]], 200, None),
    ("the enclosing context is out of reach", [["x", 7], ["f", get_op("k", ["r", ref("x")])], ["r", {"$f": [1]}]], 404),
    ("PUT answers null", [["f", put_op("k", "v", ["r", ref("v")])], ["r", {"$f": [1, 2]}]], 200, None),
    ("a sub-path", [["f", DOUBLE], ["r", {"$f/x": [3]}]], 404),
    ("class", [["f", DOUBLE], ["r", {"$f/class": [None]}]], 200, {OP + "/get": []}),
    ("is_none", [["f", DOUBLE], ["r", {"$f/is_none": [None]}]], 200, False),
    ("a map as a key", [["f", DOUBLE], ["r", {"$f": [{"a": 1}]}]], 400),
    ("an op as a parameter", [["f", post_op(["r", {"$g": [4]}])], ["r", {"$f": {"g": DOUBLE}}]], 200, 8),
    ("an op that returns an op", [["f", get_op("k", ["r", DOUBLE])], ["g", {"$f": [1]}], ["r", {"$g": [4]}]], 200, 8),
    ("an op in an op", [
        ["f", get_op("k", ["g", DOUBLE], ["x", {"$g": [ref("k")]}], ["r", {"$x/add": [1]}])], ["r", {"$f": [4]}]], 200, 9),
)
def test_an_op_sees_its_parameters_only(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("definition", [
    {OP + "/get": ["k"]}, {OP + "/get": [1, []]}, {OP + "/put": ["k", []]}, {OP + "/post": [1, 2, 3]}, {OP + "/delete": 5}],
    ids=str)
def test_a_malformed_op_definition_is_refused(hypothetical, definition):
    status, body = hypothetical([["f", definition], ["r", ref("f")]])
    assert status in (400, 404, 405), body
    support.error_name(body)


@cases(
    ("a captured value", [
        ["n", 3], ["f", {R + "/with": [[ref("n")], get_op("k", ["r", {"$n/mul": [ref("k")]}])]}], ["r", {"$f": [4]}]], 200, 12),
    ("names as plain strings", [
        ["n", 3], ["f", {R + "/with": [["n"], get_op("k", ["r", {"$n/mul": [ref("k")]}])]}], ["r", {"$f": [4]}]], 200, 12),
    ("parameters shadow captured names", [
        ["k", 3], ["f", {R + "/with": [["k"], get_op("k", ["r", ref("k")])]}], ["r", {"$f": [4]}]], 200, 4),
    ("a missing name", [["f", {R + "/with": [["nope"], DOUBLE]}], ["r", {"$f": [4]}]], 404),
    ("class", [["n", 3], ["f", {R + "/with": [["n"], DOUBLE]}], ["r", {"$f/class": [None]}]], 200, {"/state/closure": []}),
    ("passed to an op", [
        ["n", 3],
        ["f", {R + "/with": [["n"], get_op("k", ["r", {"$n/mul": [ref("k")]}])]}],
        ["g", post_op(["r", {"$op": [5]}])],
        ["r", {"$g": {"op": ref("f")}}]], 200, 15),
    ("a captured op", [
        ["d", DOUBLE], ["f", {R + "/with": [["d"], get_op("k", ["r", {"$d": [ref("k")]}])]}], ["r", {"$f": [4]}]], 200, 8),
)
def test_a_closure_carries_what_it_captured(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


# Tuples, maps, strings

@cases(
    ("an item", [["t", [1, 2]], ["r", {"$t": [1]}]], 200, 2),
    ("an index is truncated", [["t", [1, 2]], ["r", {"$t": [1.9]}]], 200, 2),
    ("an index may be text", [["t", [1, 2]], ["r", {"$t": ["1"]}]], 200, 2),
    ("an index out of range", [["t", [1, 2]], ["r", {"$t": [2]}]], 404),
    ("a negative index", [["t", [1, 2]], ["r", {"$t": [-1]}]], 404),
    ("an index that is no number", [["t", [1, 2]], ["r", {"$t": ["a"]}]], 400),
    ("an item by path", [["t", [1, 2]], ["r", {"$t/0": [None]}]], 200, 1),
    ("a method of an item", [["t", [1, 2]], ["r", {"$t/0/add": [5]}]], 200, 6),
    ("a path out of range", [["t", [1, 2]], ["r", {"$t/2": [None]}]], 404),
    ("append", [["t", [1]], ["r", {"$t/append": [[2, 3]]}]], 200, [1, 2, 3]),
    ("append of what is no tuple", [["t", [1]], ["r", {"$t/append": [2]}]], 400),
    ("extend", [["t", [1]], ["r", {"$t/extend": [[2, 3]]}]], 200, [1, 2, 3]),
    ("zip", [["t", [1, 2]], ["r", {"$t/zip": [["a", "b"]]}]], 200, [[1, "a"], [2, "b"]]),
    ("zip of unequal lengths", [["t", [1, 2]], ["r", {"$t/zip": [["a"]]}]], 400),
    ("eq", [["t", [1, "a"]], ["r", {"$t/eq": {"eq": [1, "a"]}}]], 200, True),
    ("eq of unequal lengths", [["t", [1]], ["r", {"$t/eq": {"eq": [1, 2]}}]], 200, False),
    ("map in order", [["t", list(range(50))], ["r", {"$t/map": {"op": DOUBLE}}]], 200, list(range(0, 100, 2))),
    ("map with a POST op over maps", [
        ["t", [{"a": 1}, {"a": 2}]], ["r", {"$t/map": {"op": post_op(["r", {"$a/add": [1]}])}}]], 200, [2, 3]),
    ("map with a POST op over numbers", [["t", [1]], ["r", {"$t/map": {"op": post_op(["r", 1])}}]], 400),
    ("map with a closure", [
        ["n", 3], ["f", {R + "/with": [["n"], get_op("i", ["r", {"$i/mul": [ref("n")]}])]}], ["t", [1, 2]],
        ["r", {"$t/map": {"op": ref("f")}}]], 200, [3, 6]),
    ("map without an op", [["t", [1]], ["r", {"$t/map": {"x": 1}}]], 400),
    ("map with something else", [["t", [1]], ["r", {"$t/map": {"op": 5}}]], 400),
    ("map of an error", [["t", [1]], ["r", {"$t/map": {"op": OPS["GET"]}}]], 409),
    ("fold in order", [
        ["t", ["a", "b"]],
        ["r", {"$t/fold": {"value": [], "op": post_op(["i", [ref("item")]], ["r", {"$state/append": [ref("i")]}])}}]],
     200, ["a", "b"]),
    ("fold of nothing", [["t", []], ["r", {"$t/fold": {"value": 7, "op": post_op(["r", BAD])}}]], 200, 7),
    ("fold without a value", [["t", [1]], ["r", {"$t/fold": {"op": post_op(["r", 1])}}]], 400),
    ("class", [["t", [1]], ["r", {"$t/class": [None]}]], 200, {"/state/tuple": []}),
    ("an unknown method", [["t", [1]], ["r", {"$t/nope": [None]}]], 404),
)
def test_methods_of_a_tuple(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@cases(
    ("itself", [["m", {"a": 1}], ["r", {"$m": [None]}]], 200, {"a": 1}),
    ("a member", [["m", {"a": 1}], ["r", {"$m": ["a"]}]], 200, 1),
    ("a member by id", [["m", {"a": 1}], ["r", {"$m": [{V + "/id": "a"}]}]], 200, 1),
    ("a member by path", [["m", {"a": {"b": 2}}], ["r", {"$m/a/b": [None]}]], 200, 2),
    ("a method of a member", [["m", {"a": 1}], ["r", {"$m/a/add": [2]}]], 200, 3),
    ("a member op", [["m", {"f": DOUBLE}], ["r", {"$m/f": [2]}]], 200, 4),
    ("an absent member", [["m", {"a": 1}], ["r", {"$m": ["b"]}]], 404),
    ("an absent path", [["m", {"a": 1}], ["r", {"$m/b": [None]}]], 404),
    ("a key that is no id", [["m", {"a": 1}], ["r", {"$m": [1.5]}]], 400),
    ("eq", [["m", {"a": 1, "b": "x"}], ["r", {"$m/eq": {"eq": {"b": "x", "a": 1.0}}}]], 200, True),
    ("eq of other members", [["m", {"a": 1}], ["r", {"$m/eq": {"eq": {"a": 1, "b": 2}}}]], 200, False),
    ("a member hides a method", [["m", {"class": 5}], ["r", {"$m/class": [None]}]], 200, 5),
    ("class", [["m", {"a": 1}], ["r", {"$m/class": [None]}]], 200, {"/state/map": []}),
)
def test_methods_of_a_map(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


def render(template, **params):
    return [["s", template], ["r", {"$s/render": params}]]


@cases(
    ("a name", render("Hi {{n}}", n="Ann"), 200, "Hi Ann"),
    ("a number", render("{{n}} + {{m}}", n=1, m=2.5), 200, "1 + 2.5"),
    ("non-ASCII text", render("é {{n}}", n="日本"), 200, "é 日本"),
    ("HTML is escaped", render("{{n}}", n="<b>"), 200, "&lt;b&gt;"),
    ("three braces do not escape", render("{{{n}}}", n="<b>"), 200, "<b>"),
    ("a missing name", render("[{{x}}]", n=1), 200, "[]"),
    ("if", render("{{#if b}}yes{{else}}no{{/if}}", b=True), 200, "yes"),
    ("each", render("{{#each t}}{{this}};{{/each}}", t=[1, 2]), 200, "1;2;"),
    ("an item", render("{{x.[1]}}", x=["a", "b"]), 200, "b"),
    ("a parse error", render("{{#if}", n=1), 400),
    *[("not of the language", render(text, n=1, t=[1]), 400) for text in (
        "{{log n}}", "{{log \"x\"}}", "{{#log}}{{/log}}", "{{lookup t 0}}", "{{#with n}}{{/with}}", "{{#unless n}}{{/unless}}",
        "{{> part}}", "{{ > part}}", "{{#> part}}{{/part}}", "{{#*inline \"x\"}}{{/inline}}", "{{eq n 1}}", "{{#if (eq n 1)}}{{/if}}",
        "{{{{raw}}}}{{{{/raw}}}}", "{{raw n}}", "{{len t}}", "{{else}}", "{{#each t}}{{/if}}", "{{#if n}}" * 65 + "{{/if}}" * 65)],
    ("a parameter may be called like a helper", render("{{log}} {{len}}", log=1, len=2), 200, "1 2"),
    ("nested loops", render("{{#each t}}{{#each ../t}}{{this}}{{/each}};{{/each}}", t=[1, 2]), 200, "12;12;"),
    ("no items", render("{{#each t}}x{{else}}none{{/each}}", t=[]), 200, "none"),
    ("a map as a parameter", render("{{n}}", n={"a": 1}), 400),
    ("GET with pairs", [["s", "Hi {{n}}"], ["r", {"$s/render": [[["n", "Ann"]]]}]], 200, "Hi Ann"),
    ("GET with one value", [["s", "Hi {{this}}"], ["r", {"$s/render": ["Ann"]}]], 200, "Hi Ann"),
    ("a reference as a parameter", [["n", "Ann"], ["s", "Hi {{n}}"], ["r", {"$s/render": {"n": ref("n")}}]], 200, "Hi Ann"),
)
def test_a_string_renders_as_a_template(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("value, path", [
    (None, V + "/none"), (True, N + "/bool"), (5, N + "/int/64"), (1.5, N + "/float/64"), ("s", V + "/string"),
    ({V + "/bytes": "YWI="}, V + "/bytes"), ({V + "/id": "a"}, V + "/id"), ({"/a": []}, V + "/link"),
    ([1], "/state/tuple"), ({"a": 1}, "/state/map"), ({N + "/uint/8": 1}, N + "/uint/8"),
    ({N + "/int": 1}, N + "/int/64"), ({N + "/float/32": 1}, N + "/float/32"), ({N + "/complex": [1, 2]}, N + "/complex/64")],
    ids=str)
def test_every_state_names_its_class(hypothetical, value, path):
    support.assert_reply(hypothetical(on(value, "class")), 200, {path: []})


@pytest.mark.parametrize("left, right, expected", [
    (1, "1", False), ("a", {V + "/id": "a"}, False), ("/a", {"/a": []}, False), (None, None, True), (None, 0, False),
    ("a", "a", True), ({"/a": []}, {"/a": []}, True), (1, 1.0, True), (True, 1, True), (False, 0, True), (True, 2, False),
    (2, 2.5, False), (2.5, 2, False), (2.0, {N + "/complex": [2, 5]}, False), ({N + "/complex": [2, 5]}, 2.0, False),
    (2, {N + "/complex": [2, 0]}, True), (2**53 + 1, float(2**53), False), (float(2**53), 2**53 + 1, False),
    (2**63, -2**63, False), (2**63, float(2**63), True), (2**64 - 1, -1, False)], ids=str)
def test_equality_is_exact_and_strict_about_kind(hypothetical, left, right, expected):
    support.assert_reply(hypothetical(on(left, "eq", right)), 200, expected)
    support.assert_reply(hypothetical(on(left, "ne", right)), 200, not expected)


# Numbers

I64_MIN, I64_MAX, U64_MAX = -2**63, 2**63 - 1, 2**64 - 1


@cases(
    ("integer division truncates", on(7, "div", 2), 200, 3),
    ("also below zero", on(-7, "div", 2), 200, -3),
    ("float division", on(7, "div", 2.0), 200, 3.5),
    ("division by 0", on(1, "div", 0), 400),
    ("division by 0.0", on(1.5, "div", 0.0), 400),
    ("division by false", on(1, "div", False), 400),
    ("division by null", on(1, "div", None), 400),
    ("null counts as 0", on(5, "add", None), 200, 5),
    ("text counts as a number", on(5, "add", "2"), 200, 7),
    ("a one-tuple counts as a number", on(5, "add", [2]), 200, 7),
    ("a pair counts as complex", on(5, "add", [2, 3]), 200, {N + "/complex/64": [7, 3]}),
    ("text that is no number", on(5, "add", "x"), 400),
    ("bool add is or", on(True, "add", True), 200, True),
    ("bool sub is xor", on(True, "sub", True), 200, False),
    ("bool mul is and", on(True, "mul", False), 200, False),
    ("bool and int", on(True, "add", 2), 200, 3),
    ("pow", on(2, "pow", 10), 200, 1024),
    ("pow by a negative", on(2, "pow", -1), 200, 0.5),
    ("pow by a float", on(4, "pow", 0.5), 200, 2.0),
    ("pow to a complex", on({N + "/complex": [0, 1]}, "pow", {N + "/complex": [2, 0]}), 200, {N + "/complex/64": [-1, 0]}),
    ("abs", on(-5, "abs"), 200, 5),
    ("abs with a key", on(-5, "abs", 1), 400),
    ("abs of complex is the norm", on({N + "/complex": [3, 4]}, "abs"), 200, 5),
    ("not", on(0, "not"), 200, True),
    ("not with a key", on(0, "not", 1), 400),
    ("and", on(2, "and", 3), 200, True),
    ("or", on(0, "or", 0.0), 200, False),
    ("xor", on(2, "xor", 3), 200, False),
    ("gt", on(3, "gt", 2.5), 200, True),
    ("gte", on(3, "gte", 3.0), 200, True),
    ("lt", on(3, "lt", 2.5), 200, False),
    ("lte", on(3, "lte", 3), 200, True),
    ("gt of complex", on({N + "/complex": [3, 4]}, "gt", 1), 200, False),
    ("lt of complex", on(1, "lt", [3, 4]), 200, False),
    ("gt beyond the precision of f64", on(2**53 + 1, "gt", float(2**53)), 200, True),
    ("u64 above i64", on(2**63, "gt", -1), 200, True),
    ("exact near the top", on(I64_MAX - 1, "add", 1), 200, I64_MAX),
    ("unlisted", on(5, "mod", 2), 404),
)
def test_arithmetic(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


@pytest.mark.parametrize("left, method, right", [
    (I64_MAX, "add", 1), (I64_MIN, "sub", 1), (I64_MAX, "mul", 2), (I64_MIN, "div", -1), (10, "pow", 30), (I64_MIN, "abs", None),
    (U64_MAX, "add", {N + "/uint/64": 1}), ({N + "/uint/8": 200}, "add", {N + "/uint/8": 100}),
    ({N + "/uint/8": 1}, "sub", {N + "/uint/8": 2}), ({N + "/int/16": 32767}, "add", {N + "/int/16": 1}),
    (1e308, "mul", 10.0), (-1e308, "sub", 1e308), (10.0, "pow", 400)], ids=str)
def test_overflow_is_an_error(hypothetical, left, method, right):
    support.assert_reply(hypothetical(on(left, method, right)), 400)


@pytest.mark.parametrize("left, method, right", [(-1.0, "pow", 0.5), (-8, "pow", 0.5)], ids=str)
def test_a_result_that_is_not_a_number_is_an_error(hypothetical, left, method, right):
    support.assert_reply(hypothetical(on(left, method, right)), 400)


KINDS = ["bool", "uint/8", "uint/32", "uint/64", "int/16", "int/32", "int/64", "float/32", "float/64", "complex/32"]
PROMOTION = {
    "bool": ["bool", "uint/8", "uint/32", "uint/64", "int/16", "int/32", "int/64", "float/32", "float/64", "complex/32"],
    "uint/8": ["uint/8", "uint/8", "uint/32", "uint/64", "int/16", "int/32", "int/64", "float/32", "float/64", "complex/32"],
    "int/64": [None, "int/64", None, None, "int/64", "int/64", "int/64", "float/64", "float/64", "complex/64"],
    "float/32": ["float/32", "float/32", "float/32", "float/64", "float/32", "float/32", "float/64", "float/32", "float/64",
                 "complex/32"],
}
PROMOTIONS = [
    (left, right, result)
    for left, results in PROMOTION.items() for right, result in zip(KINDS, results) if result is not None]


@pytest.mark.parametrize("left, right, result", PROMOTIONS)
def test_arithmetic_promotes_to_the_greater_kind(hypothetical, left, right, result):
    for method in ["add", "mul"]:
        for first, second in [(left, right), (right, left)]:
            body = [
                ["a", {f"{N}/{first}": 1}], ["b", {f"{N}/{second}": 1}], ["c", {f"$a/{method}": [ref("b")]}],
                ["r", {"$c/class": [None]}]]
            support.assert_reply(hypothetical(body), 200, {f"{N}/{result}": []})


# Classes and instances

NUMBER_WITH_TWO = {N: {"two": 2}}
FEET = {N: {"feet": get_op("key", ["_return", {"$self/mul": [3.28]}])}}


@cases(
    ("a method", [["M", FEET], ["m", {"$M": [2]}], ["r", {"$m/feet": [None]}]], 200, 6.56),
    ("an attribute", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/two": [None]}]], 200, 2),
    ("a method of an attribute", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/two/add": [1]}]], 200, 3),
    ("a native method", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/add": [1]}]], 200, 6),
    ("an instance as an argument", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/two/mul": [{"$m": []}]}]], 200, 10),
    ("the bare data", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m": [None]}]], 200, 5),
    ("the native class of the data", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/class": [None]}]],
     200, {N + "/int/64": []}),
    ("an unknown member", [["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}], ["r", {"$m/nope": [None]}]], 404),
    ("a method with another verb", [["M", FEET], ["m", {"$M": [2]}], ["r", {"$m/feet": {"a": 1}}]], 405),
    ("a path below a method", [["M", FEET], ["m", {"$M": [2]}], ["r", {"$m/feet/x": [None]}]], 404),
    ("a POST method", [
        ["M", {N: {"times": post_op(["r", {"$self/mul": [ref("n")]}])}}], ["m", {"$M": [5]}], ["r", {"$m/times": {"n": 3}}]], 200, 15),
    ("a POST method without parameters", [
        ["M", {N: {"twice": post_op(["r", {"$self/mul": [2]}])}}], ["m", {"$M": [5]}], ["r", {"$m/twice": {}}]], 200, 10),
    ("a method that calls another", [
        ["M", {N: {"a": get_op("k", ["r", {"$self/mul": [2]}]), "b": get_op("k", ["x", {"$self/a": [None]}], ["r", {"$x/add": [1]}])}}],
        ["m", {"$M": [5]}], ["r", {"$m/b": [None]}]], 200, 11),
    ("a member overrides a native method", [
        ["M", {N: {"add": get_op("k", ["r", "mine"])}}], ["m", {"$M": [5]}], ["r", {"$m/add": [1]}]], 200, "mine"),
    ("an override holds through $self", [
        ["M", {N: {"add": get_op("k", ["r", "mine"]), "f": get_op("k", ["r", {"$self/add": [1]}])}}],
        ["m", {"$M": [5]}], ["r", {"$m/f": [None]}]], 200, "mine"),
    ("POST makes an instance of a class without parent", [
        ["C", {"/state/object/class": {"n": 5}}], ["o", {"$C": {"a": 1}}], ["r", {"$o/n": [None]}]], 200, 5),
    ("a method reads the data of the instance", [
        ["C", {"/state/object/class": {"get_a": get_op("k", ["r", {"$self/a/add": [ref("k")]}])}}],
        ["o", {"$C": {"a": 1}}], ["r", {"$o/get_a": [2]}]], 200, 3),
    ("a class with its parent, as replies print it", [
        ["C", {"/state/object/class": NUMBER_WITH_TWO}], ["m", {"$C": [5]}], ["r", {"$m/two": [None]}]], 200, 2),
    ("the same in a list, as the client prints it", [
        ["C", {"/state/object/class": [NUMBER_WITH_TWO]}], ["m", {"$C": [5]}], ["r", {"$m/two": [None]}]], 200, 2),
    ("new", [["M", NUMBER_WITH_TWO], ["m", {R + "/new": [ref("M"), 5]}], ["r", {"$m/two/mul": [ref("m")]}]], 200, 10),
    ("new with a map as class", [["m", {R + "/new": [{"two": 2}, 5]}], ["r", {"$m/two": [None]}]], 200, 2),
    ("new with a number as class", [["m", {R + "/new": [5, 5]}], ["r", ref("m")]], 400),
    ("data of the wrong type", [["M", NUMBER_WITH_TWO], ["r", {"$M": ["text"]}]], 400),
    ("an attribute of the class", [["M", NUMBER_WITH_TWO], ["r", {"$M/two": [None]}]], 200, 2),
    ("an attribute that is a reference", [
        ["x", 5], ["M", {N: {"a": {"$x/add": [1]}}}], ["m", {"$M": [1]}], ["r", {"$m/a/mul": [2]}]], 200, 12),
    ("the same of the class", [["x", 5], ["M", {N: {"a": {"$x/add": [1]}}}], ["r", {"$M/a/mul": [2]}]], 200, 12),
    ("an attribute whose names are out of reach", [
        ["x", 5], ["M", {N: {"a": {"$x/add": [1]}}}], ["m", {"$M": [1]}], ["t", [ref("m")]], ["r", {"$t/0/a": [None]}]], 404),
    ("a method of the class without an instance", [["M", FEET], ["r", {"$M/feet": [None]}]], 400),
    ("the class of a class", [["M", FEET], ["r", {"$M/class": [None]}]], 200, {"/state/object/class": []}),
    ("the class of a value extended", [
        ["x", 5], ["M", {"$x/class": {"two": 2}}], ["m", {"$M": [7]}], ["r", {"$m/two/mul": [ref("m")]}]], 200, 14),
    ("a class reply", [["M", NUMBER_WITH_TWO], ["r", ref("M")]], 200, {"/state/object/class": NUMBER_WITH_TWO}),
    ("an instance without methods", [["m", {"/state/object/instance": 5}], ["r", {"$m/add": [1]}]], 200, 6),
)
def test_classes_and_instances(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


def test_an_instance_is_answered_as_its_class_and_data(hypothetical):
    status, reply = hypothetical([["M", NUMBER_WITH_TWO], ["m", {"$M": [5]}]])
    assert status == 200
    assert list(reply) == ["/state/object/instance"]
    [data] = reply["/state/object/instance"].values()
    assert data == 5


# Errors and calls

@cases(
    ("an error in data", {"a": {"/error/conflict": ["m"]}}, 409),
    ("an error in an op", [["f", OPS["GET"]], ["r", {"$f": [1]}]], 409),
    ("an error three entries away", [["a", {"/error/forbidden": ["m"]}], ["b", ref("a")], ["c", [ref("b")]], ["r", ref("c")]], 403),
    ("a message made by a template", [
        ["s", "no {{n}}"], ["m", {"$s/render": {"n": "bread"}}], ["r", {"/error/not_found": [ref("m")]}]], 404),
    ("an unknown path", [["r", {"/foo/bar": [1]}]], 404),
    ("a link in a variable is not followed", [["l", {"/error/conflict": []}], ["r", {"$l": ["m"]}]], 404),
)
def test_an_error_keeps_its_status(hypothetical, what, body, status, expected):
    support.assert_reply(hypothetical(body), status, expected)


def test_an_error_at_the_end_of_a_deep_recursion_says_what_went_wrong(hypothetical):
    countdown = post_op(
        ["done", {"$n/lte": [0]}], ["less", {"$n/sub": [1]}],
        ["a_long_name_of_an_entry", if_(ref("done"), {"/error/conflict": ["at the end"]}, {"$again": {"n": ref("less"), "again": ref("again")}})])
    status, reply = hypothetical([["f", countdown], ["r", {"$f": {"n": 200, "again": ref("f")}}]])
    assert status == 409
    assert "at the end" in reply["/error/conflict"]


def test_a_rendered_error_message_reaches_the_client(hypothetical):
    status, reply = hypothetical([
        ["s", "no {{n}}"], ["m", {"$s/render": {"n": "bread"}}], ["r", {"/error/not_found": [ref("m")]}]])
    assert status == 404
    assert "no bread" in reply["/error/not_found"]
