"""What was answered with 200 is still there after a restart and after kill -9, histories included."""

import pytest
import tinychain as tc

import support
import tbon


class Diary(tc.Cluster):
    __uri__ = tc.URI("/app/diary")

    def _configure(self):
        self.page = tc.chain.Sync(tc.String(""))
        self.pages = tc.chain.Block(tc.String(""))
        self.index = tc.chain.Sync(tc.Map({}))
        self.order = tc.chain.Block(tc.Tuple([0, 0]))

    @tc.post_method
    def write(self, name: tc.String, text: tc.String):
        return [self.page.set(text), self.pages.set(text), tc.ref.Put(tc.uri(self.index), name, text)]


CHAINS = ["page", "pages", "index", "order"]


def content(host):
    return {
        name: (host.get(f"/app/diary/{name}"), host.get(f"/app/diary/{name}/chain"))
        for name in CHAINS}


def stop_and_start(host):
    return support.restart(host)


def kill_and_start(host):
    support.kill(host)
    return support.start(host)


@pytest.mark.parametrize("again", [stop_and_start, kill_and_start])
def test_every_kind_of_write_survives(serve, again):
    host = serve(Diary)
    for round_ in range(3):
        host.post("/app/diary/write", {"name": f"n{round_}", "text": f"text {round_} é\n"})
        host.put("/app/diary/page", None, f"page {round_}")
        host.put("/app/diary/index", "last", round_)
        host.put("/app/diary/order", 1, round_)
        host.put("/app/diary/index", "gone", 1)
        host.delete("/app/diary/index", "gone")
        before = content(host)
        again(host)
        assert content(host) == before

    assert host.get("/app/diary/page") == "page 2"
    assert host.get("/app/diary/index") == {"last": 2, **{f"n{i}": f"text {i} é\n" for i in range(3)}}
    assert host.get("/app/diary/order") == [0, 2]


def test_the_client_itself_starts_stops_and_restarts_a_host(tmp_path):
    """As the client does it: one second to start, SIGTERM to stop, the same port and directory again."""

    host = support.new_host(tmp_path, Diary)
    host.start()
    host.put("/app/diary/page", None, "kept")
    host.stop()
    host.start()
    assert host.get("/app/diary/page") == "kept"
    process = host._process
    host.stop()
    assert process.returncode == 0


def test_one_directory_may_be_both_workspace_and_data_dir(serve, tmp_path):
    host = serve(Diary, workspace=str(tmp_path / "both"), data_dir=str(tmp_path / "both"))
    host.put("/app/diary/pages", None, "kept")
    kill_and_start(host)
    assert host.get("/app/diary/pages") == "kept"


def test_a_tiny_cache_never_fails_a_request(serve):
    host = serve(Diary, cache_size="5K")
    for i in range(20):
        text = f"{i} " + "x" * 10_000
        host.post("/app/diary/write", {"name": f"n{i}", "text": text})
        assert host.get("/app/diary/page") == text

    kill_and_start(host)
    assert len(host.get("/app/diary/index")) == 20
    assert len(tbon.verify(host.get("/app/diary/pages/chain")["/state/chain/block"][1])) == 20


def test_blocks_are_linked_by_hash_and_roll_over_at_1_mb(serve):
    host = serve(Diary)
    texts = [f"{i} " + chr(97 + i % 26) * 10_000 for i in range(320)]
    for text in texts:
        host.put("/app/diary/pages", None, text)

    initial, blocks = host.get("/app/diary/pages/chain")["/state/chain/block"]
    assert initial == ""
    assert tbon.verify(blocks) == [["/", None, text] for text in texts]

    sizes = [len(tbon.encode_block(block)) for block in blocks]
    assert len(blocks) == 4, sizes
    assert all(1_000_000 <= size < 1_020_000 for size in sizes[:-1]), sizes

    kill_and_start(host)
    assert host.get("/app/diary/pages/chain")["/state/chain/block"] == [initial, blocks]

    host.put("/app/diary/pages", None, "after the restart")
    _, longer = host.get("/app/diary/pages/chain")["/state/chain/block"]
    assert longer[:-1] == blocks[:-1]
    assert tbon.verify(longer)[-1] == ["/", None, "after the restart"]


def test_a_service_added_later_starts_beside_the_old_one(serve, tmp_path):
    class Other(tc.Cluster):
        __uri__ = tc.URI("/app/other")

        def _configure(self):
            self.value = tc.chain.Sync(tc.Number(7))

    data_dir = str(tmp_path / "data")
    host = serve(Diary, data_dir=data_dir, directory="first")
    host.put("/app/diary/page", None, "kept")
    host.stop(wait_time=0)

    host = serve(Diary, Other, data_dir=data_dir, directory="second")
    assert host.get("/app/diary/page") == "kept"
    assert host.get("/app/other/value") == 7
