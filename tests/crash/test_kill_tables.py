"""
kill -9 while many clients write tables: each acknowledged row is there with every index entry, and nothing by half.

TINYCHAIN_KILL_ROUNDS sets the number of rounds.
"""

import collections
import dataclasses
import http.client
import io
import itertools
import math
import random
import time

import pyarrow
import pyarrow.ipc
import pytest
import tinychain as tc

import support
import tbon
from killing import ROUNDS, kill_under_load, kill_while_starting
from support import call

WORKERS = 8
ARROW = "application/vnd.apache.arrow.stream"

# Rows of a unit are written together or not at all. Units lie in lanes, so that every page has rows of several of them.
LANES = 16
SINGLE_LANE, BATCH_LANE, LOAD_LANE = 0, 1, 8
SINGLES, SINGLE_STEP = 30, 97
BATCHES, BATCH_ROWS, BATCH_STEP = 4, 12, 251
LOAD_TABLES = ["goods", "goods", "parcels"]
LOAD_ROWS = 3000
GROUPS_OF_SINGLES = 7  # the groups of single rows are 0 to 6
BATCH_GROUP, LOAD_GROUP = 100, 200

ACCOUNTS = 8
DEPOSIT = 1000

STORE = "/app/store"
BANK = "/app/bank"
VAULT = "/app/vault"

STOCK = tc.table.Schema(
    [tc.Column("id", tc.U64)],
    [tc.Column("group", tc.U32), tc.Column("stamp", tc.U64), tc.Column("text", tc.String, 40)],
).create_index("by_group", ["group"]).create_index("by_stamp", ["stamp", "group"])
BALANCES = tc.table.Schema(
    [tc.Column("account", tc.U32)], [tc.Column("balance", tc.I64)]).create_index("by_balance", ["balance"])
RECEIPTS = tc.table.Schema(
    [tc.Column("receipt", tc.U64)],
    [tc.Column("account", tc.U32), tc.Column("amount", tc.I64)]).create_index("by_account", ["account"])

# path: the columns, and those of each index
TABLES = {
    STORE + "/goods": (["id", "group", "stamp", "text"], {"by_group": ["group"], "by_stamp": ["stamp", "group"]}),
    STORE + "/parcels": (["id", "group", "stamp", "text"], {"by_group": ["group"], "by_stamp": ["stamp", "group"]}),
    BANK + "/accounts": (["account", "balance"], {"by_balance": ["balance"]}),
    VAULT + "/savings": (["account", "balance"], {"by_balance": ["balance"]}),
    VAULT + "/receipts": (["receipt", "account", "amount"], {"by_account": ["account"]}),
}
BLOCK_TABLES = [STORE + "/parcels", VAULT + "/savings", VAULT + "/receipts"]


class Store(tc.Cluster):
    __uri__ = tc.URI(STORE)

    def _configure(self):
        self.goods = tc.chain.Sync(tc.table.Table(STOCK))
        self.parcels = tc.chain.Block(tc.table.Table(STOCK))

    @tc.post_method
    def insert(self, id: tc.U64, group: tc.U32, stamp: tc.U64, text: tc.String):
        return self.goods.insert([id], [group, stamp, text])

    @tc.post_method
    def write_batch(self, lane: tc.U64, group: tc.U32, stamp: tc.U64):
        return [
            table.upsert([lane + i * BATCH_STEP * LANES], [group, stamp, "batch"])
            for table in (self.goods, self.parcels) for i in range(BATCH_ROWS)]

    @tc.post_method
    def update_group(self, group: tc.U32, stamp: tc.U64):
        return [table.update({"stamp": stamp}, {"group": group}) for table in (self.goods, self.parcels)]

    @tc.post_method
    def delete_group(self, group: tc.U32):
        return [table.delete({"group": group}) for table in (self.goods, self.parcels)]


class Vault(tc.Cluster):
    __uri__ = tc.URI(VAULT)

    def _configure(self):
        self.savings = tc.chain.Block(tc.table.Table(BALANCES))
        self.receipts = tc.chain.Block(tc.table.Table(RECEIPTS))

    @tc.post_method
    def deposit(self, txn, receipt: tc.U64, account: tc.U32, amount: tc.I64):
        txn.row = tc.Tuple(self.savings[[account]])
        return [
            self.savings.update_row([account], {"balance": tc.I64(txn.row[1]) + amount}),
            self.receipts.insert([receipt], [account, amount])]


