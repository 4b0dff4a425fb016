"""The promises of the seed that this host keeps, one test each; ARCHITECTURE.md lists those that are still open."""

import concurrent.futures
import itertools
import json
import threading
import time

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


class Warehouse(tc.Cluster):
    __uri__ = tc.URI("/app/warehouse")

    def _configure(self):
        schema = tc.table.Schema(
            [tc.Column("sku", tc.U64)],
            [tc.Column("color", tc.String, 32), tc.Column("qty", tc.I32), tc.Column("note", tc.String, 200)])
        self.items = tc.chain.Sync(tc.table.Table(schema.create_index("by_color", ["color"])))
        self.places = tc.chain.Block(tc.btree.BTree([tc.Column("hall", tc.String, 32), tc.Column("shelf", tc.U32)]))

    @tc.post_method
    def move(self, txn, source: tc.U64, target: tc.U64):
        txn.source_row = tc.Tuple(self.items[[source]])
        txn.target_row = tc.Tuple(self.items[[target]])
        return [
            self.items.update_row([source], {"qty": tc.I32(txn.source_row[2]) - 1}),
            self.items.update_row([target], {"qty": tc.I32(txn.target_row[2]) + 1})]

    @tc.get_method
    def total(self):
        @tc.put_op
        def add(key: tc.I32, value: tc.Tuple):
            return key + tc.I32(value[2])

        return self.items.rows().fold(tc.I32(0), add)

    @tc.get_method
    def audit(self, txn):
        """Count by row, by index, and by row once more."""

        txn.before = self.total()
        txn.colors = tc.After(txn.before, self.items.aggregate(["color"], tc.table.Table.count))
        txn.after = tc.After(txn.colors, self.total())
        return [txn.before, txn.colors, txn.after]


@pytest.fixture
def services(serve):
    return serve(Wallet, Shop)


def everything(host):
    return [host.get(path) for path in ("/app/wallet/coins", "/app/wallet/history/chain", "/app/shop/sold")]


def wait_for_world(host, is_so):
    """What a host shows to operators, as soon as it is so."""

    deadline = time.monotonic() + 20
    while True:
        _, world = support.call(host, "GET", "/debug/world")
        if is_so(world):
            return world

        assert time.monotonic() < deadline, world
        time.sleep(0.01)


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


def test_json_rpc(services):
    """Methods are called, and errors told, in plain JSON over HTTP."""

    assert support.call(services, "POST", "/app/shop/buy", raw='{"coins": 4}') == (200, 6)
    assert support.call(services, "GET", "/app/shop/sold") == (200, 1)
    support.assert_reply(support.call(services, "POST", "/app/shop/buy", raw='{"coins": 7}'), 400)
    support.assert_reply(support.call(services, "POST", "/app/shop/sell", raw="{}"), 404)


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


def test_automatic_concurrency(services):
    """More programs than there are processors run at once, unasked, and who has little to do is not held up."""

    endless = {R + "/while": [
        {OP + "/post": [["_return", True]]}, {OP + "/post": [["_return", {"i": {"$i/add": [1]}}]]}, {"i": 0}]}
    program = [["a", endless], ["b", endless], ["r", [{"$a": []}, {"$b": []}]]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(support.post, services, program) for _ in range(8)]
        wait_for_world(services, lambda world: world["entities"]["transaction"]["total"] == len(running))
        answers = [services.post("/app/shop/buy", {"coins": 1}) for _ in range(5)]
        support.kill(services)

    assert answers == [9, 8, 7, 6, 5]
    assert all(isinstance(program.exception(), OSError) for program in running), "a program had ended before"


def test_data_encapsulation(services):
    """What a service does not offer cannot be reached, whatever the path."""

    for path in ("/app/wallet/secret", "/app/wallet/pay/coins", "/app/wallet/pay/left", "/app/wallet/pay/_return", "/app/other"):
        with pytest.raises(tc.error.NotFound):
            services.get(path)

    for call in (services.get, services.delete, lambda path: services.put(path, None, 1)):
        with pytest.raises(tc.error.MethodNotAllowed):
            call("/app/wallet/pay")

    # What its caller has a method does not see, unless it is given, nor its caller what the method names.
    with pytest.raises(tc.error.BadRequest, match="parameter coins"):
        services.post(support.HYPOTHETICAL, [["coins", 4], ["paid", {"/app/wallet/pay": {}}]])

    paid = ["paid", {"/app/wallet/pay": {"coins": {"$coins": []}}}]
    assert services.post(support.HYPOTHETICAL, [["coins", 4], paid]) == 6
    with pytest.raises(tc.error.NotFound):
        services.post(support.HYPOTHETICAL, [["coins", 4], paid, ["seen", [{"$paid": []}, {"$left": []}]]])


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


