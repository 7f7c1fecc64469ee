"""Stores: what every place for a memory promises, and a place that is added in one new file."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pytest
from stores_of_a_kind import stores_of_a_kind

from glimmer import ConflictError, DamageError, StorageError, UsageError
from glimmer.storage.memory import Memory, rollback
from glimmer.storage.stores import InMemoryStore, LocalStore, Store, open_store, register_store
from glimmer.storage.verify import verify


@pytest.fixture(params=["local", "in memory", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty stores of one kind: here a bucket belongs to the quick tests."""
    yield from stores_of_a_kind(request, tmp_path)


def write_xy(file: BinaryIO) -> None:
    file.write(b"xy")


def test_what_is_put_is_read_whole_in_part_and_by_digest(store: Store) -> None:
    store.put("a/b/c", b"0123456789")
    store.put("a/d", write_xy)
    assert store.read("a/b/c") == bytes(store.buffer("a/b/c")) == b"0123456789"
    assert [store.read_range("a/b/c", start, 4) for start in (0, 8, 10)] == [b"0123", b"89", b""]
    assert store.sha256("a/d")[1] == 2
    assert store.read("a/d", size=2) == store.read("a/d", most=5) == b"xy"
    for size in ({"size": 3}, {"most": 1}):
        with pytest.raises(DamageError, match="a/d: has 2 bytes"):
            store.read("a/d", **size)
    for missing in (store.read, store.buffer, store.sha256):
        with pytest.raises(FileNotFoundError):
            missing("a/absent")


def test_listings_have_sizes_times_and_kinds(store: Store) -> None:
    store.put("a/d", b"xy")
    before = store.clock()
    store.put("a/b/c", b"0123456789")
    assert [(entry.key, entry.name, entry.kind) for entry in store.entries("a")] == [
        ("a/b", "b", "directory"),
        ("a/d", "d", "file"),
    ]
    assert sorted(store.names("a")) == ["b", "d"]
    assert store.entries("absent") == store.entries("a/d/e") == []
    entry = store.stat("a/b/c")
    assert entry is not None
    assert (entry.size, entry.kind) == (10, "file")
    assert before - 1 <= entry.modified <= store.clock() + 1
    assert store.stat("a/absent") is None
    assert store.exists("a/b")
    assert not store.is_file("a/b")
    assert {e.key for e in store.walk("a") if e.kind == "file"} == {"a/b/c", "a/d"}
    assert store.tree_size("a") == 12
    assert store.tree_time("a") >= entry.modified
    assert store.tree_time("absent") == float("-inf")


def test_of_several_that_put_at_once_one_does(store: Store) -> None:
    winners: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        if store.put_if_absent("entry", str(number).encode() * 1000):
            winners.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.read("entry") == str(winners[0]).encode() * 1000
    assert store.names() == ["entry"]


def test_files_move_and_go_and_trees_go_whole(store: Store) -> None:
    for key in ("a/b/c", "a/b/d", "a/bc"):
        store.put(key, key.encode())
    store.move("a/b/c", "e/f")
    assert (store.exists("a/b/c"), store.read("e/f")) == (False, b"a/b/c")
    store.delete("a/absent")
    store.delete_tree("a/b")
    store.delete_tree("a/b")
    assert store.names("a") == ["bc"], "only what is below the prefix goes, not what begins like it"


def test_a_writer_that_fails_leaves_what_was_there(store: Store) -> None:
    def fail(file: Any) -> None:
        file.write(b"half")
        raise StorageError("the disk is full")

    store.put("a", b"old")
    with pytest.raises(StorageError, match="full"):
        store.put("a", fail)
    assert store.read("a") == b"old"
    assert store.names() == ["a"]


def test_locks_exclude_and_share(store: Store) -> None:
    def hold(**how: bool) -> Any:
        return store.lock("jobs/lock", busy=lambda holder: ConflictError(f"held by {holder}"), **how)

    with hold(shared=True), hold(shared=True):
        assert not store.is_locked("jobs/lock")
        with pytest.raises(ConflictError, match="held by"), hold():
            pytest.fail("held alone while it is shared")
    with hold():
        assert store.is_locked("jobs/lock")
        with pytest.raises(ConflictError), hold(shared=True):
            pytest.fail("shared while it is held alone")
    entered = threading.Event()
    with hold():
        thread = threading.Thread(target=lambda: _enter(hold(wait=True), entered))
        thread.start()
        assert not entered.wait(0.05)
    thread.join(10)
    assert entered.is_set()


