"""
What clients with little traffic may try to freeze a host, its memory or its disk. Beside each attack a healthy client is
served, what the host holds stays within its limits, and afterwards it is as before.

`tests/run attack` also demands that the healthy client has its answers within 50 ms (p99), on a quiet machine.
"""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
import tinychain as tc

import healthy
import page02
import support
from healthy import ATTACK_TIME
from support import HYPOTHETICAL, OP, R, call, post

MB = 1_000_000
BASE = 150 * MB  # what a host takes that does little, and the stacks and heaps of its threads
LIVENESS = 20  # seconds: by then at the latest
DISK_SLACK = 64 * MB  # segments of the log that are not taken over yet


class Target(tc.Cluster):
    __uri__ = tc.URI("/app/target")

    def _configure(self):
        schema = tc.table.Schema([tc.Column("id", tc.U64)], [tc.Column("text", tc.String, 2000)])
        self.value = tc.chain.Sync(tc.String(""))
        self.block = tc.chain.Block(tc.Number(0))
        self.items = tc.chain.Sync(tc.table.Table(schema))


# Attackers

def connect(host, receive_bytes=None):
    """A connection, which takes little at a time if it is told to."""

    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)

    connection.settimeout(LIVENESS)
    connection.connect(("127.0.0.1", support.port_of(host)))
    return connection


def request(verb, path, body=b"", length=None, headers=""):
    length = len(body) if length is None else length
    return f"{verb} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + body


def is_closed(connection):
    """Whether the host has closed a connection on which nothing is left to read."""

    connection.setblocking(False)
    try:
        while connection.recv(1 << 20):
            pass

        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(LIVENESS)


class Http2:
    """A connection of HTTP/2 that reads what comes, but makes no room for replies unless it is told to."""

    def __init__(self, host, window=65_535):
        self.socket = connect(host)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.connection.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})

        self.connection.initiate_connection()
        self.statuses = {}
        self.is_open = True
        self.flush()

    def flush(self):
        try:
            self.socket.sendall(self.connection.data_to_send())
        except OSError:
            self.is_open = False

    def get(self, path):
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, [
            (":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")], end_stream=True)

        self.flush()
        return stream

    def ping(self):
        self.connection.ping(b"attacker")
        self.flush()

    def read(self, seconds=0.05):
        """Take what comes within some time."""

        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            try:
                data = self.socket.recv(1 << 20)
                if not data:
                    self.is_open = False

                for event in self.connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
                    if isinstance(event, h2.events.ConnectionTerminated):
                        self.is_open = False

                self.flush()
            except TimeoutError:
                pass
            except (OSError, h2.exceptions.ProtocolError):
                self.is_open = False

    def ping_until_closed(self, limit=LIVENESS):
        deadline = time.monotonic() + limit
        while self.is_open and time.monotonic() < deadline:
            self.ping()
            self.read()

        return not self.is_open


@contextlib.contextmanager
def repeated(*attacks):
    """Do each of these again and again, on a thread of its own."""

    is_over = threading.Event()

    def repeat(attack):
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                attack()

    threads = [threading.Thread(target=repeat, args=[attack], daemon=True) for attack in attacks]
    for thread in threads:
        thread.start()

    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(LIVENESS)


def beside(host, what):
    """A healthy client beside what is done meanwhile."""

    return healthy.beside(support.port_of(host), what)


def metric(host, name):
    with urllib.request.urlopen(support.address(host) + "/metrics", timeout=LIVENESS) as page:
        return int(re.search(rf"^tinychain_{name} (\d+)$", page.read().decode(), re.MULTILINE)[1])


def disk_usage(directory):
    """What the files below a directory take on disk, in bytes."""

    usage = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                usage += os.stat(os.path.join(parent, name)).st_blocks * 512

    return usage


def eventually(what, holds):
    deadline = time.monotonic() + LIVENESS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# Replies that nobody reads

def test_unread_replies(start):
    """80 replies of 8 MB, of which nobody reads a byte, over HTTP/1.1."""

    budget = 60 * MB
    host = start(flags=[f"--max_bodies_bytes={budget}", "--reply_idle_timeout_ms=3000"])
    body = b'"' + b"a" * (8 * MB) + b'"'
    with beside(host, "unread replies"), contextlib.ExitStack() as stack:
        for _ in range(80):
            connection = stack.enter_context(connect(host, receive_bytes=4096))
            with contextlib.suppress(OSError):
                connection.sendall(request("POST", HYPOTHETICAL, body))

            assert metric(host, "held_bytes") <= budget + 2 * len(body)

        eventually("they are given up", lambda: metric(host, "held_bytes") < MB)

    # Two are worked on at a time, each with its body, its text and its reply.
    assert support.peak_memory(host) < BASE + budget + 2 * 4 * len(body)
    status, text = call(host, "POST", HYPOTHETICAL, raw=body)
    assert status == 200 and len(text) == 8 * MB


