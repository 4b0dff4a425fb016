"""
What a write answers and what it keeps: how many rows it touched, and the class of a value chain. What parameters must be.
"""

import concurrent.futures
import json
import subprocess
import urllib.parse

import pytest
import requests
import tinychain as tc

import support
from support import HYPOTHETICAL, N, OP, R, V

BT = "/state/collection/btree"
TB = "/state/collection/table"
I64 = N + "/int/64"
ROWS = "tinychain-rows"
AFTER = R + "/after"
SYNC = "/state/chain/sync"
BLOCK = "/state/chain/block"


def table(kind):
    return {kind: [{TB: [[[[["id", {I64: {}}]], [["q", {I64: {}}]]], [["by_q", ["q"]]]]]}]}


def tree(kind):
    return {kind: [{BT: [[["n", {I64: {}}], ["m", {I64: {}}]]]}]}


def post(*entries):
    return {OP + "/post": [list(entry) for entry in entries]}


VALUES = {
    "number": 0, "flag": False, "text": "", "list": [1], "map": {"a": 1}, "anything": None, "link": {V + "/link": "/a"},
    "bytes": {V + "/bytes": "YWI="}, "float": 1.5, "class": {N + "/int/32": {}},
}

CONFIG = {
    "/app/writes": {
        "table": table(SYNC), "history": table(BLOCK), "tree": tree(SYNC), "log": tree(BLOCK),
        **{name: {SYNC: [value]} for name, value in VALUES.items()},
        **{"block_" + name: {BLOCK: [value]} for name, value in VALUES.items()},
        "Money": {N: {"twice": {OP + "/get": ["key", [["_return", {"$self/mul": [2]}]]]}}},
        "set_number": post(["_return", {"$self/number": [None, {"$x": []}]}]),
        "set_instance": post(["m", {"/app/writes/Money": [{"$x": []}]}], ["_return", {"$self/number": [None, {"$m": []}]}]),
        "two_rows": post(["_return", [{"$self/table": [[1], [10]]}, {"$self/history": [[2], [20]]}]]),
        "everywhere": post(["_return", [
            {"$self/table": [[1], [10]]}, {"$self/number": [None, 1]}, {"/app/other/put_two": {}},
            {R + "/op/delete": ["$self/tree", None]}]]),
        "nothing": post(["_return", 5]),
        "refused": post(["_return", {AFTER: [{"$self/table": [[1], [10]]}, {"/error/bad_request": ["no"]}]}]),
        "put": {OP + "/put": ["key", "value", [["_return", None]]]},
        "update_all": post(["rows", {"$self/table/rows": {}}], ["_return", {"$rows/for_each": {"op": {
            R + "/with": [["self"], {OP + "/get": ["row", [
                ["id", {"$row": [0]}], ["_return", {"$self/table": [[{"$id": []}], {"q": 7}]}]]]}]}}}]),
        "add": post(["_return", {"$n/add": [{"$m": []}]}]),
        "either": post(["_return", {R + "/if": [{"$c": []}, {"$a": []}, {"$b": []}]}]),
        "half": {OP + "/get": ["size", [["_return", {"$size/div": [2]}]]]},
        "shown": post(["_return", {"$template/render": {"x": 1}}]),
        "counted": post(["_return", {"$self/table/count": [None]}]),
        "store": {OP + "/put": ["key", "value", [["_return", {"$self/number": [None, {"$value": []}]}]]]},
        "outer": post(["_return", {"/app/other/inner": {"deep": {"$wide": []}}}]),
        "raised": post(["_return", {"/error/bad_request": [{"$why": []}]}]),
    },
    "/app/other": {
        "table": table(SYNC),
        "put_two": post(["_return", [{"$self/table": [[1], [10]]}, {"$self/table": [[2], [20]]}]]),
        "inner": post(["_return", {"$deep/add": [{"$missing": []}]}]),
    },
}

T = "/app/writes/table"


