"""Services whose state is a chain around a value: methods, classes, calls between services, hypothetical calls."""

import time

import pytest
import tinychain as tc

import support
from support import HYPOTHETICAL, N, OP


class Distance(tc.Number, metaclass=tc.Meta):
    __uri__ = tc.URI("/app/account/Distance")

    @tc.get_method
    def kilometers(self) -> tc.Number:
        return self / 1000.


class Account(tc.Cluster):
    __uri__ = tc.URI("/app/account")

    def _configure(self):
        self.balance = tc.chain.Sync(tc.Number(0))
        self.notes = tc.chain.Block(tc.Map({}))
        self.Distance = Distance

    @tc.get_method
    def plus(self, n: tc.Number) -> tc.Number:
        return self.balance + n

    @tc.put_method
    def note(self, key: tc.String, value: tc.String):
        return tc.ref.Put(tc.uri(self.notes), key, value)

    @tc.post_method
    def deposit(self, txn, amount: tc.Number) -> tc.Number:
        txn.total = self.balance + amount
        return tc.After(self.balance.set(txn.total), txn.total)

    @tc.post_method
    def bump(self, txn) -> tc.Number:
        txn.total = self.balance + 1
        return tc.After(self.balance.set(txn.total), txn.total)

    @tc.post_method
    def bump_twice(self, txn) -> tc.Number:
        txn.first = self.bump()
        return tc.After(txn.first, self.bump())

    @tc.get_method
    def bump_by_get(self, txn, by: tc.Number) -> tc.Number:
        txn.total = self.balance + by
        txn.noted = tc.ref.Put(tc.uri(self.notes), "last", txn.total)
        return tc.After([self.balance.set(txn.total), txn.noted], txn.total)

    @tc.delete_method
    def forget(self, key: tc.String):
        return tc.ref.Delete(tc.uri(self.notes), key)

    @tc.post_method
    def deposit_and_refuse(self, txn, amount: tc.Number):
        txn.noted = tc.ref.Put(tc.uri(self.notes), "refused", amount)
        return tc.After([self.balance.set(amount), txn.noted], tc.error.Forbidden("refused after the write"))


class Teller(tc.Cluster):
    """A service that uses another one in methods of all four verbs."""

    __uri__ = tc.URI("/app/teller")

    def _configure(self):
        self.calls = tc.chain.Sync(tc.Number(0))

    @tc.get_method
    def peek(self, n: tc.Number) -> tc.Number:
        return tc.use(Account).plus(n)

    @tc.get_method
    def deposit_by_get(self, txn, amount: tc.Number) -> tc.Number:
        txn.deposited = tc.use(Account).deposit(amount=amount)
        return tc.After(self.calls.set(self.calls + 1), txn.deposited)

    @tc.put_method
    def deposit_by_put(self, txn, key, value: tc.Number):
        txn.deposited = tc.use(Account).deposit(amount=value)
        return tc.After(txn.deposited, self.calls.set(self.calls + 1))

    @tc.post_method
    def deposit(self, txn, amount: tc.Number) -> tc.Number:
        txn.deposited = tc.use(Account).deposit(amount=amount)
        return tc.After(self.calls.set(self.calls + 1), txn.deposited)

    @tc.delete_method
    def deposit_by_delete(self, txn, key: tc.Number):
        txn.deposited = tc.use(Account).deposit(amount=key)
        return tc.After(txn.deposited, self.calls.set(self.calls + 1))

    @tc.put_method
    def note_by_put(self, key: tc.String, value: tc.String):
        return tc.use(Account).note(key, value)

    @tc.delete_method
    def forget_by_delete(self, key: tc.String):
        return tc.use(Account).forget(key)

    @tc.post_method
    def bump(self):
        return tc.use(Account).bump()

    @tc.post_method
    def note(self, name: tc.String, text: tc.String):
        return tc.use(Account).note(name, text)

    @tc.post_method
    def forget(self, name: tc.String):
        return tc.use(Account).forget(name)

    @tc.post_method
    def set_balance(self, value: tc.Number):
        return tc.use(Account).balance.set(value)

    @tc.get_method
    def kilometers(self, txn, meters: tc.Number) -> tc.Number:
        txn.distance = tc.use(Account).Distance(meters)
        return txn.distance.kilometers()

    @tc.post_method
    def deposit_and_refuse(self, txn, amount: tc.Number):
        txn.deposited = tc.use(Account).deposit(amount=amount)
        txn.counted = self.calls.set(self.calls + 1)
        return tc.After([txn.deposited, txn.counted], tc.error.Forbidden("refused after both writes"))

    @tc.post_method
    def call_what_refuses(self, txn, amount: tc.Number):
        txn.counted = self.calls.set(self.calls + 1)
        return tc.After(txn.counted, tc.use(Account).deposit_and_refuse(amount=amount))


@pytest.fixture
def bank(serve):
    return serve(Account, Teller)


