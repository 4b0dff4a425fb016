"""The host as a process: how it ends, what it says, and that it rests when there is nothing to do."""

import concurrent.futures
import os
import pty
import signal
import subprocess
import time

import pytest
import tinychain as tc

import support
from support import HYPOTHETICAL, OP, R, call

LIMIT = 20  # seconds


class Notes(tc.Cluster):
    __uri__ = tc.URI("/app/notes")

    def _configure(self):
        self.note = tc.chain.Sync(tc.String(""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_host_that_is_asked_to_stop_finishes_what_it_has_begun(serve, number):
    host = serve(Notes)
    steps = 1_000
    below = {OP + "/post": [["r", {"$i/lt": [steps]}]]}
    step = {OP + "/post": [["r", {"i": {"$i/add": [1]}}]]}
    program = [["r", {R + "/while": [below, step, {"i": 0}]}]]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = pool.submit(call, host, "POST", HYPOTHETICAL, program)
        assert call(host, "PUT", "/app/notes/note", "kept") == (200, None)
        host._process.send_signal(number)
        assert host._process.wait(LIMIT) == 0
        assert begun.result() == (200, {"i": steps})

    host._process = None
    support.start(host)
    assert call(host, "GET", "/app/notes/note") == (200, "kept")


def test_what_does_not_end_in_time_is_answered_when_a_host_stops(serve):
    host = serve(Notes)
    endless = {R + "/while": [{OP + "/post": [["r", True]]}, {OP + "/post": [["r", {"i": 0}]]}, {"i": 0}]}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = pool.submit(call, host, "POST", HYPOTHETICAL, [["r", endless]])
        time.sleep(0.2)
        host._process.terminate()
        support.assert_reply(begun.result(), 503)
        assert host._process.wait(LIMIT) == 0


def test_how_long_it_may_take_is_said_by_a_flag(serve):
    host = serve(Notes, flags=["--drain_timeout_ms=2500"])
    endless = {R + "/while": [{OP + "/post": [["r", True]]}, {OP + "/post": [["r", {"i": 0}]]}, {"i": 0}]}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = pool.submit(call, host, "POST", HYPOTHETICAL, [["r", endless]])
        time.sleep(0.2)
        asked = time.monotonic()
        host._process.terminate()
        support.assert_reply(begun.result(), 503)
        assert time.monotonic() - asked >= 2.5
        assert host._process.wait(LIMIT) == 0


def test_a_host_that_keeps_nothing_says_so(tmp_path):
    host = support.new_host(tmp_path, data=False)
    assert any("nothing is kept, as there is no --data_dir" in line for line in lines_of(host))


def test_requests_that_are_refused_are_in_the_log_for_whoever_looks_for_them(tmp_path):
    host = support.new_host(tmp_path, log_level="debug")
    refused = lambda: support.assert_reply(call(host, "GET", "/app/nothing", key="what"), 404)
    lines = [line for line in lines_of(host, meanwhile=refused) if "/app/nothing" in line]
    assert len(lines) == 1 and "GET /app/nothing?key=%22what%22 is answered 404: " in lines[0], lines


def processor_time(host):
    """What all threads of the host have used, in seconds."""

    with open(f"/proc/{host._process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()

    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("connections", [0, 100])
def test_an_idle_host_uses_no_processor(serve, connections):
    host = serve(Notes)
    idle = [support.http.client.HTTPConnection("127.0.0.1", support.port_of(host)) for _ in range(connections)]
    for connection in idle:
        connection.request("GET", "/state?key=1")
        connection.getresponse().read()

    assert call(host, "PUT", "/app/notes/note", "kept") == (200, None)
    # What was written goes from the log to where it stays.
    time.sleep(1)
    before = processor_time(host)
    time.sleep(2)
    assert processor_time(host) - before <= 0.1


def lines_of(host, ended=signal.SIGTERM, meanwhile=lambda: None):
    """What a host writes to stderr from its start to its end."""

    process = subprocess.Popen(host._args, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert "listening" in process.stdout.readline()
    meanwhile()
    process.send_signal(ended)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    return stderr.splitlines()


def test_a_host_says_nothing_unless_it_is_asked_to(tmp_path):
    assert lines_of(support.new_host(tmp_path, Notes)) == []


def test_a_host_that_is_asked_to_says_what_it_does(tmp_path):
    host = support.new_host(tmp_path, Notes, log_level="info")
    lines = lines_of(host)
    wanted = ["starts as process", f"the data is in {tmp_path / 'data'}", "recovered", " ms", "serves /app/notes",
              f"listens on 127.0.0.1:{support.port_of(host)}", "asked to stop", "has stopped"]

    for text in wanted:
        assert any(text in line for line in lines), (text, lines)

    assert not any("\x1b" in line for line in lines), "there are codes for colours, although nobody sees them"


def test_a_terminal_sees_colours(tmp_path):
    host = support.new_host(tmp_path, log_level="info", data=False)
    primary, terminal = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(host._args, stderr=terminal, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.terminate()
    assert process.wait(LIMIT) == 0
    os.close(terminal)
    assert b"\x1b[32m" in os.read(primary, 10_000)


@pytest.mark.parametrize("query, known", [
    ("kind=pages", "transaction, lock, cluster, chain, block, collection, page"),
    ("kinds=page", "kind, filter, offset, limit and values"), ("limit=many", "limit is a number"), ("values=yes", "true or false"),
])
def test_what_an_operator_asks_for_in_vain_is_said(host, query, known):
    status, reply = call(host, "GET", "/debug/world?" + query)
    support.assert_reply((status, reply), 400)
    assert known in reply["/error/bad_request"]
