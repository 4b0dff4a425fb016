"""
Programs that never end, or that grow without bound, end with a 4xx by --request_ttl. Meanwhile others are served, and
memory stays bounded.
"""

import concurrent.futures

import pytest
import tinychain as tc

import support
from support import OP, R, call, post

TTL = 1
MAX_MEMORY = 1_000_000_000


class Loops(tc.Cluster):
    """Methods that call themselves, directly or in a circle, and one that writes and then never ends."""

    __uri__ = tc.URI("/app/loops")

    def _configure(self):
        self.value = tc.chain.Sync(tc.Number(0))

    @tc.get_method
    def get(self, key: tc.Number):
        return tc.ref.Get(tc.URI("$self/get"), key)

    @tc.put_method
    def put(self, key: tc.Number, value: tc.Number):
        return tc.ref.Put(tc.URI("$self/put"), key, value)

    @tc.post_method
    def post(self):
        return tc.ref.Post(tc.URI("$self/post"), {})

    @tc.delete_method
    def delete(self, key: tc.Number):
        return tc.ref.Delete(tc.URI("$self/delete"), key)

    @tc.post_method
    def circle(self, n: tc.Number):
        return tc.ref.Post(tc.URI("/app/circle/back"), {"n": n + 1})

    @tc.post_method
    def tree(self, n: tc.Number):
        return [tc.ref.Post(tc.URI("$self/tree"), {"n": n + 1}), tc.ref.Post(tc.URI("$self/tree"), {"n": n + 2})]

    @tc.post_method
    def write_and_hang(self):
        @tc.post_op
        def forever(i: tc.Number):
            return tc.Bool(True)

        @tc.post_op
        def same(i: tc.Number):
            return tc.Map(i=i)

        return tc.After(self.value.set(1), tc.While(forever, same, tc.Map(i=0)))


class Circle(tc.Cluster):
    __uri__ = tc.URI("/app/circle")

    @tc.post_method
    def back(self, n: tc.Number):
        return tc.use(Loops).circle(n=n)


@pytest.fixture
def loops(serve):
    host = serve(Loops, Circle, request_ttl=str(TTL))
    yield host
    assert support.is_running(host), "the host died"
    assert call(host, "GET", "/state", key=1) == (200, 1)
    assert support.peak_memory(host) < MAX_MEMORY


def assert_stopped(reply):
    """The host ended the program: out of time (408), too deep or too large (400, 413), and not just unknown (404)."""

    status, body = reply
    assert status in (400, 408, 413), body
    support.error_name(body)


def while_(cond, step, state):
    return {R + "/while": [cond, step, state]}


def post_op(*body):
    return {OP + "/post": list(body)}


FOREVER = post_op(["r", True])


def below(n):
    return post_op(["r", {"$i/lt": [n]}])


ENDLESS = {
    "a loop that does nothing": [["r", while_(FOREVER, post_op(["r", {"i": {"$i": []}}]), {"i": 0})]],
    "a loop that counts": [["r", while_(FOREVER, post_op(["r", {"i": {"$i/add": [1]}}]), {"i": 0})]],
    "a loop in an op": [["f", post_op(["r", while_(FOREVER, post_op(["r", {"i": {"$i": []}}]), {"i": 0})])], ["r", {"$f": {}}]],
    "a loop in a loop": [["r", while_(
        FOREVER, post_op(["r", while_(FOREVER, post_op(["r", {"i": {"$i": []}}]), {"i": {"$i": []}})]), {"i": 0})]],
    "many loops in one tuple": [["r", [while_(FOREVER, post_op(["r", {"i": {"$i": []}}]), {"i": i}) for i in range(50)]]],
}


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_program_times_out(loops, program):
    support.assert_reply(post(loops, program), 408)


