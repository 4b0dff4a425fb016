"""Programs written with the published Python client, run as hypothetical transactions."""

import pytest
import tinychain as tc

from support import HYPOTHETICAL


@pytest.fixture
def run(host):
    """Run a context as a hypothetical transaction, the way users of the client do."""

    return lambda context: host.post(HYPOTHETICAL, context)


# Contexts

def test_a_context_answers_its_last_entry(run):
    cxt = tc.Context()
    cxt.a = tc.Number(5)
    cxt.b = tc.Number(10)
    cxt.product = cxt.a * cxt.b
    assert tc.to_json(cxt) == [["a", 5], ["b", 10], ["product", {"$a/mul": [{"$b": []}]}]]
    assert run(cxt) == 50


@pytest.mark.parametrize("compute, expected", [
    (lambda x: x + 3, 10),
    (lambda x: 3 + x, 10),
    (lambda x: x - 3, 4),
    (lambda x: x * 3, 21),
    (lambda x: x / 2, 3),
    (lambda x: x / 2., 3.5),
    (lambda x: 21 / x, 3),
    (lambda x: x**2, 49),
    (lambda x: 2**x, 128),
    (lambda x: -x, -7),
    (lambda x: abs(-x), 7),
    (lambda x: x == 7, True),
    (lambda x: x != 7, False),
    (lambda x: x > 6.5, True),
    (lambda x: x >= 7, True),
    (lambda x: x < 7, False),
    (lambda x: x <= 7, True),
    (lambda x: (x > 5).logical_and(x < 6), False),
    (lambda x: (x > 5).logical_or(x < 6), True),
    (lambda x: (x > 5).logical_xor(x > 6), False),
    (lambda x: (x > 5).logical_not(), False),
    (lambda x: x.is_none(), False),
    (lambda x: x.is_some(), True),
    (lambda x: x.dtype(), {"/state/scalar/value/number/int/64": []}),
    (lambda x: tc.Number.max(x, 9), 9),
    (lambda x: tc.Number.min(x, 9), 7),
    (lambda x: (x + 1) * (x - 1), 48),
])
def test_arithmetic_of_the_client(run, compute, expected):
    cxt = tc.Context()
    cxt.x = tc.Number(7)
    cxt.result = compute(cxt.x)
    assert run(cxt) == expected


def test_anonymous_subexpressions_are_named_by_the_client(run):
    cxt = tc.Context()
    cxt.x = tc.Number(7)
    cxt.result = ((cxt.x + 1) * 2 - 3).is_some()
    assert len(tc.to_json(cxt)) > 2
    assert run(cxt) is True


@pytest.mark.parametrize("value", [2**31, 2**63, 2**64 - 1])
def test_a_u64_is_exact(run, value):
    cxt = tc.Context()
    cxt.x = tc.U64(value)
    assert run(cxt) == value


# Casts

@pytest.mark.parametrize("value, dtype, expected", [
    (tc.Number(5.9), tc.Int, 5),
    (tc.Number(5), tc.F32, 5),
    (tc.Number(300), tc.U8, 44),
    (tc.Number(5), tc.String, "5"),
    (tc.String("5"), tc.Number, 5),
    (tc.Number(0), tc.Bool, False),
    (tc.Tuple([["a", 1]]), tc.Map, {"a": 1}),
    (tc.Tuple([1, 2]), tc.Complex, {"/state/scalar/value/number/complex/64": [1, 2]}),
])
def test_cast(run, value, dtype, expected):
    cxt = tc.Context()
    cxt.x = value
    cxt.result = cxt.x.cast(dtype)
    assert run(cxt) == expected


def test_an_impossible_cast_is_a_bad_request(run):
    cxt = tc.Context()
    cxt.x = tc.String("five")
    cxt.result = cxt.x.cast(tc.Number)
    with pytest.raises(tc.error.BadRequest):
        run(cxt)


def test_cast_inside_an_op(run):
    @tc.get_op
    def whole(txn, x: tc.Number) -> tc.Number:
        return x.cast(tc.Int)

    cxt = tc.Context()
    cxt.whole = whole
    cxt.result = cxt.whole(2.7)
    assert run(cxt) == 2


# Ops

def test_a_get_op(run):
    @tc.get_op
    def to_feet(txn, meters: tc.Number) -> tc.Number:
        return tc.If(
            meters >= 0,
            meters * 3.28,
            tc.error.BadRequest("negative distance is not supported"))

    cxt = tc.Context()
    cxt.to_feet = to_feet
    cxt.result = cxt.to_feet(2)
    assert run(cxt) == 6.56

    cxt = tc.Context()
    cxt.to_feet = to_feet
    cxt.result = cxt.to_feet(-2)
    with pytest.raises(tc.error.BadRequest) as error:
        run(cxt)

    assert "negative distance is not supported" in str(error.value.message)


