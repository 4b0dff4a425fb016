"""
What a body means: the same with and without its content type, and a message that says what is wrong with it.
"""

import gzip
import io
import json
import socket
import urllib.parse

import pyarrow
import pytest

import support
import tbon as tbon_bytes
from support import HYPOTHETICAL, N, V

BT = "/state/collection/btree"
TB = "/state/collection/table"
I64 = N + "/int/64"

ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"

# What means JSON: nothing, what curl and fetch say unless told, and JSON by any name.
JSON_TYPES = [
    None, "", "application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', "text/json",
    "application/x-www-form-urlencoded", "text/plain", "text/plain;charset=UTF-8", "application/ld+json",
    "application/json; charset=us-ascii", "application/json; odata=verbose"]

UNKNOWN_TYPES = [
    "image/png", "application/xml", "text/html", "x", "application/octet-stream", "multipart/form-data; boundary=x",
    "application/vnd.apache.arrow.file", "application/parquet", "application/+json", "application/json+x", "text/csv2"]

UNKNOWN_CHARSETS = [
    "application/json; charset=latin1", "text/csv; charset=utf-16", "text/plain;charset=iso-8859-1",
    "application/x-www-form-urlencoded; charset=cp1252"]


def column(name, path, *max_len):
    return [name, {path: {}}, *max_len]


def tree_of(*columns):
    return {"/state/chain/sync": [{BT: [list(columns)]}]}


CONFIG = {"/app/bodies": {
    "value": {"/state/chain/sync": [None]},
    "table": {"/state/chain/sync": [{TB: [[[[column("id", I64)], [column("q", I64)]], []]]}]},
    "history": {"/state/chain/block": [{TB: [[[[column("id", I64)], [column("q", I64)]], []]]}]},
    "any": tree_of(column("v", V, 9)),
    "any_two": tree_of(column("a", V, 9), column("b", V, 9)),
    "integers": tree_of(column("n", I64)),
    "pairs": tree_of(column("n", I64), column("m", I64)),
    "texts": tree_of(column("s", V + "/string", 9)),
    "complex": tree_of(column("z", N + "/complex/64")),
    "tuples": tree_of(column("t", V + "/tuple", 9)),
    "echo": {"/state/scalar/op/post": [["_return", {"$x": []}]]},
    "put": {"/state/scalar/op/put": ["key", "value", [["_return", {"$self/value": [None, {"$value": []}]}]]]},
}}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    host = support.start(support.new_host(tmp_path_factory.mktemp("bodies"), CONFIG))
    yield host
    host.stop(wait_time=0)


def path_of(name):
    return "/app/bodies/" + name


def send(host, verb, path, body, content_type=None, **headers):
    """(status, decoded reply)"""

    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        headers["Content-Type"] = content_type

    return support.call(host, verb, path, raw=body, headers=headers)


def message(reply, status):
    support.assert_reply(reply, status)
    [text] = reply[1].values()
    return text


def rows_of(host, name):
    """The rows of a tree or table, in JSON."""

    status, shown = support.call(host, "GET", path_of(name))
    assert status == 200
    [(_, [_, rows])] = shown.items()
    return rows


def clear(host, name):
    if name in ("table", "history"):
        for row in rows_of(host, name):
            support.assert_reply(support.call(host, "DELETE", path_of(name), key=row[:1]), 200)
    else:
        support.assert_reply(support.call(host, "DELETE", path_of(name)), 200)


# The same with and without a type

