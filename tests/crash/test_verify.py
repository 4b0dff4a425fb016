"""What is damaged on the disk is refused by name, and all else is served; `tinychain verify` says what it is."""

import json
import re
import subprocess

import pytest
import requests

import support
from page02 import TABLE, column
from support import N, V, call

APP = "/app/damaged"
MARK = "a text that is found again "
SERVICE = {
    APP: {
        "text": {"/state/chain/sync": [""]},
        "log": {"/state/chain/block": [""]},
        "table": {"/state/chain/sync": [{TABLE: [[[[column("k", N + "/int/64")], [column("s", V + "/string", 50_000)]], []]]}]},
    },
    "/app/sound": {"n": {"/state/chain/block": [0]}},
}


def verify(tmp_path):
    flags = ["verify", f"--data_dir={data_dir(tmp_path)}"]
    return subprocess.run([support.binary(), *flags], capture_output=True, text=True, timeout=60)


def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def host(tmp_path):
    host = support.start(support.new_host(tmp_path, SERVICE))
    assert call(host, "PUT", APP + "/text", MARK + "t" * 20_000) == (200, None)
    for i in range(6):
        assert call(host, "PUT", APP + "/log", MARK + f"{i} " + "l" * 20_000) == (200, None)

    for i in range(200):
        assert call(host, "PUT", APP + "/table", [f"{i} " + "r" * 200], key=[i]) == (200, None)

    assert call(host, "PUT", "/app/sound/n", 7) == (200, None)
    yield host
    if support.is_running(host):
        host.stop(wait_time=0)


def test_what_is_sound_verifies(host, tmp_path):
    host.stop(wait_time=0)
    found = verify(tmp_path)
    assert (found.returncode, found.stderr) == (0, ""), found
    assert "verified 4 chains: 7 transactions in 2 blocks, 200 rows" in found.stdout, found.stdout

    support.start(host)
    assert call(host, "GET", "/app/sound/n") == (200, 7)
    # A host that runs has its data for itself.
    found = verify(tmp_path)
    assert found.returncode == 1 and found.stderr.startswith("error: ") and found.stderr.count("\n") == 1, found


def test_usage():
    for flags in (["verify"], ["verify", "--data_dir=/nowhere"], ["verify", "--http_port=1"], ["nothing"]):
        found = subprocess.run([support.binary(), *flags], capture_output=True, text=True, timeout=60)
        assert found.returncode == 2 and found.stderr.count("\n") == 1, found


def test_a_damaged_chain_is_refused_by_name_and_all_else_is_served(host, tmp_path):
    host.stop(wait_time=0)
    path = next(data_dir(tmp_path).rglob("data.mdb"))
    content = bytearray(path.read_bytes())
    at = content.find((MARK + "ttt").encode())
    assert at > 0, "the value is not in the checkpoint"
    while at > 0:
        content[at + 100] ^= 1
        at = content.find((MARK + "ttt").encode(), at + 1)

    path.write_bytes(content)
    support.start(host)
    ready = requests.get(support.address(host) + "/readyz")
    assert ready.status_code == 200
    refused = ready.json()["refused"]
    assert list(refused) == [APP + "/text"], refused
    for verb, body in (("GET", None), ("PUT", "x"), ("DELETE", None)):
        status, reply = call(host, verb, APP + "/text", body)
        assert status == 503 and APP + "/text" in json.dumps(reply), reply

    world = requests.get(support.address(host) + "/debug/world").json()
    assert list(world["refused"]) == [APP + "/text"]
    assert "tinychain_chains_refused 1" in requests.get(support.address(host) + "/metrics").text
    assert call(host, "PUT", APP + "/log", "more") == (200, None)
    assert call(host, "GET", "/app/sound/n") == (200, 7)
    assert call(host, "PUT", "/app/sound/n", 8) == (200, None)
    status, rows = call(host, "GET", APP + "/table/count")
    assert (status, rows) == (200, 200)

    support.kill(host)
    found = verify(tmp_path)
    assert found.returncode == 1, found
    assert f"damaged: {APP}/text: " in found.stdout, found.stdout
    # The value, and what all values of the chain together must be.
    assert re.fullmatch(r"error: (1 thing is|[0-9]+ things are) damaged\n", found.stderr), found.stderr

    # It is not repaired, and stays as it is.
    support.start(host)
    assert list(requests.get(support.address(host) + "/readyz").json()["refused"]) == [APP + "/text"]
    assert call(host, "GET", "/app/sound/n") == (200, 8)
