"""Hosts that are attacked."""

import contextlib
import subprocess
import time

import pytest

import support


@pytest.fixture
def start(tmp_path):
    """Start a host that serves the given clusters, with flags as they are given."""

    hosts = []

    def start(*clusters, flags=(), descriptors=None, stderr=None, **options):
        host = support.new_host(tmp_path / "host", *clusters, flags=flags, **options)
        if descriptors:
            host._args = ["sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"', *host._args]

        hosts.append(host)
        host._process = subprocess.Popen(host._args, stderr=stderr)
        deadline = time.monotonic() + support.STARTUP_LIMIT
        while True:
            with contextlib.suppress(ConnectionError):
                assert support.call(host, "GET", "/state", key=1) == (200, 1)
                return host

            assert host._process.poll() is None and time.monotonic() < deadline, "the host does not start"
            time.sleep(0.02)

    yield start

    for host in filter(lambda host: host._process is not None, hosts):
        assert support.is_running(host), "the host died"
        assert support.call(host, "GET", "/state", key=1) == (200, 1)
        host.stop(wait_time=0)
