"""What clients may do to hosted collections without harm: odd schemas and values, many rows, deep views, endless streams."""

import io
import json
import math

import pyarrow
import pyarrow.ipc
import pytest
import requests

import support
import tbon
from page02 import BTREE, TABLE, after, capture, column, delete, table, tree
from support import N, OP, R, V, call, post

APP = "/app/x"
T = APP + "/t"
QTY_SCHEMA = [[[column("k", N + "/int/64")], [column("v", N)]], [["by_v", ["v"]]]]


def serve_one(serve, kind, subject, **methods):
    return serve({APP: {"t": {f"/state/chain/{kind}": [subject]}, **methods}})


FILL = {OP + "/post": [
    ["t", {"$self": ["t"]}],
    ["filled", {R + "/while": [
        {OP + "/post": [["_return", {"$i/lt": [{"$n": []}]}]]},
        {OP + "/post": [
            ["w", {"$t": [[{"$i": []}], [{"$i": []}]]}],
            ["_return", after({"$w": []}, {"t": {"$t": []}, "n": {"$n": []}, "i": {"$i/add": [1]}})]]},
        {"t": {"$t": []}, "n": {"$n": []}, "i": 0}]}],
    ["_return", after({"$filled": []}, None)]]}


@pytest.fixture
def big(serve):
    """A table of 1,000 rows, and ways to misuse it."""

    item = lambda verb, body: capture(["t"], {OP + "/" + verb: ["k", body]})
    methods = {
        "delete_all": {OP + "/post": [
            ["t", {"$self": ["t"]}], ["s", {"$t/select": [["k"]]}], ["rows", {"$s/rows": {}}],
            ["_return", {"$rows/for_each": {"op": item("delete", [["_return", delete("$t", {"$k": []})]])}}]]},
        "shift_all": {OP + "/post": [
            ["t", {"$self": ["t"]}], ["s", {"$t/select": [["k"]]}], ["rows", {"$s/rows": {}}],
            ["_return", {"$rows/for_each": {"op": item("get", [
                ["old", {"$k": [0]}], ["new", {"$old/add": [1_000_000]}], ["w", {"$t": [[{"$new": []}], [1]]}],
                ["_return", {"$w": []}]])}}]]},
        "doubled": {OP + "/get": ["x", [
            ["t", {"$self": ["t"]}], ["rows", {"$t/rows": {}}],
            ["_return", {"$rows/map": {"op": {OP + "/get": ["row", [["v", {"$row": [1]}], ["_return", {"$v/mul": [2]}]]]}}}]]]},
        "squared": {OP + "/get": ["x", [
            ["t", {"$self": ["t"]}], ["rows", {"$t/rows": {}}],
            ["_return", {"$rows/map": {"op": capture(["t"], {OP + "/get": ["row", [["_return", {"$t/rows": {}}]]]})}}]]]},
        "fill": FILL,
    }
    host = serve_one(serve, "block", {TABLE: [QTY_SCHEMA]}, **methods)
    assert host.post(APP + "/fill", {"n": 1000}) is None
    assert host.get(T + "/count") == 1000
    return host


# Many rows

def test_a_loop_deletes_the_table_that_it_reads(big):
    assert big.post(APP + "/delete_all", {}) is None
    assert big.get(T + "/rows") == []
    assert big.get(T + "/order", [["v"], False])[TABLE][1] == []


def test_a_loop_that_adds_to_the_table_it_reads_ends(big):
    assert big.post(APP + "/shift_all", {}) is None
    assert big.get(T + "/count") == 2000


def test_a_map_over_many_rows(big):
    assert big.get(APP + "/doubled") == [2 * i for i in range(1000)]


def test_a_table_for_each_row_of_it_is_refused(big):
    """A million rows: the reply is bounded, and so is the time that it takes."""

    status, reply = call(big, "GET", APP + "/squared", timeout=100)
    assert status in (400, 408, 413), (status, str(reply)[:200])
    assert big.get(T + "/count") == 1000


