"""
Bad input of every kind gets a 4xx or a closed connection. The process lives, its memory stays bounded, and other
clients notice nothing: this is checked after every test of this file.
"""

import contextlib
import random
import re
import socket
import time

import httpx
import pytest
import requests

import support
from support import HYPOTHETICAL, N, OP, R, V, call

MB = 1_000_000
MAX_BODY = 4 * MB
# Of all tests of this file together.
MAX_GROWTH = 150 * MB
DEEP = 100_000


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    host = support.new_host(tmp_path_factory.mktemp("target"), flags=[f"--max_body_bytes={MAX_BODY}"])
    support.start(host)
    assert call(host, "GET", "/state", key=1) == (200, 1)
    host.rss_at_start = support.rss(host)
    yield host
    host.stop()


@pytest.fixture(autouse=True)
def the_host_survives(target):
    process = target._process
    yield
    assert process.poll() is None, "the host died"
    assert call(target, "GET", "/state", key=1) == (200, 1)
    # The peak, since the start: what one test takes for a moment counts, and little leaks add up.
    growth = support.peak_memory(target) - target.rss_at_start
    assert growth < MAX_GROWTH, f"{growth} bytes more than at the start"


# Raw requests

@contextlib.contextmanager
def connect(host, timeout=20):
    with socket.create_connection(("127.0.0.1", support.port_of(host)), timeout=timeout) as connection:
        yield connection


def read_all(connection):
    """Everything that the host sends until it closes the connection."""

    reply = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            reply += chunk

    return reply


def send(host, data, half_close=False):
    """Send raw bytes, and return everything that comes back until the host closes the connection."""

    with connect(host) as connection:
        # The host may have closed the connection before all is sent.
        with contextlib.suppress(ConnectionError, OSError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)

        return read_all(connection)


def request(verb, target, body=b"", headers=()):
    if isinstance(target, str):
        target = target.encode()

    lines = [verb.encode() + b" " + target + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers]
    if body:
        lines.append(b"Content-Length: %d" % len(body))

    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def statuses(reply):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", reply)]


def assert_refused(reply, is_answered=True):
    """A 4xx; or nothing but a closed connection, if what came need not be a request."""

    assert statuses(reply) or not is_answered, "no answer"
    assert all(400 <= status < 500 for status in statuses(reply)), reply[:500]


# Bodies

PROGRAM = '[["x", {"a": [1, -2.5e3, "é\\u00e9", null, true]}], ["r", {"$x/a": [2]}]]'


def test_every_truncation_of_a_program_is_a_bad_request(target):
    for end in range(len(PROGRAM)):
        support.assert_reply(call(target, "POST", HYPOTHETICAL, raw=PROGRAM[:end]), 400)


def test_a_mutated_program_never_breaks_the_host(target):
    dice = random.Random(7)
    alphabet = b'[]{},:"\\$/_019.-+eE \x00\x80\xff' + bytes(range(97, 123))
    for _ in range(500):
        program = bytearray(PROGRAM.encode())
        for _ in range(dice.randint(1, 4)):
            program[dice.randrange(len(program))] = dice.choice(alphabet)

        status, _ = call(target, "POST", HYPOTHETICAL, raw=bytes(program))
        assert status == 200 or 400 <= status < 500, (status, bytes(program))


NESTED = [
    ("[", "]"), ('{"a":', "}"), ('{"$x":[', "]}"), ('{"/state/map":{"a":', "}}"), (f'{{"{V}/tuple":[', "]}"),
    (f'{{"{V}/string":', "}"), (f'{{"{OP}/get":["k",[["r",', "]]]}"), (f'{{"{R}/after":[1,', "]}"),
    ('{"/state/object/class":{"a":', "}}"), ('{"/state/chain/sync":[', "]}"), ('[["x",', "]]")]


