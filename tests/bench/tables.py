"""The figures of tables, each beside PostgreSQL 15, DuckDB or what it has to reach; `tests/bench/run` calls this.

Sizes come from the environment: SECONDS_PER_ROUND, ROUNDS, ROWS (a million), GROWTH_ROWS (sizes, separated by spaces),
WIDE_ROWS (ten million rows are two gigabytes). A figure that cannot be made says why in one line, and the next is made.
"""

import http.client
import io
import json
import math
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy
import pyarrow
from pyarrow import csv, ipc

SECONDS = float(os.environ.get("SECONDS_PER_ROUND", "5"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
ROWS = int(os.environ.get("ROWS", "1000000"))
GROWTH_ROWS = [int(rows) for rows in os.environ.get("GROWTH_ROWS", "10000 100000 1000000 10000000").split()]
WIDE_ROWS = int(os.environ.get("WIDE_ROWS", "10000000"))

BENCH_DIRECTORY = Path(os.environ["BENCH_DIRECTORY"])
TINYCHAIN_BINARY = Path(os.environ["TINYCHAIN_BINARY"])
LOAD_BINARY = Path(os.environ["LOAD_BINARY"])
POSTGRES_BIN = Path(os.environ["POSTGRES_BIN"])
FIRST_PORT = 8800
POSTGRES_PORT = 8792

COLORS = """teal blue gray pink black white brown green violet orange yellow crimson magenta lavender turquoise
chartreuse""".split()
QTY_VALUES = 1_000
QTY_RANGE = 100  # a tenth of the rows

# Of ten keys that are upserted, nine are there at first; those that are not lie between the others.
GAP_EVERY = 10

PGBENCH_CLIENTS = [16, 32, 64, 128, 256]
PGBENCH_THREADS = 2
TCP = "TCP"
SOCKET = "a Unix socket"
PGBENCH_CONNECTS_PER_S = 128

BATCH_ROWS = 65_536
CHUNK_ROWS = 1_000_000
WIDE_CHUNK_ROWS = 50_000
NOTE_CHARACTERS = 180
MEMORY_CACHE = "100M"
MEMORY_LIMIT_BYTES = 160_000_000
SAMPLE_S = 0.05
START_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 900

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"

UPSERT = ("PUT", "/app/bench/items?key=%5B<random:{keys}>%5D", '["<one:' + "|".join(COLORS) + '>", <random:1000>]')
POINT_READ = ("GET", "/app/bench/items?key=%5B<random:{keys}>%5D")
COUNT_QTY = ("POST", "/app/bench/count_qty", f'{{"a": <random:{QTY_VALUES - QTY_RANGE}>, "b": <plus:{QTY_RANGE}>}}')


# A program for each row of the table.
ADD_ONE_TO_ROW = {
    "/state/scalar/op/get": [
        "row",
        [
            ["sku", {"$row": [0]}],
            ["qty", {"$row": [2]}],
            ["new", {"$qty/add": [1]}],
            ["_return", {"$t": [[{"$sku": []}], {"qty": {"$new": []}}]}],
        ],
    ]
}
ADD_ONE = {
    "/state/scalar/op/post": [
        ["t", {"$self": ["items"]}],
        ["rows", {"$t/rows": {}}],
        ["done", {"$rows/for_each": {"op": {"/state/scalar/ref/with": [[{"$t": []}], ADD_ONE_TO_ROW]}}}],
        ["_return", {"/state/scalar/ref/after": [{"$done": []}, None]}],
    ]
}
ADD_ONE_SQL = "UPDATE items SET qty = qty + 1"
ADD_ONE_LOOP_SQL = """DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM items LOOP
UPDATE items SET qty = r.qty + 1 WHERE sku = r.sku; END LOOP; END $$"""


def config() -> dict:
    """The service that is measured: a table, a wider one, and the method that counts."""
    key = [["sku", {"/state/scalar/value/number/uint/64": {}}]]
    values = [["color", {"/state/scalar/value/string": {}}, 32], ["qty", {"/state/scalar/value/number/int/32": {}}]]
    note = [["note", {"/state/scalar/value/string": {}}, 255]]
    indices = [["by_color", ["color"]]]

    def table(value_columns: list) -> dict:
        return {"/state/chain/sync": [{"/state/collection/table": [[[key, value_columns], indices]]}]}

    def count_qty(name: str) -> dict:
        bounds = {"qty": [["in", {"$a": []}], ["ex", {"$b": []}]]}
        return {
            "/state/scalar/op/post": [["slice", {f"$self/{name}": {"bounds": bounds}}], ["n", {"$slice/count": [None]}]]
        }

    return {
        "/app/bench": {
            "items": table(values),
            "wide": table(values + note),
            "count_qty": count_qty("items"),
            "count_wide": count_qty("wide"),
            "add_one": ADD_ONE,
        }
    }


class Unable(Exception):
    """Why a figure cannot be made."""


# Rows


def contiguous_keys(rows: int) -> numpy.ndarray:
    return numpy.arange(rows, dtype=numpy.uint64)


def keys_with_gaps(rows: int) -> numpy.ndarray:
    """Keys that leave out one of each GAP_EVERY."""
    at = numpy.arange(rows, dtype=numpy.uint64)
    return at + at // numpy.uint64(GAP_EVERY - 1)


def make_rows(keys: numpy.ndarray, *, wide: bool = False) -> pyarrow.Table:
    """Rows of these keys, the same ones each time."""
    dice = numpy.random.default_rng([len(keys), int(keys[0])])
    colors = pyarrow.DictionaryArray.from_arrays(dice.integers(0, len(COLORS), len(keys), dtype=numpy.int32), COLORS)
    columns = {
        "sku": pyarrow.array(keys, pyarrow.uint64()),
        "color": colors.cast(pyarrow.string()),
        "qty": pyarrow.array(dice.integers(0, QTY_VALUES, len(keys), dtype=numpy.int32)),
    }
    if wide:
        text = dice.bytes(len(keys) * NOTE_CHARACTERS // 2).hex().encode()
        offsets = numpy.arange(len(keys) + 1, dtype=numpy.int32) * NOTE_CHARACTERS
        columns["note"] = pyarrow.StringArray.from_buffers(
            len(keys), pyarrow.py_buffer(offsets), pyarrow.py_buffer(text)
        )
    schema = pyarrow.schema([pyarrow.field(name, column.type, nullable=False) for name, column in columns.items()])
    return pyarrow.Table.from_arrays(list(columns.values()), schema=schema)


def write_arrow(table: pyarrow.Table, path: Path) -> Path:
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=BATCH_ROWS)
    return path


def write_json(table: pyarrow.Table, path: Path) -> Path:
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    path.write_text(json.dumps([list(row) for row in rows], separators=(",", ":")))
    return path


def write_csv(table: pyarrow.Table, path: Path) -> Path:
    csv.write_csv(table, path, csv.WriteOptions(include_header=False, quoting_style="none"))
    path.chmod(0o644)
    return path


def count_of_rows(table: pyarrow.Table, a: int, b: int) -> int:
    qty = table["qty"].to_numpy()
    return int(((qty >= a) & (qty < b)).sum())


# The host


@dataclass
class Load:
    """What the load generator counted."""

    per_second: float
    ok: int
    conflicts: int
    others: int
    p50_us: float
    p99_us: float
    cpu_us: float

    def __str__(self) -> str:
        return (
            f"{self.per_second:.0f}/s (ok {self.ok}, 409 {self.conflicts}, other {self.others}, p50 {self.p50_us:.0f} us, "
            f"p99 {self.p99_us:.0f} us, generator {self.cpu_us:.1f} us of CPU each)"
        )


def run_and_time(command: list, **options) -> tuple[str, float]:
    """What a command prints, and the seconds of processor time that it took itself."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise Unable(f"{Path(str(command[0])).name} failed: {done.stderr.strip()[-500:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Host:
    """A host with the service of `config`, on a new data directory."""

    ports = iter(range(FIRST_PORT, 65_536))

    def __init__(self, work: Path, *flags: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="host-", dir=work))
        self.port = next(self.ports)
        self.address = f"127.0.0.1:{self.port}"
        self.flags = flags

    def __enter__(self) -> "Host":
        for name in ["data", "scratch"]:
            (self.directory / name).mkdir()
        (self.directory / "config.json").write_text(json.dumps(config()))
        with open(self.directory / "log", "w") as log:
            self.process = subprocess.Popen(
                [
                    TINYCHAIN_BINARY,
                    f"--http_port={self.port}",
                    f"--data_dir={self.directory}/data",
                    f"--workspace={self.directory}/scratch",
                    "--cluster",
                    f"{self.directory}/config.json",
                    *self.flags,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.call("GET", "/healthz")
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text().strip()
                    self.__exit__()
                    raise Unable(f"the host does not start: {log[-300:]}") from None
                time.sleep(0.01)

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory)

    def call(self, method: str, target: str, body: str | None = None):
        """The answer of one request; anything but 200 is Unable."""
        connection = http.client.HTTPConnection(self.address, timeout=COMMAND_TIMEOUT_S)
        try:
            connection.request(method, target, body, {"content-type": JSON} if body else {})
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        if reply.status != 200:
            raise Unable(f"{method} {target} was answered {reply.status}: {text.strip()[:200]}")
        return json.loads(text) if text.strip() else None

    def count(self, table: str = "items") -> int:
        return self.call("GET", f"/app/bench/{table}/count")

    def count_qty(self, a: int, b: int) -> int:
        return self.call("POST", "/app/bench/count_qty", json.dumps({"a": a, "b": b}))

    def put_file(self, path: Path, form: str, table: str = "items") -> float:
        """PUT a file of rows into a table, and say the seconds until the 200."""
        reply = self.directory / "reply"
        command = ["curl", "--silent", "--show-error", "--request", "PUT", "--upload-file", path, "--output", reply]
        command += ["--header", f"content-type: {form}", "--header", "expect:", "--write-out", "%{http_code} %{time_total}"]
        status, seconds = run_and_time([*command, f"http://{self.address}/app/bench/{table}"])[0].split()
        if status != "200":
            raise Unable(f"PUT of {form} was answered {status}: {reply.read_text(errors='replace').strip()[:200]}")
        return float(seconds)

    def fill(self, keys: numpy.ndarray, table: str = "items", chunk_rows: int = CHUNK_ROWS) -> None:
        """Load rows of these keys, in as many transactions as there are chunks."""
        path = self.directory / "chunk.arrow"
        for begin in range(0, len(keys), chunk_rows):
            write_arrow(make_rows(keys[begin : begin + chunk_rows], wide=table == "wide"), path)
            self.put_file(path, ARROW, table)
        path.unlink()
        expect_equal("rows of the host after they were loaded", self.count(table), len(keys))

    def fill_at_once(self, keys: numpy.ndarray, table: str, chunk_rows: int) -> None:
        """Load rows of these keys in one transaction, from a body that is made while it is sent."""

        def body() -> Iterator[bytes]:
            sink = io.BytesIO()
            writer = None
            for begin in range(0, len(keys), chunk_rows):
                rows = make_rows(keys[begin : begin + chunk_rows], wide=table == "wide")
                writer = writer or ipc.new_stream(sink, rows.schema)
                writer.write_table(rows, max_chunksize=BATCH_ROWS)
                yield sink.getvalue()
                sink.seek(0)
                sink.truncate()
            writer.close()
            yield sink.getvalue()

        connection = http.client.HTTPConnection(self.address, timeout=COMMAND_TIMEOUT_S)
        connection.request("PUT", f"/app/bench/{table}", body(), {"content-type": ARROW})
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        if reply.status != 200:
            raise Unable(f"PUT of {len(keys)} rows was answered {reply.status}: {text.strip()[:200]}")
        expect_equal("rows of the host after they were loaded", self.count(table), len(keys))

    def load(self, request: tuple, clients: int, keys: int = 0, seconds: float | None = None) -> Load:
        """Load of so many clients, with random keys below `keys`."""
        method, target, *body = (part.replace("{keys}", str(keys)) for part in request)
        seconds = SECONDS if seconds is None else seconds
        text, cpu_s = run_and_time([LOAD_BINARY, "http", self.address, method, target, clients, seconds, *body])
        per_second, *numbers = text.split()
        ok, conflicts, others, p50, p99 = map(int, numbers)
        if ok == 0:
            raise Unable(f"no {method} {target} was answered 200: {conflicts} were 409, {others} others")
        result = Load(float(per_second), ok, conflicts, others, p50, p99, cpu_s / (ok + conflicts + others) * 1e6)
        if ok != ok + conflicts + others:
            print(f"FAILED: of {method} {target} not every one was answered 200: {result}")
        return result

    def download(self, target: str) -> tuple[int, float]:
        """GET an Arrow stream to /dev/null with curl, and say its bytes and the seconds."""
        command = ["curl", "--silent", "--show-error", "--header", f"accept: {ARROW}", "--output", "/dev/null"]
        command += ["--write-out", "%{http_code} %{size_download} %{time_total} %{content_type}"]
        status, size, seconds, form = run_and_time([*command, f"http://{self.address}{target}"])[0].split(" ", 3)
        if status != "200" or not form.startswith(ARROW):
            raise Unable(f"GET {target} as {ARROW} was answered {status} {form}")
        return int(size), float(seconds)

    def status_kb(self) -> dict[str, int]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        pairs = (line.split(":", 1) for line in lines)
        return {name: int(value.split()[0]) for name, value in pairs if name in {"VmRSS", "VmHWM", "RssAnon", "RssFile"}}


# The others


class Postgres:
    """A PostgreSQL 15 that keeps what it commits, with more memory than it has by default."""

    settings = ["listen_addresses=127.0.0.1", "max_connections=300", "fsync=on", "synchronous_commit=on"]
    settings += ["shared_buffers=1GB", "max_wal_size=4GB"]

    def __init__(self, work: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-", dir=work))

    def __enter__(self) -> "Postgres":
        if not (POSTGRES_BIN / "initdb").exists():
            raise Unable(f"there is no PostgreSQL in {POSTGRES_BIN}: apt-get install postgresql-15, or set POSTGRES_BIN")
        if os.getuid() == 0:
            shutil.chown(self.directory, "postgres")
        self.command("initdb", "-D", self.directory / "data", "--auth=trust", "--username=bench")
        options = [f"-p {POSTGRES_PORT}", f"-c unix_socket_directories={self.directory}"]
        options += [f"-c {setting}" for setting in self.settings]
        log = self.directory / "log"
        # Its processes must not hold the pipes of what starts it.
        self.command("pg_ctl", "-D", self.directory / "data", "-w", "-l", log, "-o", " ".join(options), "start")
        return self

    def __exit__(self, *_) -> None:
        self.command("pg_ctl", "-D", self.directory / "data", "-m", "fast", "stop")
        shutil.rmtree(self.directory)

    def command(self, name: str, *arguments, options: str = "") -> tuple[str, float]:
        """Run a program of PostgreSQL, which refuses to run as root."""
        command = [POSTGRES_BIN / name, *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        return run_and_time(command, cwd="/", env={**os.environ, "PGOPTIONS": options})

    def connection(self, transport: str = SOCKET) -> list:
        """Where to connect: over TCP as HTTP clients do, or over a Unix socket, which costs less."""
        return ["-h", "127.0.0.1" if transport == TCP else self.directory, "-p", str(POSTGRES_PORT), "-U", "bench"]

    def sql(self, *statements: str) -> str:
        commands = [word for statement in statements for word in ["-c", statement]]
        return self.command("psql", *self.connection(), "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt", *commands)[0]

    def make_table(self) -> None:
        self.sql(
            "DROP TABLE IF EXISTS items",
            "CREATE TABLE items (sku bigint PRIMARY KEY, color varchar(32) NOT NULL, qty int NOT NULL)",
            "CREATE INDEX by_color ON items (color)",
            "CHECKPOINT",
        )

    def copy(self, path: Path, form: str) -> float:
        """COPY a file into a table that is new, and say the seconds, its commit included."""
        self.make_table()
        text = self.sql("\\timing on", f"COPY items FROM '{path}' (FORMAT {form})")
        return float(text.split("Time: ")[1].split()[0]) / 1000

    def fill(self, table: pyarrow.Table, work: Path) -> None:
        self.copy(write_csv(table, work / "items.csv"), "csv")
        self.sql("VACUUM ANALYZE items", "CHECKPOINT")
        expect_equal("rows of PostgreSQL after they were loaded", self.count(), table.num_rows)

    def count(self) -> int:
        return int(self.sql("SELECT count(*) FROM items"))

    def pgbench(self, script: str, clients: int, transport: str) -> tuple[float, int, float]:
        """Transactions per second with prepared statements, how many, and microseconds of CPU of pgbench for each."""
        path = self.directory / "script.sql"
        path.write_text(script)
        path.chmod(0o644)
        command = [*self.connection(transport), "-n", "-c", clients, "-j", PGBENCH_THREADS, "-M", "prepared"]
        # Its time runs while it connects, which its rate leaves out: it gets some more.
        seconds = max(1, round(SECONDS)) + clients // PGBENCH_CONNECTS_PER_S
        text, cpu_s = self.command("pgbench", *command, "-T", seconds, "-f", path, "postgres")
        done = int(text.split("number of transactions actually processed: ")[1].split()[0])
        if done == 0:
            return 0.0, 0, 0.0
        tps = float(text.split("\ntps = ")[1].split()[0])
        return tps, done, cpu_s / done * 1e6

    def best_clients(self, name: str, script: str, transport: str) -> int:
        """The number of clients with which pgbench does the most."""
        rates = {clients: self.pgbench(script, clients, transport)[0] for clients in PGBENCH_CLIENTS}
        best = max(rates, key=rates.get)
        told = ", ".join(f"{clients}: {rate:.0f}/s" for clients, rate in rates.items())
        print(f"{name}: pgbench over {transport} by clients {told}; from here with {best}")
        return best

    def latency_ms(self, script: str, options: str) -> float:
        """The median latency of one client."""
        path = self.directory / "script.sql"
        path.write_text(script)
        path.chmod(0o644)
        log = self.directory / "latency"
        seconds = max(1, round(SECONDS))
        command = [*self.connection(), "-n", "-c", 1, "-M", "prepared", "-T", seconds, "-f", path]
        self.command("pgbench", *command, "--log", f"--log-prefix={log}", "postgres", options=options)
        latencies_us = []
        for path in self.directory.glob("latency.*"):
            latencies_us += [int(line.split()[2]) for line in path.read_text().splitlines()]
            path.unlink()
        return statistics.median(latencies_us) / 1000


class Duck:
    """A DuckDB in this process, with its table in a file."""

    def __init__(self, path: Path, threads: int) -> None:
        self.connection = duckdb.connect(str(path), config={"threads": threads})

    @staticmethod
    def write(table: pyarrow.Table, path: Path) -> None:
        connection = duckdb.connect(str(path))
        connection.execute("CREATE TABLE items (sku UBIGINT PRIMARY KEY, color VARCHAR NOT NULL, qty INTEGER NOT NULL)")
        connection.register("rows", table)
        connection.execute("INSERT INTO items SELECT * FROM rows")
        connection.execute("CREATE INDEX by_color ON items (color)")
        connection.close()

    def count_qty(self, a: int, b: int) -> int:
        statement = "SELECT count(*) FROM items WHERE qty >= ? AND qty < ?"
        return self.connection.execute(statement, [a, b]).fetchone()[0]

    def latency_ms(self) -> float:
        dice = numpy.random.default_rng()
        latencies_s = []
        deadline = time.perf_counter() + SECONDS
        while (begun := time.perf_counter()) < deadline:
            a = int(dice.integers(0, QTY_VALUES - QTY_RANGE))
            drawn = time.perf_counter()
            self.count_qty(a, a + QTY_RANGE)
            latencies_s.append(time.perf_counter() - drawn)
        assert begun >= deadline
        return statistics.median(latencies_s) * 1000


# Figures


@dataclass
class Line:
    """One line of the table at the end."""

    what: str
    reach: str
    host: str
    reference: str
    ratio: str


lines: list[Line] = []


def expect_equal(what: str, this: int, that: int) -> None:
    if this != that:
        raise Unable(f"{what}: {this} where {that} are right")


def figure(number: float, unit: str) -> str:
    """A number with three digits at least."""
    space = "" if unit.startswith("/") else " "
    return f"{number:,.0f}{space}{unit}" if number >= 100 else f"{number:.3g}{space}{unit}"


def sum_up(name: str, unit: str, hosts: list[float], references: list[float], reach: str, *, lower: bool = False) -> None:
    """Print the medians of the rounds and of their ratios; with `lower`, less of the unit is better."""
    pairs = zip(references, hosts, strict=True) if lower else zip(hosts, references, strict=True)
    ratios = [this / that for this, that in pairs]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}, {len(ratios)} rounds)"
    host, reference = figure(statistics.median(hosts), unit), figure(statistics.median(references), unit)
    print(f"{name}: median ratio {ratio}, host {host}, reference {reference}, reach {reach}")
    lines.append(Line(name, reach, host, reference, ratio))


def figure_upsert(work: Path) -> None:
    """Single rows at random, nine of ten there before, each its own durable transaction."""
    keys = keys_with_gaps(ROWS)
    key_count = int(keys[-1]) + 1
    script = (
        f"\\set sku random(0, {key_count - 1})\n\\set color random(1, {len(COLORS)})\n\\set qty random(0, 999)\n"
        f"INSERT INTO items VALUES (:sku, ('{{{','.join(COLORS)}}}'::varchar[])[:color], :qty) "
        "ON CONFLICT (sku) DO UPDATE SET color = excluded.color, qty = excluded.qty;\n"
    )
    with Host(work) as host, Postgres(work) as postgres:
        host.fill(keys)
        postgres.fill(make_rows(keys), work)
        best = {transport: postgres.best_clients("upsert", script, transport) for transport in [TCP, SOCKET]}
        postgres.fill(make_rows(keys), work)
        rates: dict[str, list[float]] = {TCP: [], SOCKET: [], "256": [], "64": []}
        before, postgres_before, ok, postgres_done = host.count(), postgres.count(), 0, 0
        for _ in range(ROUNDS):
            for transport, clients in best.items():
                tps, done, cpu_us = postgres.pgbench(script, clients, transport)
                postgres_done += done
                rates[transport].append(tps)
                print(
                    f"upsert: PostgreSQL over {transport}, {clients} clients {tps:.0f}/s "
                    f"(pgbench {cpu_us:.1f} us of CPU each)"
                )
            for clients in [256, 64]:
                result = host.load(UPSERT, clients, key_count)
                ok += result.ok
                rates[str(clients)].append(result.per_second)
                print(f"upsert: host, {clients} clients {result}")
        new, postgres_new = host.count() - before, postgres.count() - postgres_before
        print(
            f"upsert: new rows were {100 * new / ok:.1f} % of the host's upserts, "
            f"{100 * postgres_new / postgres_done:.1f} % of PostgreSQL's"
        )
        for clients, reach in [("256", "3 x"), ("64", "1.5 x")]:
            sum_up(f"upsert, {clients} clients", "/s", rates[clients], rates[TCP], reach)
            sum_up(f"upsert, {clients} clients; pgbench over {SOCKET}", "/s", rates[clients], rates[SOCKET], "-")


def figure_point(work: Path) -> None:
    """Rows by their key, all of them there."""
    script = f"\\set sku random(0, {ROWS - 1})\nSELECT color, qty FROM items WHERE sku = :sku;\n"
    with Host(work) as host, Postgres(work) as postgres:
        rows = make_rows(contiguous_keys(ROWS))
        host.fill(contiguous_keys(ROWS))
        postgres.fill(rows, work)
        at = ROWS // 2
        wanted = [column[at].as_py() for column in rows.columns]
        if (got := host.call("GET", f"/app/bench/items?key=%5B{at}%5D")) != wanted:
            raise Unable(f"the host reads {got} where {wanted} is right")
        host.load(POINT_READ, 64, ROWS, 1)
        best = {transport: postgres.best_clients("point", script, transport) for transport in [TCP, SOCKET]}
        hosts: list[float] = []
        references: dict[str, list[float]] = {TCP: [], SOCKET: []}
        for _ in range(ROUNDS):
            for transport, clients in best.items():
                tps, _, cpu_us = postgres.pgbench(script, clients, transport)
                references[transport].append(tps)
                print(
                    f"point: PostgreSQL over {transport}, {clients} clients {tps:.0f}/s "
                    f"(pgbench {cpu_us:.1f} us of CPU each)"
                )
            result = host.load(POINT_READ, 64, ROWS)
            print(f"point: host, {result}")
            hosts.append(result.per_second)
        sum_up("point read, 64 clients", "/s", hosts, references[TCP], "1 x")
        sum_up(f"point read, 64 clients; pgbench over {SOCKET}", "/s", hosts, references[SOCKET], "-")


def load_figure(work: Path, name: str, form: str, path: Path, reach: str) -> None:
    with Postgres(work) as postgres:
        rows = make_rows(contiguous_keys(ROWS))
        text = write_csv(rows, work / "items.csv")
        binary = postgres.directory / "items.binary"
        postgres.copy(text, "csv")
        postgres.sql(f"COPY items TO '{binary}' (FORMAT binary)")
        hosts, references = [], []
        for _ in range(ROUNDS):
            csv_s, binary_s = postgres.copy(text, "csv"), postgres.copy(binary, "binary")
            expect_equal("rows of PostgreSQL", postgres.count(), ROWS)
            with Host(work) as host:
                host_s = host.put_file(path, form)
                expect_equal("rows of the host", host.count(), ROWS)
            print(f"{name}: COPY of CSV {csv_s:.2f} s, of binary {binary_s:.2f} s, host {host_s:.2f} s")
            references.append(min(csv_s, binary_s))
            hosts.append(host_s)
        sum_up(f"{name}, {ROWS:,} rows", "s", hosts, references, reach, lower=True)


def figure_load(work: Path) -> None:
    """A table that is empty, filled by one transaction with an Arrow body."""
    path = write_arrow(make_rows(contiguous_keys(ROWS)), work / "items.arrow")
    load_figure(work, "load", ARROW, path, "2 x")


def figure_load_json(work: Path) -> None:
    """A table that is empty, filled by one transaction with a JSON body."""
    path = write_json(make_rows(contiguous_keys(ROWS)), work / "items.json")
    load_figure(work, "load-json", JSON, path, "0.5 x")


def figure_mass(work: Path) -> None:
    """Every row of a table is changed by a program, in one transaction: beside a loop in PL/pgSQL, and one UPDATE."""
    with Host(work) as host, Postgres(work) as postgres:
        keys = contiguous_keys(ROWS)
        host.fill(keys)
        postgres.fill(make_rows(keys), work)
        hosts: list[float] = []
        references: dict[str, list[float]] = {ADD_ONE_SQL: [], ADD_ONE_LOOP_SQL: []}
        for _ in range(ROUNDS):
            for statement, seconds in references.items():
                begun = time.perf_counter()
                postgres.sql(statement)
                seconds.append(time.perf_counter() - begun)
                postgres.sql("VACUUM items", "CHECKPOINT")
            begun = time.perf_counter()
            host.call("POST", "/app/bench/add_one", "{}")
            hosts.append(time.perf_counter() - begun)
            update_s, loop_s = (seconds[-1] for seconds in references.values())
            print(f"mass: one UPDATE {update_s:.2f} s, a loop in PL/pgSQL {loop_s:.2f} s, host {hosts[-1]:.2f} s")
        changed = int(postgres.sql("SELECT sum(qty) FROM items")) - 2 * ROUNDS * ROWS
        expected = int(make_rows(keys).column("qty").to_numpy().sum())
        expect_equal("the sum of PostgreSQL without what was added", changed, expected)
        expect_equal("rows of the host that were changed", host.count_qty(ROUNDS, QTY_VALUES + ROUNDS), ROWS)
        print(f"mass: the host held {host.status_kb()['VmHWM'] / 1024:.0f} MiB at most")
        sum_up(f"a program for each of {ROWS:,} rows", "s", hosts, references[ADD_ONE_LOOP_SQL], "-", lower=True)
        sum_up(f"a program for each of {ROWS:,} rows; one UPDATE", "s", hosts, references[ADD_ONE_SQL], "-", lower=True)


def figure_where(work: Path) -> None:
    """How many rows have a qty of a range that is drawn at random and holds a tenth of them; there is no index."""
    script = (
        f"\\set a random(0, {QTY_VALUES - QTY_RANGE - 1})\n\\set b :a + {QTY_RANGE}\n"
        "SELECT count(*) FROM items WHERE qty >= :a AND qty < :b;\n"
    )
    alone = "-c max_parallel_workers_per_gather=0"
    eager = "-c parallel_setup_cost=0 -c min_parallel_table_scan_size=0"
    cores = os.cpu_count() or 1
    with ExitStack() as stack:
        rows = make_rows(contiguous_keys(ROWS))
        hosts = {"1": stack.enter_context(Host(work, "--threads=1")), "all": stack.enter_context(Host(work))}
        postgres = stack.enter_context(Postgres(work))
        postgres.fill(rows, work)
        path = work / "items.duckdb"
        Duck.write(rows, path)
        right = count_of_rows(rows, 100, 200)
        statement = "SELECT count(*) FROM items WHERE qty >= 100 AND qty < 200"
        expect_equal("count of PostgreSQL", int(postgres.sql(statement)), right)
        for host in hosts.values():
            host.fill(contiguous_keys(ROWS))
            expect_equal("count of the host", host.count_qty(100, 200), right)
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            round_ms = {"PostgreSQL 1": postgres.latency_ms(script, alone)}
            # All threads are as many workers as serve it best.
            parallel_ms = [
                postgres.latency_ms(script, f"-c max_parallel_workers_per_gather={workers} {eager}")
                for workers in sorted({max(1, cores - 1), cores})
            ]
            round_ms["PostgreSQL all"] = min(round_ms["PostgreSQL 1"], *parallel_ms)
            for threads, count in [("1", 1), ("all", cores)]:
                # Two in one process cannot have one file open with different settings.
                duck = Duck(path, count)
                expect_equal("count of DuckDB", duck.count_qty(100, 200), right)
                round_ms[f"DuckDB {threads}"] = duck.latency_ms()
                duck.connection.close()
                round_ms[f"host {threads}"] = hosts[threads].load(COUNT_QTY, 1).p50_us / 1000
            for name, ms in round_ms.items():
                times.setdefault(name, []).append(ms)
            print("where: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in round_ms.items()))
        for threads in ["1", "all"]:
            for reference, reach in [("PostgreSQL", "5 x"), ("DuckDB", "0.5 x")]:
                name = f"where + count, threads: {threads}, beside {reference}"
                sum_up(name, "ms", times[f"host {threads}"], times[f"{reference} {threads}"], reach, lower=True)


def figure_arrow(work: Path) -> None:
    """A whole table as an Arrow stream, to a client that throws it away and to pyarrow."""
    with Host(work) as host:
        rows = make_rows(contiguous_keys(ROWS))
        host.fill(contiguous_keys(ROWS))
        rates: dict[str, list[float]] = {"curl": [], "pyarrow": []}
        for _ in range(ROUNDS):
            size, seconds = host.download("/app/bench/items")
            rates["curl"].append(size / seconds / 1e6)
            begun = time.perf_counter()
            connection = http.client.HTTPConnection(host.address, timeout=COMMAND_TIMEOUT_S)
            connection.request("GET", "/app/bench/items", headers={"accept": ARROW})
            table = ipc.open_stream(connection.getresponse()).read_all()
            rates["pyarrow"].append(size / (time.perf_counter() - begun) / 1e6)
            connection.close()
            expect_equal("rows of the stream", table.num_rows, ROWS)
            print(f"arrow: {size} bytes, curl {rates['curl'][-1]:.0f} MB/s, pyarrow {rates['pyarrow'][-1]:.0f} MB/s")
        if table.cast(rows.schema).sort_by("sku") != rows:
            raise Unable("the rows of the stream are not those that were loaded")
        for reader, hosts in rates.items():
            sum_up(f"Arrow out, {reader}", "MB/s", hosts, [500.0] * len(hosts), "500 MB/s")


def figure_growth(work: Path) -> None:
    """What a commit and a read cost as tables grow; each size has a host of its own, and the rounds go around them."""
    measures: dict[str, Callable[[Host, int], float]] = {
        "commit, 1 client, us": lambda host, rows: host.load(UPSERT, 1, rows).p50_us,
        "commit, 64 clients, us each": lambda host, rows: 1e6 / host.load(UPSERT, 64, rows).per_second,
        "point read, 1 client, us": lambda host, rows: host.load(POINT_READ, 1, rows).p50_us,
        "point read, 64 clients, us each": lambda host, rows: 1e6 / host.load(POINT_READ, 64, rows).per_second,
    }
    costs: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        hosts = {}
        for rows in GROWTH_ROWS:
            host = stack.enter_context(Host(work))
            try:
                host.fill(contiguous_keys(rows))
                hosts[rows] = host
            except Unable as why:
                print(f"growth: FAILED at {rows} rows: {why}")
        if not hosts:
            raise Unable("no size could be loaded")
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                for rows, host in hosts.items():
                    costs.setdefault((name, rows), []).append(measure(host, rows))
    sizes = sorted(hosts)
    with open(BENCH_DIRECTORY / "growth.csv", "w") as file:
        file.write("what,rows,median,least,most,rounds\n")
        for (name, rows), values in sorted(costs.items()):
            median = statistics.median(values)
            file.write(f'"{name}",{rows},{median:.2f},{min(values):.2f},{max(values):.2f},{len(values)}\n')
    for name in measures:
        medians = [statistics.median(costs[name, rows]) for rows in sizes]
        told = ", ".join(f"{rows:,}: {cost:.1f}" for rows, cost in zip(sizes, medians, strict=True))
        logarithmic = math.log(sizes[-1]) / math.log(sizes[0])
        ratio = f"{medians[-1] / medians[0]:.2f} (logarithm: {logarithmic:.2f})"
        print(f"growth: {name}: {told}; the largest / the smallest {ratio}")
        reach = f"{logarithmic:.2f} x"
        first, last = f"{medians[0]:.1f} at {sizes[0]:,}", f"{medians[-1]:.1f} at {sizes[-1]:,}"
        lines.append(Line(f"growth: {name}", reach, last, first, f"{medians[-1] / medians[0]:.2f}"))
    plot_growth(sizes, {name: [costs[name, rows] for rows in sizes] for name in measures})
    print(f"growth: written to {BENCH_DIRECTORY}/growth.csv and growth.svg")


def plot_growth(sizes: list[int], costs: dict[str, list[list[float]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same numbers make the same file, so that git shows what changed.
    matplotlib.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot

    picture, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, kind in zip(panels, ["1 client", "64 clients"], strict=True):
        for name, values in costs.items():
            if kind not in name:
                continue
            medians = [statistics.median(rounds) for rounds in values]
            below = [middle - min(rounds) for middle, rounds in zip(medians, values, strict=True)]
            above = [max(rounds) - middle for middle, rounds in zip(medians, values, strict=True)]
            line = panel.errorbar(sizes, medians, [below, above], marker="o", capsize=3, label=name.split(",")[0])
            bound = [medians[0] * math.log(rows) / math.log(sizes[0]) for rows in sizes]
            color = line.lines[0].get_color()
            panel.plot(sizes, bound, linestyle=":", color=color, label=f"{name.split(',')[0]}, if logarithmic")
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("rows")
        panel.set_ylabel("median latency, µs" if kind == "1 client" else "µs of the clock each, at full load")
        panel.set_title(kind)
        panel.legend()
    picture.savefig(BENCH_DIRECTORY / "growth.svg", metadata={"Date": None})


class Sampler:
    """Samples of the resident memory of a host, by phase."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.phase = "start"
        self.samples: list[tuple[str, dict[str, int]]] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def sample(self) -> None:
        while not self.stopped.wait(SAMPLE_S):
            try:
                self.samples.append((self.phase, self.host.status_kb()))
            except (OSError, ValueError):
                return

    def __enter__(self) -> "Sampler":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.thread.join()

    def begin(self, phase: str) -> None:
        """Begin a phase; the kernel's own high-water mark starts anew."""
        self.phase = phase
        Path(f"/proc/{self.host.process.pid}/clear_refs").write_text("5")

    def tell(self) -> int:
        """Print the most of the phase, and say it in bytes."""
        mark = self.host.status_kb()["VmHWM"]
        samples = [status for phase, status in list(self.samples) if phase == self.phase] or [self.host.status_kb()]
        most = max(samples, key=lambda status: status["VmRSS"])
        print(
            f"memory: {self.phase}: at most {most['VmRSS'] / 1000 * 1.024:.1f} MB resident of {len(samples)} samples "
            f"(anonymous {most['RssAnon'] / 1000 * 1.024:.1f}, of files {most['RssFile'] / 1000 * 1.024:.1f}; "
            f"VmHWM {mark / 1000 * 1.024:.1f})"
        )
        return max(most["VmRSS"], mark) * 1024


def figure_memory(work: Path) -> None:
    """A table of many times the cache: loaded, counted, streamed out, and updated at random."""
    keys = contiguous_keys(WIDE_ROWS)
    update = ("PUT", "/app/bench/wide?key=%5B<random:{keys}>%5D", '{"qty": <random:1000>}')
    count = ("POST", "/app/bench/count_wide", COUNT_QTY[2])
    most: dict[str, int] = {}
    with Host(work, f"--cache_size={MEMORY_CACHE}") as host, Sampler(host) as sampler:

        def phase(name: str, act: Callable[[], object]) -> None:
            sampler.begin(name)
            begun = time.monotonic()
            try:
                result = act()
                print(f"memory: {name}: {time.monotonic() - begun:.1f} s{'' if result is None else f', {result}'}")
                most[name] = sampler.tell()
            except Unable as why:
                print(f"memory: FAILED to {name}: {why}")
                if name == "load":
                    raise Unable("without rows there is nothing to scan") from None

        phase("load", lambda: host.fill(keys, "wide", WIDE_CHUNK_ROWS))
        disk_bytes = sum(path.stat().st_blocks * 512 for path in (host.directory / "data").rglob("*"))
        print(f"memory: {WIDE_ROWS} rows of about {NOTE_CHARACTERS + 20} bytes, {disk_bytes / 1e9:.2f} GB on disk")
        phase("count with a filter", lambda: host.load(count, 1, seconds=SECONDS))
        phase("Arrow out", lambda: "{} bytes in {} s".format(*host.download("/app/bench/wide")))
        phase("update by 16 clients", lambda: host.load(update, 16, WIDE_ROWS))
    worst = max(most, key=most.get)
    limit = f"{MEMORY_LIMIT_BYTES / 1e6:.0f} MB"
    print(f"memory: at most {most[worst] / 1e6:.1f} MB, to {worst}; limit {limit}")
    ratio = f"{most[worst] / MEMORY_LIMIT_BYTES:.2f}"
    lines.append(Line(f"resident memory ({worst})", f"<= {limit}", f"{most[worst] / 1e6:.1f} MB", limit, ratio))


def figure_memory_at_once(work: Path) -> None:
    """A table of many times the cache, loaded in one transaction: with its keys in random order, and then once more."""
    keys = contiguous_keys(WIDE_ROWS)
    numpy.random.default_rng(1).shuffle(keys)
    with Host(work, f"--cache_size={MEMORY_CACHE}") as host, Sampler(host) as sampler:
        most = 0
        for phase in ["load in one transaction", "load once more in one transaction"]:
            sampler.begin(phase)
            begun = time.monotonic()
            host.fill_at_once(keys, "wide", WIDE_CHUNK_ROWS)
            print(f"memory: {phase}: {time.monotonic() - begun:.1f} s")
            most = max(most, sampler.tell())
    limit = f"{MEMORY_LIMIT_BYTES / 1e6:.0f} MB"
    ratio = f"{most / MEMORY_LIMIT_BYTES:.2f}"
    lines.append(Line("resident memory (one transaction)", f"<= {limit}", f"{most / 1e6:.1f} MB", limit, ratio))


FIGURES: dict[str, Callable[[Path], None]] = {
    "upsert": figure_upsert,
    "point": figure_point,
    "load": figure_load,
    "load-json": figure_load_json,
    "mass": figure_mass,
    "where": figure_where,
    "arrow": figure_arrow,
    "growth": figure_growth,
    "memory": figure_memory,
    "memory-at-once": figure_memory_at_once,
}


def scratch_directory() -> Path:
    work = Path(tempfile.mkdtemp(prefix="tables-", dir=BENCH_DIRECTORY))
    work.chmod(0o755)
    return work


def main(names: list[str]) -> int:
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = []
    for name in names:
        work = scratch_directory()
        try:
            FIGURES[name](work)
        except Exception as why:  # whatever it is, the next figure is made
            kind = "" if isinstance(why, Unable) else f"{type(why).__name__}: "
            print(f"{name}: FAILED: {kind}{why}")
            failed.append(name)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    print("\n| what | reach | the host | reference | ratio |\n| --- | --- | --- | --- | --- |")
    for line in lines:
        print(f"| {line.what} | {line.reach} | {line.host} | {line.reference} | {line.ratio} |")
    if failed:
        print(f"not made: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
