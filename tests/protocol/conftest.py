"""Fixtures: one host without services for the whole session, and as many hosts with services as a test asks for."""

import pytest

import support


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """A host that serves no cluster, shared by all tests: they may not leave anything behind."""

    host = support.start(support.new_host(tmp_path_factory.mktemp("host"), data=False))
    yield host
    host.stop()


@pytest.fixture
def hypothetical(host):
    """POST a body to /transact/hypothetical of the shared host. Returns (status, reply)."""

    return lambda body: support.post(host, body)


@pytest.fixture
def serve(tmp_path):
    """Start a host that serves the given clusters. It is stopped when the test ends."""

    hosts = []

    def serve(*clusters, directory="host", **options):
        hosts.append(support.new_host(tmp_path / directory, *clusters, **options))
        return support.start(hosts[-1])

    yield serve

    for host in hosts:
        if support.is_running(host):
            host.stop(wait_time=0)
