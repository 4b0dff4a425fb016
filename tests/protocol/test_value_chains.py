"""Sync and Block chains around numbers, strings, tuples and maps: protocol page 04, sections 4.1, 4.2 and 4.6."""

import base64

import pytest
import tinychain as tc

import support
import tbon
from support import HYPOTHETICAL, N, OP, R, V, call, post

KINDS = {"sync": tc.chain.Sync, "block": tc.chain.Block}
INITIAL = {
    "number": (tc.Number(0), 0),
    "string": (tc.String("é"), "é"),
    "tuple": (tc.Tuple([1, "b"]), [1, "b"]),
    "map": (tc.Map({"a": 1}), {"a": 1}),
    "bool": (tc.Bool(False), False),
}


class Values(tc.Cluster):
    __uri__ = tc.URI("/app/values")

    def _configure(self):
        for kind in KINDS:
            for name, (state, _) in INITIAL.items():
                setattr(self, f"{kind}_{name}", KINDS[kind](state))


@pytest.fixture
def values(serve):
    return serve(Values)


each_kind = pytest.mark.parametrize("kind", KINDS)


def chain(host, kind, name):
    """The initial value and the current value (Sync) or the blocks (Block) of a chain."""

    value = host.get(f"/app/values/{kind}_{name}/chain")
    assert list(value) == [f"/state/chain/{kind}"]
    initial, content = value[f"/state/chain/{kind}"]
    return initial, content


def mutations(host, name):
    _, blocks = chain(host, "block", name)
    return tbon.verify(blocks)


def test_the_client_declares_a_chain_around_a_value():
    assert tc.to_json(tc.form_of(Values))["sync_map"] == {"/state/chain/sync": [{"a": 1}]}
    assert tc.to_json(tc.form_of(Values))["block_tuple"] == {"/state/chain/block": [[1, "b"]]}


@each_kind
@pytest.mark.parametrize("name", INITIAL)
def test_a_chain_starts_with_its_initial_value(values, kind, name):
    _, initial = INITIAL[name]
    assert values.get(f"/app/values/{kind}_{name}") == initial
    schema, content = chain(values, kind, name)
    assert schema == initial
    if kind == "sync":
        assert content == initial
    else:
        assert tbon.verify(content or [["", {}]]) == []


@each_kind
@pytest.mark.parametrize("name, value", [
    ("number", 5), ("number", 2**64 - 1), ("string", "two\n"), ("tuple", []), ("map", {"x": [1, None]}),
    ("number", -0.5), ("map", {})])
def test_put_replaces_the_value(values, kind, name, value):
    path = f"/app/values/{kind}_{name}"
    _, initial = INITIAL[name]
    assert values.put(path, None, value) is None
    assert values.get(path) == value
    schema, content = chain(values, kind, name)
    assert schema == initial
    if kind == "sync":
        assert content == value
    else:
        assert tbon.verify(content) == [["/", None, value]]


@each_kind
def test_put_with_a_key_sets_an_entry(values, kind):
    values.put(f"/app/values/{kind}_map", "b", "two")
    values.put(f"/app/values/{kind}_map", "a", [3])
    assert values.get(f"/app/values/{kind}_map") == {"a": [3], "b": "two"}
    assert values.get(f"/app/values/{kind}_map", "b") == "two"

    values.put(f"/app/values/{kind}_tuple", tc.Number(0), "first")
    values.put(f"/app/values/{kind}_tuple", 1, "second")
    assert values.get(f"/app/values/{kind}_tuple") == ["first", "second"]
    assert values.get(f"/app/values/{kind}_tuple", 1) == "second"


@each_kind
def test_delete_removes_an_entry_or_the_whole_value(values, kind):
    path = f"/app/values/{kind}_map"
    values.put(path, "b", 2)
    assert values.delete(path, "a") is None
    assert values.get(path) == {"b": 2}
    assert values.delete(path) is None
    assert values.get(path) is None