@pytest.fixture(scope="module")
def writes(tmp_path_factory):
    host = support.start(support.new_host(tmp_path_factory.mktemp("writes"), CONFIG))
    yield host
    host.stop(wait_time=0)


@pytest.fixture(autouse=True)
def empty(writes):
    for path in (T, "/app/writes/history", "/app/other/table"):
        for [key, _] in writes.get(path + "/rows"):
            requests.delete(support.address(writes) + path, params={"key": json.dumps([key])}, timeout=60)
    for path in ("/app/writes/tree", "/app/writes/log"):
        writes.delete(path)


def rows_of(host, verb, path, body=None, key=None, data=None, **headers):
    """How many rows a request says that it touched; none if it does not say. It must succeed."""

    params = None if key is None else {"key": json.dumps(key)}
    data = json.dumps(body) if data is None and verb in ("PUT", "POST") else data
    reply = requests.request(verb, support.address(host) + path, params=params, data=data, timeout=60, headers={
        name.replace("_", "-"): value for name, value in headers.items()})
    assert reply.status_code == 200, reply.text
    return int(reply.headers[ROWS]) if ROWS in reply.headers else None


# How many rows

@pytest.mark.parametrize("path", [T, "/app/writes/history"])
def test_rows_of_a_table_one_by_one(writes, path):
    assert rows_of(writes, "PUT", path, {"q": 5}, key=[1]) == 0  # an update of a row that is absent
    assert rows_of(writes, "DELETE", path, key=[1]) == 0
    assert rows_of(writes, "PUT", path, [10], key=[1]) == 1
    assert rows_of(writes, "PUT", path, [10], key=[1]) == 1  # the same again
    assert rows_of(writes, "PUT", path, {"q": 11}, key=[1]) == 1
    assert rows_of(writes, "DELETE", path, key=[1]) == 1
    assert rows_of(writes, "DELETE", path, key=[1]) == 0
    assert rows_of(writes, "GET", path) is None
    assert rows_of(writes, "GET", path, key=[1]) is None


@pytest.mark.parametrize("path", [T, "/app/writes/history"])
@pytest.mark.parametrize("content_type, body", [
    ("application/json", "[[1, 10], [2, 20], [3, 30]]"), ("text/csv", "id,q\n1,10\n2,20\n3,30\n")])
def test_rows_in_bulk(writes, path, content_type, body):
    assert rows_of(writes, "PUT", path, data=body, Content_Type=content_type) == 3
    assert rows_of(writes, "PUT", path, data="id,q\n", Content_Type="text/csv") == 0
    assert rows_of(writes, "PUT", path, data="[]", Content_Type="application/json") == 0


@pytest.mark.parametrize("path", ["/app/writes/tree", "/app/writes/log"])
def test_keys_of_a_tree_and_ranges_of_them(writes, path):
    assert rows_of(writes, "DELETE", path) == 0
    assert rows_of(writes, "PUT", path, [1, 1]) == 1
    assert rows_of(writes, "PUT", path, [[1, 2], [2, 1], [3, 1]]) == 3
    assert rows_of(writes, "DELETE", path, key=[9]) == 0
    assert rows_of(writes, "DELETE", path, key=[1]) == 2
    assert rows_of(writes, "DELETE", path) == 2  # truncated


def test_rows_that_do_not_fit_in_memory(tmp_path):
    host = support.start(support.new_host(tmp_path, CONFIG, cache_size="10M"))
    try:
        text = "id,q\n" + "".join(f"{i},{i % 7}\n" for i in range(200_000)) + "5,5\n"
        assert rows_of(host, "PUT", T, data=text, Content_Type="text/csv") == 200_001
        assert host.get(T + "/count") == 200_000
    finally:
        host.stop(wait_time=0)


