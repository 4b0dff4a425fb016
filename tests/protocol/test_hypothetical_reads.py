"""
What README says of hypothetical reads: each is consistent in itself, and has everything that was acknowledged before it began.
"""

import threading

import pytest

import support
from support import HYPOTHETICAL, N, OP, R

I64 = N + "/int/64"
AFTER = R + "/after"
TABLE = {"/state/collection/table": [[[[["id", {I64: {}}]], [["n", {I64: {}}]]], []]]}
KEYS = 4
SECONDS_MAX = 60
ROUNDS = 60


def service(other):
    """Adds one to a row and to a value here, and to a row and a value of the other service: always the same sums."""

    add = lambda row, value: [
        ["row", {row: [[{"$id": []}]]}], ["n", {"$row": [1]}], ["next", {"$n/add": [1]}], ["value", {value: [None]}],
        ["sum", {"$value/add": [1]}],
        ["_return", [{row: [[{"$id": []}], [{"$next": []}]]}, {value: [None, {"$sum": []}]}]]]
    here = add("$self/rows", "$self/total")
    return {
        "rows": {"/state/chain/sync": [TABLE]}, "total": {"/state/chain/block": [0]},
        "add_here": {OP + "/post": here},
        "add": {OP + "/post": [
            ["here", {"$self/add_here": {"id": {"$id": []}}}], ["there", {f"/app/{other}/add_here": {"id": {"$id": []}}}],
            ["_return", {AFTER: [[{"$here": []}, {"$there": []}], {"$self/total": [None]}]}]]},
    }


READ = [
    ["left", {"/app/left/rows/rows": {}}], ["right", {"/app/right/rows/rows": {}}],
    ["_return", [{"/app/left/total": [None]}, {"/app/right/total": [None]}, {"$left": []}, {"$right": []}]]]


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    config = {"/app/left": service("right"), "/app/right": service("left")}
    host = support.start(support.new_host(tmp_path_factory.mktemp("hypothetical_reads"), config))
    for name in ("left", "right"):
        assert support.call(host, "PUT", f"/app/{name}/rows", [[id_, 0] for id_ in range(KEYS)]) == (200, None)

    yield host
    host.stop(wait_time=0)


def test_each_is_consistent_and_has_everything_that_was_acknowledged(services):
    acknowledged = [0]
    lock = threading.Lock()
    stop = threading.Event()
    failures = []

    def write(number):
        while not stop.is_set():
            name = ("left", "right")[number % 2]
            status, reply = support.call(services, "POST", f"/app/{name}/add", {"id": number % KEYS})
            if status != 200:
                failures.append((status, reply))
                return
            with lock:
                acknowledged[0] += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()

    try:
        seen = []
        for _ in range(ROUNDS):
            with lock:
                before = acknowledged[0]

            status, reply = support.call(services, "POST", HYPOTHETICAL, READ, timeout=SECONDS_MAX)
            assert status == 200, reply
            left, right, left_rows, right_rows = reply
            # A transaction is seen as a whole, in both services, in rows and values.
            assert left == right == sum(n for _, n in left_rows) == sum(n for _, n in right_rows)
            assert left_rows == right_rows
            # What was acknowledged is there, and what was seen before stays seen.
            assert left >= before
            assert not seen or left >= seen[-1]
            seen.append(left)
    finally:
        stop.set()
        for writer in writers:
            writer.join(SECONDS_MAX)

    assert not failures
    assert seen[-1] > seen[0], "nothing was written beside the reads"
    total = services.get("/app/left/total")
    assert total == acknowledged[0] == services.get("/app/right/total")


def test_a_read_leaves_no_trace_and_sees_its_own_writes(services):
    before = services.get("/app/left/total")
    program = [["w", {"/app/left/add": {"id": 0}}], ["r", {AFTER: [{"$w": []}, {"/app/right/total": [None]}]}]]
    assert support.call(services, "POST", HYPOTHETICAL, program) == (200, before + 1)
    assert services.get("/app/left/total") == before == services.get("/app/right/total")
