"""One transaction that writes many rows one by one: more than it keeps in memory, so they go into pages before its commit.

By default there are few rows and little cache; with MASS_ROWS=2500000 MASS_CACHE_SIZE=500M and --timeout=900
they are as many as BENCHMARKS.md speaks of.
"""

import hashlib
import os
import threading
import time

import pytest

import support
from page02 import BTREE, TABLE, after, capture, delete
from support import N, OP, V

I64 = N + "/int/64"
TEXT = V + "/string"

ROWS = int(os.environ.get("MASS_ROWS", "40000"))
CACHE_SIZE = os.environ.get("MASS_CACHE_SIZE", "32M")
TIMEOUT_S = 100 + ROWS // 5_000

# What a host holds at most beyond what it held before, with the small cache and few rows, in MiB. All rows would take
# about 60 MiB as the interpreter has them, several times over.
GROWTH_MIB_MAX = 64

APP = "/app/mass"
T = APP + "/t"
SCHEMA = [[["k", {I64: {}}]], [["r", {I64: {}}], ["s", {TEXT: {}}, 100]]]
INDEXED = {TABLE: [[SCHEMA, [["by_r", ["r"]]]]]}


def method(rows, op, then=None):
    """Call an op with each of some rows, and then do something more."""

    context = [["t", {"$self": ["t"]}], *rows, ["done", {"$rows/for_each": {"op": op}}]]
    return {OP + "/post": context + [["_return", after({"$done": []}, then)]]}


ALL = [["rows", {"$t/rows": {}}]]
ADD = capture(["t"], {OP + "/get": ["row", [
    ["k", {"$row": [0]}], ["r", {"$row": [1]}], ["new", {"$r/add": [ROWS]}], ["_return", {"$t": [[{"$k": []}], {"r": {"$new": []}}]}]]]})
DELETE = capture(["t"], {OP + "/get": ["row", [["k", {"$row": [0]}], ["_return", delete("$t", [{"$k": []}])]]]})
MOVE = capture(["t"], {OP + "/get": ["row", [
    ["k", {"$row": [0]}], ["r", {"$row": [1]}], ["s", {"$row": [2]}], ["new", {"$k/add": [ROWS]}],
    ["gone", delete("$t", [{"$k": []}])],
    ["_return", after({"$gone": []}, {"$t": [[{"$new": []}], [{"$r": []}, {"$s": []}]]})]]]})
# As Table.update of the client does it.
KEYS = [
    ["v", {"$t": {"bounds": {}}}], ["ks", {"$v/select": [["k"]]}], ["columns", {"$ks/columns": {}}], ["source", {"$ks/rows": {}}],
    ["tree", {BTREE + "/copy_from": {"schema": {"$columns": []}, "source": {"$source": []}}}], ["rows", {"$tree/keys": [None]}]]
UPDATE = capture(["t"], {OP + "/get": ["key", [["_return", {"$t": [{"$key": []}, {"s": "changed"}]}]]]})

METHODS = {
    "add": method(ALL, ADD),
    "add_twice": {OP + "/post": [["a", {"$self/add": {}}], ["_return", after({"$a": []}, {"$self/add": {}})]]},
    "add_and_count": method(ALL, ADD, {"$t/count": [None]}),
    "delete": method(ALL, DELETE),
    "move": method(ALL, MOVE),
    "update": method(KEYS, UPDATE),
    # In the order of another column: each page is written many times, by one after the other.
    "scattered": method([["by_s", {"$t/order": [[["s"], False]]}], ["rows", {"$by_s/rows": {}}]], ADD),
    # A view of a view is sorted in the program, and the order of what is viewed decides between equal rows.
    "sorted": {OP + "/get": ["count", [
        ["t", {"$self": ["t"]}], ["by_r", {"$t/order": [[["r"], True]]}], ["some", {"$by_r/select": [["s", "k"]]}],
        ["by_s", {"$some/order": [[["s"], False]]}], ["_return", {"$by_s/limit": [{"$count": []}]}]]]},
    "fail": method(ALL, ADD, {"/error/conflict": ["no, not so"]}),
}


def text(k):
    return hashlib.sha256(str(k).encode()).hexdigest() + "x" * 20


def place(k):
    return k * 7_919 % ROWS


def start(tmp_path, kind="sync"):
    members = {"t": {f"/state/chain/{kind}": [INDEXED]}, "other": {"/state/chain/sync": [0]}, **METHODS}
    host = support.new_host(tmp_path, {APP: members}, cache_size=CACHE_SIZE, request_ttl=str(TIMEOUT_S))
    support.start(host)
    return host


def fill(host, rows=ROWS):
    body = "k,r,s\n" + "".join(f"{k},{place(k)},{text(k)}\n" for k in range(rows))
    reply = support.call(host, "PUT", T, raw=body, headers={"Content-Type": "text/csv"}, timeout=TIMEOUT_S)
    support.assert_reply(reply, 200)