@pytest.mark.parametrize("prefix", ["", "block_"])
def test_values_are_one_row(writes, prefix):
    path = f"/app/writes/{prefix}map"
    assert rows_of(writes, "PUT", path, {"b": 1}) == 1
    assert rows_of(writes, "PUT", path, 5, key="c") == 1
    assert rows_of(writes, "DELETE", path, key="c") == 1
    assert rows_of(writes, "DELETE", path) == 1
    assert rows_of(writes, "PUT", path, {}) == 1
    assert rows_of(writes, "GET", path) is None


def test_a_transaction_answers_the_sum_of_all_services(writes):
    assert rows_of(writes, "POST", "/app/writes/two_rows", {}) == 2
    rows_of(writes, "PUT", "/app/writes/tree", [[1, 1], [2, 2], [3, 3]])
    assert rows_of(writes, "POST", "/app/writes/everywhere", {}) == 1 + 1 + 2 + 3


def test_an_update_of_many_rows_answers_how_many(writes):
    rows_of(writes, "PUT", T, [[i, 0] for i in range(25)])
    assert rows_of(writes, "POST", "/app/writes/update_all", {}) == 25
    assert {q for _, q in writes.get(T + "/rows")} == {7}


def test_who_does_not_write_does_not_say(writes):
    assert rows_of(writes, "POST", "/app/writes/nothing", {}) is None
    assert rows_of(writes, "POST", "/app/writes/counted", {}) is None
    assert rows_of(writes, "POST", HYPOTHETICAL, [["x", 1]]) is None
    assert rows_of(writes, "PUT", "/app/writes/put", 1) == 0  # a PUT is a write, whatever comes of it


def test_a_hypothetical_write_answers_how_many_it_would_touch(writes):
    body = [["w", {"/app/writes/two_rows": {}}]]
    assert rows_of(writes, "POST", HYPOTHETICAL, body) == 2
    assert writes.get(T + "/count") == 0


def test_what_failed_touched_nothing(writes):
    reply = requests.post(support.address(writes) + "/app/writes/refused", data="{}", timeout=60)
    assert reply.status_code == 400 and ROWS not in reply.headers


def test_a_retried_write_counts_once(writes):
    def write(i):
        return rows_of(writes, "POST", "/app/writes/two_rows", {})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert set(pool.map(write, range(100))) == {2}


def test_http2_says_it_too(writes):
    url = support.address(writes) + T
    reply = subprocess.run(
        ["curl", "-s", "-i", "--http2-prior-knowledge", "-X", "PUT", url, "-d", "[[1, 1], [2, 2]]"],
        capture_output=True, text=True, timeout=30, check=True).stdout
    assert reply.startswith("HTTP/2 200") and f"{ROWS}: 2" in reply


# HEAD