class Bank(tc.Cluster):
    __uri__ = tc.URI(BANK)

    def _configure(self):
        self.accounts = tc.chain.Sync(tc.table.Table(BALANCES))

    @tc.post_method
    def save(self, txn, receipt: tc.U64, account: tc.U32, to: tc.U32, amount: tc.I64):
        txn.row = tc.Tuple(self.accounts[[account]])
        return [
            self.accounts.update_row([account], {"balance": tc.I64(txn.row[1]) - amount}),
            tc.use(Vault).deposit(receipt=receipt, account=to, amount=amount)]


# What the clients know

@dataclasses.dataclass(eq=False)
class Write:
    """One write of all rows of a unit: when it happened, and their stamp after it (None: they are gone)."""

    stamp: int | None
    begun: float
    answered: float = math.inf
    is_update: bool = False  # changes only rows that are there

    def is_gone_with(self, later):
        """Whether nobody can see this write any more because of a later one, which was acknowledged."""

        is_later = later.answered < math.inf and later.begun > self.answered
        return is_later and not (later.is_update and self.stamp is None)


class Unit:
    """Rows that are written together, and the writes that may be the last one."""

    def __init__(self, tables, group, text, ids):
        self.tables = [f"{STORE}/{table}" for table in tables]
        self.group = group  # None: it follows from the stamp
        self.text = text
        self.ids = ids
        self.writes = [Write(None, -math.inf, -math.inf)]

    def group_of(self, stamp):
        return stamp % GROUPS_OF_SINGLES if self.group is None else self.group

    def check(self, rows_of):
        """Compare with the rows by id of each table. What is there now is all that the next round knows."""

        found = [rows_of[table].get(id_) for table in self.tables for id_ in self.ids]
        stamps = {row and row[2] for row in found}
        assert len(stamps) == 1, f"rows {self.ids[:5]}... are there by half: stamps {stamps}"
        [stamp] = stamps
        if stamp is not None:
            rows = [[id_, self.group_of(stamp), stamp, self.text] for _ in self.tables for id_ in self.ids]
            assert found == rows, "a row is not as it was written"

        candidates = [write for write in self.writes if write.stamp == stamp]
        assert candidates, f"stamp {stamp} of rows {self.ids[:5]}... was never written, or replaced before a crash"
        assert any(not any(write.is_gone_with(later) for later in self.writes) for write in candidates), (
            f"rows {self.ids[:5]}... have stamp {stamp}, and lack what was acknowledged: {self.writes}")
        self.writes = [Write(stamp, -math.inf, -math.inf)]


def id_of(lane, position):
    return position * LANES + lane


