"""
Values in columns mean what they say (protocol page 00, "Values into typed columns"; page 02, sections 2 and 3): a number
is compared by value and stored only as itself, in every form, and what a host shows it takes back as the same values.
"""

import base64
import csv
import io
import itertools
import json
import math
import operator

import pyarrow
import pyarrow.ipc
import pytest
import requests

import support
from page02 import BTREE, TABLE, column, table
from support import N, V, call, post

APP = "/app/values"
T = APP + "/t"
TREE = APP + "/k"
KEYED = APP + "/keyed"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
JSON = "application/json"
C64 = N + "/complex/64"


def typed(dtype, max_len=999):
    path = f"{V}/{dtype}" if dtype else V
    return column("q", path) if dtype.startswith("number") else column("q", path, max_len)


def serve_column(serve, dtype, kind="sync", indices=()):
    """A table of ids and one column of a type, and a tree of keys of that type."""

    schema = [[[column("id", N + "/int/64")], [typed(dtype)]], [list(index) for index in indices]]
    return serve({APP: {
        "t": {f"/state/chain/{kind}": [{TABLE: [schema]}]}, "k": {"/state/chain/sync": [{BTREE: [[typed(dtype)]]}]},
        "keyed": {"/state/chain/sync": [{TABLE: [[[[typed(dtype)], [column("n", N)]], []]]}]}}})


def rows_of(host, path=T):
    return host.get(path + ("/keys" if path == TREE else "/rows"))


def put_rows(host, content_type, body, path=T):
    return call(host, "PUT", path, raw=body, headers={"Content-Type": content_type})


def fetch(host, accept, path=T):
    reply = requests.get(support.address(host) + path, headers={"Accept": accept}, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.content


def csv_of(rows, names=("id", "q")):
    text = io.StringIO()
    csv.writer(text).writerows([names, *rows])
    return text.getvalue().encode()


def arrow_of(columns):
    rows = pyarrow.table(columns)
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)

    return sink.getvalue()


def arrow_array(values):
    is_large = any(isinstance(value, int) and value >= 2**63 for value in values)
    return pyarrow.array(values, pyarrow.uint64() if is_large else None)


# Bounds and keys compare by value. The oracle is the comparison of Python, which is exact for integers and floats.

INTEGERS = {
    "uint/8": (0, 2**8 - 1), "uint/16": (0, 2**16 - 1), "uint/32": (0, 2**32 - 1), "uint/64": (0, 2**64 - 1),
    "int/16": (-2**15, 2**15 - 1), "int/32": (-2**31, 2**31 - 1), "int/64": (-2**63, 2**63 - 1)}
