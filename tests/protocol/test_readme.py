"""The README's service really works when it is pasted."""

import json
import pathlib
import re
import subprocess

import support

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks():
    text = (ROOT / "README.md").read_text()
    text = text[text.index("<!-- service: begin -->"):text.index("<!-- service: end -->")]
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def test_the_service_of_the_readme(tmp_path):
    """Run as pasted, but on a free port, with the client and the host that are under test."""

    build, *rest = blocks()
    assert "cargo build --release" in build and "tinychain==0.5.1" in build
    port = support.free_port()
    script = "\n".join(rest)
    script = script.replace(":8702", f":{port}").replace("./target/release/tinychain", f"{support.binary()} --http_port={port}")
    script = script.replace(".venv/bin/python", f"{ROOT}/.venv/bin/python")
    finished = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60)

    assert finished.returncode == 0
    lines = [line for line in finished.stdout.splitlines() if line and not line.startswith("HTTP server listening")]
    first, second, refused, doubled, history, after_kill, hypothetical, after_hypothetical = map(json.loads, lines)
    assert (first, second, doubled) == (5, 7, 14)
    assert "only up" in refused["/error/bad_request"]
    [[previous, transactions]] = history["/state/chain/block"][1]
    assert previous == ""
    assert sorted(transactions.values()) == [[["/", "ada", 5]], [["/", "bob", 2]]]
    assert (after_kill, hypothetical, after_hypothetical) == (7, 2000014, 7)