def state(host):
    """Everything that the two services remember, histories included."""

    return [
        host.get("/app/account/balance"), host.get("/app/account/notes"), host.get("/app/account/notes/chain"),
        host.get("/app/teller/calls")]


# One service

def test_methods_of_all_four_verbs(bank):
    assert bank.post("/app/account/deposit", {"amount": 5}) == 5
    assert bank.get("/app/account/plus", 2) == 7
    assert bank.put("/app/account/note", "a", "first") is None
    assert bank.get("/app/account/notes") == {"a": "first"}
    assert bank.delete("/app/account/forget", "a") is None
    assert bank.get("/app/account/notes") == {}
    assert bank.get("/app/account/balance") == 5


def test_a_post_without_arguments(bank):
    assert bank.post("/app/account/bump") == 1
    assert bank.post("/app/account/bump", {}) == 2


def test_a_method_reads_the_writes_of_the_methods_it_called(bank):
    assert tc.to_json(tc.form_of(Account))["bump_twice"] == {OP + "/post": [
        ["first", {"$self/bump": {}}],
        ["_return", {"/state/scalar/ref/after": [{"$first": []}, {"$self/bump": {}}]}]]}
    assert bank.post("/app/account/bump_twice") == 2
    assert bank.get("/app/account/balance") == 2


def test_a_get_method_that_writes_commits_all_its_writes_once(bank):
    assert bank.get("/app/account/bump_by_get", 3) == 3
    assert bank.get("/app/account/bump_by_get", 3) == 6
    assert bank.get("/app/account/balance") == 6
    assert bank.get("/app/account/notes") == {"last": 6}
    [[_, transactions]] = bank.get("/app/account/notes/chain")["/state/chain/block"][1]
    assert list(transactions.values()) == [[["/", "last", 3]], [["/", "last", 6]]]


def test_an_error_after_a_write_rolls_everything_back(bank):
    before = state(bank)
    with pytest.raises(tc.error.Forbidden):
        bank.post("/app/account/deposit_and_refuse", {"amount": 5})

    assert state(bank) == before


@pytest.mark.parametrize("verb, path, body, status", [
    ("GET", "/app/account/deposit", None, 405),
    ("PUT", "/app/account/deposit", {"amount": 1}, 405),
    ("DELETE", "/app/account/deposit", None, 405),
    ("POST", "/app/account/plus", {"n": 1}, 405),
    ("GET", "/app/account/note", None, 405),
    ("GET", "/app/account/forget", None, 405),
    ("HEAD", "/app/account/balance", None, 405),
    ("PATCH", "/app/account/balance", None, 405),
    ("POST", "/app/account/deposit", {}, 400),
    ("GET", "/app/account/nope", None, 404),
    ("PUT", "/app/account/nope", 1, 404),
    ("GET", "/app/account/plus/more", None, 404),
    ("GET", "/app/nope", None, 404),
    ("GET", "/app/account/", None, 400),
    ("POST", "/app/account", {"a": 1}, 400),
    ("POST", "/app/account", [], 400),
    ("DELETE", "/app/account", None, 200),
])
def test_a_wrong_request_to_a_service_changes_nothing(bank, verb, path, body, status):
    before = state(bank)
    actual, _ = support.call(bank, verb, path, body)
    assert actual == status
    assert state(bank) == before


def test_the_root_of_a_service_answers_its_public_key(bank):
    assert support.is_public_key(bank.get("/app/account"))
    assert bank.get("/app/account", "notes") == bank.get("/app/account/notes/chain")
    with pytest.raises(tc.error.NotFound):
        bank.get("/app/account", "plus")


# Classes

def test_a_service_serves_its_classes(bank):
    assert list(tc.to_json(tc.form_of(Account))["Distance"]) == [N]
    assert list(bank.get("/app/account/Distance", 1500)) == ["/state/object/instance"]

    program = [["d", {"/app/account/Distance": [1500]}], ["r", {"$d/kilometers": [None]}]]
    assert bank.post(HYPOTHETICAL, program) == 1.5


def test_another_service_uses_a_served_class(bank):
    assert bank.get("/app/teller/kilometers", 1500) == 1.5


# Two services

def test_a_service_reads_from_another(bank):
    bank.post("/app/account/deposit", {"amount": 5})
    assert bank.get("/app/teller/peek", 2) == 7


@pytest.mark.parametrize("deposit", [
    lambda bank: bank.get("/app/teller/deposit_by_get", 5),
    lambda bank: bank.put("/app/teller/deposit_by_put", "x", 5),
    lambda bank: bank.post("/app/teller/deposit", {"amount": 5}),
    lambda bank: bank.delete("/app/teller/deposit_by_delete", 5),
], ids=["GET", "PUT", "POST", "DELETE"])
def test_a_method_of_any_verb_writes_to_both_services(bank, deposit):
    assert deposit(bank) in (5, None)
    assert bank.get("/app/account/balance") == 5
    assert bank.get("/app/teller/calls") == 1