HELD = {
    **{"number/" + dtype: sorted({least, least + 1, greatest // 2, greatest - 1, greatest, 0, 1, 2, 11, 12})
       for dtype, (least, greatest) in INTEGERS.items()},
    "number/float/64": [-1e300, -2.5, -2.0, -0.5, 0.0, 0.1, 2.0, 2.5, 2.0**53, 2.0**53 + 2, 2.0**63, 2.0**64, 1e300],
    "number": [-2**63, -2.5, -2, 0, 0.1, 2, 2.5, 2**53, 2**53 + 1, 2.0**53 + 2, 2**63, 2**64 - 1, 1e300],
    "number/bool": [False, True],
}
BOUNDS = [
    -1e300, -2**63, -2.0**63, -2**31 - 1, -2**15 - 0.5, -2.5, -2, -1, -0.5, -0.0, 0, 0.1, 0.5, 1, 1.5, 2, 2.0, 2.5, 11.5, 255, 255.5, 256, 300,
    2**15, 2**16, 2**31 - 0.5, 2**32, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, 2.0**63, 2**64 - 1, 2.0**64, 1e300, True, False]
RANGES = {
    operator.eq: lambda bound: bound, operator.ge: lambda bound: [["in", bound], None],
    operator.gt: lambda bound: [["ex", bound], None], operator.le: lambda bound: [None, ["in", bound]],
    operator.lt: lambda bound: [None, ["ex", bound]]}


@pytest.mark.parametrize("indices", [(), [("by_q", ["q"])]], ids=["scanned", "by an index"])
@pytest.mark.parametrize("dtype", HELD)
def test_a_bound_is_compared_by_value(serve, dtype, indices):
    host = serve_column(serve, dtype, indices=indices)
    rows = [[i, value] for i, value in enumerate(HELD[dtype])]
    assert put_rows(host, JSON, json.dumps(rows)) == (200, None)
    for bound, (compares, written) in itertools.product(BOUNDS, RANGES.items()):
        expected = [row for row in rows if compares(row[1], bound)]
        assert sorted(host.post(T + "/rows", {"q": written(bound)})) == expected, (compares.__name__, bound)

    # In a program, and as text, it is the same bound.
    bound = 11.5 if dtype != "number/bool" else 0.5
    for sent in (bound, str(bound)):
        support.assert_reply(
            post(host, [["t", {T: {}}], ["v", {"$t": {"bounds": {"q": [None, ["ex", sent]]}}}], ["r", {"$v/count": [None]}]]),
            200, sum(row[1] < bound for row in rows))


@pytest.mark.parametrize("dtype", HELD)
def test_a_key_is_compared_by_value(serve, dtype):
    host = serve_column(serve, dtype)
    held = HELD[dtype]
    for i, value in enumerate(held):
        host.put(KEYED, [value], [i])
        host.put(TREE, None, [value])

    def at(bound):
        return [[value, i] for i, value in enumerate(held) if value == bound]

    for bound in BOUNDS:
        [found] = at(bound) or [None]
        assert host.get(KEYED, [bound]) == found, bound
        assert host.get(KEYED + "/contains", [bound]) == (found is not None), bound
        assert host.get(TREE + "/keys", [bound]) == [row[:1] for row in at(bound)], bound
        assert host.get(TREE + "/count", [bound]) == len(at(bound)), bound
        for compares, written in list(RANGES.items())[1:]:
            keys = host.post(TREE, {"range": [written(bound)]})[BTREE][1]
            assert keys == [[value] for value in held if compares(value, bound)], (compares.__name__, bound)

    absent = [bound for bound in BOUNDS if not at(bound)]
    before = rows_of(host, KEYED), rows_of(host, TREE)
    for bound in absent:
        assert call(host, "DELETE", KEYED, key=[bound]) == (200, None)
        assert call(host, "DELETE", TREE, key=[bound]) == (200, None)
        # An update of a row that is absent does nothing.
        assert call(host, "PUT", KEYED, {"n": -1}, key=[bound]) == (200, None)

    assert (rows_of(host, KEYED), rows_of(host, TREE)) == before


def test_a_part_of_a_key_is_compared_by_value(serve):
    key = [column("a", N + "/uint/8"), column("b", N + "/int/32"), column("s", V + "/string", 9)]
    host = serve({APP: {"t": {"/state/chain/sync": [{BTREE: [key]}]}}})
    keys = [[a, b, "x"] for a in (0, 1, 255) for b in (-1, 0, 1)]
    assert put_rows(host, JSON, json.dumps(keys)) == (200, None)
    for range_, expected in [
        ([1.0], [key for key in keys if key[0] == 1]),
        ([1.5], []),
        ([256], []),
        ([-1], []),
        ([1, [["in", -0.5], ["ex", 0.5]]], [[1, 0, "x"]]),
        ([1, [["ex", -1.5], None]], [key for key in keys if key[0] == 1]),
        ([1, 0.5], []),
        ([1.5, [["in", 0], None]], []),
        ([[["ex", 0.5], ["in", 300]]], [key for key in keys if key[0] > 0]),
        ([[["in", -5], ["ex", 254.5]]], [key for key in keys if key[0] < 255]),
    ]:
        assert host.post(T, {"range": range_})[BTREE][1] == expected, range_

    host.delete(T, [1, [["ex", -0.5], ["in", 1e9]]])
    host.delete(T, [0.5])
    host.delete(T, [0, 0.5, "x"])
    assert host.get(T + "/keys") == [key for key in keys if key[0] != 1 or key[1] < 0]


def test_a_float_is_rounded_where_its_column_is_narrower(serve):
    """As it is when it is written, so that it is found by what was written; integers are never rounded."""

    host = serve_column(serve, "number/float/32")
    for i, value in enumerate([0.1, -0.1, 1e30, 16777216, 1e-50]):
        assert call(host, "PUT", KEYED, [i], key=[value]) == (200, None)
        assert host.get(KEYED, [value])[1] == i

    for value in (16777217, -16777217, 2**53 + 1, 1e39, -1e300):
        assert host.get(KEYED, [value]) is None
        support.assert_reply(call(host, "PUT", KEYED, [0], key=[value]), 400)

    def numbers(bound):
        return [row[1] for row in host.post(KEYED + "/rows", {"q": bound})]

    assert numbers(0.1) == [0] and 0 in numbers([["in", 0.1], None]) and 0 not in numbers([["ex", 0.1], None])
    assert numbers([["ex", 16777215], ["ex", 16777217]]) == [3]
    # The float next to this one is the one that is there.
    assert numbers([["in", 16777215.5], ["in", 16777217]]) == [3] and numbers([["ex", 16777215.5], ["in", 16777217]]) == []
    assert numbers([["in", 16777217], ["ex", 1e300]]) == [2]
    assert numbers([["in", -1e300], ["ex", 1e300]]) == numbers([None, None])
    assert numbers([["in", 1e39], None]) == [] and numbers([None, ["in", -1e39]]) == []


def test_complex_bounds_and_keys(serve):
    host = serve_column(serve, "number/int/32")
    assert put_rows(host, JSON, "[[1, 2], [2, 3]]") == (200, None)
    assert host.post(T + "/rows", {"q": {C64: [2, 0]}}) == [[1, 2]]
    assert host.post(T + "/rows", {"q": {C64: [2, 9]}}) == []
    assert host.post(T + "/rows", {"q": [2, 9]}) == []
    support.assert_reply(call(host, "PUT", T, [{C64: [2, 1]}], key=[3]), 400)
    assert call(host, "PUT", T, [{C64: [2, 0]}], key=[3]) == (200, None)
    assert host.get(T, [3]) == [3, 2]


# Writes: a number is stored as itself or refused, by every route

WRITES = [
    # type, written, shown; refused if that is missing
    ("number/int/32", 2.0, 2), ("number/int/32", -0.0, 0), ("number/int/32", 1.5), ("number/int/32", 2**31), ("number/int/32", -2**31 - 1),
    ("number/int/32", True), ("number/int/32", False), ("number/int/32", None), ("number/int/64", 2.0**62, 2**62), ("number/int/64", 2.0**63),
    ("number/int/64", 2**63), ("number/int/64", 1e300), ("number/uint/8", 255.0, 255), ("number/uint/8", 256), ("number/uint/8", -1),
    ("number/uint/64", 2**64 - 1, 2**64 - 1), ("number/uint/64", 2.0**64), ("number/float/64", 2**53, 2.0**53), ("number/float/64", 2**53 + 1),
    ("number/float/64", 2**64 - 1), ("number/float/64", 2**63, 2.0**63), ("number/float/64", True), ("number/float/64", None),
    ("number/float/32", 2**24 + 1), ("number/float/32", 0.1, 0.1), ("number/float/32", 1e39), ("number/bool", True, True), ("number/bool", 2),
    ("number/bool", 0.5), ("number/bool", None), ("number/int", 2.5), ("number/int", 2.0, 2), ("number/uint", -1), ("number/float", 2**53 + 1),
    ("number", True, True), ("number", 1.5, 1.5), ("number", None), ("number/complex/64", True), ("number/complex/64", 2**53 + 1),
    ("number/complex/64", None), ("string", None), ("bytes", None), ("id", None), ("link", None), ("tuple", None), ("", None, None), ("none", None, None)]


def is_named(reply, row):
    assert reply[0] == 400, reply
    [message] = reply[1].values()
    assert f"row {row}" in message and "column q" in message, message


@pytest.mark.parametrize("kind", ["sync", "block"])
def test_a_write_is_exact_or_refused(serve, kind):
    by_type = {dtype: list(writes) for dtype, writes in itertools.groupby(sorted(WRITES, key=lambda w: w[0]), key=lambda w: w[0])}
    schemas = {dtype.replace("/", "_") or "any": [[[column("id", N + "/int/64")], [typed(dtype)]], []] for dtype in by_type}
    host = serve({APP: {name: {f"/state/chain/{kind}": [{TABLE: [schema]}]} for name, schema in schemas.items()}})
    for dtype, writes in by_type.items():
        path = f"{APP}/{dtype.replace('/', '_') or 'any'}"
        schema = schemas[dtype.replace("/", "_") or "any"]
        for _, value, *shown in writes:
            good = [[1, value]]
            routes = {
                "JSON": lambda: put_rows(host, JSON, json.dumps([[1, value]]), path),
                "by key": lambda: call(host, "PUT", path, [value], key=[1]),
                "in a program": lambda: post(host, [["t", {TABLE: [schema]}], ["w", {"$t": [[1], [value]]}], ["r", {"$w": []}]]),
                "literal": lambda: post(host, [["r", table([[1, value]], schema)]]),
                "update": lambda: post(host, [["w", {path: [[1], {"q": value}]}], ["r", {"$w": []}]]),
            }
            if value is not None and not dtype == "number":
                routes["CSV"] = lambda: put_rows(host, CSV, csv_of([[1, json.dumps(value)]]), path)
            if value is None or dtype.startswith("number"):
                routes["Arrow"] = lambda: put_rows(host, ARROW, arrow_of({"id": [1], "q": arrow_array([value])}), path)
            for route, write in routes.items():
                if kind == "block" and route in ("in a program", "literal"):
                    continue
                status, reply = write()
                assert status == (200 if shown else 400), (route, dtype, value, reply)
                if shown:
                    if route in ("JSON", "by key", "CSV", "Arrow"):
                        assert host.get(path, [1]) == [1, *shown], (route, dtype, value)
                        host.delete(path, [1])
                else:
                    assert "column q" in str(reply), (route, reply)
                    assert host.get(path + "/count") == 0


@pytest.mark.parametrize("kind", ["sync", "block"])
@pytest.mark.parametrize("bad", [1.5, True, None, 2**63, "x", [1, 2, 3]], ids=str)
def test_a_bad_row_is_named_with_its_column(serve, kind, bad):
    host = serve_column(serve, "number/int/64", kind)
    rows = [[1, 1], [2, 2], [3, bad]]
    is_named(put_rows(host, JSON, json.dumps(rows)), 3)
    if not isinstance(bad, list):
        is_named(put_rows(host, CSV, csv_of([[1, 1], [2, 2], [3, "" if bad is None else json.dumps(bad)]])), 3)
    if bad in (1.5, None):
        is_named(put_rows(host, ARROW, arrow_of({"id": [1, 2, 3], "q": [1, 2, bad]})), 3)
    if bad is True:
        reply = put_rows(host, ARROW, arrow_of({"id": [1], "q": [True]}))
        is_named(reply, 1)
    assert rows_of(host) == []
    support.assert_reply(post(host, [["r", table(rows, [[[column("id", N + "/int/64")], [typed("number/int/64")]], []])]]), 400)


def test_a_failed_write_changes_nothing(serve):
    host = serve_column(serve, "number/int/64")
    host.put(T, [1], [1])
    for body, key in (([1.5], [1]), ({"q": 1.5}, [1]), ([1], [1.5]), ([1], [True]), ([1], [None]), ({"q": True}, [1]), ({"q": None}, [1])):
        support.assert_reply(call(host, "PUT", T, body, key=key), 400)

    assert rows_of(host) == [[1, 1]]


def test_numeric_text_is_parsed(serve):
    host = serve_column(serve, "number/float/64")
    shown = {"1.5": 1.5, " 2 ": 2.0, "1e3": 1e3, "100000000000000000000": 1e20, "18446744073709551616": 2.0**64, "1234567890123456800": 1234567890123456800.0}
    for text, number in shown.items():
        assert call(host, "PUT", T, [text], key=["1"]) == (200, None), text
        assert host.get(T, ["1.0"]) == [1, number], text
        assert put_rows(host, CSV, csv_of([[2, text]])) == (200, None), text
        assert host.get(T, [2]) == [2, number], text

    for text in ("", "x", "9007199254740993", "1e999", "true"):
        support.assert_reply(call(host, "PUT", T, [text], key=[1]), 400)


def test_a_float_as_text_is_the_float_again(serve):
    host = serve_column(serve, "number/float/64")
    for i, number in enumerate([1e20, 2.0**64, 1e300, 1234567890123456789.0, 2.0**63, -2.0**70, 0.1, 5e-324]):
        text = host.get(f"{V}/string", number)
        assert call(host, "PUT", T, [text], key=[i]) == (200, None), text
        assert host.get(T, [i]) == [i, number]


def test_explicit_casts_stay_as_they_are(serve):
    host = serve_column(serve, "number")
    assert host.get(N + "/int/16", 300.7) == 300
    assert host.get(N + "/uint/8", 300) == 44
    assert host.get(N + "/bool", 5) is True
    assert host.get(V + "/bytes", "6162") == "YWI="


# What is shown is taken back as the same values

ANY = [
    1, "1", None, True, False, 0, "", "true", "null", "None", 1.5, "1.5", -0.0, 1e300, 1e20, 2**64 - 1, -2**63, "NaN", "Infinity", "inf", " 1", "1 ",
    "red", "two\nlines", "é\U0001f600", 'say "hi"', "[1]", "[1", '{"a": []}', "{", '"x"', "a,b", "2026-01-01", "-", "01", {"name": []}, {"/a/b": []},
    {V + "/bytes": "YWI="}, {V + "/bytes": ""}, {V + "/bytes": [105, 183, 29]}, {V + "/link": V + "/string"}, {V + "/link": V + "/tuple"}, [],
    [1, "1", None, [True, {"x": []}]], [{V + "/bytes": "AAE="}], {C64: [1, 2]}, {C64: [0.1, -1e300]}]
BYTES = [b"", b"a", b"ab", b"abc", base64.b64decode("abcd"), base64.b64decode("AAAA"), base64.b64decode("deadbeef"),
         base64.b64decode("cafe"), base64.b64decode("0123"), b"\x00\xff", bytes(range(256))]
SHOWN = {
    "": ANY,
    "number": [True, False, 0, 1.5, -2**63, 2**64 - 1, 2**53 + 1, -0.5, 1e300, {C64: [1, 2]}, 5e-324],
    "number/complex/64": [{C64: [1, 2]}, {C64: [-0.5, 1e300]}, {C64: [0, 0]}],
    "number/complex/32": [{N + "/complex/32": [0.5, 0.25]}, {N + "/complex/32": [0.1, -0.1]}],
    "number/complex": [{C64: [1, 2]}, {N + "/complex/32": [0.5, 0.25]}],
    "number/bool": [True, False],
    "number/int": [-2**63, 0, 2**63 - 1], "number/uint": [0, 2**64 - 1], "number/float": [0.5, 1e300, -1e-300, 1e20],
    "number/float/32": [0.1, -0.1, 3.4028235e38, 1e-45, 16777216.0], "number/float/64": [0.1, 1e20, 1e21, 2.0**64, 5e-324, 1.7976931348623157e308],
    "number/uint/64": [0, 2**63, 2**64 - 1], "number/int/64": [-2**63, 2**63 - 1],
    "string": ["", " ", "1", "true", "null", "NaN", "a,b", '"', "\n", "\r\n", "\0", "é", "[1]", "6162", "YWI="],
    "bytes": [base64.b64encode(content).decode() for content in BYTES],
    "id": [{"a": []}, {"é": []}, {"null": []}, {"1": []}, {"true": []}],
    "link": [{"/a": []}, {"/": []}, {"http://h:1/a": []}, {V + "/link": V + "/string"}, {V + "/link": V + "/tuple"}, {V + "/link": "/state/tuple"}],
    "tuple": [[], [1, "1", None, True], [[[]]], [{"x": []}, {"/a": []}], ["a,b", '"', "\n"], [{C64: [1, 2]}]],
    "none": [None],
}


@pytest.mark.parametrize("form", [ARROW, CSV, JSON], ids=["arrow", "csv", "json"])
@pytest.mark.parametrize("kind", ["sync", "block"])
@pytest.mark.parametrize("dtype", SHOWN, ids=lambda dtype: dtype or "any")
def test_what_is_shown_is_taken_back(serve, kind, dtype, form):
    host = serve_column(serve, dtype, kind)
    rows = [[i, value] for i, value in enumerate(SHOWN[dtype])]
    assert put_rows(host, JSON, json.dumps(rows)) == (200, None)
    before = rows_of(host)
    assert [row[1] for row in before] == [shown_form(value) for value in SHOWN[dtype]]
    exported = json.dumps(before) if form == JSON else fetch(host, form)
    for i in range(len(rows)):
        host.delete(T, [i])

    assert rows_of(host) == []
    assert put_rows(host, form, exported) == (200, None)
    assert rows_of(host) == before
    # Not only do they look alike: all forms of them are the same bytes as before.
    if form != JSON:
        assert fetch(host, form) == exported
    for row in before:
        assert host.get(T, row[:1]) == row


def shown_form(value):
    """How a value that was written is shown: of bytes among other values, the literal must not be read as hexadecimal."""

    if isinstance(value, list):
        return [shown_form(item) for item in value]

    if isinstance(value, dict) and V + "/bytes" in value:
        content = value[V + "/bytes"]
        raw = bytes(content) if isinstance(content, list) else base64.b64decode(content)
        text = base64.b64encode(raw).decode()
        return {V + "/bytes": list(raw) if set(text) <= set("0123456789abcdefABCDEF") else text}

    return value


@pytest.mark.parametrize("form", [ARROW, CSV, JSON], ids=["arrow", "csv", "json"])
@pytest.mark.parametrize("dtype", SHOWN, ids=lambda dtype: dtype or "any")
def test_a_key_that_is_shown_is_the_same_key(serve, dtype, form):
    """What comes back is no new key, so the tree has as many as before."""

    host = serve_column(serve, dtype)
    for value in SHOWN[dtype]:
        assert call(host, "PUT", TREE, [value]) == (200, None), value

    before = rows_of(host, TREE)
    if form == JSON:
        # A list of lists is one key where keys may begin with lists.
        assert {call(host, "PUT", TREE, key) for key in before} == {(200, None)}
    else:
        assert put_rows(host, form, fetch(host, form, TREE), TREE) == (200, None)
    assert rows_of(host, TREE) == before
    for key in before:
        if key != [None]:
            support.assert_reply(post(host, [["t", {TREE: {}}], ["r", {"$t/count": [key]}]]), 200, 1)


def test_narrow_floats_in_columns_of_any_number_keep_their_value(serve):
    host = serve_column(serve, "number")
    narrow = {N + "/float/32": 0.1}
    support.assert_reply(call(host, "PUT", TREE, [narrow]), 200, None)
    [[shown]] = rows_of(host, TREE)
    assert put_rows(host, JSON, json.dumps([[shown]]), TREE) == (200, None)
    assert host.get(TREE + "/count") == 1


SPECIAL = [1.5, math.nan, math.inf, -math.inf, -0.0]


@pytest.mark.parametrize("form", [ARROW, CSV], ids=["arrow", "csv"])
@pytest.mark.parametrize("dtype", ["number/float/64", "number/float/32", "number/float", "number", ""])
def test_nan_and_infinity_come_back(serve, dtype, form):
    host = serve_column(serve, dtype)
    sent = pyarrow.array(SPECIAL, pyarrow.float32() if dtype.endswith("32") else pyarrow.float64())
    assert put_rows(host, ARROW, arrow_of({"id": list(range(5)), "q": sent})) == (200, None)
    expected = [[0, 1.5], [1, None], [2, None], [3, None], [4, -0.0]]
    assert rows_of(host) == expected and host.get(T, [1]) == [1, None]
    assert host.get(T)[TABLE][1] == expected
    exported = fetch(host, form)
    for i in range(5):
        host.delete(T, [i])

    assert put_rows(host, form, exported) == (200, None)
    assert fetch(host, form) == exported
    assert rows_of(host) == expected


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "Infinity", "-inf", "-Infinity"])
def test_csv_has_nan_and_infinity_as_others_write_them(serve, word):
    host = serve_column(serve, "number/float/64")
    assert put_rows(host, CSV, f"id,q\n1,{word}\n") == (200, None)
    text = fetch(host, CSV).decode().split()[1].split(",")[1]
    assert str(float(text)) == str(float(word))
    reply = put_rows(host, CSV, f"id,q\n{word},1\n")
    support.assert_reply(reply, 400)
    assert "row 1, column id" in str(reply[1]), reply


