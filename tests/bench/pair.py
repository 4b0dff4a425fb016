#!/usr/bin/env python3
"""Compare two builds of the host: both at once under the same requests, so that both have the same machine at each moment.

    tests/bench/pair.py BEFORE AFTER [ROUNDS [SECONDS [CLIENTS [upsert | point | get]]]]

BEFORE and AFTER are binaries. For each round and host: requests per second, and microseconds of CPU of its threads for each.
Needs pyarrow, and `cargo build --release --package io --example load`.
"""

import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow

LOAD = Path(__file__).parents[2] / "target/release/examples/load"
ROWS = 1_000_000
PORTS = [8812, 8813]
COLORS = ["red", "green", "blue", "purple"]
UINT64, INT32 = ({f"/state/scalar/value/number/{name}": {}} for name in ["uint/64", "int/32"])
COLUMNS = [["color", {"/state/scalar/value/string": {}}, 32], ["qty", INT32]]
SCHEMA = [[[["sku", UINT64]], COLUMNS], [["by_color", ["color"]]]]
SERVICE = {"/app/bench": {"items": {"/state/chain/sync": [{"/state/collection/table": [SCHEMA]}]}}}
TARGET = f"/app/bench/items?key=%5B<random:{ROWS * 10 // 9}>%5D"
REQUESTS = {
    "upsert": ["PUT", TARGET, f'["<one:{"|".join(COLORS)}>", <random:1000>]'],
    "point": ["GET", TARGET],
    "get": ["GET", "/state/scalar/value/string?key=<random:1000>"],
}


def rows() -> bytes:
    columns = {
        "sku": pyarrow.array(range(ROWS), pyarrow.uint64()),
        "color": pyarrow.array([COLORS[i % len(COLORS)] for i in range(ROWS)]),
        "qty": pyarrow.array([i % 1000 for i in range(ROWS)], pyarrow.int32()),
    }
    table, stream = pyarrow.table(columns), io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 16)
    return stream.getvalue()


def start(binary: str, port: int, work: Path, body: bytes) -> subprocess.Popen:
    directory = Path(tempfile.mkdtemp(dir=work))
    (directory / "data").mkdir()
    (directory / "service.json").write_text(json.dumps(SERVICE))
    flags = [f"--http_port={port}", f"--data_dir={directory}/data", f"--workspace={directory}/scratch"]
    host = subprocess.Popen([binary, *flags, f"--cluster={directory}/service.json"], stdout=subprocess.DEVNULL)
    subprocess.run([LOAD, "healthy", f"127.0.0.1:{port}"], check=True)
    if host.poll() is not None:
        raise SystemExit(f"{binary} has ended: is port {port} free?")
    headers = {"content-type": "application/vnd.apache.arrow.stream"}
    url = f"http://127.0.0.1:{port}/app/bench/items"
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT")).read()
    return host


def cpu_us(host: subprocess.Popen) -> dict[str, float]:
    times: dict[str, float] = {}
    for task in Path(f"/proc/{host.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        times[name] = times.get(name, 0) + int((task / "schedstat").read_text().split()[0]) / 1e3
    return times


def main(before: str, after: str, rounds: str = "3", seconds: str = "6", clients: str = "128", what: str = "upsert") -> None:
    body, totals = rows(), {before: 0.0, after: 0.0}
    with tempfile.TemporaryDirectory() as work:
        for at in range(int(rounds)):
            order = [before, after] if at % 2 == 0 else [after, before]
            hosts = [(name, port, start(name, port, Path(work), body)) for name, port in zip(order, PORTS)]
            begun = {name: cpu_us(host) for name, _, host in hosts}
            verb, target, *request = REQUESTS[what]
            command = lambda port: [LOAD, "http", f"127.0.0.1:{port}", verb, target, clients, seconds, *request]
            loads = [subprocess.Popen(command(port), stdout=subprocess.PIPE, text=True) for _, port, _ in hosts]
            for (name, _, host), load in zip(hosts, loads):
                per_second, ok, *_ = load.communicate()[0].split()
                each = {task: (us - begun[name].get(task, 0)) / int(ok) for task, us in cpu_us(host).items()}
                totals[name] += sum(each.values())
                told = ", ".join(f"{task} {us:.2f}" for task, us in sorted(each.items()) if us > 0.2)
                print(f"{name}: {per_second}/s, {sum(each.values()):.2f} us each ({told})", flush=True)
                host.terminate()
                host.wait()
                time.sleep(0.1)
    print(f"after / before: {totals[after] / totals[before]:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