@pytest.fixture
def mass(tmp_path):
    host = start(tmp_path)
    fill(host)
    yield host
    if support.is_running(host):
        support.kill(host)


def run(host, name, status=200, expected=None):
    reply = support.call(host, "POST", f"{APP}/{name}", body={}, timeout=TIMEOUT_S)
    support.assert_reply(reply, status, expected)


def inspected(host):
    """Numbers about the world, and how many pages there are."""

    world = support.call(host, "GET", "/debug/world?kind=page&limit=1")[1]
    return {**world, "pages": world["entities"]["page"]["total"]}


def assert_rows(host, expected, count=ROWS):
    """All rows in all trees are as expected, by their numbers, also when the host has been killed."""

    for _ in range(2):
        status, reply = support.call(host, "GET", T + "/rows", timeout=TIMEOUT_S)
        assert status == 200 and len(reply) == count
        assert all(row == expected(i) for i, row in enumerate(reply))
        # By the index.
        order = support.call(host, "GET", T + "/order", key=[["r"], False], timeout=TIMEOUT_S)
        rows = order[1][TABLE][1]
        assert rows == sorted(reply, key=lambda row: (row[1], row[0]))
        support.kill(host)
        support.start(host)


def test_every_row_is_updated_and_so_is_the_index(mass):
    before = support.peak_memory(mass)
    run(mass, "add")
    if ROWS <= 100_000:
        assert (support.peak_memory(mass) - before) >> 20 < GROWTH_MIB_MAX
    assert_rows(mass, lambda k: [k, place(k) + ROWS, text(k)])


def test_every_row_is_updated_in_an_order_in_which_no_tree_has_them(mass):
    run(mass, "scattered")
    assert_rows(mass, lambda k: [k, place(k) + ROWS, text(k)])
    assert inspected(mass)["staged_pages"] == 0


def test_what_was_written_is_seen_before_the_commit(mass):
    run(mass, "add_and_count", expected=ROWS)
    run(mass, "add_twice")
    assert_rows(mass, lambda k: [k, place(k) + 3 * ROWS, text(k)])


def test_every_row_is_deleted(mass):
    run(mass, "delete")
    assert_rows(mass, None, count=0)
    fill(mass)
    assert_rows(mass, lambda k: [k, place(k), text(k)])


def test_every_row_moves_to_another_key(mass):
    """Rows that come lie in pages of their own; those that go leave theirs."""

    run(mass, "move")
    assert_rows(mass, lambda i: [i + ROWS, place(i), text(i)])


def test_the_clients_update_of_a_whole_table(mass):
    run(mass, "update")
    assert_rows(mass, lambda k: [k, place(k), "changed"])


@pytest.mark.parametrize("count", [5, min(2 * ROWS, 80_000)])
def test_rows_are_sorted_in_a_program(mass, count):
    """In runs, in scratch space; without a limit as well as with one."""

    before = support.peak_memory(mass)
    status, reply = support.call(mass, "GET", APP + "/sorted", key=count, timeout=TIMEOUT_S)
    assert status == 200, reply
    assert reply[TABLE][1] == sorted([text(k), k] for k in range(ROWS))[:count]
    if ROWS <= 100_000:
        assert (support.peak_memory(mass) - before) >> 20 < GROWTH_MIB_MAX


def test_who_fails_in_the_end_has_changed_nothing_and_leaves_no_pages(mass):
    pages = inspected(mass)["pages"]
    run(mass, "fail", status=409)
    deadline = time.monotonic() + 20
    while (now := inspected(mass))["staged_pages"] or now["retired_pages"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)

    assert inspected(mass)["pages"] == pages
    assert_rows(mass, lambda k: [k, place(k), text(k)])


def test_others_are_served_meanwhile(mass):
    """Whoever wants something else waits for neither the rows nor their pages."""

    writer = threading.Thread(target=run, args=(mass, "add"))
    writer.start()
    served = 0
    while writer.is_alive():
        support.assert_reply(support.call(mass, "PUT", APP + "/other", body=served, timeout=20), 200)
        served += 1
    writer.join()
    assert served > 5
    support.assert_reply(support.call(mass, "GET", APP + "/other"), 200, served - 1)


def test_a_history_records_each_row_or_refuses_them_all(tmp_path):
    host = start(tmp_path, "block")
    try:
        fill(host)
        run(host, "add")
        assert_rows(host, lambda k: [k, place(k) + ROWS, text(k)])
        blocks = support.call(host, "GET", T + "/chain", timeout=TIMEOUT_S)[1]["/state/chain/block"][1]
        assert sum(len(all) for block in blocks for all in block[1].values()) == 2 * ROWS
    finally:
        if support.is_running(host):
            support.kill(host)
