"""Memories in buckets: what the environment says, leases in place of locks, and a network that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import object_servers
import pytest
from fault_proxy import FAULTS, FaultProxy
from object_servers import BUCKET, MotoServer, ObjectServer, binary

from glimmer import ConflictError, StorageError, UsageError
from glimmer.storage.memory import Memory
from glimmer.storage.stores import leases, open_store
from glimmer.storage.stores.object_settings import RETRY_VARIABLE, S3Settings, tries
from glimmer.storage.verify import verify


@pytest.fixture
def proxy(
    object_server: ObjectServer, new_bucket_place: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A proxy before the server, which all requests of the test go through."""
    with FaultProxy(object_server.url).running() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


# What the environment says.


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_keys_of_the_environment_go_before_those_of_a_profile(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
        "[other]\naws_access_key_id = c\naws_secret_access_key = d\naws_session_token = e\n"
    )
    (tmp_path / ".aws/config").write_text("[profile other]\nregion = eu-north-1\nendpoint_url = https://other.org/\n")
    assert S3Settings.from_environment().keys == {"access_key_id": "a", "secret_access_key": "b"}
    bare.setenv("AWS_PROFILE", "other")
    found = S3Settings.from_environment()
    assert (found.region, found.endpoint, found.profile) == ("eu-north-1", "https://other.org", "other")
    assert found.tensorstore("b", "p")["aws_credentials"]["profile"] == "other"
    assert found.obstore()["session_token"] == found.delta()["aws_session_token"] == "e"
    bare.setenv("AWS_ACCESS_KEY_ID", "x")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    found = S3Settings.from_environment()
    assert found.obstore()["access_key_id"] == found.delta()["aws_access_key_id"] == "x"
    assert found.tensorstore("b", "p")["aws_credentials"] == {"type": "environment"}
    assert "hush" not in repr(found), "secrets are not printed"


def test_what_cannot_be_meant_is_said(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("AWS_PROFILE", "absent")
    with pytest.raises(UsageError, match="no profile 'absent'"):
        S3Settings.from_environment()
    bare.delenv("AWS_PROFILE")
    bare.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="AWS_ALLOW_HTTP=true"):
        open_store("s3://bucket/memory")
    bare.delenv("AWS_ENDPOINT_URL")
    bare.setenv(RETRY_VARIABLE, "soon")
    with pytest.raises(UsageError, match="'soon' is not a number of seconds"):
        open_store("s3://bucket/memory")


def test_a_minute_of_repetitions_is_counted_out() -> None:
    assert [tries(0), tries(0.1), tries(0.71), tries(60)] == [0, 1, 3, 16]


def test_without_obstore_the_extra_is_named(bare: pytest.MonkeyPatch) -> None:
    bare.setitem(sys.modules, "obstore", None)
    for place, extra in (("s3://bucket/memory", "s3"), ("gs://bucket/memory", "gcp")):
        with pytest.raises(UsageError, match=rf"pip install 'glimmer-memory\[{extra}\]'"):
            open_store(place).exists("memory.json")


def test_a_bucket_that_is_not_there_and_a_wrong_key_are_said(
    new_bucket_place: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = open_store("s3://no-such-bucket-here/memory")
    uses: list[Callable[[], object]] = [lambda: absent.read("x"), absent.names]
    for use in uses:
        with pytest.raises(StorageError, match="no such bucket"):
            use()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="check the credentials"):
        Memory.open(new_bucket_place())


def test_many_small_objects_are_asked_for_at_once(new_bucket_place: Callable[[], str]) -> None:
    together = threading.Barrier(8)  # which breaks where each waits for the one before

    def act(number: int) -> int:
        together.wait(20)
        return number

    assert list(open_store(new_bucket_place()).in_order(act, range(24))) == list(range(24))


# Leases.


def busy(holder: str) -> ConflictError:
    return ConflictError(f"held by {holder}")


def test_a_killed_process_holds_nothing(new_bucket_place: Callable[[], str], tmp_path: Path) -> None:
    place = new_bucket_place()
    script = tmp_path / "hold.py"
    script.write_text(
        "import sys, time\nfrom glimmer import ConflictError\nfrom glimmer.storage.stores import open_store\n"
        f"with open_store({place!r}).lock('jobs/j/lock', busy=ConflictError):\n"
        "    print('held', flush=True)\n    time.sleep(100)\n"
    )
    holder = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    store = open_store(place)
    with pytest.raises(ConflictError, match=f"held by process {holder.pid} on "), store.lock("jobs/j/lock", busy=busy):
        pytest.fail("held twice")
    holder.kill()
    holder.wait()
    with store.lock("jobs/j/lock", busy=busy):
        assert store.is_locked("jobs/j/lock")
    assert not store.exists("jobs/j/lock")


