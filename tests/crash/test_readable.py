"""
What is accepted can be read again: random requests around every limit, kill -9, start. Then the state is the same, each
history verifies and gives the same state when it is fed back, and nothing of what was refused has left a trace.

TINYCHAIN_READABLE_SEED is the first seed, TINYCHAIN_READABLE_SEEDS how many there are.
"""

import json
import os
import random
import urllib.parse

import pytest

import support
import tbon
from page02 import BTREE, TABLE, after, column, delete
from support import HYPOTHETICAL, N, OP, R, V, call

FIRST_SEED = int(os.environ.get("TINYCHAIN_READABLE_SEED", "1"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("TINYCHAIN_READABLE_SEEDS", "2")))
LIVES = 2
OPS_PER_LIFE = 60
QUERY_MAX = 30_000

APP = "/app/limits"
DEPTHS = [0, 1, 2, 3, 126, 127, 128, 250, 470, 477, 478, 479, 480, 481, 482, 490, 496, 498, 499, 500, 501, 999, 1_000]
SEGMENTS = [1, 2, 63, 64, 65, 130, 254, 255, 256]
LENGTHS = [0, 1, 254, 255, 256, 2_047, 2_048, 2_049, 70_000]
NUMBERS = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -2**63, 2**63, 2**64 - 1, 2**64, 0.1, 1e308, 5e-324]

K, C = column("k", N + "/int/64"), column("c", V, 100_000)
ANY_TABLE = {TABLE: [[[[K], [C]], []]]}
INDEXED = {TABLE: [[[[K], [column("s", V + "/string", 100_000), column("l", V + "/link", 100_000)]], [["by_s", ["s"]]]]]}
ANY_TREE = {BTREE: [[column("a", V, 100_000), column("b", V + "/tuple", 100_000)]]}

SUBJECTS = {"value": None, "map": {"a": {"b": {}}, "t": [None, [None]]}, "table": ANY_TABLE, "indexed": INDEXED, "tree": ANY_TREE,
            "both": [ANY_TREE, INDEXED]}
SERVICE = {APP: {
    f"{kind}_{name}": {f"/state/chain/{kind}": [subject]} for kind in ("sync", "block") for name, subject in SUBJECTS.items()
} | {
    # A list that is one level deeper with each call.
    f"{kind}_push": {OP + "/post": [
        ["old", {f"$self/{kind}_value": [None]}], ["new", {"prev": {"$old": []}, "x": {"$x": []}}],
        ["_return", after({f"$self/{kind}_value": [None, {"$new": []}]}, True)]]}
    for kind in ("sync", "block")
} | {
    # So many levels at once.
    "nest": {OP + "/post": [
        ["nested", {R + "/while": [
            {OP + "/post": [["_return", {"$n/gt": [0]}]]},
            {OP + "/post": [["_return", {"n": {"$n/sub": [1]}, "x": [{"$x": []}]}]]},
            {"n": {"$n": []}, "x": None}]}],
        ["deep", {"$nested/x": []}],
        ["_return", after([{"$self/block_value": [None, {"$deep": []}]}, {"$self/sync_table": [[1], [{"$deep": []}]]}], True)]]},
    # A link that no request can write.
    "link": {OP + "/post": [
        ["link", {V + "/link": {"$segments": []}}],
        ["_return", after([{"$self/block_value": [None, {"$link": []}]}, {"$self/sync_indexed": [[1], ["x", {"$link": []}]]}], True)]]},
    # Twice as large with each step.
    "double": {OP + "/post": [
        ["doubled", {R + "/while": [
            {OP + "/post": [["_return", {"$n/gt": [0]}]]},
            {OP + "/post": [["_return", {"n": {"$n/sub": [1]}, "x": [{"$x": []}, {"$x": []}]}]]},
            {"n": {"$n": []}, "x": {"$x": []}}]}],
        ["large", {"$doubled/x": []}],
        ["_return", after({"$self/block_map": ["large", {"$large": []}]}, True)]]},
}}


def nested(dice, leaf=None):
    """The JSON text of a value that nests near a limit."""

    depth = dice.choice(DEPTHS)
    leaf = leaf or scalar(dice)
    if dice.random() < 0.3:
        return '{"a":' * depth + leaf + "}" * depth

    return "[" * depth + leaf + "]" * depth


def link(dice, segment="a"):
    return "/" + "/".join([segment] * dice.choice(SEGMENTS))


def scalar(dice):
    return dice.choice([
        lambda: json.dumps(dice.choice(NUMBERS)),
        lambda: json.dumps("é" * dice.choice(LENGTHS)),
        lambda: json.dumps({link(dice): []}),
        lambda: json.dumps({V + "/id": "i" * dice.choice(SEGMENTS)}),
        lambda: json.dumps({N + "/complex/64": [0.5, dice.choice(NUMBERS)]}),
        lambda: json.dumps({V + "/bytes": "YWI="}),
        lambda: dice.choice(["true", "null", "[]", "{}"]),
    ])()