def test_a_get_op_without_a_key(run):
    @tc.get_op
    def five(txn):
        return tc.Number(5)

    cxt = tc.Context()
    cxt.five = five
    cxt.result = cxt.five()
    assert tc.to_json(cxt)[-1] == ["result", {"$five": [None]}]
    assert run(cxt) == 5


def test_a_put_op_answers_null(run):
    @tc.put_op
    def put(txn, key: tc.Number, value: tc.Number):
        return None

    cxt = tc.Context()
    cxt.put = put
    cxt.result = cxt.put(1, 2)
    assert tc.to_json(cxt)[-1] == ["result", {"$put": [1, 2]}]
    assert run(cxt) is None


def test_a_post_op(run):
    @tc.post_op
    def difference(a: tc.Number, b: tc.Number) -> tc.Number:
        return a - b

    cxt = tc.Context()
    cxt.difference = difference
    cxt.result = cxt.difference(a=5, b=3)
    assert tc.to_json(cxt)[-1] == ["result", {"$difference": {"a": 5, "b": 3}}]
    assert run(cxt) == 2


def test_a_post_op_without_parameters(run):
    @tc.post_op
    def five():
        return tc.Number(5)

    cxt = tc.Context()
    cxt.five = five
    cxt.result = cxt.five()
    assert tc.to_json(cxt)[-1] == ["result", {"$five": {}}]
    assert run(cxt) == 5


def test_a_delete_op_answers_null(run):
    @tc.delete_op
    def forget(txn, key: tc.Number):
        return None

    cxt = tc.Context()
    cxt.forget = forget
    cxt.result = cxt.forget(1)
    assert tc.to_json(cxt)[-1] == ["result", {"/state/scalar/ref/op/delete": [{"$forget": []}, 1]}]
    assert run(cxt) is None


def test_the_form_of_a_post_op_is_a_transaction(host):
    @tc.post_op
    def program(txn):
        txn.x = tc.Number(20)
        txn.y = txn.x / 5
        return txn.y + 1

    assert host.post(HYPOTHETICAL, tc.form_of(program)) == 5


def test_an_op_is_answered_as_its_definition(run):
    @tc.get_op
    def double(x: tc.Number):
        return x * 2

    cxt = tc.Context()
    cxt.double = double
    definition = {"/state/scalar/op/get": ["x", [["_return", {"$x/mul": [2]}]]]}
    assert tc.to_json(double) == definition
    assert run(cxt) == definition


def test_a_closure_carries_its_captured_state(run):
    cxt = tc.Context()
    cxt.factor = tc.Number(3)

    @tc.get_op
    def scale(x: tc.Number) -> tc.Number:
        return x * cxt.factor

    cxt.scale = tc.closure(scale)
    cxt.result = cxt.scale(4)
    assert tc.to_json(cxt)[1][1] == {
        "/state/scalar/ref/with": [
            [{"$factor": []}],
            {"/state/scalar/op/get": ["x", [["_return", {"$x/mul": [{"$factor": []}]}]]]}]}
    assert run(cxt) == 12


def test_without_a_closure_the_enclosing_context_is_out_of_reach(run):
    cxt = tc.Context()
    cxt.factor = tc.Number(3)

    @tc.get_op
    def scale(x: tc.Number) -> tc.Number:
        return x * cxt.factor

    cxt.scale = scale
    cxt.result = cxt.scale(4)
    with pytest.raises(tc.error.NotFound):
        run(cxt)


# Flow control

@pytest.mark.parametrize("x, expected", [(1, "small"), (100, "large")])
def test_if(run, x, expected):
    cxt = tc.Context()
    cxt.x = tc.Number(x)
    cxt.result = tc.If(cxt.x < 10, tc.String("small"), tc.String("large"))
    assert run(cxt) == expected


def test_if_without_else_is_null(run):
    cxt = tc.Context()
    cxt.x = tc.Bool(False)
    cxt.result = tc.If(cxt.x, tc.error.Conflict("unreached"))
    assert run(cxt) is None


@pytest.mark.parametrize("x, expected", [(1, "one"), (2, "two"), (3, "many")])
def test_case(run, x, expected):
    cxt = tc.Context()
    cxt.x = tc.Number(x)
    cxt.result = tc.Case(cxt.x, [1, 2], [tc.String("one"), tc.String("two"), tc.String("many")])
    assert run(cxt) == expected