class Clients:
    """All that was asked for and acknowledged, whoever asked."""

    def __init__(self):
        self.stamps = itertools.count(1)
        self.singles = [
            Unit(["goods"], None, f"row {i}", [id_of(SINGLE_LANE, i * SINGLE_STEP)]) for i in range(SINGLES)]
        self.batches = [
            Unit(
                ["goods", "parcels"], BATCH_GROUP + i, "batch",
                [id_of(BATCH_LANE + i, j * BATCH_STEP) for j in range(BATCH_ROWS)])
            for i in range(BATCHES)]
        self.loads = [
            Unit([table], LOAD_GROUP + i, "load", [id_of(LOAD_LANE + i, j) for j in range(LOAD_ROWS)])
            for i, table in enumerate(LOAD_TABLES)]
        self.transfers = {}  # receipt: [account, to, amount]
        self.acknowledged = set()  # receipts
        self.done = collections.Counter()  # how many requests were answered, by kind
        self.kinds = {self.single: 60, self.batch: 15, self.transfer: 20, self.load: 2, self.look: 4}  # and how often

    def units(self):
        return self.singles + self.batches + self.loads

    def worker(self, seed):
        """A client that writes until the host is gone."""

        dice = random.Random(seed)
        kinds, weights = zip(*self.kinds.items())

        def run(host):
            try:
                while True:
                    [kind] = dice.choices(kinds, weights)
                    kind(host, dice)
                    self.done[kind] += 1
            except (OSError, http.client.HTTPException):
                return

        return run

    def single(self, host, dice):
        unit = dice.choice(self.singles)
        stamp = next(self.stamps)
        group = unit.group_of(stamp)
        [id_] = unit.ids
        [path] = unit.tables
        match dice.choice(["upsert", "update", "insert", "delete"]):
            case "upsert":
                self.write(host, unit, stamp, "PUT", path, [group, stamp, unit.text], key=[id_])
            case "update":
                self.write(host, unit, stamp, "PUT", path, {"group": group, "stamp": stamp}, key=[id_], is_update=True)
            case "insert":
                row = {"id": id_, "group": group, "stamp": stamp, "text": unit.text}
                self.write(host, unit, stamp, "POST", STORE + "/insert", row, refused=400)
            case "delete":
                self.write(host, unit, None, "DELETE", path, key=[id_])

    def batch(self, host, dice):
        unit = dice.choice(self.batches)
        stamp = next(self.stamps)
        match dice.choice(["write", "write", "update", "delete"]):
            case "write":
                body = {"lane": unit.ids[0], "group": unit.group, "stamp": stamp}
                self.write(host, unit, stamp, "POST", STORE + "/write_batch", body)
            case "update":
                body = {"group": unit.group, "stamp": stamp}
                self.write(host, unit, stamp, "POST", STORE + "/update_group", body, is_update=True)
            case "delete":
                self.write(host, unit, None, "POST", STORE + "/delete_group", {"group": unit.group})

    def load(self, host, dice):
        unit = dice.choice(self.loads)
        stamp = next(self.stamps)
        if dice.random() < 0.2:
            self.write(host, unit, None, "POST", STORE + "/delete_group", {"group": unit.group})
        else:
            [path] = unit.tables
            ids = dice.sample(unit.ids, len(unit.ids))
            body = arrow_body(ids, unit.group, stamp, unit.text)
            self.write(host, unit, stamp, "PUT", path, raw=body, headers={"Content-Type": ARROW})

    def write(self, host, unit, stamp, verb, path, body=None, is_update=False, refused=200, **request):
        write = Write(stamp, time.monotonic(), is_update=is_update)
        unit.writes.append(write)
        status, reply = call(host, verb, path, body, **request)
        assert status in (200, refused), reply
        if status == 200:
            write.answered = time.monotonic()
        else:
            unit.writes.remove(write)

    def transfer(self, host, dice):
        receipt = next(self.stamps)
        account, to, amount = dice.randrange(ACCOUNTS), dice.randrange(ACCOUNTS), dice.choice([-3, -1, 1, 2])
        self.transfers[receipt] = [account, to, amount]
        body = {"receipt": receipt, "account": account, "to": to, "amount": amount}
        status, reply = call(host, "POST", BANK + "/save", body)
        assert status == 200, reply
        self.acknowledged.add(receipt)

    def look(self, host, dice):
        """Whoever reads two tables sees no half of a transaction either."""

        group = dice.choice(self.batches).group
        in_group = {"group": group}
        reads = [
            [BANK + "/accounts/rows", {}], [VAULT + "/savings/rows", {}],
            [STORE + "/goods/rows", in_group], [STORE + "/parcels/rows", in_group]]
        names = [f"read_{i}" for i in range(len(reads))]
        program = [[name, {path: bounds}] for name, (path, bounds) in zip(names, reads)]
        accounts, savings, goods, parcels = post(
            host, support.HYPOTHETICAL, [*program, ["_return", [{f"${name}": []} for name in names]]])
        assert sum(balance for _, balance in accounts + savings) == 2 * ACCOUNTS * DEPOSIT
        assert goods == parcels and len(goods) in (0, BATCH_ROWS)

    def check(self, rows):
        """Compare all that was acknowledged with the rows of each table."""

        rows_of = {table: {row[0]: row for row in rows[table]} for table in TABLES}
        for unit in self.units():
            unit.check(rows_of)

        for table in (STORE + "/goods", STORE + "/parcels"):
            known = {id_ for unit in self.units() if table in unit.tables for id_ in unit.ids}
            assert set(rows_of[table]) <= known, "a row was never written"

        receipts = rows_of[VAULT + "/receipts"]
        lost = self.acknowledged - set(receipts)
        assert not lost, f"{len(lost)} acknowledged transfers are lost"
        accounts, savings = [DEPOSIT] * ACCOUNTS, [DEPOSIT] * ACCOUNTS
        for receipt, row in receipts.items():
            account, to, amount = self.transfers[receipt]
            assert row == [receipt, to, amount], "a transfer is not as it was asked for"
            accounts[account] -= amount
            savings[to] += amount

        for table, balances in [(BANK + "/accounts", accounts), (VAULT + "/savings", savings)]:
            assert rows[table] == [[i, balance] for i, balance in enumerate(balances)], "a transfer is there by half"

        assert sum(accounts) + sum(savings) == 2 * ACCOUNTS * DEPOSIT
        # What was not there after a crash must not come back after the next one.
        self.acknowledged = set(receipts)
        self.transfers = {receipt: self.transfers[receipt] for receipt in receipts}