@pytest.mark.parametrize("opening, closing", NESTED, ids=[opening for opening, _ in NESTED])
def test_a_body_nested_100_000_levels_is_refused(target, opening, closing):
    levels = min(DEEP, MAX_BODY // (len(opening) + len(closing)) - 1)
    for body in [opening * levels + "1" + closing * levels, opening * levels]:
        support.assert_reply(call(target, "POST", HYPOTHETICAL, raw=body), 400)


@pytest.mark.parametrize("opening, closing", NESTED, ids=[opening for opening, _ in NESTED])
def test_a_deeply_nested_entry_of_a_context_is_refused(target, opening, closing):
    body = '[["x", 1], ["r", ' + opening * 20_000 + "1" + closing * 20_000 + "]]"
    support.assert_reply(call(target, "POST", HYPOTHETICAL, raw=body), 400)


@pytest.mark.parametrize("levels", [1000, 20_000, DEEP])
@pytest.mark.parametrize("opening, closing", [("[", "]"), ("%7B%22a%22:", "%7D"), ("%7B%22/a%22:[", "]%7D")])
def test_a_deeply_nested_key_is_refused(target, opening, closing, levels):
    for key in [opening * levels + "1" + closing * levels, opening * levels]:
        assert_refused(send(target, request("GET", "/state?key=" + key)))


@pytest.mark.parametrize("body", [b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'{"\xff": 1}', b'\xfe\xff\x00"\x00a', b'["\xe9"]'])
def test_a_body_that_is_not_utf_8_is_a_bad_request(target, body):
    support.assert_reply(call(target, "POST", HYPOTHETICAL, raw=body), 400)


def chunked(body, size=65536):
    chunks = [body[i:i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


CHUNKED = request("POST", HYPOTHETICAL, headers=[b"Transfer-Encoding: chunked"])


def test_a_body_up_to_the_limit_is_accepted(target):
    text = "a" * (MAX_BODY - 2)
    assert call(target, "POST", HYPOTHETICAL, body=text) == (200, text)


def test_a_body_over_the_limit_is_too_large(target):
    body = b'"' + b"a" * MAX_BODY + b'"'
    assert statuses(send(target, request("POST", HYPOTHETICAL, body)))[:1] in ([413], [])
    assert statuses(send(target, CHUNKED + chunked(body)))[:1] in ([413], [])


def test_a_body_that_only_claims_to_be_huge_is_too_large(target):
    head = request("POST", HYPOTHETICAL, headers=[b"Content-Length: 99999999999999"])
    assert statuses(send(target, head)) == [413]


@pytest.mark.parametrize("verb", ["PUT", "POST"])
def test_a_good_chunked_body_is_accepted(target, verb):
    path = HYPOTHETICAL if verb == "POST" else "/"
    head = request(verb, path, headers=[b"Transfer-Encoding: chunked"])
    body = b"[1, 2]" if verb == "POST" else b'{"/a": []}'
    assert statuses(send(target, head + chunked(body, size=2))) == [200]


@pytest.mark.parametrize("chunks", [
    b"ZZZ\r\n[]\r\n0\r\n\r\n", b"-1\r\n[]\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFF\r\n[]", b"FFFFFFFFFFFFFFFFFFFFFFFF\r\n[]",
    b"2\r\n[]garbage\r\n0\r\n\r\n", b"\x00\x01\x02\x03", b"2;" + b"x" * 100_000 + b"\r\n[]\r\n0\r\n\r\n"], ids=lambda c: ascii(c[:24]))
def test_garbage_for_chunks_is_refused(target, chunks):
    assert_refused(send(target, CHUNKED + chunks, half_close=True), is_answered=False)


@pytest.mark.parametrize("headers", [
    [b"Content-Length: -1"], [b"Content-Length: x"], [b"Content-Length: 2", b"Content-Length: 3"],
    [b"Content-Length: 99999999999999999999999999"], [b"Transfer-Encoding: nonsense"]], ids=str)
def test_a_nonsensical_length_is_refused(target, headers):
    assert_refused(send(target, request("POST", HYPOTHETICAL, headers=headers) + b"[]", half_close=True))


def test_a_body_that_breaks_off_is_refused(target):
    assert_refused(send(target, request("POST", HYPOTHETICAL, headers=[b"Content-Length: 1000"]) + b"[[", half_close=True), is_answered=False)


# URLs and headers

@pytest.mark.parametrize("line", [
    "/" + "a" * MB, "/state?key=%22" + "a" * MB + "%22", "/state?" + "a=1&" * 100_000, "/" + "a/" * 300_000 + "b"],
    ids=["path", "key", "parameters", "segments"])
def test_a_huge_url_is_refused(target, line):
    assert_refused(send(target, request("GET", line)))


@pytest.mark.parametrize("headers", [
    [b"X: " + b"a" * MB], [b"X%d: a" % i for i in range(10_000)], [b"A" * 100_000 + b": a"],
    [b"Authorization: Bearer " + b"a" * MB]], ids=["value", "number", "name", "token"])
def test_huge_headers_are_refused(target, headers):
    assert_refused(send(target, request("GET", "/state", headers=headers)))


@pytest.mark.parametrize("url", [
    b"/\xff\xfe", b"/state?key=%22\xff%22", b"/state?key=%22%FF%22", b"/state?key=%", b"/state?key=%zz", b"/state?key=%00",
    b"/state?key=[", b"/state?key=%7B%22$x%22:[]%7D", b"/state?key=nan", b"/state?key=1e999", b"/\x00", b"state", b"*", b"/a b",
    b"/state?txn_id=x", b"/state?txn_id=1-99999", b"/state?txn_id=%FF", b"/state?txn_id=-", b"/..", b"/~", b"/$x", b"/a:b",
    b"http://", b"/state/../state"], ids=str)
def test_a_malformed_url_is_refused(target, url):
    assert_refused(send(target, request("GET", url)))


@pytest.mark.parametrize("token", [b"", b"Bearer", b"Bearer ", b"Bearer \xff", b"Bearer a.b.c", b"Bearer ...", b"Basic x",
                                   b"Bearer " + b"e30=." * 1000, b"Bearer e30=.e30=.e30="], ids=lambda t: ascii(t[:20]))
def test_a_malformed_token_is_unauthorized(target, token):
    reply = send(target, request("GET", "/state", headers=[b"Authorization: " + token]))
    assert statuses(reply) in ([401], [400], []), reply[:200]


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET /state\r\n\r\n", b"GET /state HTTP/9.9\r\n\r\n", b"G@T /state HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /state HTTP/1.1\r\nno colon\r\n\r\n", b"GET /state HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    bytes(range(256)) * 100, b"A" * MB, b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01" + b"\x80" * 1000],
    ids=lambda data: ascii(data[:30]))
def test_what_is_not_http_is_refused(target, data):
    assert_refused(send(target, data, half_close=True), is_answered=False)


# Connections

def assert_others_are_served(host, number=20):
    for i in range(number):
        assert call(host, "GET", "/state", key=i) == (200, i)


def test_slow_clients_do_not_hold_up_others(target):
    """Each sends a byte at a time, and then nothing more."""

    data = request("POST", HYPOTHETICAL, b"[1, 2, 3]")
    head = data.index(b"\r\n\r\n") + 4
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(target)) for _ in range(60)]
        for i in range(20):
            for connection in slow[:20]:  # stop within the first line
                connection.sendall(data[i:i + 1])

        for connection in slow[20:40]:  # stop within the headers
            connection.sendall(data[:head - 10])

        for connection in slow[40:]:  # stop within the body
            connection.sendall(data[:head + 4])

        assert_others_are_served(target)