@pytest.mark.parametrize("form", [ARROW, CSV], ids=["arrow", "csv"])
def test_a_history_has_no_nan(serve, form):
    host = serve_column(serve, "number/float/64", "block")
    body = arrow_of({"id": [1, 2], "q": [1.5, math.nan]}) if form == ARROW else b"id,q\n1,1.5\n2,NaN\n"
    reply = put_rows(host, form, body)
    support.assert_reply(reply, 400)
    assert "row 2" in str(reply[1])
    assert rows_of(host) == []


@pytest.mark.parametrize("dtype", ["number/bool", "number"])
@pytest.mark.parametrize("text, flag", [("True", True), ("False", False), ("true", True), ("FALSE", False)])
def test_truth_values_as_pandas_writes_them(serve, dtype, text, flag):
    host = serve_column(serve, dtype)
    assert put_rows(host, CSV, f"id,q\n1,{text}\n") == (200, None)
    assert rows_of(host) == [[1, flag]]


def test_plain_csv_into_a_column_of_any_value(serve):
    host = serve_column(serve, "")
    fields = ["red", "12 monkeys", "2026-01-01", "7", "1.5", "true", "", "[1", "{curly}"]
    assert put_rows(host, CSV, csv_of(enumerate(fields))) == (200, None)
    assert [row[1] for row in rows_of(host)] == ["red", "12 monkeys", "2026-01-01", 7, 1.5, True, None, "[1", "{curly}"]