def test_others_are_served_while_endless_programs_run(loops):
    program = ENDLESS["a loop that counts"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        endless = [pool.submit(post, loops, program) for _ in range(8)]
        served = 0
        while not all(reply.done() for reply in endless):
            assert post(loops, [["x", served], ["r", {"$x/add": [1]}]]) == (200, served + 1)
            loops.put("/app/loops/value", None, served)
            served += 1

        for reply in endless:
            support.assert_reply(reply.result(), 408)

    assert served > 2, "others were not served meanwhile"


def test_a_timeout_rolls_back_and_releases_its_locks(loops):
    support.assert_reply(call(loops, "POST", "/app/loops/write_and_hang", {}), 408)
    assert loops.get("/app/loops/value") == 0
    assert loops.put("/app/loops/value", None, 5) is None
    assert loops.get("/app/loops/value") == 5


# Growth. Every step doubles, deepens or copies its state.

GROWTH = {
    "append to itself": {"t": {"$t/append": [{"$t": []}]}},
    "two of itself": {"t": [{"$t": []}, {"$t": []}]},
    "a map of itself": {"t": {"a": {"$t": []}, "b": {"$t": []}}},
    "deeper tuples": {"t": [{"$t": []}]},
    "deeper maps": {"t": {"a": {"$t": []}}},
    "zip with itself": {"t": {"$t/zip": [{"$t": []}]}},
    "append one": {"t": {"$t/append": [[1]]}},
}


@pytest.mark.parametrize("step", GROWTH.values(), ids=GROWTH)
def test_endless_growth_ends(loops, step):
    assert_stopped(post(loops, [["r", while_(FOREVER, post_op(["r", step]), {"t": [1]})]]))


@pytest.mark.parametrize("step", [GROWTH[name] for name in GROWTH if name != "append one"], ids=lambda step: str(step))
def test_growth_that_ends_by_itself_is_refused_if_its_result_is_too_large(loops, step):
    """100,000 rounds, after which the result would be sent, compared and dropped."""

    step = {**step, "i": {"$i/add": [1]}}
    assert_stopped(post(loops, [["r", while_(below(100_000), post_op(["r", step]), {"i": 0, "t": [1]})]]))


def test_sixty_doublings_cannot_be_sent(loops):
    """A state of sixty shared levels is small in memory, and 2^60 items as text."""

    step = {"t": [{"$t": []}, {"$t": []}], "i": {"$i/add": [1]}}
    assert_stopped(post(loops, [["r", while_(below(60), post_op(["r", step]), {"i": 0, "t": [1]})]]))


def test_sixty_doublings_in_named_entries_cannot_be_sent(loops):
    body = [["t0", [1]]] + [[f"t{i}", [{f"$t{i - 1}": []}] * 2] for i in range(1, 61)]
    assert_stopped(post(loops, body))


def test_a_template_that_doubles_ends(loops):
    step = {"s": {"$template/render": {"s": {"$s": []}}}}
    body = [
        ["template", "{{s}}{{s}}"], ["step", {R + "/with": [["template"], post_op(["r", step])]}],
        ["r", while_(FOREVER, {"$step": []}, {"s": "ab"})]]
    assert_stopped(post(loops, body))


@pytest.mark.parametrize("inside", ["x", ""], ids=["with output", "without output"])
def test_a_template_of_nested_loops_ends(loops, inside):
    """Twelve loops in each other over a hundred items."""

    levels = 12
    template = "".join("{{#each " + "../" * level + "t}}" for level in range(levels)) + inside + "{{/each}}" * levels
    assert_stopped(post(loops, [["s", template], ["r", {"$s/render": {"t": list(range(100))}}]]))


# Recursion

@pytest.mark.parametrize("verb, path, body", [
    ("GET", "get", None), ("PUT", "put", 1), ("POST", "post", {}), ("DELETE", "delete", None), ("POST", "circle", {"n": 0}),
    ("POST", "tree", {"n": 0})])
def test_a_method_that_calls_itself_forever_ends(loops, verb, path, body):
    assert_stopped(call(loops, verb, f"/app/loops/{path}", body, key=1 if verb != "POST" else None))


def test_a_hypothetical_call_of_endless_recursion_ends(loops):
    assert_stopped(post(loops, [["r", {"/app/loops/circle": {"n": 0}}]]))


def test_an_op_that_calls_itself_through_a_parameter_ends(loops):
    body = [["f", post_op(["r", {"$g": {"g": {"$g": []}}}])], ["r", {"$f": {"g": {"$f": []}}}]]
    assert_stopped(post(loops, body))


def test_a_class_whose_methods_call_each_other_ends(loops):
    methods = {"a": {OP + "/get": ["k", [["r", {"$self/b": [None]}]]]}, "b": {OP + "/get": ["k", [["r", {"$self/a": [None]}]]]}}
    body = [["C", {"/state/scalar/value/number": methods}], ["c", {"$C": [1]}], ["r", {"$c/a": [None]}]]
    assert_stopped(post(loops, body))