def test_a_hypothetical_rewrite_of_a_whole_table_leaves_no_trace(big):
    before = big.get(T + "/chain")
    op = capture(["t"], {OP + "/get": ["row", [["k", {"$row": [0]}], ["_return", {"$t": [[{"$k": []}], {"v": 7}]}]]]})
    body = [
        ["t", {T: {}}], ["rows", {"$t/rows": {}}], ["done", {"$rows/for_each": {"op": op}}],
        ["sevens", {"$t": {"bounds": {"v": 7}}}], ["r", after({"$done": []}, {"$sevens/count": [None]})]]
    support.assert_reply(post(big, body), 200, 1000)
    assert big.get(T + "/chain") == before
    assert big.get(T + "/rows")[7:9] == [[7, 7], [8, 8]]


def test_ten_thousand_upserts_in_one_list(serve):
    writes = [{"$self/t": [[i], [i % 7]]} for i in range(10_000)]
    host = serve_one(serve, "block", {TABLE: [QTY_SCHEMA]}, all={OP + "/post": [["all", writes], ["_return", after({"$all": []}, None)]]})
    assert host.post(APP + "/all", {}) is None
    assert host.get(T + "/count") == 10_000
    assert len(tbon.verify(host.get(T + "/chain")["/state/chain/block"][1])) == 10_000


@pytest.mark.parametrize("limit, status", [
    (2**63 - 1, 200), (2**63, 200), (2**64 - 1, 200), (0, 200), (-1, 400), (1.5, 400), ("2", 400), (None, 400), (1e300, 400),
    ([], 400)], ids=str)
def test_limits_of_any_size(big, limit, status):
    assert call(big, "GET", T + "/limit", key=limit)[0] == status


@pytest.mark.parametrize("bounds, count", [
    ({"k": [["in", -2**63], ["in", 2**63 - 1]]}, 1000), ({"k": [["in", 2**63 - 1], ["in", -2**63]]}, 0),
    ({"k": [["ex", 5], ["ex", 5]]}, 0), ({"k": [["in", 5], ["in", 5]]}, 1), ({"k": [["ex", 2**63 - 1], ["in", None]]}, 0),
    ({"k": [["in", 9], ["ex", 3]], "v": 5}, 0), ({"v": [["in", 9], ["ex", 3]]}, 0), ({"v": [["in", None], ["ex", -1e300]]}, 0),
    ({"v": [["ex", -1e300], ["in", None]]}, 1000),
], ids=str)
def test_ranges_of_any_size(big, bounds, count):
    status, rows = call(big, "POST", T + "/rows", bounds)
    assert (status, len(rows)) == (200, count)


def test_a_range_without_keys_is_deleted_and_counted_at_once(serve):
    host = serve_one(serve, "block", {BTREE: [[column("k", N + "/int/64")]]}, both={OP + "/post": [
        ["d", delete("$self/t", [[["in", 9], ["ex", 3]]])], ["n", {"$self/t/count": [[[["ex", 5], ["ex", 5]]]]}],
        ["_return", after({"$d": []}, {"$n": []})]]})
    for k in range(10):
        host.put(T, None, [k])

    assert host.post(APP + "/both", {}) == 0
    assert host.delete(T, [[["in", 9], ["ex", 3]]]) is None
    assert host.get(T + "/count") == 10


# Deep views and streams

@pytest.mark.parametrize("step, expected", [("where", 5), ("limit", 7), ("order", 1000), ("rows", [0, 0])])
def test_views_nest_as_deep_as_a_program_may_say(big, step, expected):
    names = ["v0"]
    body = [["v0", {T: {}}]] if step != "rows" else [["v0", {T + "/rows": {}}]]
    calls = {
        "where": lambda v: {f"${v}": {"bounds": {"k": [["in", 5], ["in", 9]]}}},
        "limit": lambda v: {f"${v}/limit": [7]},
        "order": lambda v: {f"${v}/order": [[["v"], True]]},
        "rows": lambda v: {f"${v}/aggregate": [None]}}
    for i in range(900):
        body.append([f"v{i + 1}", calls[step](f"v{i}")])
        if step == "where" and i % 2:
            body[-1][1] = calls["limit"](f"v{i}")

    last = f"$v{i + 1}"
    body.append(["r", {last + ("/first" if step == "rows" else "/count"): [None]}])
    assert post(big, body) == (200, expected)
    assert big.get(T + "/count") == 1000


