"""
Heads of requests as they must not be (RFC 9112), and errors that the server of HTTP finds itself: each is a 400 or so, with a
body in JSON that says why, and then the connection ends.
"""

import json
import socket
import subprocess

import pytest

import support

HOST = b"Host: x\r\n"
GOOD = b"GET /state?key=5 HTTP/1.1\r\n" + HOST + b"\r\n"


def exchange(host, sent, pieces=None):
    """Everything that is answered, until the host closes or a second passes."""

    with socket.create_connection(("127.0.0.1", support.port_of(host)), timeout=10) as client:
        client.settimeout(1)
        answer = b""
        try:
            try:
                for piece in pieces or [sent]:
                    client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has answered, and reads no further

            while True:
                data = client.recv(65536)
                if not data:
                    return answer, True
                answer += data
        except TimeoutError:
            return answer, False


def answers(answer):
    """(status, headers, body) of each."""

    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers["content-length"])
        found.append((int(lines[0].split()[1]), headers, rest[:length]))
        answer = rest[length:]

    return found


def assert_refused(status, headers, body, expected=400, part=""):
    assert status == expected, (status, body)
    assert headers["content-type"] == "application/json"
    [(name, message)] = json.loads(body).items()
    assert name.startswith("/error/") and part in message, message


BAD = [
    # bare LF
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "LF"),
    (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400, "LF"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\n", 400, "LF"),
    (b"GET / HTTP/1.1\nHost: x\n\n", 400, "LF"),
    (b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "LF"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX: y\n\r\n{}", 400, "LF"),
    # how long the body is
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 3\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}", 400, "Content-Length"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "Transfer-Encoding"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding"),
    (b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
    # headers
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "another line"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n", 400, "another line"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "colon"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400, ""),
    (b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400, ""),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400, ""),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400, ""),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA\xff: b\r\n\r\n", 400, ""),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000 + b"\r\n", 431, "100 headers"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 300_000 + b"\r\n\r\n", 431, "bytes"),
    # the line of the request
    (b"GET /\r\nHost: x\r\n\r\n", 400, ""),
    (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""),
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, ""),
    (b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""),
    (b"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""),
    (b"nonsense\r\n\r\n", 400, ""),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, ""),  # TLS
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "URL"),
]


@pytest.mark.parametrize("sent, status, part", BAD, ids=[repr(sent[:70]) for sent, _, _ in BAD])
def test_a_bad_head_is_refused_in_json_and_ends_the_connection(host, sent, status, part):
    answer, is_closed = exchange(host, sent)
    [refused] = answers(answer)
    assert_refused(*refused, expected=status, part=part)
    assert is_closed


@pytest.mark.parametrize("sent, status, part", BAD, ids=[repr(sent[:70]) for sent, _, _ in BAD])
def test_what_came_before_it_is_answered_first(host, sent, status, part):
    post = b"POST /transact/hypothetical HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n[\n1\n]"
    chunked = b"POST /transact/hypothetical HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\n\n5\n\r\n0\r\n\r\n"
    answer, is_closed = exchange(host, GOOD + post + chunked + sent)
    first, second, third, refused = answers(answer)
    assert [(status, body) for status, _, body in (first, second, third)] == [(200, b"5\n"), (200, b"[1]\n"), (200, b"5\n")]
    assert_refused(*refused, expected=status, part=part)
    assert is_closed


@pytest.mark.parametrize("sent, status, part", BAD[:20], ids=[repr(sent[:70]) for sent, _, _ in BAD[:20]])
def test_it_may_come_byte_by_byte(host, sent, status, part):
    # What the host does not read any more may be refused.
    cut = 120
    answer, is_closed = exchange(host, sent, [sent[i:i + 1] for i in range(min(len(sent), cut))] + [sent[cut:]])
    [refused] = answers(answer)
    assert_refused(*refused, expected=status, part=part)
    assert is_closed


@pytest.mark.parametrize("hosts, status", [
    ([], 400), (["x"], 200), (["x", "y"], 400), (["x", "x"], 400), ([""], 200), (["127.0.0.1:8702"], 200), (["[::1]:80"], 200),
    (["a, b"], 400), (["a b"], 400), (["user@a"], 400), (["a/b"], 400)], ids=str)
@pytest.mark.parametrize("path", ["/state?key=5", "/version", "/nope"])
def test_one_host(host, hosts, status, path):
    head = f"GET {path} HTTP/1.1\r\n" + "".join(f"Host: {name}\r\n" for name in hosts) + "\r\n"
    answer, _ = exchange(host, head.encode())
    [(actual, headers, body)] = answers(answer)
    if status == 400:
        assert_refused(actual, headers, body, part="Host")
    else:
        assert actual == (404 if path == "/nope" else 200)


def test_http_1_0_needs_no_host(host):
    [(status, _, body)] = answers(exchange(host, b"GET /state?key=5 HTTP/1.0\r\n\r\n")[0])
    assert (status, body) == (200, b"5\n")
    [refused] = answers(exchange(host, b"GET /state?key=5 HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n")[0])
    assert_refused(*refused, part="Host")


def test_a_second_host_is_refused_over_http2_too(host):
    url = support.address(host) + "/state?key=5"
    reply = subprocess.run(["curl", "-s", "-i", "--http2-prior-knowledge", url], capture_output=True, text=True, timeout=30)
    assert reply.stdout.startswith("HTTP/2 200") and reply.stdout.endswith("5\n")


def test_bodies_may_hold_what_heads_must_not(host):
    body = b'"' + b" x: y\n\n" * 3000 + b'"'
    escaped = json.dumps(body.decode()[1:-1]).encode()
    text = b"\n\n" + escaped + b"\n"
    post = b"POST /transact/hypothetical HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(text) + text
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(text[i:i + 997]), text[i:i + 997]) for i in range(0, len(text), 997))
    chunked = b"POST /transact/hypothetical HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    answer, _ = exchange(host, post + chunked + GOOD)
    assert [(status, json.loads(body)) for status, _, body in answers(answer)] == [
        (200, json.loads(escaped)), (200, json.loads(escaped)), (200, 5)]


@pytest.mark.parametrize("chunks", [b"x\r\n", b"-1\r\n", b"5\r\n[1]", b"3\r\n[1]x0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_a_body_whose_chunks_are_malformed_is_refused_in_json(host, chunks):
    head = b"POST /transact/hypothetical HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", support.port_of(host)), timeout=20) as client:
        client.sendall(head + chunks)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()

    # Who stops in the middle may get no answer at all.
    for refused in answers(answer):
        assert_refused(*refused)
