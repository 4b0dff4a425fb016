"""
What clients can send to make the host fail, take its memory or stop it for others. None of it may end in a 500, or be
noticed by anybody else.
"""

import concurrent.futures
import contextlib
import time

import pytest
import tinychain as tc

import support
from support import HYPOTHETICAL, OP, R, V, call, post

TTL = 3
MAX_MEMORY = 1_500_000_000
MAX_LATENCY = 1  # seconds, of a cheap request while others are busy
RANGE = "/state/scalar/range"


class Target(tc.Cluster):
    __uri__ = tc.URI("/app/target")

    def _configure(self):
        self.block = tc.chain.Block(tc.Number(0))
        self.entries = tc.chain.Sync(tc.Map({}))


@pytest.fixture
def target(serve):
    host = serve(Target, request_ttl=str(TTL))
    yield host
    assert support.is_running(host), "the host died"
    assert call(host, "GET", "/state", key=1) == (200, 1)
    assert peak_memory(host) < MAX_MEMORY


def peak_memory(host):
    with open(f"/proc/{host._process.pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024


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


def test_a_hypothetical_transaction_before_everything_that_is_kept_is_a_conflict(target):
    for i in range(3):
        assert call(target, "PUT", "/app/target/block", i) == (200, None)

    long_ago = f"{time.time_ns() - 2_000_000_000}-7"
    for read in ["block", "block/chain"]:
        body = f'[["r", {{"/app/target/{read}": [null]}}]]'
        support.assert_reply(call(target, "POST", HYPOTHETICAL, raw=body, query=f"txn_id={long_ago}"), 409)
        long_ago = long_ago[:-1] + "8"

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