def test_while_with_a_map_as_state(run):
    @tc.post_op
    def cond(i: tc.Number) -> tc.Bool:
        return i < 10

    @tc.post_op
    def step(txn, i: tc.Number) -> tc.Map:
        return tc.Map(i=i + 1)

    cxt = tc.Context()
    cxt.result = tc.While(cond, step, tc.Map(i=0))
    assert run(cxt) == {"i": 10}


def test_while_with_a_closure_as_condition(run):
    cxt = tc.Context()
    cxt.limit = tc.Number(4)

    @tc.closure
    @tc.post_op
    def cond(i: tc.Number) -> tc.Bool:
        return i < cxt.limit

    @tc.post_op
    def step(i: tc.Number) -> tc.Map:
        return tc.Map(i=i + 1)

    cxt.result = tc.While(cond, step, tc.Map(i=0))
    assert run(cxt) == {"i": 4}


def test_after_and_before(run):
    cxt = tc.Context()
    cxt.x = tc.Number(1)
    cxt.result = tc.After(cxt.x, tc.String("then"))
    assert run(cxt) == "then"

    cxt = tc.Context()
    cxt.result = tc.After(tc.error.Conflict("first"), tc.error.Forbidden("second"))
    with pytest.raises(tc.error.Conflict):
        run(cxt)

    cxt = tc.Context()
    cxt.x = tc.Number(1)
    cxt.result = tc.Before(cxt.x, tc.String("then"))
    assert run(cxt) == "then"


# Tuples, maps, strings

def test_tuple_items(run):
    cxt = tc.Context()
    cxt.t = tc.Tuple(["a", "b", "c"])
    first, second, third = cxt.t.unpack(3)
    cxt.result = [third, second, first, cxt.t[1]]
    assert run(cxt) == ["c", "b", "a", "b"]


@pytest.mark.parametrize("compute, expected", [
    (lambda t: t + [4], [1, 2, 3, 4]),
    (lambda t: t.extend([4, 5]), [1, 2, 3, 4, 5]),
    (lambda t: t.zip(["a", "b", "c"]), [[1, "a"], [2, "b"], [3, "c"]]),
    (lambda t: t == tc.Tuple([1, 2, 3]), True),
    (lambda t: t != tc.Tuple([1, 2, 3]), False),
    (lambda t: t == tc.Tuple([1, 2]), False),
])
def test_tuple_operations(run, compute, expected):
    cxt = tc.Context()
    cxt.t = tc.Tuple([1, 2, 3])
    cxt.result = compute(cxt.t)
    assert run(cxt) == expected


def test_tuple_map_and_fold(run):
    @tc.get_op
    def square(i: tc.Number) -> tc.Number:
        return i * i

    @tc.post_op
    def add(item: tc.Number, state: tc.Number) -> tc.Number:
        return item + state

    cxt = tc.Context()
    cxt.t = tc.Tuple([1, 2, 3])
    cxt.result = cxt.t.map(square)
    assert run(cxt) == [1, 4, 9]

    cxt = tc.Context()
    cxt.t = tc.Tuple([1, 2, 3])
    cxt.result = cxt.t.fold(tc.Number(0), add)
    assert run(cxt) == 6


def test_an_index_out_of_range_is_not_found(run):
    cxt = tc.Context()
    cxt.t = tc.Tuple([1, 2, 3])
    cxt.result = cxt.t[3]
    with pytest.raises(tc.error.NotFound):
        run(cxt)


def test_map_operations(run):
    cxt = tc.Context()
    cxt.m = tc.Map(a=1, b="x")
    cxt.result = [cxt.m["a"], cxt.m["b"], cxt.m == tc.Map(a=1, b="x"), cxt.m != tc.Map(a=1)]
    assert run(cxt) == [1, "x", True, True]


def test_string_render(run):
    cxt = tc.Context()
    cxt.name = tc.String("Ann")
    cxt.template = tc.String("Hello, {{name}} of {{city}}")
    cxt.result = cxt.template.render(name=cxt.name, city="Zürich")
    assert run(cxt) == "Hello, Ann of Zürich"


@pytest.mark.parametrize("text", ["é\n\t\"\\", "日本語", "\x00\x1f", "😀"])
def test_text_survives_the_client(host, run, text):
    cxt = tc.Context()
    cxt.x = tc.String(text)
    assert run(cxt) == text
    assert host.get("/state/scalar/value/string", text) == text


# Errors

ERRORS = [
    tc.error.BadRequest, tc.error.Conflict, tc.error.Forbidden, tc.error.MethodNotAllowed, tc.error.NotFound,
    tc.error.NotImplemented, tc.error.Timeout, tc.error.Unauthorized]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_raised_as_its_own_class(run, error):
    cxt = tc.Context()
    cxt.result = error("no bread")
    with pytest.raises(error) as raised:
        run(cxt)

    assert "no bread" in str(raised.value.message)