@pytest.mark.slow
def test_a_lease_is_renewed_and_one_that_is_not_can_be_taken(
    new_bucket_place: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new_bucket_place()
    monkeypatch.setattr(leases, "_is_gone", lambda process: False)  # as from another machine
    monkeypatch.setattr(leases, "LEASE_S", 3.0)
    monkeypatch.setattr(leases, "_RENEW_S", 0.5)
    first, second = open_store(place), open_store(place)
    with first.lock("lock", busy=busy):
        time.sleep(4.5)
        with pytest.raises(ConflictError), second.lock("lock", busy=busy):
            pytest.fail("it was renewed")
        first.check_locks()
    monkeypatch.setattr(leases, "_RENEW_S", 60)  # a process that was stopped
    with first.lock("lock", busy=busy):
        time.sleep(4.5)
        with second.lock("lock", busy=busy):
            first.put("a/b", b"x")
            for act in (first.check_locks, lambda: first.delete_tree("a")):
                with pytest.raises(ConflictError, match="did not renew its lock"):
                    act()
        assert first.read("a/b") == b"x"


def test_of_many_that_take_a_lock_one_holds_it(new_bucket_place: Callable[[], str]) -> None:
    place, inside, most = new_bucket_place(), [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(3):
            with open_store(place).lock("lock", busy=busy, wait=True):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


# A network that fails.


def test_a_put_whose_answer_is_lost_knows_its_own_object(
    proxy: FaultProxy, new_bucket_place: Callable[[], str]
) -> None:
    store = open_store(new_bucket_place())
    fates = iter(["lose the answer", "", "", "", "", ""])
    proxy.fate = lambda kind: next(fates)  # type: ignore[method-assign]
    assert store.put_if_absent("entry", b"the same"), "the second request meets what the first has put"
    assert not store.put_if_absent("entry", b"the same")


FOREVER = ["503", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("429", "drop", "truncate"))]


@pytest.mark.parametrize("fault", FOREVER)
def test_a_store_that_does_not_answer_is_named_in_time(
    proxy: FaultProxy, new_bucket_place: Callable[[], str], kit: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.5")
    place = kit.memory(new_bucket_place(), 30)
    memory = Memory.open(place)
    memory.locate([kit.passage(1).passage_id])
    uses: list[tuple[Callable[[], object], str]] = [
        (lambda: memory.store.read("memory.json"), "memory.json"),
        (lambda: memory.fetch(np.arange(5)), "segments/seg-job-0/codes/c.0.0.0"),
        (lambda: memory.texts(np.arange(5)), "segments/seg-job-0/text/0.arrow"),
        (lambda: Memory.open(place), "memory.json"),
        (lambda: memory.catalog.manifest(1), "passages/_delta_log"),
    ]
    proxy.set(1, fault)
    for use, name in uses:
        began = time.monotonic()
        with pytest.raises(StorageError, match=f"{place}/{name}.*run the same command again"):
            use()
        assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("faults", [*((fault,) for fault in FAULTS), FAULTS], ids=lambda faults: "+".join(faults))
def test_a_memory_is_made_and_read_over_a_network_that_fails(
    proxy: FaultProxy, new_bucket_place: Callable[[], str], kit: Any, faults: tuple[str, ...]
) -> None:
    place = new_bucket_place()
    proxy.set(0.2, *faults)
    kit.memory(place, 1100, 50)
    memory = Memory.open(place)
    everything = np.arange(1150)
    codes, _ = memory.fetch(everything)
    passages = memory.texts(everything)
    proxy.set(0)
    assert all(proxy.suffered[fault] for fault in faults)
    assert memory.version == 2
    assert verify(place).sound
    assert np.array_equal(codes, kit.codes(passages))


def test_requests_do_not_grow_with_the_shards_that_are_opened(
    proxy: FaultProxy, new_bucket_place: Callable[[], str], kit: Any
) -> None:
    """The figures of docs/object-stores.md, which `glimmer estimate` counts with."""
    small, large = kit.memory(new_bucket_place(), 30), kit.memory(new_bucket_place(), 5000)
    found = []
    for place in (small, large):
        with proxy.counted() as requests:
            Memory.open(place)
        found.append(dict(requests))
    assert found[0] == found[1]
    memory = Memory.open(large)
    memory.fetch(np.arange(0, 5000, 1024))
    with proxy.counted() as requests:
        memory.fetch(np.array([7]))
    assert dict(requests) == {"GET": 2}, "the index of the shard, and the passage"


# A second server.


@pytest.mark.slow
@pytest.mark.skipif(binary(MotoServer.program) is None, reason="moto's server is not installed")
def test_motos_server_holds_a_memory_too(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MotoServer(tmp_path)
    server.start()
    try:
        for name, value in object_servers.environment(server.url).items():
            monkeypatch.setenv(name, value)
        place = kit.memory(f"s3://{BUCKET}/moto/memory", 1100, 50)
        assert verify(place).sound
        with open_store(place).lock("lock", busy=busy):
            assert open_store(place).is_locked("lock")
        open_store(place).delete_tree("")
        assert open_store(place).entries() == []
    finally:
        server.kill()
