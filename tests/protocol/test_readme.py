"""The README's service really works when it is pasted."""

import json
import pathlib
import re
import subprocess

import support

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(name):
    text = (ROOT / "README.md").read_text()
    text = text[text.index(f"<!-- {name}: begin -->"):text.index(f"<!-- {name}: end -->")]
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def run(tmp_path, script):
    """Run as pasted, but on a free port, with the client and the host that are under test: what it prints, by line."""

    port = support.free_port()
    script = script.replace(":8702", f":{port}").replace("./target/release/tinychain", f"{support.binary()} --http_port={port}")
    script = script.replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    finished = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60)

    assert finished.returncode == 0
    return [line for line in finished.stdout.splitlines() if line and not line.startswith("HTTP server listening")]


def test_the_service_of_the_readme(tmp_path):
    build, *rest = blocks("service")
    assert "cargo build --release" in build and "tinychain==0.5.1" in build
    lines = run(tmp_path, "\n".join(rest))
    first, second, refused, doubled, history, after_kill, hypothetical, after_hypothetical, from_python = map(json.loads, lines)
    assert (first, second, doubled) == (5, 7, 14)
    assert "only up" in refused["/error/bad_request"]
    [[previous, transactions]] = history["/state/chain/block"][1]
    assert previous == ""
    assert sorted(transactions.values()) == [[["/", "ada", 5]], [["/", "bob", 2]]]
    assert (after_kill, hypothetical, after_hypothetical, from_python) == (7, 2000014, 7, 8)


def test_the_table_of_the_readme(tmp_path):
    put, bulk, count, sold, row, some, *frame = run(tmp_path, "\n".join(blocks("table")))
    assert [json.loads(line) for line in (put, bulk, count, sold, row)] == [None, None, 2, None, [2, "blue", 19]]
    assert json.loads(some)["/state/collection/table"][1] == [[1, "red", 10], [2, "blue", 19]]
    assert [line.split() for line in frame] == [
        ["sku", "color", "qty"], ["0", "1", "red", "10"], ["1", "2", "blue", "19"], ["2", "3", "red", "30"]]
