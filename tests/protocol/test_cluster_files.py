"""
What a host says of a cluster file when it starts: writes that never happen, and clusters of other hosts.
"""

import subprocess

import pytest

import support
from support import N, OP, R

SYNC = "/state/chain/sync"
AFTER = R + "/after"


def post(*entries):
    return {OP + "/post": [list(entry) for entry in entries]}


WRITE = {"$self/total": [None, 1]}
DELETE = {R + "/op/delete": ["$self/total", None]}


def started(tmp_path, monkeypatch, config, flags=()):
    """(the host, what it has logged by then)"""

    host = support.new_host(tmp_path, config, flags=flags)
    log = tmp_path / "log"
    popen = subprocess.Popen
    with open(log, "wb") as stderr:
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: popen(*args, **{**kwargs, "stderr": stderr}))
        support.start(host)
        monkeypatch.undo()

    return host, log


@pytest.mark.parametrize("method, entry", [
    (post(["lost", WRITE], ["_return", 5]), "lost"),
    (post(["lost", DELETE], ["_return", 5]), "lost"),
    (post(["lost", [1, {"a": WRITE}]], ["_return", 5]), "lost"),
    (post(["lost", {AFTER: [WRITE, 1]}], ["_return", 5]), "lost"),
    (post(["x", 1], ["lost", {R + "/if": [{"$x/gt": [0]}, WRITE, None]}], ["_return", {"$x": []}]), "lost"),
    (post(["lost", WRITE], ["waits", {AFTER: [{"$lost": []}, 1]}], ["_return", 5]), "lost"),
    (post(["lost", {"$self/writes": {}}], ["_return", 5]), "lost"),
    (post(["lost", {"/app/other/writes": {"x": 1}}], ["_return", 5]), "lost"),
    (post(["lost", {"/app/x/total": [None, 5]}], ["_return", 5]), "lost"),
    (post(["lost", WRITE], ["lost", 2], ["_return", {"$lost": []}]), "lost"),
    (post(["rows", [1]], ["lost", {"$rows/map": {"op": {OP + "/get": ["i", [["_return", WRITE]]]}}}], ["_return", 5]), "lost"),
    (post(["rows", [1]], ["_return", {"$rows/map": {"op": {OP + "/get": ["i", [["lost", WRITE], ["_return", 5]]]}}}]),
     "_return > lost"),
    ({OP + "/get": ["key", [["lost", WRITE], ["_return", {"$key": []}]]]}, "lost"),
    ({OP + "/put": ["key", "value", [["lost", WRITE], ["_return", None]]]}, "lost"),
    ({OP + "/delete": ["key", [["lost", DELETE], ["_return", None]]]}, "lost"),
], ids=lambda value: str(value)[-60:])
def test_a_write_that_nothing_waits_for_is_logged(tmp_path, monkeypatch, method, entry):
    config = {
        "/app/x": {"total": {SYNC: [0]}, "writes": post(["_return", WRITE]), "calls": post(["_return", {"$self/writes": {}}]),
                   "bad": method, "Class": {N: {"bad": method}}},
        "/app/other": {"total": {SYNC: [0]}, "writes": post(["_return", {"/app/x/calls": {}}])},
    }
    host, log = started(tmp_path, monkeypatch, config)
    host.stop(wait_time=0)
    lines = [line for line in log.read_text().splitlines() if "never happens" in line]
    assert len(lines) == 2, log.read_text()
    for line, name in zip(sorted(lines), ["/app/x/Class/bad", "/app/x/bad"]):
        assert f"the method {name} " in line and f" {entry}," in line and "WARN" in line


@pytest.mark.parametrize("method", [
    post(["_return", WRITE]),
    post(["w", WRITE], ["_return", {AFTER: [{"$w": []}, 5]}]),
    post(["w", WRITE], ["_return", [5, {"$w": []}]]),
    post(["w", WRITE], ["_return", {R + "/if": [{"$c": []}, {"$w": []}, 5]}]),
    post(["w", WRITE], ["f", {R + "/with": [["w"], {OP + "/get": ["k", [["_return", {"$w": []}]]]}]}], ["_return", {"$f": [1]}]),
    post(["unused", {"$self/total": [None]}], ["_return", 5]),
    post(["op", {OP + "/get": ["k", [["_return", WRITE]]]}], ["_return", {"$op": [1]}]),
    post(["unused", {"/state/collection/btree": [[["k", {N: {}}]], [[1]]]}], ["_return", 5]),
    post(["unused", {"$self/reads": {}}], ["_return", 5]),
], ids=lambda value: str(value)[-60:])
def test_a_write_that_may_happen_is_not(tmp_path, monkeypatch, method):
    config = {"/app/x": {"total": {SYNC: [0]}, "reads": post(["_return", {"$self/total": [None]}]), "good": method}}
    host, log = started(tmp_path, monkeypatch, config)
    host.stop(wait_time=0)
    assert "never happens" not in log.read_text()


# Whose cluster it is

def refused(tmp_path, link, *flags):
    cluster = tmp_path / "cluster.json"
    cluster.write_text('{"%s": {"total": {"/state/chain/sync": [0]}}}' % link)
    (tmp_path / "data").mkdir(exist_ok=True)
    ended = support.run_to_exit(
        f"--data_dir={tmp_path / 'data'}", f"--workspace={tmp_path / 'workspace'}", f"--cluster={cluster}", *flags)
    return ended, list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("link", [
    "http://127.0.0.1:{other}/app/x", "http://127.0.0.2:{port}/app/x", "http://10.0.0.1:{port}/app/x", "http://127.0.0.1/app/x",
    "https://127.0.0.1:{port}/app/x", "http://nowhere.invalid:{port}/app/x", "http://[::1]:{port}/app/x"])
def test_a_cluster_of_another_host_is_refused_in_one_line(tmp_path, link):
    port = support.free_port()
    link = link.format(port=port, other=port - 1)
    ended, files = refused(tmp_path, link, f"--http_port={port}")
    assert ended.returncode not in (0, 101)
    [line] = ended.stderr.splitlines()
    assert "/app/x" in line and link.removesuffix("/app/x") in line and f"127.0.0.1:{port}" in line
    assert files == []


@pytest.mark.parametrize("link", ["/app/x", "http://127.0.0.1:{port}/app/x", "http://localhost:{port}/app/x"])
@pytest.mark.parametrize("flags", [(), ("--address=0.0.0.0",)], ids=str)
def test_its_own_address_is_that_of_no_other_host(tmp_path, link, flags):
    port = support.free_port()
    config = {link.format(port=port): {"total": {SYNC: [0]}}}
    host = support.start(support.new_host(tmp_path, config, port=port, flags=flags))
    try:
        assert host.get("/app/x/total") == 0
    finally:
        host.stop(wait_time=0)
