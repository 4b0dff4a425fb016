"""Flags, configuration files and what happens when they are wrong: protocol page 04, sections 1.1 to 1.4."""

import json
import re
import socket

import pytest
import tinychain as tc

import support
from support import N, OP


def flags(tmp_path, **changes):
    """Flags of a host that would start, with some of them changed, or left out if None."""

    data_dir = tmp_path / "data"
    data_dir.mkdir(exist_ok=True)
    values = {
        "workspace": tmp_path / "workspace", "data_dir": data_dir, "http_port": support.free_port(), "request_ttl": 30, **changes}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def assert_refused(exit_):
    assert exit_.returncode != 0
    lines = exit_.stderr.strip().splitlines()
    assert len(lines) == 1, exit_.stderr


def config(tmp_path, content):
    path = tmp_path / "cluster.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("content", [
    "", "{", "[]", "5", "{}x",
    {"/app/x": 5},
    {"/app/x": []},
    {"/app/x": {"member": 5}},
    {"/app/x": {"member": "text"}},
    {"/app/x": {"a b": {"/state/chain/sync": [0]}}},
    {"/app/x": {"member": {"/state/chain/nope": [0]}}},
    {"/app/x": {"member": {"/state/chain/sync": []}}},
    {"/app/x": {"member": {"/state/chain/sync": [0, {"no": "option"}]}}},
    {"/app/x": {"member": {OP + "/get": ["key"]}}},
    {"/app/x": {"member": {OP + "/nope": [["_return", 1]]}}},
    {"/": {"member": {"/state/chain/sync": [0]}}},
    {"/state/x": {"member": {"/state/chain/sync": [0]}}},
    {"/transact/x": {"member": {"/state/chain/sync": [0]}}},
    {"/admin": {"member": {"/state/chain/sync": [0]}}},
    {"/app//x": {"member": {"/state/chain/sync": [0]}}},
    {"app/x": {"member": {"/state/chain/sync": [0]}}},
], ids=str)
def test_a_wrong_configuration_is_refused_in_one_line(tmp_path, content):
    assert_refused(support.run_to_exit(*flags(tmp_path, cluster=config(tmp_path, content))))


@pytest.mark.parametrize("changes", [
    {"cluster": "/nonexistent/cluster.json"},
    {"data_dir": "/nonexistent/data"},
    {"http_port": "http"},
    {"http_port": 70000},
    {"cache_size": "4K"},
    {"cache_size": "10"},
    {"cache_size": "much"},
    {"request_ttl": "soon"},
    {"request_ttl": "-1"},
    {"log_level": "!!"},
    {"address": "nowhere"},
    {"max_body_bytes": "big"},
    {"no_such_flag": 1},
], ids=str)
def test_a_wrong_flag_is_refused_in_one_line(tmp_path, changes):
    assert_refused(support.run_to_exit(*flags(tmp_path, **changes)))


VALID = {"/app/x": {"member": {"/state/chain/sync": [0]}}}


def test_a_cluster_needs_a_data_dir(tmp_path):
    assert_refused(support.run_to_exit(*flags(tmp_path, data_dir=None, cluster=config(tmp_path, VALID))))


def test_a_port_in_use_is_refused_in_one_line(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert_refused(support.run_to_exit(*flags(tmp_path, http_port=listener.getsockname()[1])))


def test_a_data_dir_belongs_to_one_process(serve, tmp_path):
    host = serve(VALID)
    data_dir = tmp_path / "host" / "data"
    assert_refused(support.run_to_exit(*flags(tmp_path, data_dir=data_dir, cluster=config(tmp_path, VALID))))
    assert host.get("/app/x/member") == 0


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_go_to_stdout(flag):
    exit_ = support.run_to_exit(flag)
    assert exit_.returncode == 0
    assert exit_.stdout.strip()
    assert not exit_.stderr


def test_help_names_the_flags():
    text = support.run_to_exit("--help").stdout
    for flag in ["address", "http_port", "workspace", "data_dir", "cluster", "cache_size", "request_ttl", "log_level",
                 "max_body_bytes"]:
        assert re.search(f"--{flag}\\b", text), flag


@pytest.mark.parametrize("level", ["off", "error", "warn", "info", "debug", "trace"])
def test_every_log_level_is_accepted(serve, level):
    host = serve(log_level=level)
    assert host.get("/state", 1) == 1


def test_flags_may_be_separated_from_their_values_by_a_space(tmp_path):
    host = support.new_host(tmp_path, VALID)
    host._args = host._args[:1] + [part for flag in host._args[1:] for part in flag.split("=", 1)]
    support.start(host)
    try:
        assert host.get("/app/x/member") == 0
    finally:
        host.stop()


def test_a_file_may_hold_several_clusters(serve):
    host = serve({"/app/x": {"member": {"/state/chain/sync": [1]}}, "/app/y": {"member": {"/state/chain/sync": [2]}}})
    assert host.get("/app/x/member") == 1
    assert host.get("/app/y/member") == 2


def test_a_link_may_name_the_host_itself(serve):
    port = support.free_port()
    host = serve({f"http://127.0.0.1:{port}/app/x": {
        "member": {"/state/chain/sync": [1]},
        "peek": {OP + "/get": ["key", [["r", {f"http://127.0.0.1:{port}/app/x/member/add": [{"$key": []}]}]]]}}}, port=port)
    assert host.get("/app/x/member") == 1
    assert host.get("/app/x/peek", 2) == 3


def test_the_longest_hosted_prefix_wins(serve):
    host = serve(
        {"/app": {"b": {"/state/chain/sync": [1]}, "c": {"/state/chain/sync": [2]}}},
        {"/app/b/c": {"d": {"/state/chain/sync": [3]}}})
    assert host.get("/app/b") == 1
    assert host.get("/app/c") == 2
    assert host.get("/app/b/add", 1) == 2
    assert host.get("/app/b/c/d") == 3


def test_a_class_may_have_no_methods(serve):
    host = serve({"/app/x": {"Plain": {N: {}}}})
    assert list(host.get("/app/x/Plain", 5)) == ["/state/object/instance"]


def test_a_cluster_may_be_empty(serve):
    host = serve({"/app/x": {}})
    assert support.is_public_key(host.get("/app/x"))


def test_a_method_may_name_the_whole_cluster(serve):
    host = serve({"/app/x": {"me": {OP + "/get": ["key", [["s", {"$self": []}], ["r", 5]]]}}})
    assert host.get("/app/x/me") == 5


def test_a_class_of_the_client_and_its_configuration_agree(tmp_path):
    class X(tc.Cluster):
        __uri__ = tc.URI("/app/x")

        def _configure(self):
            self.member = tc.chain.Sync(tc.Number(0))

    tc.write_cluster(X, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == VALID