@pytest.mark.parametrize("content_type", JSON_TYPES, ids=str)
@pytest.mark.parametrize("name, body, rows", [
    ("any", [[5]], [[[5]]]),  # one key, which is a list
    ("any", [5], [[5]]),
    ("any_two", [[1, 2], [3, 4]], [[[1, 2], [3, 4]]]),  # one key, as any list of two is
    ("tuples", [[1, 2]], [[[1, 2]]]),
    ("integers", [[5]], [[5]]),
    ("integers", [[5], [6]], [[5], [6]]),
    ("integers", [5], [[5]]),
    ("pairs", [[5, 1], [6, 2]], [[5, 1], [6, 2]]),
    ("pairs", [5, 1], [[5, 1]]),
    ("texts", [["a"], ["b"]], [["a"], ["b"]]),
    ("complex", [[1, 2]], [[{N + "/complex/64": [1, 2]}]]),
    ("table", [[1, 10], [2, 20]], [[1, 10], [2, 20]]),
    ("table", [], []),
    ("history", [[1, 10], [2, 20]], [[1, 10], [2, 20]]),
    ("history", {TB: [[[[column("id", I64)], [column("q", I64)]], []], [[3, 30]]]}, [[3, 30]]),
    ("any", {BT: [[column("v", V, 9)], [[1], [[2]]]]}, [[1], [[2]]]),
], ids=lambda value: json.dumps(value)[:30])
def test_json_is_json_whether_it_is_said_or_not(bodies, name, body, rows, content_type):
    clear(bodies, name)
    assert send(bodies, "PUT", path_of(name), json.dumps(body), content_type) == (200, None)
    assert rows_of(bodies, name) == rows


@pytest.mark.parametrize("content_type", JSON_TYPES, ids=str)
def test_every_route_takes_every_type_that_means_json(bodies, content_type):
    value = {"a": [1, "x", None]}
    text = json.dumps(value)
    assert send(bodies, "PUT", path_of("value"), text, content_type) == (200, None)
    assert support.call(bodies, "GET", path_of("value")) == (200, value)
    assert send(bodies, "POST", path_of("echo"), json.dumps({"x": value}), content_type) == (200, value)
    assert send(bodies, "PUT", path_of("put"), text, content_type) == (200, None)
    assert send(bodies, "POST", HYPOTHETICAL, text, content_type) == (200, value)
    assert send(bodies, "POST", V + "/number", json.dumps({"two": 2}), content_type)[0] == 200


def tbon(item):
    if isinstance(item, list):
        return b"[" + b"".join(map(tbon, item)) + b"]"

    return b"\x08" + item.to_bytes(8, "big", signed=True)


@pytest.mark.parametrize("name, body, rows", [
    ("table", [[1, 10], [2, 20]], [[1, 10], [2, 20]]),
    ("history", [[1, 10], [2, 20]], [[1, 10], [2, 20]]),
    ("integers", [[5], [6]], [[5], [6]]),
    ("integers", [5], [[5]]),
    ("any", [[5]], [[[5]]]),
])
def test_tbon_means_the_same(bodies, name, body, rows):
    clear(bodies, name)
    assert send(bodies, "PUT", path_of(name), tbon(body), "application/tbon") == (200, None)
    assert rows_of(bodies, name) == rows


def test_a_program_puts_a_list_of_rows_into_a_table(bodies):
    program = [["put", {path_of("table"): [None, [[1, 10], [2, 20]]]}],
               ["rows", {"/state/scalar/ref/after": [{"$put": []}, {path_of("table"): [None]}]}]]
    clear(bodies, "table")
    status, shown = support.call(bodies, "POST", HYPOTHETICAL, program)
    assert (status, next(iter(shown.values()))[1]) == (200, [[1, 10], [2, 20]])


@pytest.mark.parametrize("name, body, part", [
    ("table", [[1, 10], [2]], "row 2"),
    ("table", [[1, 10], 5], "row"),
    ("table", [5], "list of rows"),
    ("table", {"id": 1}, "list of rows"),
    ("integers", [[5], [6, 7]], "row 2"),
])
def test_what_is_no_list_of_rows_is_refused_alike(bodies, name, body, part):
    clear(bodies, name)
    texts = {message(send(bodies, "PUT", path_of(name), json.dumps(body), content_type), 400)
             for content_type in JSON_TYPES}
    [text] = texts
    assert part in text
    assert rows_of(bodies, name) == []


# What is not understood

