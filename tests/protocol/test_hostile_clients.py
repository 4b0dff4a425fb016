"""
What clients can send to make the host fail, take its memory or stop it for others. None of it may end in a 500, or be
noticed by anybody else.
"""

import concurrent.futures
import contextlib
import json
import time
import urllib.parse

import pytest
import tinychain as tc

import support
from support import HYPOTHETICAL, OP, R, V, call, post

TTL = 3
MAX_MEMORY = 1_500_000_000
MAX_LATENCY = 1  # seconds, of a cheap request while others are busy
RANGE = "/state/scalar/range"


ROWS = tc.table.Schema([tc.Column("id", tc.I64)], [tc.Column("color", tc.String, 16), tc.Column("qty", tc.I64)])
ROWS = ROWS.create_index("color", ["color"])


class Target(tc.Cluster):
    __uri__ = tc.URI("/app/target")

    def _configure(self):
        self.block = tc.chain.Block(tc.Number(0))
        self.entries = tc.chain.Sync(tc.Map({}))
        self.rows = tc.chain.Sync(tc.table.Table(ROWS))
        self.records = tc.chain.Block(tc.table.Table(ROWS))


@pytest.fixture
def target(serve):
    host = serve(Target, request_ttl=str(TTL))
    yield host
    assert support.is_running(host), "the host died"
    assert call(host, "GET", "/state", key=1) == (200, 1)
    assert support.peak_memory(host) < MAX_MEMORY


def post_op(*body):
    return {OP + "/post": list(body)}


def while_(cond, step, state):
    return {R + "/while": [cond, step, state]}


FOREVER = post_op(["r", True])
ENDLESS = [["r", while_(FOREVER, post_op(["r", {"i": {"$i/add": [1]}}]), {"i": 0})]]


def below(n):
    return post_op(["r", {"$i/lt": [n]}])


def counting(**step):
    return post_op(["r", {"i": {"$i/add": [1]}, **step}])


@contextlib.contextmanager
def running(host, *programs):
    """Programs that run while something else is tried."""

    with concurrent.futures.ThreadPoolExecutor(len(programs)) as pool:
        replies = [pool.submit(post, host, program) for program in programs]
        time.sleep(0.3)
        yield
        for reply in replies:
            support.assert_reply(reply.result(), 408)


# Transaction ids of the caller's choice

def last_id(host):
    """The id of the last transaction in the block chain, read without leaving a trace."""

    status, chain = post(host, [["r", {"/app/target/block/chain": [None]}]])
    assert status == 200, chain
    [_, [*_, [_, transactions]]] = chain["/state/chain/block"]
    return list(transactions)[-1]


def test_an_id_that_the_host_gave_to_somebody_else_is_a_conflict(target):
    with running(target, ENDLESS):  # an old transaction, for which the version before is kept
        assert call(target, "PUT", "/app/target/block", 1) == (200, None)
        support.assert_reply(call(target, "PUT", "/app/target/block", 2, query=f"txn_id={last_id(target)}"), 409)
        assert call(target, "GET", "/app/target/block") == (200, 1)


def shown_ids(host):
    """The ids that an operator sees: those of the last transaction of each chain."""

    status, world = call(host, "GET", "/debug/world?kind=chain&limit=100")
    assert status == 200, world
    return {item["last_transaction"] for item in world["entities"]["chain"]["items"]} - {"0-0"}


@pytest.mark.parametrize("path, key, body, again", [
    ("/app/target/rows", [1], ["red", 1], ["blue", 77]),
    ("/app/target/records", [1], ["red", 1], ["blue", 77]),
    ("/app/target/entries", "k", 1, 77),
], ids=["a row", "a row with a history", "an item"])
def test_an_id_of_a_finished_write_cannot_be_used_again(target, path, key, body, again):
    for _ in range(10):  # the tenth time a host would end if each one cost it its world
        assert call(target, "PUT", path, body, key=key)[0] == 200
        for id in shown_ids(target):
            query = f"txn_id={id}" + f"&key={urllib.parse.quote(json.dumps(key))}"
            for verb, body_again in [("PUT", again), ("GET", None), ("DELETE", None)]:
                support.assert_reply(call(target, verb, path, body_again, query=query), 409)

    assert "77" not in str(call(target, "GET", path, key=key))


def test_a_hypothetical_transaction_before_everything_that_is_kept_is_a_conflict(target):
    for i in range(3):
        assert call(target, "PUT", "/app/target/block", i) == (200, None)

    long_ago = time.time_ns() - 2_000_000_000
    for nonce, read in enumerate(["block", "block/chain"]):
        body = [["r", {f"/app/target/{read}": [None]}]]
        support.assert_reply(call(target, "POST", HYPOTHETICAL, body, query=f"txn_id={long_ago}-{nonce}"), 409)

    assert call(target, "GET", "/app/target/block") == (200, 2)


# Nesting and memory

NESTED = {
    "ranges": {RANGE: [{"$t": []}, 1]},
    "instances in their classes": {R + "/new": [{"a": {"$t": []}}, 1]},
}