def test_unread_replies_over_http2_are_given_up_whatever_else_the_connection_does(start):
    """One connection with no window asks for all that it can get, and pings."""

    budget = 40 * MB
    host = start(Target, flags=[f"--max_bodies_bytes={budget}", "--reply_idle_timeout_ms=3000"])
    assert call(host, "PUT", "/app/target/value", "a" * MB) == (200, None)
    with beside(host, "unread replies over HTTP/2"):
        attacker = Http2(host, window=0)
        streams = [attacker.get("/app/target/value") for _ in range(100)]
        deadline = time.monotonic() + LIVENESS
        while len(attacker.statuses) < len(streams) and time.monotonic() < deadline:
            attacker.read()

        # It has its share, and others have theirs.
        assert 1 <= list(attacker.statuses.values()).count(200) <= 10, attacker.statuses
        assert set(attacker.statuses.values()) == {200, 503}
        assert metric(host, "held_bytes") <= budget / 4 + MB
        for _ in range(3):
            status, text = call(host, "GET", "/app/target/value")
            assert status == 200 and len(text) == MB

        assert attacker.ping_until_closed(), "it is still there"
        eventually("it holds nothing", lambda: metric(host, "held_bytes") < MB)

    assert support.peak_memory(host) < BASE + 2 * budget


def test_small_unread_replies_over_http2_are_given_up_too(start):
    host = start(flags=["--reply_idle_timeout_ms=1500"])
    attacker = Http2(host, window=0)
    for i in range(200):
        attacker.get(f"/state?key={i}")

    assert attacker.ping_until_closed(), "it is still there"
    eventually("it is gone", lambda: metric(host, "connections_open") <= 1)


def test_a_slow_reader_gets_everything(start):
    """Slow is not dead: 100 KB/s are enough to be served for longer than any time limit."""

    host = start(flags=["--reply_idle_timeout_ms=1000"])
    body = b'"' + b"a" * (MB // 2) + b'"'
    with connect(host, receive_bytes=16_384) as connection:
        connection.sendall(request("POST", HYPOTHETICAL, body, headers="Connection: close\r\n"))
        reply = b""
        while chunk := connection.recv(10_000):
            reply += chunk
            time.sleep(0.05)

    assert reply.endswith(body + b"\n")


# Places

def trickle(host):
    """A body of which a byte comes now and then."""

    with connect(host) as connection:
        connection.sendall(request("POST", HYPOTHETICAL, b"[1,", length=1000))
        while not is_closed(connection):
            connection.sendall(b"1")
            time.sleep(0.3)


def test_trickling_bodies(start):
    """They hold every place, and come again when they lose it."""

    host = start(flags=["--max_connections=32"])
    with beside(host, "trickling bodies"), repeated(*[lambda: trickle(host)] * 60):
        time.sleep(ATTACK_TIME)
        assert metric(host, "connections_displaced_total") > 0


def test_a_trickling_body_is_refused_in_time(start):
    host = start(flags=["--body_idle_timeout_ms=1000"])
    with connect(host) as connection:
        connection.sendall(request("POST", HYPOTHETICAL, b"[1,", length=1000))
        deadline = time.monotonic() + LIVENESS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                connection.sendall(b"1,")

            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                assert connection.recv(100).startswith(b"HTTP/1.1 408")
                return

        pytest.fail("it is still waited for")


def test_silent_connections_with_few_descriptors(start):
    host = start(descriptors=160)
    with beside(host, "silent connections"), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(host)) for _ in range(300)]
        time.sleep(ATTACK_TIME)
        assert metric(host, "connections_open") <= 160
        # The oldest have made room.
        assert is_closed(silent[0]) and not is_closed(silent[-1])


def test_the_limit_of_descriptors_is_raised(start):
    host = start()
    with open(f"/proc/{host._process.pid}/limits") as limits:
        [(soft, hard)] = re.findall(r"^Max open files +(\d+|unlimited) +(\d+|unlimited)", limits.read(), re.MULTILINE)

    assert soft == hard or int(soft) >= 1 << 20


