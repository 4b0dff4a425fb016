"""
kill -9 under concurrent load: what was acknowledged is there, nothing is there twice, and two services agree.

TINYCHAIN_KILL_ROUNDS sets the number of rounds.
"""

import random

import requests
import tinychain as tc

import support
import tbon
from killing import ROUNDS, kill_under_load, kill_while_starting

WORKERS = 8
PADDING = "x" * 4000  # so that blocks roll over while the host is killed


class Ledger(tc.Cluster):
    __uri__ = tc.URI("/app/ledger")

    def _configure(self):
        self.entries = tc.chain.Block(tc.String(""))
        self.length = tc.chain.Sync(tc.Number(0))

    @tc.post_method
    def append(self, entry: tc.String):
        return [self.entries.set(entry), self.length.set(self.length + 1)]


class Counter(tc.Cluster):
    __uri__ = tc.URI("/app/counter")

    def _configure(self):
        self.count = tc.chain.Sync(tc.Number(0))

    @tc.post_method
    def increment(self, txn, entry: tc.String) -> tc.Number:
        txn.incremented = self.count + 1
        txn.appended = tc.use(Ledger).append(entry=entry)
        return tc.After([self.count.set(txn.incremented), txn.appended], txn.incremented)


class Worker:
    """Increments until the host is gone, and remembers which increments were acknowledged."""

    def __init__(self, name):
        self.name = name
        self.attempted = 0
        self.acknowledged = {}  # entry: the count that was answered

    def entry(self, number):
        return f"{self.name}-{number} {PADDING}"

    def run(self, host):
        while True:
            entry = self.entry(self.attempted)
            self.attempted += 1
            try:
                self.acknowledged[entry] = host.post("/app/counter/increment", {"entry": entry})
            except requests.RequestException:
                return


def check(host, workers, rounds):
    blocks = host.get("/app/ledger/entries/chain")["/state/chain/block"][1]
    mutations = tbon.verify(blocks)
    assert all(mutation[:2] == ["/", None] for mutation in mutations)
    entries = [value for _, _, value in mutations]

    assert len(entries) == len(set(entries)), "an increment happened twice"
    assert host.get("/app/counter/count") == len(entries)
    assert host.get("/app/ledger/length") == len(entries)
    assert host.get("/app/ledger/entries") == (entries[-1] if entries else "")

    for worker in workers:
        mine = {entry for entry in entries if entry.startswith(worker.name + "-")}
        lost = set(worker.acknowledged) - mine
        assert not lost, f"{len(lost)} acknowledged increments are lost"
        assert mine <= {worker.entry(i) for i in range(worker.attempted)}, "something was never asked for"
        assert len(mine) <= len(worker.acknowledged) + rounds, "more was done than was in flight"
        for entry, count in worker.acknowledged.items():
            assert entries[count - 1] == entry, "the history is not in the order of the replies"


def test_kill_9_loses_nothing_and_tears_nothing(tmp_path):
    dice = random.Random(9)
    host = support.new_host(tmp_path, Ledger, Counter)
    workers = [Worker(f"w{i}") for i in range(WORKERS)]
    support.start(host)
    try:
        for round_ in range(1, ROUNDS + 1):
            kill_under_load(host, [worker.run for worker in workers], dice.uniform(0.05, 0.8))
            support.start(host)
            check(host, workers, round_)

        assert sum(len(worker.acknowledged) for worker in workers) > 0
    finally:
        if support.is_running(host):
            host.stop()


def test_kill_9_while_starting_loses_nothing(tmp_path):
    """A host that is killed while it recovers recovers the next time."""

    dice = random.Random(10)
    host = support.new_host(tmp_path, Ledger, Counter)
    workers = [Worker("w")]
    support.start(host)
    try:
        for i in range(20):
            entry = workers[0].entry(i)
            workers[0].acknowledged[entry] = host.post("/app/counter/increment", {"entry": entry})

        workers[0].attempted = 20
        support.kill(host)
        for _ in range(ROUNDS * 2):
            kill_while_starting(host, dice.uniform(0, 0.03))

        support.start(host)
        check(host, workers, 0)
    finally:
        if support.is_running(host):
            host.stop()