def value(dice):
    return dice.choice([scalar, nested, nested, lambda dice: "[" + ",".join(scalar(dice) for _ in range(dice.choice([2, 50]))) + "]"])(dice)


def key(dice):
    return dice.choice([str(dice.randrange(4)), str(dice.randrange(4)), nested(dice), scalar(dice)])


def request(dice):
    """A random request: verb, path, key and body as JSON texts, and headers."""

    kind = dice.choice(["sync", "block"])
    at = f"{APP}/{kind}_"
    text = json.dumps("s" * dice.choice(LENGTHS))
    return dice.choice([
        lambda: ("PUT", at + "value", None, value(dice), {}),
        lambda: ("PUT", at + "map" + dice.choice(["", "/a", "/a/b", "/t", "/t/1"]), dice.choice(['"k"', "0", key(dice)]), value(dice), {}),
        lambda: ("DELETE", at + "map" + dice.choice(["/a", "/a/b"]), dice.choice(['"k"', key(dice)]), None, {}),
        lambda: ("PUT", at + "table", f"[{key(dice)}]", f"[{value(dice)}]", {}),
        lambda: ("PUT", at + "table", f"[{dice.randrange(4)}]", f'{{"c":{value(dice)}}}', {}),
        lambda: ("DELETE", at + "table", f"[{key(dice)}]", None, {}),
        lambda: ("PUT", at + "indexed", f"[{dice.randrange(4)}]", f"[{text},{json.dumps({link(dice): []})}]", {}),
        lambda: ("PUT", at + "tree", None, f"[{value(dice)},{nested(dice)}]", {}),
        lambda: ("DELETE", at + "tree", f"[{value(dice)}]", None, {}),
        lambda: ("DELETE", at + dice.choice(["tree", "table", "both/0"]), None, None, {}),
        lambda: ("PUT", at + "both/0", None, f"[{value(dice)},{nested(dice)}]", {}),
        lambda: ("PUT", at + "both/1", f"[{dice.randrange(4)}]", f'[{text},{json.dumps(link(dice))}]', {}),
        # Many rows at once.
        lambda: ("PUT", at + "table", None, json.dumps([[i, [i]] for i in range(dice.choice([1, 40, 3_000]))]), {}),
        lambda: ("PUT", at + "indexed", None, "k,s,l\n" + "".join(f"{i},x{i % 7},/a/b\n" for i in range(dice.choice([1, 3_000]))),
                 {"content-type": "text/csv"}),
        lambda: ("POST", f"{APP}/{kind}_push", None, f'{{"x":{value(dice)}}}', {}),
        lambda: ("POST", APP + "/nest", None, json.dumps({"n": dice.choice(DEPTHS)}), {}),
        lambda: ("POST", APP + "/link", None, json.dumps({"segments": ["s"] * dice.choice(SEGMENTS)}), {}),
        lambda: ("POST", APP + "/double", None, f'{{"n":{dice.choice([1, 8, 30, 64])},"x":{dice.choice(["[]", "{}", "1"])}}}', {}),
    ])()


def ask(host, dice):
    """Ask for something. Returns the request and its answer."""

    while True:
        verb, path, key, body, headers = request(dice)
        query = "key=" + urllib.parse.quote(key, safe="") if key is not None else None
        if query is None or len(query) < QUERY_MAX:
            return (verb, path, key, body), call(host, verb, path, raw=body, query=query, headers=headers)


def state(host):
    """Everything that the service shows."""

    shown = {}
    for kind in ("sync", "block"):
        for name in SUBJECTS:
            for route in (f"{APP}/{kind}_{name}", f"{APP}/{kind}_{name}/chain"):
                shown[route] = call(host, "GET", route)
                assert shown[route][0] == 200, (route, shown[route])

    return shown


def check_histories(host, shown):
    for name in SUBJECTS:
        route = f"{APP}/block_{name}"
        chain = shown[route + "/chain"][1]
        tbon.verify(chain["/state/chain/block"][1])
        status, body = call(host, "POST", HYPOTHETICAL, raw=json.dumps([["c", chain], ["_return", {"$c": [None]}]]))
        assert status == 200, (route, body)
        assert body == shown[route][1], route


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_accepted_is_there_after_a_kill(tmp_path, seed):
    dice = random.Random(seed)
    host = support.new_host(tmp_path, SERVICE, cache_size=dice.choice(["100M", "1G"]))
    support.start(host)
    accepted = 0
    try:
        for _ in range(LIVES):
            for _ in range(OPS_PER_LIFE):
                asked, (status, body) = ask(host, dice)
                assert status < 500 or status == 503, (seed, [str(part)[:200] for part in asked], body)
                accepted += status == 200

            before = state(host)
            support.kill(host)
            support.start(host)
            after_ = state(host)
            for route in before:
                assert after_[route] == before[route], (seed, route)

            check_histories(host, after_)

        assert accepted > OPS_PER_LIFE / 4, "most requests are refused"
    finally:
        if support.is_running(host):
            host.stop(wait_time=0)