def test_connections_that_only_ping(start):
    host = start(flags=["--max_connections=16"])

    def attack():
        attacker = Http2(host)
        attacker.get("/state?key=1")
        attacker.ping_until_closed()

    with beside(host, "pinging connections"), repeated(*[attack] * 24):
        time.sleep(ATTACK_TIME)
        assert metric(host, "connections_displaced_total") > 0


def test_a_connection_that_only_pings_is_idle(start):
    host = start(flags=["--idle_timeout_ms=1000"])
    attacker = Http2(host)
    attacker.get("/state?key=1")
    assert attacker.ping_until_closed(), "it is still there"


# Rows

def rows(first, count):
    return "".join(f"{i},{'x' * 100}\r\n" for i in range(first, first + count)).encode()


def test_trickling_uploads_hold_up_no_other(start):
    host = start(Target, cache_size="16M")
    header = b"id,text\r\n"

    def attack():
        """More than fits in memory, and then a byte now and then."""

        with connect(host) as connection:
            connection.sendall(request(
                "PUT", "/app/target/items", header + rows(0, 15_000), length=1 << 30, headers="Content-Type: text/csv\r\n"))

            while not is_closed(connection):
                connection.sendall(b"1")
                time.sleep(0.2)

    with beside(host, "trickling uploads"), repeated(*[attack] * 4):
        time.sleep(1)
        for i in range(3):
            body = header + rows(i * 20_000, 20_000)
            reply = call(host, "PUT", "/app/target/items", raw=body, headers={"Content-Type": "text/csv"}, timeout=LIVENESS)
            assert reply == (200, None)

        time.sleep(ATTACK_TIME)

    assert call(host, "GET", "/app/target/items/count") == (200, 60_000)


def test_a_reader_of_a_stream_that_does_not_read(start, tmp_path):
    """Others change what it shows; what is kept for it until it is given up has a bound, and the space is used again."""

    host = start(Target, cache_size="16M", flags=["--reply_idle_timeout_ms=2000"])
    body = b"id,text\r\n" + rows(0, 50_000)
    assert call(host, "PUT", "/app/target/items", raw=body, headers={"Content-Type": "text/csv"}) == (200, None)
    with beside(host, "unread streams"), contextlib.ExitStack() as stack:
        readers = [stack.enter_context(connect(host, receive_bytes=4096)) for _ in range(20)]
        for reader in readers:
            reader.sendall(b"GET /app/target/items HTTP/1.1\r\nHost: x\r\nAccept: text/csv\r\n\r\n")

        deadline = time.monotonic() + ATTACK_TIME
        number = 0
        while time.monotonic() < deadline:
            number += 1
            update = b"id,text\r\n" + b"".join(b"%d,changed %d\r\n" % (i, number) for i in range(0, 50_000, 50))
            reply = call(host, "PUT", "/app/target/items", raw=update, headers={"Content-Type": "text/csv"})
            assert reply == (200, None)

        eventually("they are given up", lambda: metric(host, "connections_open") <= 2)
        during = disk_usage(tmp_path / "host" / "data")
        for reader in readers:
            reply = b""
            with contextlib.suppress(OSError):
                while chunk := reader.recv(1 << 20):
                    reply += chunk

            assert not reply.endswith(b"0\r\n\r\n"), "a reply that broke off looks whole"

    # As much again, without anybody who reads: it fits where that was.
    for i in range(number):
        update = b"id,text\r\n" + b"".join(b"%d,again %d\r\n" % (j, i) for j in range(0, 50_000, 50))
        assert call(host, "PUT", "/app/target/items", raw=update, headers={"Content-Type": "text/csv"}) == (200, None)

    after = disk_usage(tmp_path / "host" / "data")
    print(f"{number} updates of all pages: {during / MB:.0f} MB on disk, {after / MB:.0f} MB after as many more")
    assert after < during + DISK_SLACK
    assert support.peak_memory(host) < 2 * BASE


# The world

ENDLESS = [["r", {R + "/while": [{OP + "/post": [["r", True]]}, {OP + "/post": [["r", {"i": {"$i/add": [1]}}]]}, {"i": 0}]}]]