def test_a_service_calls_every_kind_of_method_and_chain_of_another(bank):
    assert bank.post("/app/teller/bump") == 1
    assert bank.post("/app/teller/note", {"name": "a", "text": "first"}) is None
    assert bank.get("/app/account/notes", "a") == "first"
    assert bank.post("/app/teller/forget", {"name": "a"}) is None
    assert bank.get("/app/account/notes") == {}
    assert bank.post("/app/teller/set_balance", {"value": 9}) is None
    assert bank.get("/app/account/balance") == 9


def test_put_and_delete_methods_call_put_and_delete_methods_of_another(bank):
    assert bank.put("/app/teller/note_by_put", "a", "first") is None
    assert bank.get("/app/account/notes") == {"a": "first"}
    assert bank.delete("/app/teller/forget_by_delete", "a") is None
    assert bank.get("/app/account/notes") == {}


@pytest.mark.parametrize("method", ["deposit_and_refuse", "call_what_refuses"])
def test_an_error_in_either_service_rolls_both_back(bank, method):
    before = state(bank)
    with pytest.raises(tc.error.Forbidden):
        bank.post(f"/app/teller/{method}", {"amount": 5})

    assert state(bank) == before


# Hypothetical calls

ACCOUNT = tc.use(Account)
TELLER = tc.use(Teller)


def read_notes():
    return tc.ref.Get(tc.uri(ACCOUNT.notes))


@pytest.mark.parametrize("program, expected", [
    (lambda: ACCOUNT.deposit(amount=5), 5),
    (lambda: ACCOUNT.bump(), 1),
    (lambda: ACCOUNT.bump_by_get(5), 5),
    (lambda: tc.After(ACCOUNT.note("a", "b"), read_notes()), {"a": "b", "kept": "yes"}),
    (lambda: tc.After(ACCOUNT.forget("kept"), read_notes()), {}),
    (lambda: tc.After(ACCOUNT.balance.set(8), ACCOUNT.plus(1)), 9),
    (lambda: tc.After(tc.ref.Put(tc.uri(ACCOUNT.notes), None, {}), read_notes()), {}),
    (lambda: tc.After(tc.ref.Delete(tc.uri(ACCOUNT.notes), "kept"), read_notes()), {}),
    (lambda: TELLER.deposit(amount=5), 5),
    (lambda: tc.After(TELLER.deposit_by_put("x", 5), ACCOUNT.plus(0)), 5),
    (lambda: tc.After(TELLER.deposit_by_delete(5), ACCOUNT.plus(0)), 5),
    (lambda: TELLER.deposit_by_get(5), 5),
], ids=[
    "POST", "POST without arguments", "GET that writes", "PUT", "DELETE", "PUT on a chain", "PUT on a block chain",
    "DELETE on a chain", "POST through another", "PUT through another", "DELETE through another", "GET through another"])
def test_a_hypothetical_call_reads_its_own_writes_and_leaves_no_trace(bank, program, expected):
    bank.put("/app/account/note", "kept", "yes")
    before = state(bank)
    cxt = tc.Context()
    cxt.result = program()
    assert bank.post(HYPOTHETICAL, cxt) == expected
    assert state(bank) == before

    support.restart(bank)
    assert state(bank) == before


def test_a_hypothetical_call_fails_like_the_real_one(bank):
    before = state(bank)
    cxt = tc.Context()
    cxt.result = TELLER.deposit_and_refuse(amount=5)
    with pytest.raises(tc.error.Forbidden):
        bank.post(HYPOTHETICAL, cxt)

    assert state(bank) == before


def test_a_hypothetical_call_with_an_id_of_its_own_reads_what_is_committed(bank):
    bank.put("/app/account/balance", None, 7)
    bank.put("/app/account/note", "a", "first")
    before = state(bank)
    program = [["chain", {"/app/account/notes/chain": [None]}], ["r", {"/app/account/deposit": {"amount": 1}}], ["both", [
        {"$r": []}, {"$chain": []}]]]
    query = f"txn_id={time.time_ns()}-7"
    support.assert_reply(support.call(bank, "POST", HYPOTHETICAL, program, query=query), 200, [8, before[2]])
    assert state(bank) == before


def test_a_hypothetical_call_is_not_evaluated_if_nothing_needs_it(bank):
    cxt = tc.Context()
    cxt.unused = TELLER.deposit_and_refuse(amount=5)
    cxt.result = ACCOUNT.plus(1)
    assert bank.post(HYPOTHETICAL, cxt) == 1


def test_a_needed_entry_is_evaluated_once(bank):
    cxt = tc.Context()
    cxt.bumped = ACCOUNT.bump()
    cxt.both = [cxt.bumped, cxt.bumped]
    cxt.result = tc.After(cxt.both, ACCOUNT.plus(0))
    assert bank.post(HYPOTHETICAL, cxt) == 1
