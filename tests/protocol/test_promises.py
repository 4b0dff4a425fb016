"""The promises of the seed that this host keeps, one test each; ARCHITECTURE.md lists those that are still open."""

import concurrent.futures

import pytest
import tinychain as tc

import support
from support import HYPOTHETICAL, N, OP, R


class Wallet(tc.Cluster):
    __uri__ = tc.URI("/app/wallet")

    def _configure(self):
        self.coins = tc.chain.Sync(tc.Number(10))
        self.history = tc.chain.Block(tc.Tuple([]))

    @tc.post_method
    def pay(self, txn, coins: tc.Number) -> tc.Number:
        txn.left = self.coins - coins
        txn.checked = tc.Number(tc.If(txn.left >= 0, txn.left, tc.error.BadRequest("not enough coins")))
        return tc.After([self.coins.set(txn.checked), tc.ref.Put(tc.uri(self.history), None, [txn.left])], txn.checked)


class Meters(tc.Number, metaclass=tc.Meta):
    __uri__ = tc.URI("/app/shop/Meters")

    @tc.get_method
    def feet(self) -> tc.Number:
        return self * 3.28


class Shop(tc.Cluster):
    __uri__ = tc.URI("/app/shop")

    def _configure(self):
        self.sold = tc.chain.Sync(tc.Number(0))
        self.Meters = Meters

    @tc.post_method
    def buy(self, txn, coins: tc.Number) -> tc.Number:
        txn.sold_now = self.sold + 1
        txn.counted = self.sold.set(txn.sold_now)
        return tc.After(txn.counted, tc.use(Wallet).pay(coins=coins))


@pytest.fixture
def services(serve):
    return serve(Wallet, Shop)


def everything(host):
    return [host.get(path) for path in ("/app/wallet/coins", "/app/wallet/history/chain", "/app/shop/sold")]


def test_json_is_a_turing_complete_application_language(hypothetical):
    """The seed's own function, and the Collatz sequence of 27, which takes 111 steps."""

    to_feet = {OP + "/get": ["meters", [["_return", {R + "/if": [
        {"$meters/gte": [0]},
        {"$meters/mul": [3.28]},
        {"/error/bad_request": ["Negative distance is not supported"]}]}]]]}

    assert hypothetical([["to_feet", to_feet], ["feet", {"$to_feet": [100]}]]) == (200, 328.0)
    assert hypothetical([["to_feet", to_feet], ["feet", {"$to_feet": [-1]}]])[0] == 400

    step = {OP + "/post": [
        ["half", {"$n/div": [2]}],
        ["even", {"$n/eq": [{"$half/mul": [2]}]}],
        ["odd", {"$n/mul": [3]}],
        ["next", {R + "/if": [{"$even": []}, {"$half": []}, {"$odd/add": [1]}]}],
        ["_return", {"n": {"$next": []}, "steps": {"$steps/add": [1]}}]]}

    loop = {R + "/while": [{OP + "/post": [["_return", {"$n/gt": [1]}]]}, step, {"n": 27, "steps": 0}]}
    assert hypothetical([["collatz", loop]]) == (200, {"n": 1, "steps": 111})


def test_cross_service_transactions(services):
    assert services.post("/app/shop/buy", {"coins": 4}) == 6
    before = everything(services)
    with pytest.raises(tc.error.BadRequest):
        services.post("/app/shop/buy", {"coins": 7})

    assert everything(services) == before
    assert services.get("/app/shop/sold") == 1


def test_transactional_reads_and_writes(services):
    """However many buy at once, nothing is lost and nobody is refused for it."""

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: services.post("/app/shop/buy", {"coins": 1}), range(10)))

    assert sorted(answers) == list(range(10))
    assert (services.get("/app/wallet/coins"), services.get("/app/shop/sold")) == (0, 10)


def test_hypothetical_queries(services):
    before = everything(services)
    status, left = support.post(services, [
        ["bought", {"/app/shop/buy": {"coins": 3}}],
        ["again", {R + "/after": [{"$bought": []}, {"/app/shop/buy": {"coins": 3}}]}]])

    assert (status, left) == (200, 4)
    assert everything(services) == before


def test_data_encapsulation(services):
    """What a service does not offer cannot be reached, whatever the path."""

    for path in ("/app/wallet/secret", "/app/wallet/pay/coins", "/app/other"):
        with pytest.raises(tc.error.NotFound):
            services.get(path)

    with pytest.raises(tc.error.MethodNotAllowed):
        services.get("/app/wallet/pay")


def test_a_sync_chain_keeps_the_subject_and_a_block_chain_every_mutation(services):
    for _ in range(3):
        services.post("/app/shop/buy", {"coins": 1})

    assert services.get("/app/wallet/coins/chain") == {"/state/chain/sync": [10, 7]}
    [schema, blocks] = services.get("/app/wallet/history/chain")["/state/chain/block"]
    mutations = [mutation for _, block in blocks for [mutation] in block.values()]
    assert (schema, mutations) == ([], [["/", None, [9]], ["/", None, [8]], ["/", None, [7]]])


def test_object_orientation(services):
    """A class that a service defines is used by others as if it were their own."""

    assert services.get("/app/shop/Meters/class") == {"/state/object/class": []}
    context = tc.Context()
    context.distance = tc.use(Shop).Meters(100)
    context.feet = context.distance.feet()
    assert services.post(HYPOTHETICAL, context) == 328


def test_all_user_defined_classes_extend_a_native_class(hypothetical):
    """Basic operations are those of the native class, and take part in it."""

    twice = {N: {"twice": {OP + "/get": ["key", [["_return", {"$self/mul": [2]}]]]}}}
    assert hypothetical([["C", twice], ["c", {"$C": [4]}], ["r", {"$c/add": [1]}]]) == (200, 5)
    assert hypothetical([["C", twice], ["c", {"$C": [4]}], ["r", {"$c/twice": [None]}]]) == (200, 8)


def test_rapid_prototyping(serve):
    """One class is a service with an HTTP API and durable state."""

    class Hello(tc.Cluster):
        __uri__ = tc.URI("/app/hello")

        def _configure(self):
            self.greeting = tc.chain.Sync(tc.String("Hello, {{name}}!"))

        @tc.get_method
        def greet(self, name: tc.String) -> tc.String:
            return tc.String(self.greeting).render(name=name)

    host = serve(Hello)
    assert host.get("/app/hello/greet", "Ann") == "Hello, Ann!"
    host.put("/app/hello/greeting", None, "Hei, {{name}}!")
    assert host.get("/app/hello/greet", "Ann") == "Hei, Ann!"


def test_a_service_recovers_from_a_crash_without_losing_state(services):
    services.post("/app/shop/buy", {"coins": 4})
    before = everything(services)
    support.kill(services)
    support.restart(services)
    assert everything(services) == before