@pytest.mark.parametrize("step", NESTED.values(), ids=NESTED)
def test_deep_nesting_is_refused(target, step):
    """Dropping a state recurses."""

    program = [["r", while_(below(100_000), counting(t=step), {"i": 0, "t": 1})]]
    support.assert_reply(post(target, program), 400)


@pytest.mark.parametrize("step", NESTED.values(), ids=NESTED)
def test_nested_states_count_for_memory(target, step):
    """Each step keeps four more megabytes."""

    [(name, [*inner])] = step.items()
    inner = [{"t": {"$t": []}, "s": {"$s": []}} if name != RANGE else {"$t": []}, {"$s": []}]
    render = {"$template/render": {"t": list(range(1000))}}
    body = [
        ["template", "{{#each t}}" + "x" * 4000 + "{{/each}}"],
        ["step", {R + "/with": [["template"], post_op(["s", render], ["r", {"i": {"$i/add": [1]}, "t": {name: inner}}])]}],
        ["r", while_(below(400), {"$step": []}, {"i": 0, "t": 1})]]
    support.assert_reply(post(target, body), 400)


# Replies

LARGE_OP = post_op(*[[f"x{i}", "y" * 100] for i in range(100)])


@pytest.mark.parametrize("accept", ["application/json", "application/tbon"])
def test_a_reply_that_repeats_a_large_op_is_too_large(target, accept):
    """11 KB, 2^17 times."""

    program = [["f", LARGE_OP], ["r", while_(below(17), counting(t=[{"$t": []}, {"$t": []}]), {"i": 0, "t": {"$f": []}})]]
    support.assert_reply(call(target, "POST", HYPOTHETICAL, program, headers={"Accept": accept}), 413)


def test_a_reply_that_repeats_a_large_chain_is_too_large(target):
    assert call(target, "PUT", "/app/target/entries", {f"k{i}": "v" * 20 for i in range(20_000)}) == (200, None)
    program = [["t0", {"/app/target": ["entries"]}]]
    program += [[f"t{i}", [{f"$t{i - 1}": []}] * 2] for i in range(1, 11)]
    support.assert_reply(post(target, program), 413)


# Fairness. Each step of these loops does a lot.

NUMBERS = list(range(200_000))
ENTRIES = {f"k{i}": i for i in range(50_000)}
TEMPLATE = "{{#each t}}{{#each ../t}}{{/each}}{{/each}}"


def with_(names, *body):
    return {R + "/with": [names, post_op(*body)]}


GREEDY = {
    "render": [["s", TEMPLATE], ["step", with_(["s"], ["r", {"x": {"$s/render": {"t": list(range(300))}}}])]],
    "an item of a large tuple": [
        ["t", {V + "/tuple": NUMBERS}], ["step", with_(["t"], ["r", {"x": {"$t": [5]}}])]],
    "text of a large tuple": [
        ["t", NUMBERS], ["step", with_(["t"], ["r", {"x": {V + "/string": [{"$t": []}]}}])]],
    "many parameters": [["m", ENTRIES], ["step", with_(["m"], ["r", {"$m": []}])]],
    "an op with many entries": [["step", post_op(*[[f"x{i}", 0] for i in range(50_000)], ["r", {"x": 0}])]],
}


@pytest.mark.parametrize("entries", GREEDY.values(), ids=GREEDY)
def test_others_are_served_while_each_step_of_a_loop_does_a_lot(target, entries):
    assert_others_are_served_during(target, entries + [["r", while_(FOREVER, {"$step": []}, {"x": 0})]])


def test_others_are_served_while_entries_wait_for_each_other(target):
    """Each entry turns out to need the one before it when it already runs."""

    numbers = range(1, 20_000)
    entries = [[f"x{i}", [{R + "/if": [{"$t": []}, {f"$x{i - 1}/0/add": [1]}, 2]}]] for i in reversed(numbers)]
    last = ["r", [{f"$x{i}": []} for i in reversed(numbers)]]
    assert_others_are_served_during(target, [["t", True], ["x0", [0]], *entries, last])


def test_others_are_served_while_many_loops_run(target):
    assert_others_are_served_during(target, *[ENDLESS] * 100)


def assert_others_are_served_during(host, *programs):
    with running(host, *programs):
        deadline = time.monotonic() + TTL / 2
        while time.monotonic() < deadline:
            began = time.monotonic()
            assert call(host, "GET", "/state", key=1) == (200, 1)
            assert time.monotonic() - began < MAX_LATENCY
            time.sleep(0.05)


# Versions

def test_versions_that_an_endless_transaction_could_read_do_not_fill_memory(target):
    assert call(target, "PUT", "/app/target/entries", {f"k{i}": "v" * 20 for i in range(50_000)}) == (200, None)
    before, written = support.rss(target), 0
    with running(target, ENDLESS):
        deadline = time.monotonic() + TTL - 1
        while time.monotonic() < deadline:
            assert call(target, "PUT", "/app/target/entries", "v", key="k1") == (200, None)
            written += 1

    # Each version is a map of its own, of some megabytes.
    assert written > 0 and support.rss(target) - before < 600 * 2**20, f"after {written} writes"