def test_a_stream_of_streams_without_end(big):
    """An op that makes a stream of itself for each row never comes to an end: it is refused, or its time is over."""

    op = {OP + "/get": ["row", [["_return", {T + "/rows": {}}]]]}
    body = [["s0", {T + "/rows": {}}]]
    for i in range(60):
        body.append([f"s{i + 1}", {f"$s{i}/map": {"op": op}}])

    status, reply = post(big, body)
    assert status in (400, 408, 413), status
    assert big.get(T + "/count") == 1000


# Schemas

@pytest.mark.parametrize("kind", ["sync", "block"])
def test_a_thousand_columns(serve, kind):
    values = [column(f"c{i}", N + "/int/32") for i in range(999)]
    host = serve_one(serve, kind, {TABLE: [[[[column("k", N + "/uint/64")], values], [["last", ["c998"]]]]]})
    for k in range(3):
        assert call(host, "PUT", T, [i * k for i in range(999)], key=[k]) == (200, None)

    assert call(host, "PUT", T, {"c998": 5, "c7": -7}, key=[1]) == (200, None)
    rows = host.get(T + "/rows")
    assert rows[1] == [1] + [-7 if i == 7 else 5 if i == 998 else i for i in range(999)]
    assert [row[0] for row in host.get(T + "/order", [["c998"], True])[TABLE][1]] == [2, 1, 0]
    support.kill(host)
    support.start(host)
    assert host.get(T + "/rows") == rows


@pytest.mark.parametrize("kind", ["sync", "block"])
def test_a_tree_of_empty_keys(serve, kind):
    host = serve_one(serve, kind, {BTREE: [[]]})
    assert host.get(T) == tree([], [])
    for _ in range(2):
        assert call(host, "PUT", T, raw="[]") == (200, None)

    assert host.get(T + "/count") == 1
    support.kill(host)
    support.start(host)
    assert host.get(T) == tree([[]], [])
    assert host.get(T + "/first") == {}
    assert host.delete(T) is None
    assert host.get(T + "/count") == 0


@pytest.mark.parametrize("schema", [
    [[[], []], []], [[[], [column("a", N)]], []], [[[["a"]], []], []], [], [[[["a", N, 5]], []], []], 5, None,
    [[[["a", N], ["a", N]], []], []],
], ids=str)
def test_a_schema_that_is_none_is_refused_at_the_start(tmp_path, schema):
    config = tmp_path / "x.json"
    config.write_text(json.dumps({APP: {"t": {"/state/chain/sync": [{TABLE: [schema]}]}}}))
    (tmp_path / "d").mkdir()
    result = support.run_to_exit(
        "--workspace", tmp_path / "w", "--data_dir", tmp_path / "d", "--http_port", support.free_port(), "--cluster", config)
    assert result.returncode in (1, 2), result
    [line] = result.stderr.splitlines()
    assert str(config) in line and "member t" in line


# Keys of every type, at their extremes, in order; they come back after a crash as they were