def test_many_wait_for_one_lock(start):
    """They wait until the one that holds it has spent its time, and then have their turns, one after the other."""

    hold = {OP + "/post": [["w", {"$self/value": [None, "held"]}], ["_return", {R + "/after": [{"$w": []}, ENDLESS[0][1]]}]]}
    host = start({"/app/held": {"value": {"/state/chain/sync": [""]}, "hold": hold}}, request_ttl="5")
    waiting = lambda: call(host, "GET", "/debug/world?kind=lock&limit=1")[1]["entities"]["lock"]["total"]
    with beside(host, "1,000 waiters"), contextlib.ExitStack() as stack:
        holder = stack.enter_context(connect(host))
        holder.sendall(request("POST", "/app/held/hold", b"{}"))
        eventually("it is held", lambda: waiting() == 1)
        waiters = [stack.enter_context(connect(host)) for _ in range(1000)]
        for i, waiter in enumerate(waiters):
            waiter.sendall(request("PUT", "/app/held/value", b'"%d"' % i))

        eventually("all of them wait", lambda: waiting() == 1001)
        assert holder.recv(1000).startswith(b"HTTP/1.1 408")
        for waiter in waiters:
            assert re.match(rb"HTTP/1.1 200", waiter.recv(1000))


def test_hang_ups_beside_many_that_wait(start):
    host = start(Target, request_ttl="5")
    hold = request("POST", HYPOTHETICAL, json.dumps(ENDLESS).encode())

    def hang_up():
        with connect(host) as connection:
            connection.sendall(hold)
            time.sleep(0.01)

    with beside(host, "hang-ups"), repeated(*[hang_up] * 4):
        time.sleep(ATTACK_TIME)

    eventually("nobody waits", lambda: metric(host, "requests_in_flight") <= 1)


def test_loops_of_inspection(start):
    host = start(Target)

    def inspect():
        with contextlib.suppress(TimeoutError):
            call(host, "GET", "/debug/world", query="limit=1000")

    with beside(host, "inspections"), repeated(*[inspect] * 50):
        time.sleep(ATTACK_TIME)


def test_inspections_that_look_at_everything_hold_up_nobody(start):
    host = start(Target)
    body = b"id,text\r\n" + rows(0, 20_000)
    assert call(host, "PUT", "/app/target/items", raw=body, headers={"Content-Type": "text/csv"}) == (200, None)
    statuses = []

    def inspect():
        with contextlib.suppress(TimeoutError):
            statuses.append(call(host, "GET", "/debug/world", query="filter=e&limit=1000")[0])

    with beside(host, "inspections of everything"), repeated(*[inspect] * 100):
        time.sleep(ATTACK_TIME)

    assert statuses.count(200) > 0 and set(statuses) <= {200, 503}, statuses


def test_a_slow_reader_keeps_a_bounded_part_of_the_disk(start):
    bytes_max = 4 * MB
    host = start(Target, flags=[f"--max_pinned_bytes={bytes_max}"])
    body = b"id,text\r\n" + rows(0, 20_000)
    assert call(host, "PUT", "/app/target/items", raw=body, headers={"Content-Type": "text/csv"}) == (200, None)
    with connect(host, receive_bytes=4096) as reader:
        reader.sendall(b"GET /app/target/items HTTP/1.1\r\nHost: x\r\nAccept: text/csv\r\n\r\n")
        reply = reader.recv(1_000)
        assert reply.startswith(b"HTTP/1.1 200")
        # It reads on, so that it is not taken for one that has gone.
        retired = 0
        for number in range(12):
            assert call(host, "PUT", "/app/target/items", raw=body, headers={"Content-Type": "text/csv"}) == (200, None)
            reply += reader.recv(2_000)
            world = call(host, "GET", "/debug/world", query="kind=cluster")[1]
            retired = max(retired, world["retired_page_bytes"])

        # One generation of the table may be on its way out.
        assert retired < bytes_max + 3 * len(body), retired
        eventually("it is given up", lambda: call(host, "GET", "/debug/world", query="kind=cluster")[1]["pinned_answers"] == 0)
        with contextlib.suppress(OSError):
            while chunk := reader.recv(1 << 20):
                reply += chunk

        assert not reply.endswith(b"0\r\n\r\n"), "a reply that broke off looks whole"

    world = call(host, "GET", "/debug/world", query="kind=cluster")[1]
    assert world["statistics"]["revoked_pins"] == 1


def test_values_are_shown_to_operators_alone_who_have_asked_for_it(start):
    host = start(Target)
    assert call(host, "PUT", "/app/target/value", "a secret") == (200, None)
    status, world = call(host, "GET", "/debug/world")
    assert status == 200 and "a secret" not in json.dumps(world)
    assert call(host, "GET", "/debug/world", query="filter=a%20secret")[1]["entities"]["chain"]["total"] == 0
    support.assert_reply(call(host, "GET", "/debug/world", query="values=true"), 403)
    support.assert_reply(call(host, "GET", "/debug/world", query="values=perhaps"), 400)