def test_a_block_chain_records_every_write_in_order(values):
    path = "/app/values/block_map"
    values.put(path, "b", 2)
    values.put(path, None, {"c": 3})
    values.delete(path, "c")
    values.delete(path)
    assert mutations(values, "map") == [["/", "b", 2], ["/", None, {"c": 3}], ["/", "c"], ["/", None]]


def test_reads_are_not_recorded(values):
    values.put("/app/values/block_number", None, 1)
    before = chain(values, "block", "number")
    values.get("/app/values/block_number")
    values.get("/app/values/block_number/add", 1)
    values.get("/app/values/block_number/chain")
    assert chain(values, "block", "number") == before


@each_kind
def test_other_paths_reach_the_methods_of_the_value(values, kind):
    assert values.get(f"/app/values/{kind}_number/add", 1) == 1
    assert values.get(f"/app/values/{kind}_number/eq", tc.Number(0)) is True
    assert values.get(f"/app/values/{kind}_number/class") == {"/state/scalar/value/number/int/64": []}
    assert values.get(f"/app/values/{kind}_tuple/1") == "b"
    assert values.get(f"/app/values/{kind}_tuple/append", [2]) == [1, "b", 2]
    assert values.get(f"/app/values/{kind}_map/a/add", 5) == 6
    assert values.post(f"/app/values/{kind}_map/eq", {"eq": {"a": 1}}) is True
    assert values.get(f"/app/values/{kind}_bool/not") is True
    values.put(f"/app/values/{kind}_string", None, "Hi {{n}}")
    assert values.post(f"/app/values/{kind}_string/render", {"n": "Ann"}) == "Hi Ann"


@each_kind
@pytest.mark.parametrize("verb, path, key, body, statuses", [
    ("GET", "number", 1, None, {404}),
    ("GET", "number/nope", None, None, {404}),
    ("PUT", "number", 1, 5, {400, 404, 405}),
    ("PUT", "tuple", 9, "x", {400, 404}),
    ("PUT", "tuple", "a", "x", {400, 404}),
    ("PUT", "number/add", 1, 5, {400, 404, 405}),
    ("PUT", "map", "a b", 5, {400}),
    ("DELETE", "number", 1, None, {400, 404, 405}),
    ("GET", "number/chain", 1, None, {400, 404}),
    ("GET", "number/chain", -1, None, {400}),
    ("GET", "number/chain", "first", None, {400}),
    ("PUT", "number/chain", None, 5, {405}),
    ("POST", "number/chain", None, {}, {405}),
    ("DELETE", "number/chain", None, None, {405}),
    ("GET", "map", "absent", None, {404}),
    ("PUT", "number", None, {"$x": []}, {400, 404}),
    ("PUT", "number", None, {"/error/forbidden": ["no"]}, {400, 403}),
], ids=str)
def test_a_wrong_request_to_a_chain_changes_nothing(values, kind, verb, path, key, body, statuses):
    before = [chain(values, kind, name) for name in INITIAL]
    status, _ = call(values, verb, f"/app/values/{kind}_{path}", body, key=key)
    assert status in statuses
    assert [chain(values, kind, name) for name in INITIAL] == before


# Chain literals

LINKED = [["", {"1-1": [["/", None, 7]]}]]
LINKED.append([base64.b64encode(tbon.block_hash(LINKED[0])).decode(), {"2-1": [["/", None, 8]], "10-1": [["/", None, 9]]}])
BROKEN = [LINKED[0], [base64.b64encode(bytes(32)).decode(), {"2-1": [["/", None, 8]]}]]
HEX = [LINKED[0], [tbon.block_hash(LINKED[0]).hex(), LINKED[1][1]]]