def test_a_slow_client_that_finishes_is_served(target):
    data = request("POST", HYPOTHETICAL, b"[1, 2, 3]")
    with connect(target) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            connection.sendall(data[i:i + 1])
            time.sleep(0.001)

        reply = read_all(connection)

    assert statuses(reply) == [200]
    assert b"[1" in reply


def test_idle_connections_do_not_hold_up_others(target):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(target))

        assert_others_are_served(target)


def test_a_client_that_closes_its_half_is_answered_or_dropped(target):
    reply = send(target, request("POST", HYPOTHETICAL, b"[1]"), half_close=True)
    assert statuses(reply) in ([200], [])


def test_clients_that_leave_before_the_answer_do_no_harm(target):
    for _ in range(100):
        with connect(target) as connection:
            connection.sendall(request("POST", HYPOTHETICAL, PROGRAM.encode()))

    assert_others_are_served(target)


def test_clients_that_never_read_do_no_harm(target):
    body = b'"' + b"a" * MB + b'"'
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connect(target, timeout=1))
            # More than the buffers of the kernel hold: the host has to wait with its answers, and to stop reading.
            with pytest.raises(TimeoutError):
                for _ in range(50):
                    connection.sendall(request("POST", HYPOTHETICAL, body))

        assert_others_are_served(target)