def places(host):
    yield "PUT", path_of("value")
    yield "PUT", path_of("table")
    yield "PUT", path_of("integers")
    yield "PUT", path_of("table") + "?key=%5B1%5D"
    yield "POST", path_of("echo")
    yield "POST", HYPOTHETICAL
    yield "POST", V + "/number"


@pytest.mark.parametrize("content_type", UNKNOWN_TYPES)
def test_an_unknown_type_is_415_and_lists_those_that_are_known(bodies, content_type):
    for verb, path in places(bodies):
        text = message(send(bodies, verb, path, "[[1, 2]]", content_type), 415)
        assert content_type.split(";")[0] in text
        for known in ("application/json", "application/tbon", ARROW, CSV):
            assert known in text


@pytest.mark.parametrize("content_type", UNKNOWN_CHARSETS)
def test_an_unknown_character_set_is_415(bodies, content_type):
    for verb, path in places(bodies):
        assert "utf-8" in message(send(bodies, verb, path, "[[1, 2]]", content_type), 415)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "GZIP", "identity, gzip", "x"])
@pytest.mark.parametrize("content_type", [None, "application/json", CSV, ARROW, "application/tbon"], ids=str)
def test_an_unknown_encoding_is_415_and_names_the_one_that_is_known(bodies, encoding, content_type):
    for verb, path in places(bodies):
        text = message(send(bodies, verb, path, gzip.compress(b"id,q\n1,2\n"), content_type, Content_Encoding=encoding), 415)
        assert "identity" in text and "UTF-8" not in text


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_identity_is_an_encoding(bodies, encoding):
    assert send(bodies, "POST", HYPOTHETICAL, "[1]", Content_Encoding=encoding) == (200, [1])


@pytest.mark.parametrize("content_type", [CSV, ARROW])
@pytest.mark.parametrize("verb, path", [
    ("POST", path_of("echo")), ("POST", HYPOTHETICAL), ("PUT", path_of("value")), ("PUT", "/nope"),
    ("PUT", path_of("table") + "?key=%5B1%5D")])
def test_a_type_of_rows_where_no_rows_are_taken_is_415(bodies, content_type, verb, path):
    assert "application/json" in message(send(bodies, verb, path, "id,q\n1,2\n", content_type), 415)


def test_csv_without_a_header_is_415(bodies):
    assert "header" in message(send(bodies, "PUT", path_of("table"), "1,2\n", CSV + "; header=absent"), 415)
    clear(bodies, "table")
    assert send(bodies, "PUT", path_of("table"), "id,q\n1,2\n", CSV + "; charset=utf-8; header=present") == (200, None)


def arrow_file():
    sink = io.BytesIO()
    table = pyarrow.table({"id": [1], "q": [2]})
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)

    return sink.getvalue()


