"""HTTP and the native paths: protocol page 01, sections 1 and 2.7."""

import base64
import http.client
import uuid

import pytest
import requests

import support
from support import HYPOTHETICAL, N, STATUS, V


# Verbs and paths

@pytest.mark.parametrize("verb", ["HEAD", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/state", HYPOTHETICAL, "/nope"])
def test_other_verbs_are_not_allowed(host, verb, path):
    status, _ = support.call(host, verb, path)
    assert status == 405


@pytest.mark.parametrize("path", ["/state/", "/state//scalar", "//state", HYPOTHETICAL + "/", "/a/../b", "/a$b"])
def test_a_malformed_path_is_a_bad_request(host, path):
    support.assert_reply(support.call(host, "GET", path), 400)


def test_escapes_in_the_path_are_not_decoded(host):
    support.assert_reply(support.call(host, "GET", V + "/%73tring", key="a"), 404)


@pytest.mark.parametrize("verb", ["PUT", "POST"])
@pytest.mark.parametrize("body", ["", "1 2", "[] x", "{", "[1,]", '"open', "\x01"])
def test_a_body_is_exactly_one_json_value(host, verb, body):
    support.assert_reply(support.call(host, verb, HYPOTHETICAL, raw=body), 400)


def test_space_around_the_body_is_fine(host):
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, raw=" \r\n\t[1, 2]\n "), 200, [1, 2])


@pytest.mark.parametrize("verb, path, body, status", [
    ("GET", "/?key=1", None, 404),
    ("PUT", "/", {"http://127.0.0.1:1/a": []}, 200),
    ("PUT", "/", 5, 405),
    ("POST", "/", {}, 200),
    ("POST", "/", {"a": 1}, 405),
    ("POST", "/", 5, 400),
    ("DELETE", "/", None, 405),
    ("PUT", V + "/string", 1, 405),
    ("DELETE", V + "/string", None, 405),
    ("PUT", "/state/map", 1, 405),
    ("DELETE", "/state/map", None, 405),
    ("GET", "/nope", None, 404),
    ("PUT", "/nope", 1, 404),
    ("POST", "/nope", {}, 404),
    ("DELETE", "/nope", None, 404),
    ("GET", "/transact/execute", None, 404),
    ("POST", "/transact/execute", [], 404),
    ("GET", "/state/object/class", None, 404),
    ("GET", "/state/chain/sync", None, 404),
    ("GET", N + "/int/8?key=1", None, 404),
])
def test_a_native_path_answers_its_verbs(host, verb, path, body, status):
    path, _, query = path.partition("?")
    support.assert_reply(support.call(host, verb, path, body, query=query), status)


def test_the_actor_of_hypothetical_transactions_has_a_public_key(host):
    status, key = support.call(host, "GET", HYPOTHETICAL)
    assert status == 200
    assert support.is_public_key(key)


def test_a_hypothetical_transaction_can_be_forgotten(host):
    support.assert_reply(support.call(host, "DELETE", HYPOTHETICAL), 200, None)


# The query

def test_a_key_is_form_urlencoded_json(host):
    support.assert_reply(support.call(host, "GET", V + "/string", query="key=%22Hello%22"), 200, "Hello")
    support.assert_reply(support.call(host, "GET", V + "/string", query="key=%22a+b%2Bc%22"), 200, "a b+c")
    support.assert_reply(support.call(host, "GET", V + "/string", query="key=%22%C3%A9%22"), 200, "é")
    support.assert_reply(support.call(host, "GET", V + "/string", query="key=not+json"), 400)


def test_the_last_of_several_keys_wins(host):
    support.assert_reply(support.call(host, "GET", "/state", query="key=1&key=2"), 200, 2)


def test_unknown_query_parameters_are_ignored(host):
    support.assert_reply(support.call(host, "GET", "/state", query="x=%5B&key=1&y"), 200, 1)


def test_no_key_is_null(host):
    support.assert_reply(support.call(host, "GET", "/state"), 200, None)


@pytest.mark.parametrize("key, status, expected", [
    ({V + "/string": "a"}, 200, "a"),
    ({N: 5}, 200, 5),
    ({N: "5"}, 200, 5),
    ({N + "/complex/64": [1, 2]}, 200, {N + "/complex/64": [1, 2]}),
    ({V + "/bytes": "YWI="}, 200, "YWI="),
    ({V + "/none": None}, 200, None),
    ({V + "/tuple": [1]}, 200, [1]),
    ({"/a/b": []}, 200, {"/a/b": []}),
    ({"/a/b": {}}, 200, {"/a/b": []}),
    ({"name": []}, 200, {"name": []}),
    ([1, [True, "a"], None], 200, [1, [True, "a"], None]),
    ({"$x": []}, 400, None),
    ({}, 400, None),
    ({"a": 1}, 400, None),
    ({"/a": [], "/b": []}, 400, None),
    ({V + "/tuple": 5}, 400, None),
    ({V + "/string": [1]}, 400, None),
], ids=str)
def test_a_key_is_a_value(host, key, status, expected):
    support.assert_reply(support.call(host, "GET", "/state", key=key), status, expected)