def _enter(lock: Any, entered: threading.Event) -> None:
    with lock:
        entered.set()


def test_a_store_is_found_by_its_location_and_sent_to_other_processes(store: Store, tmp_path: Path) -> None:
    assert open_store(store) is store
    store.put("a", b"x")
    for same in (open_store(store.location), pickle.loads(pickle.dumps(store))):
        assert (type(same), same.location, same.read("a")) == (type(store), store.location, b"x")
    assert open_store(f"file://{tmp_path}/m").location == tmp_path / "m"
    for bad in ("ftp://bucket/m", "s3://bucket", "gs://b/m", "s3://bucket/a//b", "s3://bucket/../m", "memory://", ""):
        with pytest.raises(UsageError):
            open_store(bad)
    with pytest.raises(UsageError, match="scheme"):
        register_store("file", LocalStore)


def test_a_key_cannot_lead_out_of_a_local_store(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "m")
    for key in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(UsageError, match="not the name of anything in a memory"):
            store.put(key, b"x")


def test_reads_of_many_files_come_in_order_and_an_error_in_its_turn(store: Store) -> None:
    keys = [f"many/{number}" for number in range(50)]
    for key in keys:
        store.put(key, key.encode())
    assert list(store.in_order(store.read, keys)) == [key.encode() for key in keys]
    store.delete("many/20")
    found = store.in_order(store.read, keys)
    assert [next(found) for _ in range(20)] == [key.encode() for key in keys[:20]]
    with pytest.raises(FileNotFoundError):
        next(found)


# A place for memories that is added in one file: this class, and its line in `register_store`.


class ShelfStore(InMemoryStore):
    """Keeps files under a name of its own; counts what is written, as somebody's bucket would."""

    puts: ClassVar[int] = 0

    def __init__(self, location: str) -> None:
        super().__init__("memory://shelf-" + location.removeprefix("shelf://"))
        self.location = location

    def put(self, key: str, content: Any) -> None:
        type(self).puts += 1
        super().put(key, content)


@pytest.fixture
def shelf() -> Iterator[str]:
    register_store("shelf", ShelfStore)
    yield "shelf://books/wiki"
    open_store("shelf://books/wiki").forget()  # type: ignore[attr-defined]


def test_a_store_added_in_one_file_holds_a_memory(shelf: str, kit: Any, tmp_path: Path) -> None:
    kit.memory(shelf, 1100, 50)
    kit.memory(tmp_path / "local", 1100, 50)
    memory, local = Memory.open(shelf), Memory.open(tmp_path / "local")
    assert type(memory.store) is ShelfStore
    assert memory.location == shelf
    assert (memory.version, memory.passages, memory.tokens) == (2, 1150, local.tokens)
    everything = np.arange(1150)
    codes, lengths = memory.fetch(everything)
    local_codes, local_lengths = local.fetch(everything)
    assert np.array_equal(codes, local_codes)
    assert np.array_equal(lengths, local_lengths)
    assert memory.texts(everything) == local.texts(everything)
    assert verify(shelf).sound
    assert rollback(shelf, to=1, base=2, job="undo").version == 3
    assert Memory.open(shelf).passages == 1100
    assert ShelfStore.puts > 10
    memory.store.delete("segments/seg-job-0/codes/c.1.0.0")
    assert [damage.kind for damage in verify(shelf).damages] == ["codes"]


def test_equal_memories_have_equal_bytes_in_every_store(
    new_store: Callable[[], Store], kit: Any, tmp_path: Path
) -> None:
    """All but the catalog: its files have random names, and its log the times of commits."""
    store, local = new_store(), open_store(tmp_path / "local")
    for each in (store, local):
        kit.memory(each, 1100, 50)
    ours, theirs = (
        {e.key: each.read(e.key) for e in each.walk("") if e.kind == "file" and not e.key.startswith("passages/")}
        for each in (store, local)
    )
    headers = {key for key in ours if key.startswith("indexes/")}
    assert ours.keys() == theirs.keys()
    assert {key: ours[key] for key in ours.keys() - headers} == {key: theirs[key] for key in theirs.keys() - headers}
    # An id map's header has the digest of the version's content, and so of the random names.
    assert {key: ours[key][4096:] for key in headers} == {key: theirs[key][4096:] for key in headers}
