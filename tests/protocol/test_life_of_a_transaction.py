"""
"Life of a transaction" of the seed: a buyer pays a retailer, who pays a factory, who pays a shipper, through a bank.

Five services and one transaction: whatever fails, and wherever, nothing has happened.
"""

import concurrent.futures
import time

import pytest
import tinychain as tc

import support
import tbon

PRICE = 20
COST_OF_MAKING = 10
COST_OF_SHIPPING = 5


def add_one(number):
    return number.set(number + 1)


def done(service):
    """The end of a method: every service can be told to fail after it has done all its work."""

    return tc.If(service.fault, tc.error.Forbidden("failed after all the work was done"), "done")


class Bank(tc.Cluster):
    __uri__ = tc.URI("/app/bank")

    def _configure(self):
        self.accounts = tc.chain.Block(tc.Map({"user": 100, "retailer": 100, "factory": 0, "shipper": 0}))
        self.fault = tc.chain.Sync(tc.Bool(False))

    @tc.post_method
    def transfer(self, txn, source: tc.String, target: tc.String, amount: tc.Number):
        accounts = tc.uri(self.accounts)
        txn.source_balance = tc.Number(tc.ref.Get(accounts, source))
        txn.target_balance = tc.Number(tc.ref.Get(accounts, target))
        debit = tc.ref.Put(accounts, source, txn.source_balance - amount)
        credit = tc.ref.Put(accounts, target, txn.target_balance + amount)
        return tc.If(
            txn.source_balance >= amount,
            tc.After([debit, credit], done(self)),
            tc.error.BadRequest("{{who}} cannot pay", who=source))


class Shipper(tc.Cluster):
    __uri__ = tc.URI("/app/shipper")

    def _configure(self):
        self.addresses = tc.chain.Sync(tc.Map({"user": "1 Main Street"}))
        self.shipments = tc.chain.Block(tc.Number(0))
        self.fault = tc.chain.Sync(tc.Bool(False))

    @tc.post_method
    def ship(self, txn, customer: tc.String, payer: tc.String):
        txn.address = tc.String(tc.ref.Get(tc.uri(self.addresses), customer))
        txn.paid = tc.After(
            txn.address, tc.use(Bank).transfer(source=payer, target="shipper", amount=COST_OF_SHIPPING))
        return tc.After(txn.paid, tc.After(add_one(self.shipments), done(self)))


class Factory(tc.Cluster):
    __uri__ = tc.URI("/app/factory")

    def _configure(self):
        self.parts = tc.chain.Sync(tc.Number(50))
        self.fault = tc.chain.Sync(tc.Bool(False))

    @tc.post_method
    def make(self, txn, customer: tc.String, payer: tc.String):
        txn.paid = tc.use(Bank).transfer(source=payer, target="factory", amount=COST_OF_MAKING)
        txn.shipped = tc.After(txn.paid, tc.use(Shipper).ship(customer=customer, payer=payer))
        txn.left = self.parts - 1
        made = tc.If(
            txn.left >= 0,
            tc.After(self.parts.set(txn.left), done(self)),
            tc.error.NotFound("out of parts"))
        return tc.After(txn.shipped, made)


class Retailer(tc.Cluster):
    __uri__ = tc.URI("/app/retailer")

    def _configure(self):
        self.orders = tc.chain.Block(tc.Number(0))
        self.fault = tc.chain.Sync(tc.Bool(False))

    @tc.post_method
    def sell(self, txn, customer: tc.String):
        txn.paid = tc.use(Bank).transfer(source=customer, target="retailer", amount=PRICE)
        txn.made = tc.After(txn.paid, tc.use(Factory).make(customer=customer, payer="retailer"))
        return tc.After(txn.made, tc.After(add_one(self.orders), done(self)))


class Buyer(tc.Cluster):
    __uri__ = tc.URI("/app/buyer")

    def _configure(self):
        self.widgets = tc.chain.Sync(tc.Number(0))
        self.fault = tc.chain.Sync(tc.Bool(False))

    @tc.post_method
    def buy(self, txn):
        txn.bought = tc.use(Retailer).sell(customer="user")
        return tc.After(txn.bought, tc.After(add_one(self.widgets), done(self)))


@pytest.fixture
def market(serve):
    return serve(Bank, Shipper, Factory, Retailer, Buyer)


def state(host):
    """Every balance, stock and history of the five services."""

    paths = [
        "bank/accounts", "bank/accounts/chain", "shipper/shipments", "shipper/shipments/chain", "factory/parts",
        "retailer/orders", "retailer/orders/chain", "buyer/widgets"]
    return {path: host.get(f"/app/{path}") for path in paths}


def counts(host):
    return [host.get(f"/app/{path}") for path in ["buyer/widgets", "retailer/orders", "shipper/shipments"]]


def transactions(host, path):
    """The ids of the transactions in the history of a block chain."""

    blocks = host.get(f"/app/{path}/chain")["/state/chain/block"][1]
    tbon.verify(blocks)
    return [txn_id for _, ids in blocks for txn_id in ids]


def test_a_purchase_moves_money_and_goods_in_one_transaction(market):
    assert market.post("/app/buyer/buy") == "done"
    assert market.get("/app/bank/accounts") == {"user": 80, "retailer": 105, "factory": 10, "shipper": 5}
    assert market.get("/app/factory/parts") == 49
    assert counts(market) == [1, 1, 1]

    [txn_id] = transactions(market, "bank/accounts")
    assert transactions(market, "shipper/shipments") == [txn_id]
    assert transactions(market, "retailer/orders") == [txn_id]


