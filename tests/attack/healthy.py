"""
A client that does no harm, in a process of its own: it asks small things, one after the other, and says on its standard
output how long each took in milliseconds, as a JSON list, when its input ends. What it asks must be answered 200.
"""

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import time

# `tests/run attack` asks for this on a quiet machine; elsewhere times are only shown.
IS_TIMED = os.environ.get("TINYCHAIN_ATTACK") == "full"
P99_MAX = 50  # milliseconds
ATTACK_TIME = 10 if IS_TIMED else 2  # seconds

PAUSE = 0.005  # seconds between two requests
NEW_CONNECTION_EVERY = 10  # requests
TIMEOUT = 20  # seconds, before a host that does not answer counts as frozen


def main(port):
    latencies = []
    connection = None
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        number += 1
        began = time.monotonic()
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

        if number % 2:
            connection.request("GET", f"/state?key={number}")
        else:
            connection.request("POST", "/transact/hypothetical", json.dumps([["r", number]]))

        try:
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            # A connection that was idle may have been closed: that is no failure, if a new one is answered.
            assert connection is not None and number % NEW_CONNECTION_EVERY != 1, "a new connection was closed"
            connection = None
            number -= 1
            continue

        body = response.read()
        assert (response.status, body) == (200, b"%d\n" % number), (response.status, body)
        latencies.append((time.monotonic() - began) * 1000)
        if number % NEW_CONNECTION_EVERY == 0:
            connection.close()
            connection = None

    json.dump(latencies, sys.stdout)


@contextlib.contextmanager
def beside(port, what):
    """A healthy client beside what is done meanwhile: all that it asks is answered, soon."""

    command = [sys.executable, __file__, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        time.sleep(0.2)
        try:
            yield
        finally:
            output, _ = client.communicate(timeout=60)

    assert client.returncode == 0, "a healthy client was not served"
    latencies = sorted(json.loads(output))
    assert latencies, "a healthy client was not served"
    p50, p99 = (latencies[len(latencies) * part // 100] for part in (50, 99))
    print(f"\n{what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {latencies[-1]:.1f} ms of {len(latencies)}")
    if IS_TIMED:
        assert p99 <= P99_MAX, f"p99 is {p99:.1f} ms"


if __name__ == "__main__":
    main(int(sys.argv[1]))