@pytest.mark.parametrize("body, part", [
    (gzip.compress(b"id\n1\n"), "gzip"),
    (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
    (arrow_file(), "Arrow file"),
    (b"PAR1\x15\x04\x15\x10", "Parquet"),
    ("id,q\n1,2\n".encode("utf-16"), "UTF-16"),
], ids=["gzip", "zstd", "arrow file", "parquet", "utf-16"])
@pytest.mark.parametrize("content_type", [None, "application/json", CSV, ARROW], ids=str)
def test_a_body_of_another_format_is_called_by_its_name(bodies, body, part, content_type):
    text = message(send(bodies, "PUT", path_of("table"), body, content_type), 400)
    assert part in text and "not UTF-8" not in text


def test_a_column_may_be_called_like_a_format(bodies):
    text = message(send(bodies, "PUT", path_of("table"), "PAR1,ARROW1\n1,2\n", CSV), 400)
    assert "PAR1" in text


def test_two_types_are_refused(bodies):
    request = b"POST /transact/hypothetical HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Type: application/json\r\n" \
              b"Content-Type: text/csv\r\nConnection: close\r\n\r\n1"
    with socket.create_connection(("127.0.0.1", support.port_of(bodies)), timeout=10) as client:
        client.sendall(request)
        reply = client.makefile("rb").read()

    assert reply.startswith(b"HTTP/1.1 400 ") and b"Content-Type" in reply


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_the_body_of_a_get_or_delete_is_not_looked_at(bodies, verb):
    status, _ = send(bodies, verb, path_of("value"), b"\x1f\x8b", "image/png", Content_Encoding="gzip")
    assert status == 200


# Messages

def hypothetical(host, body):
    raw = body if isinstance(body, str) else json.dumps(body)
    return support.call(host, "POST", HYPOTHETICAL, raw=raw)


@pytest.mark.parametrize("token", ["1_000", "0x10", "1.2.3", "--1", "01", "1e", "1d5", "12abc", "-", "1.", "5a"])
@pytest.mark.parametrize("around", ["{}", "[{}]", '{{"a": {}}}', "[1, {}, 2]"])
def test_what_is_no_number_is_quoted_whole(bodies, token, around):
    text = message(hypothetical(bodies, around.format(token)), 400)
    assert "range" not in text
    if token[0].isdigit() or token[0] == "-":
        assert json.dumps(token) in text, text


@pytest.mark.parametrize("token", ["18446744073709551616", "-9223372036854775809", "1e999", "-1e999"])
def test_what_is_out_of_range_is_told_so(bodies, token):
    text = message(hypothetical(bodies, f"[{token}]"), 400)
    assert "range" in text and token in text


@pytest.mark.parametrize("path, operand", [
    (N, "abc"), (N + "/int/32", "abc"), (N, "1.5.2"), (V + "/link", "foo"), (V + "/id", "a b"), (V + "/tuple", 5),
    (N + "/int/32", [1, 2, 3]), (V + "/bytes", "xyz"), (V + "/bytes", 1.5)])
def test_a_cast_that_fails_is_called_a_cast(bodies, path, operand):
    for body in ({path: operand}, [["x", {path: operand}]], {"a": [{path: operand}]}):
        text = message(hypothetical(bodies, body), 400)
        assert "arguments of a call" not in text, text


def test_a_failed_cast_of_a_key_says_so(bodies):
    key = urllib.parse.quote(json.dumps("abc"))
    text = message(support.call(bodies, "GET", N, query=f"key={key}"), 400)
    assert "abc" in text


def test_rows_are_recorded_as_those_that_came_in_json(serve):
    """Each by itself, as the column keeps it: so a history that is fed back is the same, whatever its rows came in."""

    columns = [[["k", {N + "/int/64": {}}]], [["b", {V + "/bytes": {}}, 20], ["f", {N + "/float/64": {}}]]]
    chain = {"/state/chain/block": [{"/state/collection/table": [[columns, []]]}]}
    host = serve({"/app/rows": {"json": chain, "tbon": chain}})
    rows = [[2, "abcd", 1], [1, "AA==", 2.5], [2, "3q2+7w==", 3]]
    support.assert_reply(support.call(host, "PUT", "/app/rows/json", rows), 200)
    body = tbon_bytes.encode(rows)
    headers = {"Content-Type": "application/tbon"}
    support.assert_reply(support.call(host, "PUT", "/app/rows/tbon", raw=body, headers=headers), 200)
    histories = [support.call(host, "GET", f"/app/rows/{name}/chain")[1] for name in ("json", "tbon")]
    [json_rows, tbon_rows] = [tbon_bytes.verify(history["/state/chain/block"][1]) for history in histories]
    assert json_rows == tbon_rows and len(json_rows) == 2
    for history in histories:
        support.assert_reply(support.post(host, history), 200, history)

    refused = support.call(host, "PUT", "/app/rows/tbon", raw=tbon_bytes.encode([[1, "AA==", 1], [2, "AA==", "x"]]), headers=headers)
    support.assert_reply(refused, 400)
    assert "row 2" in str(refused[1]) and "f" in str(refused[1])