@pytest.mark.parametrize("literal, value", [
    ({"/state/chain/sync": [0, 5]}, 5),
    ({"/state/chain/sync": ["a", "b"]}, "b"),
    ({"/state/chain/sync": [{"a": 1}, {"a": 2}]}, {"a": 2}),
    ({"/state/chain/sync": [[1], [1, 2]]}, [1, 2]),
    ({"/state/chain/sync": [0]}, 0),
    ({"/state/chain/block": [0]}, 0),
    ({"/state/chain/block": [0, []]}, 0),
    ({"/state/chain/block": [0, LINKED[:1]]}, 7),
    ({"/state/chain/block": [0, LINKED]}, 9),
    ({"/state/chain/block": [0, HEX]}, 9),
    ({"/state/chain/block": [{}, [["", {"1-1": [["/", "a", 1], ["/", "b", 2], ["/", "a"]]}]]]}, {"b": 2}),
], ids=str)
def test_a_chain_literal_holds_its_value(host, literal, value):
    support.assert_reply(post(host, [["c", literal], ["r", {"$c": [None]}]]), 200, value)


@pytest.mark.parametrize("literal", [
    {"/state/chain/sync": [{"a": 1}, {"a": 2}]}, {"/state/chain/block": [0, LINKED]}], ids=["sync", "block"])
def test_a_chain_literal_is_answered_as_it_was_sent(host, literal):
    support.assert_reply(post(host, [["c", literal], ["r", {"$c/chain": [None]}]]), 200, literal)


def test_a_chain_literal_whose_hashes_do_not_follow_is_refused(host):
    support.assert_reply(post(host, [["c", {"/state/chain/block": [0, BROKEN]}], ["r", {"$c": [None]}]]), 400)


@each_kind
def test_a_chain_literal_can_be_written(host, kind):
    program = [
        ["c", {f"/state/chain/{kind}": [0]}],
        ["r", {"/state/scalar/ref/after": [{"$c": [None, 5]}, {"$c/add": [1]}]}]]
    support.assert_reply(post(host, program), 200, 6)


@each_kind
def test_what_a_service_answers_is_a_literal(values, kind):
    values.put(f"/app/values/{kind}_map", "b", 2)
    values.delete(f"/app/values/{kind}_map", "a")
    literal = values.get(f"/app/values/{kind}_map/chain")
    assert values.post(HYPOTHETICAL, [["c", literal], ["r", {"$c": [None]}]]) == {"b": 2}


# Chains that are made inside an op

@each_kind
def test_an_op_makes_a_chain_of_its_own_in_each_call(host, kind):
    op = {OP + "/get": ["k", [
        ["c", {f"/state/chain/{kind}": [{"$k": []}]}], ["next", {"$c/add": [1]}], ["set", {"$c": [None, {"$next": []}]}],
        ["_return", {R + "/after": [{"$set": []}, {"$c": [None]}]}]]]}
    program = [["f", op], ["a", {"$f": [1]}], ["b", {R + "/after": [{"$a": []}, {"$f": [1]}]}], ["r", [{"$a": []}, {"$b": []}]]]
    support.assert_reply(post(host, program), 200, [2, 2])


def test_a_chain_in_an_op_is_made_as_the_client_writes_it(host):
    @tc.post_op
    def example(txn) -> tc.Number:
        txn.chain = tc.chain.Block(tc.Map({}))
        return tc.After(tc.ref.Put(tc.URI("$chain"), "a", 5), tc.ref.Get(tc.URI("$chain")))

    cxt = tc.Context()
    cxt.example = example
    cxt.result = cxt.example()
    assert host.post(HYPOTHETICAL, cxt) == {"a": 5}


@each_kind
def test_a_class_is_an_empty_value_only_where_a_chain_is_declared(host, kind):
    chain = f"/state/chain/{kind}"
    program = [
        ["c", {chain: [None]}], ["set", {"$c": [None, {N: {}}]}],
        ["r", {R + "/after": [{"$set": []}, {"$c/chain": [None]}]}]]
    support.assert_reply(post(host, [["c", {chain: [{V + "/string": {}}]}], ["r", {"$c": [None]}]]), 200, "")
    status, reply = post(host, program)
    assert (status, reply[chain][0]) == (200, None)
    support.assert_reply(post(host, [["c", reply], ["r", {"$c": [None]}]]), 200, {N: []})