EXTREMES = {
    "number/bool": [False, True],
    "number/int/16": [-2**15, -1, 0, 2**15 - 1],
    "number/int/32": [-2**31, -1, 0, 2**31 - 1],
    "number/int/64": [-2**63, -1, 0, 2**63 - 1],
    "number/uint/8": [0, 255],
    "number/uint/16": [0, 2**16 - 1],
    "number/uint/32": [0, 2**32 - 1],
    "number/uint/64": [0, 2**63, 2**64 - 1],
    "number/float/32": [-3.4028235e38, -0.5, 0.0, 1e-45, 3.4028235e38],
    "number/float/64": [-1.7976931348623157e308, -5e-324, 0.0, 5e-324, 1.7976931348623157e308],
    "number/complex/64": [{N + "/complex/64": [-1e300, 0]}, {N + "/complex/64": [0, 0]}, {N + "/complex/64": [0, 1]}],
    "number": [-2**63, -1.5, 0, 0.5, 2**53 + 1, 2**64 - 1, 1e300],
    "string": ["", "\0", "\0\0", "\0a", "a", "a\0", "a\0b", "aa", "é", "\uffff", "\U0010ffff"],
    "id": [{"a": []}, {"a-": []}, {"é": []}],
    "bytes": ["", "AA==", "AAA=", "AAE=", "/w==", "/wA=", "//8="],
    "link": [{"/a": []}, {"/a/b": []}, {"/b": []}],
    "tuple": [[], [None], [1], [1, None], [1, "\0"], ["a", [2]]],
    "": [None, False, 2**64 - 1, {"a": []}, "\0", {"/a": []}, [[]], [["\0"]]],
}


@pytest.mark.parametrize("kind", ["sync", "block"])
@pytest.mark.parametrize("dtype, ordered", EXTREMES.items())
def test_keys_at_their_extremes(serve, kind, dtype, ordered):
    path = f"{V}/{dtype}" if dtype else V
    max_len = [] if dtype.startswith("number") else [64]
    key = column("k", path, *max_len)
    schema = [[[key], [column("v", path, *max_len), column("i", N + "/uint/8")]], [["by_v", ["v"]]]]
    host = serve_one(serve, kind, {TABLE: [schema]})
    rows = [[value, value, i] for i, value in enumerate(ordered)]
    for row in rows[::-1] + rows[::2]:
        assert call(host, "PUT", T, row[1:], key=row[:1]) == (200, None), row

    for _ in range(2):
        assert host.get(T) == table(rows, schema)
        assert host.get(T + "/order", [["v"], True]) == table(rows[::-1], schema)
        for row in rows:
            assert host.get(T, row[:1]) == row
            assert host.post(T + "/rows", {"v": row[0]}) == [row]
            # In a program a key may be an id or a link as well.
            support.assert_reply(post(host, [["t", {T: {}}], ["r", {"$t": [row[:1]]}]]), 200, row)

        literal = host.get(T + "/chain")
        support.assert_reply(post(host, [["c", literal], ["r", {"$c": [None]}]]), 200, table(rows, schema))
        support.kill(host)
        support.start(host)

    for row in rows:
        assert call(host, "DELETE", T, key=row[:1]) == (200, None)

    assert host.get(T + "/count") == 0


def infinite(write):
    """A method that does something with `k`, the product of its parameter with itself: infinity comes of that."""

    return {OP + "/post": [["k", {"$x/mul": [{"$x": []}]}], ["_return", write]]}


@pytest.mark.parametrize("kind", ["sync", "block"])
@pytest.mark.parametrize("dtype", ["number", "number/float/64", "number/complex/64", "tuple", ""])
def test_a_number_that_json_cannot_show_is_not_stored(serve, kind, dtype):
    path = f"{V}/{dtype}" if dtype else V
    max_len = [] if dtype.startswith("number") else [8]
    schema = [[[column("i", N + "/int/64")], [column("k", path, *max_len)]], []]
    k = [{"$k": []}] if dtype == "tuple" else {"$k": []}
    host = serve_one(
        serve, kind, {TABLE: [schema]},
        put=infinite({"$self/t": [[7], [k]]}), update=infinite({"$self/t": [[1], {"k": k}]}),
        bound=infinite({"$self/t": {"bounds": {"k": [["in", 0], ["ex", k]]}}}))
    one = [1.5] if dtype == "tuple" else 1.5
    host.put(T, [1], [one])
    before = host.get(T + "/chain")
    for method in ("put", "update"):
        reply = call(host, "POST", f"{APP}/{method}", {"x": 1e300})
        support.assert_reply(reply, 400)
        assert "JSON has no form" in str(reply[1]), reply

    assert host.get(T + "/chain") == before
    if dtype == "number/float/64":
        assert host.post(APP + "/bound", {"x": 1e300})[TABLE][1] == [[1, 1.5]]


