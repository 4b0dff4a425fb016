"""Memory stays within bounds that follow from --cache_size, whatever is read, written or refused.

What is measured is the most that a fresh host has ever held (VmHWM); the bounds are for any build.
"""

import http.client
import json
import urllib.parse

import pytest

import support
import tbon
from support import V

MIB = 1 << 20

APP = "/app/bounds"
TEXTS = APP + "/texts"
TEXT_BYTES = 2 * MIB


@pytest.fixture
def serve(tmp_path):
    """Start a host that serves these members of one cluster."""

    hosts = []

    def start(members, *flags, cache_size="64M"):
        host = support.new_host(tmp_path, {APP: members}, flags=flags, cache_size=cache_size, request_ttl="120")
        hosts.append(host)
        return support.start(host)

    yield start
    for host in hosts:
        if support.is_running(host):
            support.kill(host)


def grown(host, before):
    """How much more a host has held than before, in MiB."""

    return (support.peak_memory(host) - before) / MIB


def streamed(host, path, query=""):
    """GET and read a reply in pieces: its status, its length, how it begins and how it ends."""

    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=120)
    try:
        connection.request("GET", path + query)
        reply = connection.getresponse()
        size, first, last = 0, b"", b""
        while piece := reply.read(MIB):
            size += len(piece)
            first = first or piece[:200]
            last = (last + piece)[-200:]

        return reply.status, size, first, last
    finally:
        connection.close()


# Histories

@pytest.fixture
def texts(serve):
    """A host whose history is three times as large as its cache, and what it was told."""

    host = serve({"texts": {"/state/chain/block": [""]}}, cache_size="16M")
    told = [chr(ord("a") + i) * TEXT_BYTES for i in range(24)]
    for text in told:
        support.assert_reply(support.call(host, "PUT", TEXTS, body=text), 200)

    support.kill(host)
    support.start(host)
    return host, told


def test_a_history_larger_than_the_cache_is_sent_in_little_memory(texts):
    host, told = texts
    before = support.peak_memory(host)
    status, size, first, last = streamed(host, TEXTS + "/chain")
    assert status == 200
    assert size > len(told) * TEXT_BYTES
    assert first.startswith(b'{"/state/chain/block":["",[["",{"')
    assert last.endswith(b'{}]]]}\n'), last
    assert grown(host, before) < 24

    # Block by block, it is the same history, each block named by the next one.
    blocks = []
    for i in range(len(told) + 1):
        status, block = support.call(host, "GET", TEXTS + "/chain", key=i)
        assert status == 200
        [[_, _, text]] = [mutation for _, all in block[1].items() for mutation in all] or [[None, None, None]]
        assert text == (told[i] if i < len(told) else None)
        blocks.append(block)

    tbon.verify(blocks)
    status, some = support.call(host, "GET", TEXTS + "/chain", key=[3, 5])
    assert (status, some) == (200, blocks[3:5])
    assert grown(host, before) < 32


def test_no_block_has_such_a_number(serve):
    host = serve({"texts": {"/state/chain/block": [""]}})
    for key, status in [
            (1, 404), (2**40, 404), (-1, 400), (1.5, 400), ("a", 400), ([1], 400), ([1, 2, 3], 400), ({"a": 1}, 400),
            ([["of", 1], None], 400), ([-1, 2], 400)]:
        support.assert_reply(support.call(host, "GET", TEXTS + "/chain", key=key), status)


RANGES = [
    ([None, 1], slice(0, 1)), ([1, None], slice(1, None)), ([1, 2], slice(1, 2)), ([["in", 0], ["in", 1]], slice(0, 2)),
    ([["ex", 0], ["ex", 2]], slice(1, 2)), ([None, None], slice(None)), ([2, 1], slice(0, 0)), ([9, 12], slice(0, 0))]


def test_a_range_of_blocks(serve):
    host = serve({"texts": {"/state/chain/block": [""]}, "tree": {"/state/chain/block": [
        {"/state/collection/btree": [[["k", {V + "/string": {}}, 2_000_000]]]}]}})
    for name, wrap in [("texts", lambda text: text), ("tree", lambda text: [text])]:
        for text in "ab":
            support.assert_reply(support.call(host, "PUT", f"{APP}/{name}", body=wrap(text * MIB)), 200)

        path = f"{APP}/{name}/chain"
        [[_, blocks]] = support.call(host, "GET", path)[1].values()
        assert len(blocks) == 3
        for key, expected in RANGES:
            assert support.call(host, "GET", path, key=key) == (200, blocks[expected])
            # The same inside a program.
            status, inside = support.post(host, [["r", {path: [key]}]])
            assert (status, inside) == (200, blocks[expected])


def test_a_sync_chain_has_no_blocks(serve):
    host = serve({"n": {"/state/chain/sync": [1]}})
    support.assert_reply(support.call(host, "GET", APP + "/n/chain", key=0), 400)