def test_a_key_may_be_nested_100_levels(host):
    nested = 1
    for _ in range(100):
        nested = [nested]

    support.assert_reply(support.call(host, "GET", "/state", key=nested), 200, nested)


@pytest.mark.parametrize("txn_id", ["", "1", "-", "a-b", "1-", "-1", "1-70000", "1-1-1", "99999999999999999999999-1", "%221-1%22"])
def test_a_malformed_transaction_id_is_a_bad_request(host, txn_id):
    support.assert_reply(support.call(host, "GET", "/state", query=f"txn_id={txn_id}"), 400)


# Headers

@pytest.mark.parametrize("content_type", [
    None, "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_is_json_whatever_curl_says(host, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, [1], headers=headers), 200, [1])


@pytest.mark.parametrize("accept", ["gzip, deflate", "gzip;q=1.0, identity;q=0.5", "*", "identity", ""])
def test_any_accepted_encoding_gets_a_reply(host, accept):
    url = support.address(host) + HYPOTHETICAL
    reply = requests.post(url, data=b"[1]", headers={"Accept-Encoding": accept}, timeout=30)
    assert (reply.status_code, reply.json()) == (200, [1])


def test_a_reply_is_labelled_as_json(host):
    connection = http.client.HTTPConnection("127.0.0.1", support.port_of(host), timeout=30)
    for path in ["/state", "/nope"]:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.getheader("Content-Type").split(";")[0] == "application/json"
        assert response.read()

    connection.close()


@pytest.mark.parametrize("token", ["Basic x", "x", "Bearer x", "Bearer", "Bearer a.b.c", "bearer "])
def test_a_bad_token_is_unauthorized(host, token):
    support.assert_reply(support.call(host, "GET", "/state", headers={"Authorization": token}), 401)


# Errors

@pytest.mark.parametrize("name", STATUS)
def test_every_error_has_its_status_and_names_itself(host, name):
    status, reply = support.call(host, "GET", f"/error/{name}", key="later")
    assert (status, reply) == (STATUS[name], {f"/error/{name}": "later"})


@pytest.mark.parametrize("key, message", [(5, "5"), ({"name": []}, "name"), ({"/a/b": []}, "/a/b")], ids=str)
def test_an_error_message_may_be_a_number_an_id_or_a_link(host, key, message):
    assert support.call(host, "GET", "/error/not_found", key=key) == (404, {"/error/not_found": message})


@pytest.mark.parametrize("key", [None, [1]], ids=str)
def test_an_error_needs_a_message(host, key):
    support.assert_reply(support.call(host, "GET", "/error/conflict", key=key), 400)


def test_an_unknown_error_is_not_found(host):
    support.assert_reply(support.call(host, "GET", "/error/unknown", key="m"), 404)


# The static tree

UUID = uuid.UUID("936da01f-9abd-4d9d-80c7-02af85c822a8")


@pytest.mark.parametrize("path, status", [
    ("/state/scalar/op", 404), ("/state/scalar/op/get", 400), ("/state/scalar/op/delete", 400), ("/state/scalar/ref", 404),
    ("/state/scalar/ref/if", 400), ("/state/scalar/ref/with", 400), ("/state/scalar/ref/op/post", 400), ("/state/scalar/map", 400),
    ("/state/scalar/tuple", 400), ("/state/object/class", 404), ("/state/chain", 404), ("/state/chain/sync", 404),
    ("/state/closure", 404), ("/state/stream", 404), ("/state/class", 404), (N + "/int/8", 404)])
def test_nothing_is_cast_into_a_class_of_programs(host, path, status):
    support.assert_reply(support.call(host, "GET", path, key=[1, 2]), status)


@pytest.mark.parametrize("path, key, status, expected", [
    ("/state", [1, "a", None], 200, [1, "a", None]),
    ("/state/scalar", 5, 200, 5),
    ("/state/map", [["a", 1], ["b", "x"]], 200, {"a": 1, "b": "x"}),
    ("/state/map", 5, 400, None),
    ("/state/map", [1, 2], 400, None),
    ("/state/tuple", [1, 2], 200, [1, 2]),
    ("/state/tuple", 5, 400, None),
    (V + "/id/uuid", str(UUID), 200, {str(UUID): []}),
    (V + "/string/uuid", str(UUID), 200, str(UUID)),
    (V + "/bytes/uuid", str(UUID), 200, base64.b64encode(UUID.bytes).decode()),
    (V + "/string/uuid", {str(UUID): []}, 200, str(UUID)),
    (V + "/string/uuid", "no uuid", 400, None),
    (V + "/string/uuid", None, 400, None),
])
def test_static_paths(host, path, key, status, expected):
    support.assert_reply(support.call(host, "GET", path, key=key), status, expected)


def test_post_on_a_native_class_defines_a_class(host):
    reply = support.call(host, "POST", N, {"base": 10})
    support.assert_reply(reply, 200, {"/state/object/class": {N: {"base": 10}}})


# Casts: (class, key, reply), where BAD means that there is no such cast

class BAD:
    """What cannot be cast."""


@pytest.mark.parametrize("path, key, expected", [
    (V + "/none", 5, None),
    (N, None, False),
    (N + "/int", None, 0),
    (N + "/bool", None, False),
    (V + "/string", None, "None"),
    (V + "/bytes", None, ""),
    (V + "/id", None, BAD),
    (V + "/link", None, {"/": []}),
    (V + "/tuple", None, BAD),
    (V + "/string", True, "true"),
    (N + "/int", True, 1),
    (V + "/bytes", True, BAD),
    (V + "/id", True, BAD),
    (V + "/string", 5, "5"),
    (V + "/string", -2.5, "-2.5"),
    (V + "/link", 5, {"/5": []}),
    (V + "/link", -5, BAD),
    (V + "/id", 5, BAD),
    (V + "/tuple", 5, BAD),
    (N, "5", 5),
    (N, " 3.5 ", 3.5),
    (N, "+5", 5),
    (N, "-7", -7),
    (N, "1e3", 1000),
    (N, "", BAD),
    (N, "0x10", BAD),
    (N, "inf", BAD),
    (N, "nan", BAD),
    (N, "1.5.2", BAD),
    (N, "1+2i", {N + "/complex/64": [1, 2]}),
    (V + "/id", "name", {"name": []}),
    (V + "/id", "a b", BAD),
    (V + "/link", "/a/b", {"/a/b": []}),
    (V + "/link", "http://127.0.0.1:8702/a", {"http://127.0.0.1:8702/a": []}),
    (V + "/link", "a", BAD),
    (V + "/bytes", "YWI=", "YWI="),
    (V + "/tuple", "a", BAD),
    (V + "/string", {"name": []}, "name"),
    (V + "/link", {"name": []}, {"/name": []}),
    (N, {"5": []}, 5),
    (V + "/string", {"/a/b": []}, "/a/b"),
    (N, {"/a": []}, BAD),
    (N, [5], 5),
    (N, [1, 2], {N + "/complex/64": [1, 2]}),
    (N, [1, 2, 3], BAD),
    (V + "/string", [1, 2], "(1, 2)"),
    (V + "/bytes", [1, 2], "AQI="),
    (V + "/id", ["a"], BAD),
    (V + "/link", ["a", "b"], {"/a/b": []}),
    (V + "/tuple", [1, 2], [1, 2]),
    (N + "/int/16", 300.7, 300),
    (N + "/int", -1.9, -1),
    (N + "/uint/8", 300, 44),
    (N + "/uint/64", -5, 18446744073709551611),
    (N + "/uint/64", -5.5, 0),
    (N + "/int/64", 1e300, 2**63 - 1),
    (N + "/bool", 0.0, False),
    (N + "/bool", -3, True),
    (N + "/float", 5, 5),
    (N + "/float/64", 2**53, 2**53),
    (N + "/int", {N + "/complex/64": [3, 4]}, 3),
    (N + "/complex", 3, {N + "/complex/64": [3, 0]}),
    (N + "/complex", False, {N + "/complex/32": [0, 0]}),
], ids=support.name)
def test_get_on_a_class_casts_the_key(host, path, key, expected):
    reply = support.call(host, "GET", path, key=key)
    if expected is BAD:
        support.assert_reply(reply, 400)
    else:
        support.assert_reply(reply, 200, expected)


# What is not there yet says so

def test_a_tensor_is_not_implemented(host):
    body = [["t", {"/state/collection/tensor/dense": [[[3], {N: {}}]]}], ["r", {"$t/sum": [None]}]]
    support.assert_reply(support.call(host, "POST", HYPOTHETICAL, body), 501)