@pytest.mark.parametrize("kind", ["sync", "block"])
def test_a_number_that_json_cannot_show_is_no_key(serve, kind):
    """Not in a history either, which could not be shown any more."""

    schema = [[[column("k", N + "/float/64")], []], []]
    host = serve_one(
        serve, kind, {TABLE: [schema]},
        put=infinite({"$self/t": [[{"$k": []}], []]}), get=infinite({"$self/t": [[{"$k": []}]]}),
        delete=infinite(delete("$self/t", [{"$k": []}])))
    host.put(T, [1.5], [])
    support.assert_reply(call(host, "POST", APP + "/put", {"x": 1e300}), 400)
    support.assert_reply(call(host, "POST", APP + "/delete", {"x": 1e300}), 200 if kind == "sync" else 400)
    assert host.post(APP + "/get", {"x": 1e300}) is None
    assert host.get(T + "/chain")
    assert host.get(T) == table([[1.5]], schema)


@pytest.mark.parametrize("kind", ["sync", "block"])
def test_a_number_that_json_cannot_show_is_no_value_of_a_chain(serve, kind):
    chain = f"/state/chain/{kind}"
    host = serve({APP: {
        "n": {chain: [1.5]}, "set": infinite({"$self/n": [None, {"$k": []}]}),
        "nested": infinite({"$self/n": [None, {"a": [{"$k": []}]}]})}})
    for method in ("set", "nested"):
        support.assert_reply(call(host, "POST", f"{APP}/{method}", {"x": 1e300}), 400)

    assert host.get(APP + "/n") == 1.5
    assert host.post(APP + "/set", {"x": 2}) is None
    assert host.get(APP + "/n") == 4
    assert host.get(APP + "/n/chain")


ARROW = "application/vnd.apache.arrow.stream"


def test_arrow_carries_numbers_that_json_cannot_show(serve):
    """In and out, where no history is kept. In JSON they are null."""

    schema = [[[column("i", N + "/int/64")], [column("x", N + "/float/64")]], [["by_x", ["x"]]]]
    host = serve_one(serve, "sync", {TABLE: [schema]})
    sent = pyarrow.table({"i": [1, 2, 3], "x": [1.5, math.inf, math.nan]})
    assert put_arrow(host, sent) == (200, None)
    for _ in range(2):
        assert host.get(T) == table([[1, 1.5], [2, None], [3, None]], schema)
        assert host.get(T, [2]) == [2, None]
        assert host.get(T + "/limit", 1) == table([[1, 1.5]], schema)
        assert host.get(T + "/select", ["i"])[TABLE][1] == [[1], [2], [3]]
        reply = requests.get(support.address(host) + T, headers={"Accept": ARROW}).content
        assert str(pyarrow.ipc.open_stream(reply).read_all().to_pydict()) == str(sent.to_pydict())
        support.kill(host)
        support.start(host)

    host.delete(T, [2])
    host.put(T, [3], {"x": 0})
    assert host.get(T) == table([[1, 1.5], [3, 0.0]], schema)
    assert host.get(T + "/order", [["x"], False])[TABLE][1] == [[3, 0.0], [1, 1.5]]


def test_a_history_keeps_no_number_that_json_cannot_show(serve):
    schema = [[[column("i", N + "/int/64")], [column("x", N + "/float/64")]], []]
    host = serve_one(serve, "block", {TABLE: [schema]})
    reply = put_arrow(host, pyarrow.table({"i": [1, 2, 3], "x": [1.5, math.inf, 2.5]}))
    support.assert_reply(reply, 400)
    assert "row 2" in str(reply[1])
    assert host.get(T) == table([], schema)


def put_arrow(host, rows):
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)

    return call(host, "PUT", T, raw=sink.getvalue(), headers={"Content-Type": ARROW})