def test_one_block_that_is_larger_than_the_cache(serve):
    # One transaction is never split over blocks.
    write = {"/state/scalar/ref/after": [[{f"{TEXTS}": [None, {"$x": []}]}, {f"{TEXTS}": [None, {"$y": []}]}], True]}
    host = serve({"texts": {"/state/chain/block": [""]}, "go": {"/state/scalar/op/post": [["_return", write]]}}, cache_size="16M")
    body = json.dumps({"x": "x" * (10 * MIB), "y": "y" * (10 * MIB)})
    support.assert_reply(support.call(host, "POST", APP + "/go", raw=body), 200, True)

    support.kill(host)
    support.start(host)
    before = support.peak_memory(host)
    status, size, _, _ = streamed(host, TEXTS + "/chain")
    assert status == 200 and size > 20 * MIB
    # As it is stored, and one mutation of it decoded and as text.
    assert grown(host, before) < 80


# What comes in

I64 = V + "/number/int/64"
KEYS = {"/state/collection/btree": [[["k", {I64: {}}]]]}


def put_rows(host, name, count, content_type="text/csv"):
    rows = "k\n" + "\n".join(map(str, range(count))) if content_type == "text/csv" else json.dumps([[k] for k in range(count)])
    return support.call(host, "PUT", f"{APP}/{name}", raw=rows, headers={"Content-Type": content_type})


@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
def test_rows_that_a_history_records_take_little_memory(serve, content_type):
    host = serve({"keys": {"/state/chain/block": [KEYS]}})
    before = support.peak_memory(host)
    count = 400_000
    support.assert_reply(put_rows(host, "keys", count, content_type), 200)
    assert grown(host, before) < 64
    support.assert_reply(support.call(host, "GET", APP + "/keys/count"), 200, count)
    # Each is recorded as if it had come alone.
    status, [previous, transactions] = support.call(host, "GET", APP + "/keys/chain", key=0)
    [mutations] = transactions.values()
    assert (status, previous, len(mutations)) == (200, "", count)
    assert mutations[-1] == ["/", None, [count - 1]]


@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
def test_more_rows_than_a_history_records_at_once_are_refused_before_they_are_read(serve, content_type):
    host = serve({"keys": {"/state/chain/block": [KEYS]}})
    before = support.peak_memory(host)
    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=60)
    try:
        # The head says how much there is, and nothing of it is sent.
        connection.putrequest("PUT", APP + "/keys")
        connection.putheader("Content-Type", content_type)
        connection.putheader("Content-Length", str(9 * MIB))
        connection.endheaders()
        response = connection.getresponse()
        status, reply = response.status, json.loads(response.read())
    finally:
        connection.close()

    assert (status, support.error_name(reply)) == (413, "too_large")
    assert "--cache_size" in reply["/error/too_large"]
    assert grown(host, before) < 16
    support.assert_reply(support.call(host, "GET", APP + "/keys/count"), 200, 0)


@pytest.mark.parametrize("item, count, status", [
    ('{"a":0}', 1_300_000, 413), ('{"a":0}', 300_000, 200), ("[]", 1_900_000, 413), ("{}", 1_900_000, 413), ("0", 1_900_000, 413),
    ('{"$x":[]}', 1_000_000, 413), ('{"a":{"b":[0]}}', 600_000, 413),
], ids=str)
def test_a_json_body_of_many_values(serve, item, count, status):
    host = serve({"n": {"/state/chain/sync": [0]}})
    before = support.peak_memory(host)
    answered, _ = support.call(host, "POST", "/transact/hypothetical", raw="[" + ",".join([item] * count) + "]")
    assert answered == status
    assert grown(host, before) < (300 if status == 200 else 48)


# What is sorted

TEXT = V + "/string"
NUMBERED = {"/state/collection/table": [[[[["k", {I64: {}}]], [["r", {I64: {}}], ["t", {TEXT: {}}, 1000]]], []]]}


@pytest.mark.parametrize("is_reversed", [False, True])
def test_more_rows_than_fit_in_memory_are_sorted_in_runs(serve, is_reversed):
    """They come in an order that no index has, equal ones in that of their keys, in memory that follows from the cache."""

    host = serve({"rows": {"/state/chain/sync": [NUMBERED]}}, cache_size="16M")
    count, text = 110_000, "x" * 500
    place = lambda k: k * 7_919 % 10_007
    rows = "k,r,t\n" + "\n".join(f"{k},{place(k)},{text}" for k in range(count))
    reply = support.call(host, "PUT", APP + "/rows", raw=rows, headers={"Content-Type": "text/csv"})
    support.assert_reply(reply, 200)
    order = json.dumps([["r"], is_reversed])
    expected = sorted(range(count), key=lambda k: (place(k), k), reverse=is_reversed)

    def read(form, path, key):
        connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=120)
        try:
            connection.request("GET", f"{APP}/rows/{path}?key=" + urllib.parse.quote(key), headers={"Accept": form})
            reply = connection.getresponse()
            body = reply.read()
            assert reply.status == 200, body[:300]
            return body
        finally:
            connection.close()

    before = support.peak_memory(host)
    lines = read("text/csv", "order", order).decode().splitlines()
    assert lines[0] == "k,r,t"
    assert [int(line.split(",")[0]) for line in lines[1:]] == expected
    [[_, shown]] = json.loads(read("application/json", "order", order)).values()
    assert [row[0] for row in shown] == expected
    assert grown(host, before) < 40