def arrow_body(ids, group, stamp, text):
    sink = io.BytesIO()
    rows = pyarrow.table({
        "id": pyarrow.array(ids, pyarrow.uint64()), "group": pyarrow.array([group] * len(ids), pyarrow.uint32()),
        "stamp": pyarrow.array([stamp] * len(ids), pyarrow.uint64()), "text": [text] * len(ids)})
    with pyarrow.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)

    return sink.getvalue()


# What the host says

def get(host, path, **request):
    return answer(call(host, "GET", path, **request))


def post(host, path, body):
    return answer(call(host, "POST", path, body))


def answer(reply):
    status, body = reply
    assert status == 200, body
    return body


def look_up(host, view, index):
    """The rows of a view, which come of this index."""

    rows, count, plan = post(host, support.HYPOTHETICAL, [
        ["view", view], ["rows", {"$view/rows": {}}], ["count", {"$view/count": [None]}],
        ["plan", {"$view/explain": [None]}], ["_return", [{"$rows": []}, {"$count": []}, {"$plan": []}]]])
    assert (count, plan["index"]) == (len(rows), index)
    return rows


def check_indices(host, path):
    """Every index has an entry for each row, in order, and no other. Returns the rows of the table."""

    columns, indices = TABLES[path]
    rows = get(host, path + "/rows")
    assert rows == sorted(rows), "rows are out of order"
    assert len({row[0] for row in rows}) == len(rows), "a row is there twice"
    assert get(host, path + "/count") == len(rows)
    for name, indexed in indices.items():
        positions = [columns.index(column) for column in indexed]
        ordered = sorted(rows, key=lambda row: [*(row[i] for i in positions), row[0]])
        for is_reversed in (False, True):
            found = look_up(host, {path + "/order": [[indexed, is_reversed]]}, name)
            assert found == (ordered[::-1] if is_reversed else ordered), f"{path} and {name} differ"

        # Some values of the first column, one that no row has, and ranges between them.
        values = sorted({row[positions[0]] for row in rows})
        some = values[::len(values) // 10 + 1] + [2**31 - 1]
        bounds = [(low, low, low) for low in some]
        bounds += [([["in", low], ["ex", high]], low, high - 1) for low, high in itertools.pairwise(some)]
        for bound, low, high in bounds:
            found = look_up(host, {path: {"bounds": {indexed[0]: bound}}}, name)
            within = [row for row in rows if low <= row[positions[0]] <= high]
            assert sorted(found) == within, f"{path} and {name} differ at {bound}"

    return rows


def replay(columns, blocks):
    """The rows that come of the history of a table."""

    rows = {}
    for path, [key], *value in tbon.verify(blocks):
        assert path == "/"
        match value:
            case []:
                rows.pop(key, None)
            case [dict(changes)]:
                if key in rows:
                    rows[key] = [changes.get(column, old) for column, old in zip(columns, rows[key])]
            case [values]:
                rows[key] = [key, *values]

    return sorted(rows.values())


def check(host, clients):
    rows = {path: check_indices(host, path) for path in TABLES}
    clients.check(rows)
    return rows


def check_histories(host, rows):
    for path in BLOCK_TABLES:
        _, blocks = get(host, path + "/chain")["/state/chain/block"]
        columns, _ = TABLES[path]
        assert replay(columns, blocks) == rows[path], f"the history of {path} does not give its rows"


@pytest.mark.parametrize("cache_size", ["5K", "1M", "1G"])
def test_kill_9_loses_no_row_and_no_index_entry(tmp_path, cache_size):
    dice = random.Random(cache_size)
    host = support.new_host(tmp_path, Store, Vault, Bank, cache_size=cache_size)
    clients = Clients()
    workers = [clients.worker(dice.random()) for _ in range(WORKERS)]
    support.start(host)
    try:
        for account in range(ACCOUNTS):
            for path in (BANK + "/accounts", VAULT + "/savings"):
                assert call(host, "PUT", path, [DEPOSIT], key=[account]) == (200, None)

        for round_ in range(ROUNDS):
            kill_under_load(host, workers, dice.uniform(0.05, 0.8))
            if round_ % 2 == 1:
                kill_while_starting(host, dice.uniform(0, 0.05))

            support.start(host)
            rows = check(host, clients)

        check_histories(host, rows)
        process = host._process
        host.stop(wait_time=0)
        assert process.returncode == 0
        support.start(host)
        assert check(host, clients) == rows
        check_histories(host, rows)
        assert set(clients.done) == set(clients.kinds), "some kind of request was never answered"
    finally:
        if support.is_running(host):
            host.stop(wait_time=0)