def test_an_error_message_is_a_template(run):
    cxt = tc.Context()
    cxt.item = tc.String("bread")
    cxt.result = tc.error.NotFound("no {{item}} today", item=cxt.item)
    with pytest.raises(tc.error.NotFound) as raised:
        run(cxt)

    assert "no bread today" in str(raised.value.message)


def test_an_unreached_error_is_not_raised(run):
    cxt = tc.Context()
    cxt.unused = tc.error.Conflict("unused")
    cxt.result = tc.Number(1)
    assert run(cxt) == 1


# Classes

class Distance(tc.Number, metaclass=tc.Meta):
    __uri__ = tc.URI("/app/area/Distance")

    @tc.get_method
    def kilometers(self) -> tc.Number:
        return self / 1000.

    @tc.post_method
    def scale(self, factor: tc.Number) -> tc.Number:
        return self * factor

    @tc.post_method
    def double(self) -> tc.Number:
        return self * 2


def test_the_client_forgets_the_class_of_a_literal_instance(run):
    cxt = tc.Context()
    cxt.Distance = Distance
    cxt.d = cxt.Distance(1500)
    assert tc.to_json(cxt) == [["Distance", tc.to_json(Distance)], ["d", 1500]]
    assert run(cxt) == 1500


def test_a_class_is_defined_by_its_native_parent(run):
    cxt = tc.Context()
    cxt.Distance = Distance
    assert list(tc.to_json(Distance)) == ["/state/scalar/value/number"]
    assert run(cxt) == {"/state/object/class": tc.to_json(Distance)}


@pytest.mark.parametrize("method, args, expected", [
    ("kilometers", [None], 1.5), ("scale", {"factor": 3}, 4500), ("double", {}, 3000), ("add", [1], 1501)])
def test_methods_of_an_instance(run, method, args, expected):
    definition = tc.to_json(Distance)
    program = [["Distance", definition], ["d", {"$Distance": [1500]}], ["r", {f"$d/{method}": args}]]
    assert run(program) == expected


def test_tc_class_prints_a_definition_that_can_be_instantiated(run):
    cxt = tc.Context()
    cxt.C = tc.Class(Distance)
    program = tc.to_json(cxt) + [["d", {"$C": [1500]}], ["r", {"$d/kilometers": [None]}]]
    assert program[0] == ["C", {"/state/object/class": [tc.to_json(Distance)]}]
    assert run(program) == 1.5


class Person(tc.Object):
    @tc.get_method
    def greeting(self) -> tc.String:
        return tc.String("hello")


def test_an_object_without_a_uri_is_instantiated_by_post(run):
    cxt = tc.Context()
    cxt.ann = Person(tc.Map(name="Ann"))
    cxt.result = cxt.ann.greeting()
    definition, instance, *_ = tc.to_json(cxt)
    assert definition[1] == {"/state/object/class": tc.to_json(tc.form_of(Person))}
    assert instance == ["ann", {"$" + definition[0]: {"name": "Ann"}}]
    assert run(cxt) == "hello"


def test_new(run):
    cxt = tc.Context()
    cxt.Distance = Distance
    cxt.d = tc.New(tc.URI("Distance"), 1500)
    program = tc.to_json(cxt) + [["r", {"$d/kilometers": [None]}]]
    assert run(program) == 1.5


# Requests

def test_verbs_of_the_client(host):
    assert host.get("/state", 5) == 5
    assert host.get("/state", tc.Number(0)) == 0
    assert host.get("/state", ["a", 1]) == ["a", 1]
    assert host.get("/state") is None
    assert host.put("/", None, tc.URI("/app/x")) is None
    assert host.post("/", {}) is None
    assert host.delete(HYPOTHETICAL) is None


@pytest.mark.parametrize("request_, error", [
    (lambda host: host.get("/nope"), tc.error.NotFound),
    (lambda host: host.put("/state/scalar/value/string", None, 1), tc.error.MethodNotAllowed),
    (lambda host: host.post(HYPOTHETICAL, {"/foo": 1}), tc.error.BadRequest),
    (lambda host: host.delete("/state/scalar"), tc.error.MethodNotAllowed),
    (lambda host: host.get("/state", auth="nonsense"), tc.error.Unauthorized),
    (lambda host: host.get("/error/internal", "broken"), tc.error.UnknownError),
])
def test_a_failed_request_raises(host, request_, error):
    with pytest.raises(error):
        request_(host)