def test_values_are_shown_if_the_host_was_started_so(start):
    host = start(Target, flags=["--debug_values"])
    assert call(host, "PUT", "/app/target/value", "a secret") == (200, None)
    assert "a secret" not in json.dumps(call(host, "GET", "/debug/world")[1])
    assert "a secret" in json.dumps(call(host, "GET", "/debug/world", query="values=true")[1])


# The log

def test_nobody_reads_the_log(start):
    """A full pipe for stderr, and all that the host can say."""

    unread, stderr = os.pipe()
    host = start(log_level="debug", stderr=stderr)
    os.close(stderr)
    with beside(host, "an unread log"):
        for _ in range(3_000):
            with connect(host) as connection:
                connection.sendall(b"garbage\r\n\r\n")

        eventually("what does not fit is counted", lambda: metric(host, "log_lines_dropped_total") > 0)

    # It also ends.
    host._process.send_signal(signal.SIGTERM)
    assert host._process.wait(LIVENESS) == 0
    os.close(unread)
    host._process = None


def test_templates_write_no_log(start, tmp_path):
    with open(tmp_path / "stderr", "w+b") as stderr:
        host = start(stderr=stderr)
        program = [["t", "{{#each t}}{{log 'forged\\nline'}}{{/each}}"], ["r", {"$t/render": {"t": list(range(10_000))}}]]
        with beside(host, "templates that log"):
            deadline = time.monotonic() + ATTACK_TIME
            while time.monotonic() < deadline:
                assert post(host, program)[0] in (200, 400)

        stderr.seek(0)
        assert b"forged" not in stderr.read()


# Transactions with many rows

MASS_ROWS = 60_000
MASS = "/app/mass"
I64 = "/state/scalar/value/number/int/64"


def mass_cluster():
    """A table, and methods that write all of it, in the order of its keys or in another one, and that sort all of it."""

    columns = [[["k", {I64: {}}]], [["r", {I64: {}}], ["s", {"/state/scalar/value/string": {}}, 100]]]
    table = {page02.TABLE: [[columns, [["by_r", ["r"]]]]]}
    add = page02.capture(["t"], {OP + "/get": ["row", [
        ["k", {"$row": [0]}], ["r", {"$row": [1]}], ["new", {"$r/add": [1]}], ["_return", {"$t": [[{"$k": []}], {"r": {"$new": []}}]}]]]})

    def written(rows, then):
        steps = [["t", {"$self": ["t"]}], *rows, ["done", {"$rows/for_each": {"op": add}}], ["_return", page02.after({"$done": []}, then)]]
        return {OP + "/post": steps}

    in_order = [["rows", {"$t/rows": {}}]]
    scattered = [["by_s", {"$t/order": [[["s"], False]]}], ["rows", {"$by_s/rows": {}}]]
    by_s = [["t", {"$self": ["t"]}], ["some", {"$t/select": [["s", "k"]]}], ["v", {"$some/order": [[["s"], True]]}]]
    return {MASS: {
        "t": {"/state/chain/sync": [table]}, "add": written(in_order, None), "scatter": written(scattered, None),
        "fail": written(in_order, {"/error/conflict": ["no"]}), "sorted": {OP + "/get": ["n", by_s + [["_return", {"$v/limit": [3]}]]]}}}


def test_tables_that_are_written_and_sorted_whole(start):
    """Again and again, by several at once: what they store before their commit goes, and nobody else waits for it."""

    host = start(mass_cluster(), cache_size="32M")
    body = "k,r,s\n" + "".join(f"{k},{k * 7_919 % MASS_ROWS},{'x' * 60}{k * 104_729 % 100_000}\n" for k in range(MASS_ROWS))
    assert call(host, "PUT", MASS + "/t", raw=body, headers={"Content-Type": "text/csv"})[0] == 200
    asked = lambda name: lambda: call(host, "POST", f"{MASS}/{name}", {}, timeout=60)
    sorted_rows = lambda: call(host, "GET", MASS + "/sorted", key=1, timeout=60)
    with beside(host, "tables that are written and sorted whole"):
        with repeated(asked("add"), asked("scatter"), asked("fail"), sorted_rows, sorted_rows):
            time.sleep(2 * ATTACK_TIME)

    world = lambda: call(host, "GET", "/debug/world?kind=page&limit=1")[1]
    eventually("what was stored in vain goes", lambda: world()["staged_pages"] == 0 and world()["retired_pages"] == 0)
    assert call(host, "GET", MASS + "/t/count") == (200, MASS_ROWS)
    assert support.peak_memory(host) < BASE + 200 * MB
