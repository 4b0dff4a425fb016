"""The storage as an operator meets it: modes, a directory that goes, a full disk, what is synced, backup and restore."""

import re
import shutil
import stat
import subprocess
import threading
import time

import pytest
import requests

import support

SCHEMA = [[["k", support.N + "/int/64"]], [["v", support.V + "/string", 30000]]]

CLUSTER = {"/app/store": {
    "log": {"/state/chain/block": [""]},
    "note": {"/state/chain/sync": [""]},
    "rows": {"/state/chain/sync": [{"/state/collection/table": [[SCHEMA, []]]}]},
}}


def host_in(directory, **options):
    return support.new_host(directory, CLUSTER, **options)


@pytest.fixture
def host(tmp_path):
    host = host_in(tmp_path)
    support.start(host)
    yield host
    if support.is_running(host):
        support.kill(host)


def put(host, member, value, key=None):
    return support.call(host, "PUT", f"/app/store/{member}", value, key=key)


def put_row(host, number, text):
    return put(host, "rows", [text], key=[number])


def get(host, member, key=None):
    return support.call(host, "GET", f"/app/store/{member}", key=key)


def count(host):
    status, rows = support.call(host, "GET", "/app/store/rows/count")
    assert status == 200, rows
    return rows


def everything(host):
    return [get(host, "log"), get(host, "note"), get(host, "rows"), support.call(host, "GET", "/app/store/log/chain")]


def modes(directory):
    paths = [directory, *directory.rglob("*")]
    return {path: stat.S_IMODE(path.stat().st_mode) for path in paths}


def assert_private(directory):
    for path, mode in modes(directory).items():
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"