def test_pipelined_requests_are_answered_in_order(target):
    def get(i):
        return b"GET /state?key=%d HTTP/1.1\r\nHost: x\r\n\r\n" % i

    pipeline = b"".join(get(1000 + i) for i in range(20)) + request("POST", HYPOTHETICAL, b'"last"')
    reply = send(target, pipeline)
    assert statuses(reply) == [200] * 21
    positions = [reply.index(b"%d" % (1000 + i)) for i in range(20)] + [reply.index(b'"last"')]
    assert positions == sorted(positions)


def test_one_connection_serves_good_requests_after_bad_ones(target):
    with requests.Session() as session:
        url = support.address(target)
        for _ in range(10):
            assert session.get(url + "/nope", timeout=20).status_code == 404
            assert session.post(url + HYPOTHETICAL, data="[1,", timeout=20).status_code == 400
            assert session.post(url + HYPOTHETICAL, data="[1]", timeout=20).json() == [1]


def test_http_2_without_upgrade_is_served_on_the_same_port(target):
    with httpx.Client(http1=False, http2=True, base_url=support.address(target), timeout=20) as client:
        reply = client.get("/state", params={"key": "5"})
        assert (reply.http_version, reply.status_code, reply.json()) == ("HTTP/2", 200, 5)

        reply = client.post(HYPOTHETICAL, content=PROGRAM)
        assert (reply.http_version, reply.status_code, reply.json()) == ("HTTP/2", 200, "éé")

        reply = client.get("/nope")
        assert (reply.http_version, reply.status_code) == ("HTTP/2", 404)

        reply = client.post(HYPOTHETICAL, content=b"[1,")
        assert (reply.http_version, reply.status_code) == ("HTTP/2", 400)


# Values that broke the reference host

@pytest.mark.parametrize("body", [
    [["x", -2**63], ["r", {"$x/div": [-1]}]],
    [["x", 2], ["r", {"$x/pow": [2**63 - 1]}]],
    [["x", 0], ["r", {"$x/pow": [-1]}]],
    [["x", {N + "/complex": [0, 0]}], ["r", {"$x/pow": [-1]}]],
    [["t", [1]], ["r", {"$t": [1e300]}]],
    [["t", [1]], ["r", {"$t/99999999999999999999999": [None]}]],
    [["s", "{{#each x}}{{#each x}}"], ["r", {"$s/render": {"x": [1]}}]],
    [["s", "{{> s}}"], ["r", {"$s/render": {"x": 1}}]],
    {V + "/link": "http://[::::]/"},
    {V + "/link": "http://127.0.0.1:99999999/"},
    {"http://127.0.0.1:1/app/x": [None]},
    {V + "/bytes": "é"},
    {R + "/case": [[], [], []]},
    {"/state/collection/nope": [1]},
    {"$": []},
    {"$/": []},
    {"$x//y": []},
    {"/": [1]},
    {"": []},
], ids=str)
def test_a_nasty_value_is_a_clear_error(target, body):
    status, reply = call(target, "POST", HYPOTHETICAL, body)
    assert 400 <= status < 500 or status in (501, 502), reply
    support.error_name(reply)