def test_a_purchase_survives_kill_9(market):
    market.post("/app/buyer/buy")
    before = state(market)
    support.kill(market)
    support.start(market)
    assert state(market) == before


def set_balance(name, balance):
    return lambda host: host.put("/app/bank/accounts", name, balance)


def close_account(name):
    return lambda host: host.delete("/app/bank/accounts", name)


def break_service(name):
    return lambda host: host.put(f"/app/{name}/fault", None, True)


@pytest.mark.parametrize("prepare, error", [
    (set_balance("user", PRICE - 1), tc.error.BadRequest),
    (set_balance("retailer", COST_OF_MAKING - PRICE - 1), tc.error.BadRequest),
    (set_balance("retailer", COST_OF_MAKING + COST_OF_SHIPPING - PRICE - 1), tc.error.BadRequest),
    (close_account("user"), tc.error.NotFound),
    (close_account("retailer"), tc.error.NotFound),
    (close_account("factory"), tc.error.NotFound),
    (close_account("shipper"), tc.error.NotFound),
    (lambda host: host.delete("/app/shipper/addresses", "user"), tc.error.NotFound),
    (lambda host: host.put("/app/factory/parts", None, 0), tc.error.NotFound),
    (set_balance("user", "not a number"), (tc.error.BadRequest, tc.error.NotFound)),
    (break_service("bank"), tc.error.Forbidden),
    (break_service("shipper"), tc.error.Forbidden),
    (break_service("factory"), tc.error.Forbidden),
    (break_service("retailer"), tc.error.Forbidden),
    (break_service("buyer"), tc.error.Forbidden),
], ids=[
    "the buyer cannot pay", "the retailer cannot pay the factory", "the retailer cannot pay the shipper",
    "the buyer has no account", "the retailer has no account", "the factory has no account", "the shipper has no account",
    "the address is unknown", "the factory is out of parts", "the balance is no number", "the bank breaks",
    "the shipper breaks", "the factory breaks", "the retailer breaks", "the buyer breaks"])
def test_a_failure_at_any_step_changes_nothing_anywhere(market, prepare, error):
    market.post("/app/buyer/buy")
    prepare(market)
    before = state(market)
    with pytest.raises(error):
        market.post("/app/buyer/buy")

    assert state(market) == before


def test_after_a_failure_the_next_purchase_goes_through(market):
    break_service("shipper")(market)
    with pytest.raises(tc.error.Forbidden):
        market.post("/app/buyer/buy")

    market.put("/app/shipper/fault", None, False)
    assert market.post("/app/buyer/buy") == "done"
    assert counts(market) == [1, 1, 1]


def test_a_hypothetical_purchase_changes_nothing(market):
    before = state(market)
    cxt = tc.Context()
    cxt.bought = tc.use(Buyer).buy()
    cxt.result = tc.After(cxt.bought, tc.ref.Get(tc.uri(tc.use(Bank).accounts), "user"))
    assert market.post("/transact/hypothetical", cxt) == 100 - PRICE
    assert state(market) == before


# Many buyers at once

BUYERS = 16


def buy(host):
    """Returns None for a purchase, or the error."""

    try:
        host.post("/app/buyer/buy")
    except tc.error.TinyChainError as error:
        return error


def buy_concurrently(host, purchases, during=lambda: time.sleep(0.01)):
    with concurrent.futures.ThreadPoolExecutor(BUYERS) as pool:
        results = [pool.submit(buy, host) for _ in range(purchases)]
        while not all(result.done() for result in results):
            during()

        return [result.result() for result in results]


def test_concurrent_buyers_conserve_money_and_goods(market):
    purchases = BUYERS * 5
    money = {"user": purchases * PRICE, "retailer": 0, "factory": 0, "shipper": 0}
    market.put("/app/bank/accounts", None, money)
    market.put("/app/factory/parts", None, purchases)

    def look():
        balances = market.get("/app/bank/accounts")
        assert sum(balances.values()) == purchases * PRICE
        assert min(balances.values()) >= 0

    assert buy_concurrently(market, purchases, look) == [None] * purchases

    assert market.get("/app/bank/accounts") == {
        "user": 0,
        "retailer": purchases * (PRICE - COST_OF_MAKING - COST_OF_SHIPPING),
        "factory": purchases * COST_OF_MAKING,
        "shipper": purchases * COST_OF_SHIPPING}
    assert market.get("/app/factory/parts") == 0
    assert counts(market) == [purchases] * 3
    assert len(transactions(market, "retailer/orders")) == purchases


def test_concurrent_buyers_never_oversell(market):
    stock, purchases = 20, BUYERS * 3
    market.put("/app/bank/accounts", "user", purchases * PRICE)
    market.put("/app/factory/parts", None, stock)

    errors = [error for error in buy_concurrently(market, purchases) if error is not None]
    assert [type(error) for error in errors] == [tc.error.NotFound] * (purchases - stock)
    assert market.get("/app/factory/parts") == 0
    assert market.get("/app/bank/accounts", "user") == (purchases - stock) * PRICE
    assert counts(market) == [stock] * 3