def test_what_is_stored_is_for_the_owner_alone(host, tmp_path):
    stored = tmp_path / "data" / "tinychain"
    assert put(host, "note", "x")[0] == 200
    assert_private(stored)
    support.kill(host)
    # As programs before this one made them.
    for path in [stored, *stored.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    support.start(host)
    assert_private(stored)
    assert get(host, "note") == (200, "x")


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_data_directory_that_goes_ends_the_host(tmp_path, how):
    host = host_in(tmp_path, log_level="warn")
    support.start(host)
    assert put(host, "note", "x")[0] == 200
    data = tmp_path / "data"
    if how == "removed":
        shutil.rmtree(data / "tinychain")
    else:
        data.rename(tmp_path / "elsewhere")
        if how == "replaced":
            shutil.copytree(tmp_path / "elsewhere", data)
    assert host._process.wait(timeout=10) not in (0, None)
    host._process = None
    if how == "moved":
        (tmp_path / "elsewhere").rename(data)
        support.start(host)
        assert get(host, "note") == (200, "x")
        support.kill(host)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB."""

    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"only root can mount a small file system: {mounted.stderr}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_refuses_writes_and_nothing_else(small_disk):
    host = host_in(small_disk, workspace=str(small_disk / "workspace"))
    support.start(host)
    try:
        text = "x" * 20_000
        last = 0
        while last < 3_000:
            status, reply = put_row(host, last, text)
            if status != 200:
                break
            last += 1
        assert status == 503 and "no room" in str(reply), reply
        assert last > 100
        assert get(host, "rows", key=[0])[0] == 200
        assert count(host) == last

        # Deletes make room.
        for number in range(last // 2):
            assert support.call(host, "DELETE", "/app/store/rows", key=[number])[0] == 200
        deadline = time.monotonic() + 20
        while put(host, "note", "room again")[0] != 200:
            assert time.monotonic() < deadline, "deletes make room"
            time.sleep(0.1)

        # Somebody else takes all the rest; a host starts on that, and shows what it has.
        with open(small_disk / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 16))
            except OSError:
                pass
        support.kill(host)
        support.start(host)
        assert get(host, "note") == (200, "room again")
        assert count(host) == last - last // 2
        assert support.call(host, "DELETE", "/app/store/rows", key=[last - 1])[0] == 200
        assert count(host) == last - last // 2 - 1
        assert support.is_running(host)

        (small_disk / "filler").unlink()
        deadline = time.monotonic() + 20
        while put(host, "note", "free")[0] != 200:
            assert time.monotonic() < deadline, "there is room again"
            time.sleep(0.1)
        support.kill(host)
        support.start(host)
        assert get(host, "note") == (200, "free")
        assert count(host) == last - last // 2 - 1
    finally:
        if support.is_running(host):
            support.kill(host)


def back_up(host, path):
    with requests.get(support.address(host) + "/debug/backup", stream=True, timeout=60) as reply:
        assert reply.status_code == 200, reply.text
        with open(path, "wb") as file:
            for chunk in reply.iter_content(1 << 16):
                file.write(chunk)
    return path


def restore(backup, directory):
    return subprocess.run(
        [support.binary(), "restore", str(backup), f"--data_dir={directory}"],
        capture_output=True, text=True, timeout=60)


def test_a_backup_is_what_was_there(host, tmp_path):
    for number in range(200):
        assert put_row(host, number, f"row {number}" + "x" * 500)[0] == 200
        assert put(host, "log", f"entry {number}")[0] == 200
    expected = everything(host)
    backup = back_up(host, tmp_path / "backup")
    support.kill(host)
    other = tmp_path / "other"
    restored = restore(backup, other / "data")
    assert restored.returncode == 0, restored.stderr
    assert_private(other / "data" / "tinychain")
    again = host_in(other)
    support.start(again)
    assert everything(again) == expected
    assert put(again, "note", "goes on")[0] == 200
    support.kill(again)


def test_a_backup_beside_writes_is_of_one_moment(host, tmp_path):
    """Rows are written in order, so at any moment there is one for each number up to the last."""

    is_done = threading.Event()

    def write():
        number = 0
        while not is_done.is_set():
            number += 1
            assert put_row(host, number, "x" * 2_000)[0] == 200

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)
    backups = [back_up(host, tmp_path / f"backup-{number}") for number in range(3)]
    is_done.set()
    writer.join()
    counts = []
    for number, backup in enumerate(backups):
        other = tmp_path / f"other-{number}"
        assert restore(backup, other / "data").returncode == 0
        again = host_in(other)
        support.start(again)
        last = count(again)
        found = [bool(get(again, "rows", key=[number])[1]) for number in range(1, last + 3)]
        assert found == [True] * last + [False] * 2
        counts.append(last)
        support.kill(again)
    assert counts == sorted(counts)


def test_a_damaged_backup_leaves_nothing(host, tmp_path):
    for number in range(50):
        assert put_row(host, number, "x" * 1_000)[0] == 200
    whole = back_up(host, tmp_path / "backup").read_bytes()
    target = tmp_path / "restored"

    def assert_refused(contents):
        (tmp_path / "damaged").write_bytes(contents)
        refused = restore(tmp_path / "damaged", target)
        assert refused.returncode != 0
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert not target.exists()

    for length in (0, 20, 40, 60, len(whole) // 2, len(whole) - 1):
        assert_refused(whole[:length])
    for place in (3, 20, 45, 50, len(whole) // 3, len(whole) - 9):
        assert_refused(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:])
    assert_refused(whole + b"more")
    assert restore(tmp_path / "backup", target).returncode == 0
    occupied = restore(tmp_path / "backup", target)
    assert occupied.returncode != 0 and "holds data already" in occupied.stderr


def test_a_copy_of_a_running_host_starts_or_is_refused_in_one_line(host, tmp_path):
    is_done = threading.Event()

    def write():
        number = 0
        while not is_done.is_set():
            number += 1
            put_row(host, number, "x" * 10_000)

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(4):
        time.sleep(0.3)
        other = tmp_path / f"copy-{number}"
        subprocess.run(["cp", "-r", tmp_path / "data", other], check=True)
        verified = subprocess.run(
            [support.binary(), "verify", f"--data_dir={other}"], capture_output=True, text=True, timeout=60)
        assert verified.returncode in (0, 1), verified
        assert "panicked" not in verified.stderr
        if verified.returncode == 1:
            assert len(verified.stderr.strip().splitlines()) == 1, verified.stderr
    is_done.set()
    writer.join()


def test_no_answer_leaves_before_its_write_is_synced(tmp_path):
    """What `kill -9` cannot show, as the kernel keeps what was written: the order of writes, syncs and answers."""

    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    host = host_in(tmp_path)
    support.start(host)
    trace = tmp_path / "trace"
    tracer = subprocess.Popen(
        [strace, "-f", "-y", "-p", str(host._process.pid), "-o", trace, "-s", "2000",
         "-e", "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    line = tracer.stderr.readline()
    if "attached" not in line:
        tracer.wait(timeout=10)
        support.kill(host)
        pytest.skip(f"strace may not attach: {line}")
    try:
        for number in range(20):
            assert put(host, "note", f"value-{number}")[0] == 200
    finally:
        support.kill(host)
        tracer.wait(timeout=10)

    # Of each value: its record is written to the log, a sync of that log ends well after it, and then the answer leaves.
    answered = 0
    is_pending = False
    for line in trace.read_text().splitlines():
        is_log = re.search(r"/tinychain/log-[01]>", line)
        if "pwrite64(" in line and is_log and "value-" in line:
            is_pending = True
        elif "fdatasync" in line and line.rstrip().endswith("= 0"):
            is_pending = False
        elif re.search(r"(write|writev|sendto|sendmsg)\(\d+<(TCP|socket)", line) and "HTTP/1.1 200" in line:
            assert not is_pending, f"an answer left before a sync: {line}"
            answered += 1
    assert answered >= 20, trace.read_text()[-3_000:]