def test_arrow_text_into_a_column_of_any_value_is_text(serve):
    host = serve_column(serve, "")
    texts = ["1", "true", "null", "", '{"a": []}', None]
    assert put_rows(host, ARROW, arrow_of({"id": list(range(6)), "q": texts})) == (200, None)
    assert [row[1] for row in rows_of(host)] == texts


def test_bytes_are_base64_as_they_are_shown(serve):
    host = serve_column(serve, "bytes")
    for i, content in enumerate(BYTES):
        text = base64.b64encode(content).decode()
        for _ in range(2):
            assert call(host, "PUT", T, [text], key=[i]) == (200, None)
            assert host.get(T, [i]) == [i, text]
        assert host.post(T + "/rows", {"q": text}) == [[i, text]]
        fetched = pyarrow.ipc.open_stream(fetch(host, ARROW)).read_all().to_pylist()
        assert fetched[i] == {"id": i, "q": content}


def test_dictionaries_that_are_replaced(serve):
    host = serve_column(serve, "string")
    batches = [
        pyarrow.record_batch({
            "id": pyarrow.array(range(i * 10, i * 10 + 10)),
            "q": pyarrow.array([f"{i} {n % 3} {'x' * 80}" for n in range(10)]).dictionary_encode()})
        for i in range(300)]
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)

    assert put_rows(host, ARROW, sink.getvalue()) == (200, None)
    assert rows_of(host) == [[i * 10 + n, f"{i} {n % 3} {'x' * 80}"] for i in range(300) for n in range(10)]


def test_values_survive_a_kill(serve):
    host = serve_column(serve, "", "block")
    rows = [[i, value] for i, value in enumerate(ANY)]
    assert put_rows(host, JSON, json.dumps(rows)) == (200, None)
    before, exported = rows_of(host), fetch(host, CSV)
    support.kill(host)
    support.start(host)
    assert (rows_of(host), fetch(host, CSV)) == (before, exported)
    assert host.get(T + "/chain")


def test_a_history_leads_to_the_same_rows(serve):
    """What the history of a table shows makes the same table, and has the same hashes."""

    host = serve_column(serve, "", "block")
    schema = host.get(T)[TABLE][0]
    narrow = [{N + "/float/32": 0.1}, {N + "/uint/8": 5}, [{N + "/float/32": 0.1}]]
    for i, value in enumerate(ANY + narrow):
        assert call(host, "PUT", T, [value], key=[i]) == (200, None), value

    rows = rows_of(host)
    support.assert_reply(post(host, [["c", host.get(T + "/chain")], ["r", {"$c": [None]}]]), 200, table(rows, schema))