@pytest.mark.parametrize("path", ["/version", "/state", T, "/nope"])
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_a_head_has_no_body(writes, path, version):
    ended = subprocess.run(
        ["curl", "-s", "-S", "-I", version, support.address(writes) + path], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split()[1] == "405" and "content-type: application/json" in ended.stdout


# The class of a value chain

GOOD = {
    "number": [1, -2.5, 2**64 - 1, {N + "/complex/64": [1, 2]}, {N + "/int/16": 5}],
    "float": [2, 0.5], "class": [7, 0.5],
    "flag": [True, False], "text": ["x", "é", ""], "list": [[[]], [1, "a", [None]], {V + "/tuple": [1]}],
    "map": [{}, {"x": [1, {"y": None}]}], "link": [{"/b/c": []}, {V + "/link": "/x"}],
    "bytes": [{V + "/bytes": "AAA="}], "anything": [1, "x", None, [1], {"a": 1}, True],
}
BAD = {
    "number": ["1", None, True, [1], {}, {"/a": []}], "float": ["x", None], "class": ["1", True],
    "flag": [0, 1, "true", None], "text": [1, None, [], {}], "list": [1, {}, None, "x"], "map": [[], None, 1, [["a", 1]]],
    "link": ["/a", None, 1], "bytes": [1, [1, 2], None],
}


def each(values):
    cases = [(prefix + name, value) for prefix in ("", "block_") for name in values for value in values[name]]
    return pytest.mark.parametrize("name, value", cases, ids=str)


@each(GOOD)
def test_a_value_chain_takes_its_class(writes, name, value):
    path = "/app/writes/" + name
    assert support.call(writes, "PUT", path, raw=json.dumps(value)) == (200, None)
    status, shown = support.call(writes, "POST", HYPOTHETICAL, raw=json.dumps(value))
    assert support.call(writes, "GET", path) == (200, shown)


@each(BAD)
def test_a_value_chain_refuses_every_other_class(writes, name, value):
    path = "/app/writes/" + name
    kept = GOOD[name.removeprefix("block_")][0]
    assert support.call(writes, "PUT", path, raw=json.dumps(kept))[0] == 200
    before = support.call(writes, "GET", path)
    history = support.call(writes, "GET", path + "/chain")
    program = [["w", {path: [None, value]}]]
    for reply in (support.call(writes, "PUT", path, raw=json.dumps(value)), support.call(writes, "POST", HYPOTHETICAL, program)):
        support.assert_reply(reply, 400)
        assert "declared" in str(reply[1])
    assert support.call(writes, "GET", path) == before
    assert support.call(writes, "GET", path + "/chain") == history


def test_programs_instances_and_entries(writes):
    number = "/app/writes/number"
    for method in ("set_number", "set_instance"):
        assert support.call(writes, "POST", "/app/writes/" + method, {"x": 12})[0] == 200
        assert writes.get(number) == 12
        for bad in ("x", [1, 2, 3]):
            support.assert_reply(support.call(writes, "POST", "/app/writes/" + method, {"x": bad}), 400)
        assert writes.get(number) == 12

    assert support.call(writes, "PUT", "/app/writes/map", "text", key="entry") == (200, None)
    assert writes.get("/app/writes/map")["entry"] == "text"
    assert support.call(writes, "PUT", "/app/writes/list", [None]) == (200, None)
    assert support.call(writes, "PUT", "/app/writes/list", "text", key=0) == (200, None)
    assert writes.get("/app/writes/list") == ["text"]


@pytest.mark.parametrize("kind", [SYNC, BLOCK])
def test_a_chain_in_a_program_keeps_its_class_too(writes, kind):
    chain = ["c", {kind: [0]}]
    result = ["r", {AFTER: [{"$w": []}, {"$c": [None]}]}]
    support.assert_reply(support.call(writes, "POST", HYPOTHETICAL, [chain, ["w", {"$c": [None, 5]}], result]), 200, 5)
    support.assert_reply(support.call(writes, "POST", HYPOTHETICAL, [chain, ["w", {"$c": [None, "x"]}], result]), 400)


def test_a_literal_of_a_chain_has_a_subject_of_its_class(writes):
    support.assert_reply(support.call(writes, "POST", HYPOTHETICAL, {SYNC: [0, "x"]}), 400)
    support.assert_reply(support.call(writes, "POST", HYPOTHETICAL, {SYNC: [0, 5]}), 200, {SYNC: [0, 5]})


def test_a_deleted_value_is_null_until_it_is_set_again_and_after_a_restart(tmp_path):
    host = support.start(support.new_host(tmp_path, CONFIG))
    try:
        for name in ("number", "block_number"):
            path = "/app/writes/" + name
            assert support.call(host, "PUT", path, 5) == (200, None)
            assert support.call(host, "DELETE", path) == (200, None)
            assert support.call(host, "GET", path) == (200, None)

        support.kill(host)
        support.start(host)
        for name in ("number", "block_number"):
            path = "/app/writes/" + name
            support.assert_reply(support.call(host, "PUT", path, "x"), 400)
            assert support.call(host, "PUT", path, 6) == (200, None)
            shown = support.call(host, "GET", path + "/chain")[1]
            support.assert_reply(support.call(host, "POST", HYPOTHETICAL, shown), 200, shown)
    finally:
        host.stop(wait_time=0)


# Parameters

@pytest.mark.parametrize("method, parameters, name", [
    ("add", {"m": 1}, "n"), ("add", {"n": 1}, "m"), ("either", {"c": True}, "a"), ("either", {"c": False, "a": 1}, "b"),
    ("either", {}, "c"), ("outer", {}, "wide"), ("outer", {"wide": 1}, "missing"), ("shown", {}, "template"),
])
def test_a_parameter_that_is_missing_is_named(writes, method, parameters, name):
    reply = support.call(writes, "POST", "/app/writes/" + method, parameters)
    support.assert_reply(reply, 400)
    assert f"parameter {name}" in str(reply[1])


def test_a_parameter_that_is_not_needed_may_be_missing(writes):
    assert support.call(writes, "POST", "/app/writes/either", {"c": True, "a": 1}) == (200, 1)
    assert support.call(writes, "POST", "/app/writes/add", {"n": 1, "m": 2, "other": 3}) == (200, 3)


@pytest.mark.parametrize("method, parameters, name", [
    ("add", {"n": "five", "m": 1}, "n"), ("add", {"n": {"/a": []}, "m": 1}, "n"), ("add", {"n": None, "m": 1}, "n"),
    ("add", {"n": 1, "m": "five"}, "m"), ("add", {"n": 1, "m": [1, 2, 3]}, "m"), ("shown", {"template": 5}, "template"),
    ("set_number", {"x": "x"}, "x"), ("either", {"c": 5, "a": 1, "b": 1}, None),
])
def test_a_parameter_of_another_class_is_named(writes, method, parameters, name):
    reply = support.call(writes, "POST", "/app/writes/" + method, parameters)
    support.assert_reply(reply, 400)
    assert name is None or f"parameter {name}" in str(reply[1])


def test_keys_and_values_are_parameters(writes):
    assert support.call(writes, "GET", "/app/writes/half", key=10) == (200, 5)
    for reply, name in [
        (support.call(writes, "GET", "/app/writes/half", key="ten"), "size"),
        (support.call(writes, "PUT", "/app/writes/store", "x"), "value"),
    ]:
        support.assert_reply(reply, 400)
        assert f"parameter {name}" in str(reply[1])


def test_an_error_that_is_raised_is_not_touched(writes):
    reply = support.call(writes, "POST", "/app/writes/raised", {"why": "because"})
    assert list(reply[1].values()) == ["in /app/writes/raised: while resolving _return: because"]


def test_what_the_client_makes_of_a_method(tmp_path):
    class Bank(tc.Cluster):
        __uri__ = tc.URI("/app/bank")

        def _configure(self):
            self.total = tc.chain.Sync(tc.Number(0))

        @tc.post_method
        def pay(self, txn, amount: tc.Number, to: tc.String) -> tc.Number:
            txn.new = self.total + amount
            return tc.After(self.total.set(txn.new), txn.new)

        @tc.get_method
        def with_interest(self, rate: tc.Number) -> tc.Number:
            return self.total * (rate + 1)

    host = support.start(support.new_host(tmp_path, Bank))
    try:
        assert host.post("/app/bank/pay", {"amount": 5, "to": "ada"}) == 5
        assert host.get("/app/bank/with_interest", 1) == 10
        for call, name in [
            (lambda: host.post("/app/bank/pay", {"to": "ada"}), "amount"),
            (lambda: host.post("/app/bank/pay", {"amount": "five", "to": "ada"}), "amount"),
            (lambda: host.get("/app/bank/with_interest", "much"), "rate"),
        ]:
            with pytest.raises(tc.error.BadRequest, match=f"parameter {name}"):
                call()
        assert host.get("/app/bank/total") == 5
    finally:
        host.stop(wait_time=0)
