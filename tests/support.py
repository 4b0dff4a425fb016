"""Start, stop and kill TinyChain hosts, and talk to them below the level of the published client."""

import base64
import http.client
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.parse

import requests
import tinychain as tc

REPO = pathlib.Path(__file__).resolve().parent.parent

HYPOTHETICAL = "/transact/hypothetical"
V = "/state/scalar/value"
N = V + "/number"
OP = "/state/scalar/op"
R = "/state/scalar/ref"

STARTUP_LIMIT = 20  # seconds, before a host that does not answer counts as broken


def binary():
    """The host to test: $TINYCHAIN_BINARY, or the newest build in this repository."""

    given = os.environ.get("TINYCHAIN_BINARY")
    if given:
        assert os.access(given, os.X_OK), f"TINYCHAIN_BINARY={given} is not an executable file"
        return os.path.abspath(given)

    builds = [REPO / "target" / profile / "tinychain" for profile in ("release", "debug")]
    builds = [build for build in builds if build.is_file()]
    assert builds, f"no host binary below {REPO}/target: run `cargo build --bin tinychain` or set TINYCHAIN_BINARY"
    return str(max(builds, key=lambda build: build.stat().st_mtime))


def ports():
    """
    Ports for hosts, each given out once in a while: every pytest process has a range of its own, below those that the
    kernel gives to clients, so that nobody else takes one between here and the start of the host.
    """

    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        yield from range(10_000 + worker * 1_000, 11_000 + worker * 1_000)


PORTS = ports()


def free_port():
    for port in PORTS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass  # a host of another run


def name(parameter):
    """A name for a parameter that is the same in each pytest process: no addresses."""

    return parameter.__name__ if callable(parameter) else str(parameter)


# Processes

def new_host(directory, *clusters, port=None, data=True, flags=(), **options):
    """
    A host that is not running yet, and whose files live below `directory`.

    A cluster is a class of the client, or a configuration as a dict.
    """

    directory = pathlib.Path(directory)
    configs = []
    for i, cluster in enumerate(clusters):
        config = directory / "config" / f"{i}.json"
        if isinstance(cluster, dict):
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(json.dumps(cluster))
        else:
            tc.write_cluster(cluster, config, overwrite=True)

        configs.append(str(config))

    options.setdefault("workspace", str(directory / "workspace"))
    if data:
        options.setdefault("data_dir", str(directory / "data"))

    host = tc.host.Local(
        binary(), clusters=configs, port=port or free_port(), force_create=True, **options)
    host._args.extend(flags)
    return host


def start(host):
    """Start the host and return as soon as it answers."""

    host.start(wait_time=0)
    deadline = time.monotonic() + STARTUP_LIMIT
    while True:
        assert host._process.poll() is None, f"the host exited at start with status {host._process.returncode}"
        try:
            requests.get(address(host) + "/state", timeout=STARTUP_LIMIT)
            return host
        except requests.ConnectionError:
            assert time.monotonic() < deadline, "the host does not answer"
            time.sleep(0.01)


def kill(host):
    """kill -9"""

    host._process.kill()
    host._process.wait()
    host._process = None


def restart(host):
    host.stop(wait_time=0)
    return start(host)


def is_running(host):
    return host._process is not None and host._process.poll() is None


def rss(host):
    """Resident memory of the host, in bytes."""

    with open(f"/proc/{host._process.pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


def peak_memory(host):
    """The most memory that a host has ever held, in bytes."""

    with open(f"/proc/{host._process.pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024


def run_to_exit(*flags):
    """Run the binary with these flags until it exits."""

    return subprocess.run([binary(), *map(str, flags)], capture_output=True, text=True, timeout=5)


# Requests

def address(host):
    return str(tc.uri(host))


def port_of(host):
    return int(address(host).rsplit(":", 1)[1])


def call(host, verb, path, body=None, key=None, headers=None, raw=None, query=None, timeout=60):
    """One request, exactly as given. Returns (status, decoded reply)."""

    if query is None and key is not None:
        query = "key=" + urllib.parse.quote(json.dumps(key), safe="")

    if raw is None and body is not None:
        raw = json.dumps(body)

    if isinstance(raw, str):
        raw = raw.encode()

    connection = http.client.HTTPConnection("127.0.0.1", port_of(host), timeout=timeout)
    try:
        connection.request(verb, path + (f"?{query}" if query else ""), raw, headers or {})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()

    if verb == "HEAD":
        return response.status, None

    assert text, f"an empty body came with status {response.status}"
    return response.status, json.loads(text)


def post(host, body, path=HYPOTHETICAL):
    """POST a JSON body (to /transact/hypothetical by default). Returns (status, decoded reply)."""

    return call(host, "POST", path, raw=json.dumps(body))


def error_name(reply):
    """The name of an error reply, which must look like {"/error/<name>": <message>}."""

    assert isinstance(reply, dict) and len(reply) == 1, reply
    [(path, message)] = reply.items()
    assert path.startswith("/error/"), reply
    assert isinstance(message, str), reply
    return path[len("/error/"):]


STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "internal": 500,
    "not_implemented": 501,
    "bad_gateway": 502,
}


def assert_reply(reply, status, expected=None):
    """Check the status and, for a 200, the exact value; for an error, that its body names that status."""

    actual_status, body = reply
    assert actual_status == status, f"expected {status}, got {actual_status}: {body}"
    if status == 200:
        assert body == expected and same_kinds(body, expected), f"expected {expected}, got {body}"
    else:
        assert STATUS.get(error_name(body), status) == status, body


def same_kinds(left, right):
    """Python takes True for 1; JSON does not."""

    if isinstance(left, list) and isinstance(right, list):
        return all(same_kinds(a, b) for a, b in zip(left, right))

    if isinstance(left, dict) and isinstance(right, dict):
        return all(same_kinds(left[name], right[name]) for name in left)

    return isinstance(left, bool) == isinstance(right, bool)


def is_public_key(value):
    return isinstance(value, str) and len(base64.b64decode(value, validate=True)) == 32