def test_database_tables(serve):
    """A Table supports one or more BTree indices, which find its rows and give them in order."""

    host = serve(Warehouse)
    items = "/app/warehouse/items"
    for sku, color, qty in [(3, "red", 30), (1, "red", 10), (2, "blue", 20), (4, "teal", 40)]:
        host.put(items, [sku], [color, qty, ""])

    host.put(items, [3], {"qty": 33})
    host.delete(items, [4])
    for _ in range(2):
        rows = [[1, "red", 10, ""], [2, "blue", 20, ""], [3, "red", 33, ""]]
        assert host.get(items + "/rows") == rows
        assert host.get(items, [2]) == rows[1]
        assert host.post(items + "/rows", {"color": "red"}) == [rows[0], rows[2]]
        assert host.get(items + "/order", [["color"], False])["/state/collection/table"][1] == [rows[1], rows[0], rows[2]]
        assert host.get("/app/warehouse/audit") == [63, [[["blue"], 1], [["red"], 2]], 63]
        red = [["red", {items: {"bounds": {"color": "red"}}}], ["plan", {"$red/explain": [None]}]]
        assert support.post(host, red)[1]["index"] == "by_color"
        support.kill(host)
        support.start(host)


def test_btree(serve):
    """Keys are ordered, each is there once, and a prefix or a range finds them."""

    host = serve(Warehouse)
    places = "/app/warehouse/places"
    for hall, shelf in [("b", 2), ("a", 9), ("b", 1), ("b", 10), ("b", 2)]:
        host.put(places, None, [hall, shelf])

    host.delete(places, ["b", 1])
    for _ in range(2):
        assert host.get(places + "/keys") == [["a", 9], ["b", 2], ["b", 10]]
        assert host.get(places + "/keys", ["b"]) == [["b", 2], ["b", 10]]
        assert host.get(places + "/count", ["b", [["in", 3], ["ex", None]]]) == 1
        assert host.get(places + "/first") == {"hall": "a", "shelf": 9}
        support.kill(host)
        support.start(host)


CACHE_BYTES = 400_000


@pytest.mark.parametrize("count", [100, 20_000], ids=["small", "many times larger than the cache"])
def test_transactional_filesystem_cache(serve, count):
    """
    The same code serves a collection in memory and one that is not: its pages come and go within --cache_size, while
    each transaction sees the whole of it as of one moment, whoever writes.
    """

    host = serve(Warehouse, cache_size=f"{CACHE_BYTES // 1000}K")
    colors = ["blue", "red", "teal"]
    rows = [[i, colors[i % 3], 10, f"{i} " + "x" * 150] for i in range(count)]
    loaded = support.call(host, "PUT", "/app/warehouse/items", rows, headers={"Content-Type": "application/json"})
    assert loaded == (200, None)
    is_done = threading.Event()

    def move(worker):
        for i in itertools.count():
            if is_done.is_set():
                return i

            source, target = (worker + i * 7919) % count, (worker + 50 + i * 104_729) % count
            if source != target:
                host.post("/app/warehouse/move", {"source": source, "target": target})

    by_color = [[[color], len(range(i, count, 3))] for i, color in enumerate(colors)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(move, worker) for worker in range(4)]
        try:
            for _ in range(5):
                assert host.get("/app/warehouse/audit") == [10 * count, by_color, 10 * count]
        finally:
            is_done.set()

        assert all(writer.result() > 0 for writer in writers)

    # A page that is not durable yet cannot be dropped.
    world = wait_for_world(host, lambda world: world["resident_page_bytes"] <= CACHE_BYTES)
    is_larger = len(json.dumps(rows)) > CACHE_BYTES
    is_loaded, is_evicted = (world["statistics"][name] > 0 for name in ("page_loads", "page_evictions"))
    assert is_loaded == is_evicted == is_larger, world["statistics"]

    left = host.get("/app/warehouse/items/rows")
    assert [[sku, color, note] for sku, color, _, note in left] == [[sku, color, note] for sku, color, _, note in rows]
    assert sum(qty for _, _, qty, _ in left) == 10 * count
    support.kill(host)
    support.start(host)
    assert host.get("/app/warehouse/items/rows") == left
    assert host.get("/app/warehouse/audit") == [10 * count, by_color, 10 * count]
