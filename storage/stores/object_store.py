"""A memory in a bucket: `s3://bucket/prefix` and `gs://bucket/prefix`.

Objects appear whole or not at all, so every write is one request. Codes go through TensorStore's own drivers, the
catalog's log through Delta Lake's, with put-if-absent for a commit; all else through obstore, which is an optional
dependency. Requests that fail in ways that pass (no connection, a time-out, 429, 5xx, a body cut short) are repeated
with growing, random pauses, for a minute unless GLIMMER_RETRY_SECONDS says otherwise; then the error names the object.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, Final, TypeVar

from ... import GlimmerError, StorageError, UsageError
from ..files import TEMPORARY_PREFIX
from .leases import Leases
from .object_settings import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    POLL_S,
    REQUESTS_AT_ONCE,
    RETRY_VARIABLE,
    GcsSettings,
    S3Settings,
    split_location,
    tensorstore_retries,
)
from .protocol import Content, Entry, Store, check_size, rendered, shared_context

_T = TypeVar("_T")
_Item = TypeVar("_Item")
_WRITER: Final = "glimmer-writer"
"""Attribute of an object that says which request made it, where a repeated one must recognise its own."""
_STATUS: Final = re.compile(r"non-2xx status code: ([0-9]{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_PASSING: Final = frozenset({408, 429})
_ONE_PUT: Final = 64 << 20
"""Larger files are put in parts, which become one object at the end."""


class ObjectStore(Store):
    """The objects below a prefix of a bucket. Subclasses say which kind of bucket."""

    remote: ClassVar[bool] = True
    least_vacuum_age: ClassVar[datetime.timedelta] = datetime.timedelta(days=1)
    poll_seconds: ClassVar[float] = POLL_S
    scheme: ClassVar[str]
    extra: ClassVar[str]
    """The optional dependencies of the package that it needs."""
    obstore_class: ClassVar[str]
    """In `obstore.store`."""
    retry_resource: ClassVar[str]
    """TensorStore's context resource that says how its driver repeats requests."""
    settings_class: ClassVar[type[S3Settings] | type[GcsSettings]]

    def __init__(self, location: str) -> None:
        self.bucket, self.prefix = split_location(location, self.scheme)
        super().__init__(f"{self.scheme}://{self.bucket}/{self.prefix}")
        self.settings = self.settings_class.from_environment()
        self._leases = Leases(self)

    @cached_property
    def _objects(self) -> Any:
        try:
            from obstore import store
        except ModuleNotFoundError:
            raise UsageError(
                "memories in buckets need the package obstore",
                where=self.location,
                remedy=f"install it with `pip install 'glimmer-memory[{self.extra}]'`",
            ) from None
        with self.refusals():
            opened = getattr(store, self.obstore_class)
            return opened(self.bucket, prefix=self.prefix, **self.settings.obstore())

    # Requests.

    def _request(self, key: str, ask: Callable[[Any], _T]) -> _T:
        """The answer to `ask`, repeated while its failures are of a kind that passes.

        Raises FileNotFoundError where nothing is at `key`, StorageError that names it where the store refuses.
        """
        objects = self._objects
        try:
            return self._asked(lambda: ask(objects), lambda error: _is_failure(error) and _passes(error))
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._refusal(key, error) from error
            raise FileNotFoundError(2, "No such object", self.name(key)) from None
        except Exception as error:
            if not _is_failure(error):
                raise
            raise self._refusal(key, error) from error

    def repeated(self, ask: Callable[[], _T]) -> _T:
        """As `Store.repeated`: Delta Lake repeats neither a put that lost its connection nor a body cut short."""
        lost = ("response body error", "error sending request")
        return self._asked(
            ask, lambda error: not isinstance(error, GlimmerError) and any(words in str(error) for words in lost)
        )

    def _asked(self, ask: Callable[[], _T], passes: Callable[[Exception], bool]) -> _T:
        """The answer to `ask`, repeated while its failures are of a kind that passes and there is time left."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except Exception as error:
                left = self.settings.retry_s - (time.monotonic() - began)
                if not passes(error) or left <= 0:
                    raise
                time.sleep(min(random.uniform(pause / 2, pause), left))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _refusal(self, key: str, error: Exception) -> StorageError:
        text, where = str(error), self.name(key)
        code = _CODE.search(text)
        status = _STATUS.search(text)
        what = " ".join(text.split("\n\nDebug source")[0].split())
        if code or status:
            what = " ".join(filter(None, (status and status.group(1), code and code.group(1))))
        if code and code.group(1) == "NoSuchBucket":
            return StorageError(
                "there is no such bucket", where=where, remedy="make it, or check the name and endpoint"
            )
        if status and status.group(1) in ("401", "403"):
            return StorageError(
                f"the object store refuses: {what}", where=where, remedy="check the credentials and what they may do"
            )
        if _passes(error):
            return StorageError(
                f"the object store did not answer within {self.settings.retry_s:g} seconds ({what[:200]})",
                where=where,
                remedy=f"check the endpoint and the network, then run the same command again ({RETRY_VARIABLE} sets "
                "how long to try)",
            )
        return StorageError(f"the object store refuses: {what[:300]}", where=where)

    # Reading.

    def read(self, key: str, *, size: int | None = None, most: int | None = None) -> bytes:
        def ask(objects: Any) -> bytes:
            found = objects.get(key)
            check_size(self.name(key), found.meta["size"], size=size, most=most)
            return bytes(found.bytes())

        return self._request(key, ask)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        def ask(objects: Any) -> bytes:
            if length <= 0:
                return b""
            try:
                return bytes(objects.get_range(key, start=start, length=length))
            except FileNotFoundError:
                raise
            except Exception as error:
                if not _is_beyond(error):
                    raise
                return b""

        return self._request(key, ask)

    def sha256(self, key: str) -> tuple[str, int]:
        def ask(objects: Any) -> tuple[str, int]:
            digest, size = hashlib.sha256(), 0
            for part in objects.get(key).stream(min_chunk_size=1 << 20):
                digest.update(part)
                size += len(part)
            return digest.hexdigest(), size

        return self._request(key, ask)

    def stat(self, key: str) -> Entry | None:
        if key and (found := self._object(key)) is not None:
            return found
        return Entry(key, "directory", 0, float("-inf")) if self._holds_any(key) else None

    def is_file(self, key: str) -> bool:
        return self._object(key) is not None

    def _object(self, key: str) -> Entry | None:
        try:
            return _entry(key, self._request(key, lambda objects: objects.head(key)))
        except FileNotFoundError:
            return None

    def _holds_any(self, prefix: str) -> bool:
        def ask(objects: Any) -> bool:
            return any(batch for batch in objects.list(prefix or None, chunk_size=1))

        return self._request(prefix, ask)

    def entries(self, prefix: str = "") -> list[Entry]:
        found = self._request(prefix, lambda objects: objects.list_with_delimiter(prefix or None))
        below = [Entry(key, "directory", 0, float("-inf")) for key in found["common_prefixes"]]
        below += [_entry(meta["path"], meta) for meta in found["objects"]]
        return sorted(below, key=lambda entry: entry.key)

    def walk(self, key: str) -> Iterator[Entry]:
        """As `Store.walk`, from one listing of all objects."""
        objects = self._request(key, lambda store: store.list(key or None).collect())
        if objects:
            yield Entry(key, "directory", 0, float("-inf"))
        elif key and (found := self._object(key)) is not None:
            yield found
        seen: set[str] = set()
        for meta in objects:
            folder = meta["path"].rpartition("/")[0]
            for end in (at for at in range(len(key) + 1, len(folder) + 1) if folder[at : at + 1] in ("/", "")):
                if folder[:end] not in seen:
                    seen.add(folder[:end])
                    yield Entry(folder[:end], "directory", 0, float("-inf"))
            yield _entry(meta["path"], meta)

    def in_order(self, act: Callable[[_Item], _T], items: Iterable[_Item]) -> Iterator[_T]:
        """As `Store.in_order`, in REQUESTS_AT_ONCE threads, as many ahead of who takes what they read."""
        pool, asked = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="requests"), deque[Future[_T]]()
        try:
            for item in items:
                asked.append(pool.submit(act, item))
                if len(asked) == REQUESTS_AT_ONCE:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    # Writing.

    def put(self, key: str, content: Content) -> None:
        data = rendered(content)
        self._request(key, lambda objects: objects.put(key, data, use_multipart=len(data) > _ONE_PUT))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        return self.created(key, content) is not None

    def created(self, key: str, content: bytes) -> str | None:
        """The version of the object that this call made; None where one was there already."""
        return self._conditional(key, content, "create")

    def replaced(self, key: str, content: bytes, version: str) -> str | None:
        """The version of the object that this call put over `version`; None where that is not there any more."""
        return self._conditional(key, content, {"e_tag": version})

    def _conditional(self, key: str, content: bytes, mode: Any) -> str | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        writer = secrets.token_hex(8)

        def ask(objects: Any) -> str | None:
            try:
                version = objects.put(key, content, mode=mode, attributes={_WRITER: writer}, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError) and mode == "create":
                    raise
                return self._version_by(objects, key, writer)
            return str(version["e_tag"])

        return self._request(key, ask)

    def _version_by(self, objects: Any, key: str, writer: str) -> str | None:
        """The version at `key` if `writer` put it: the answer to an earlier request was lost then."""
        try:
            found = objects.get(key)
        except FileNotFoundError:
            return None
        return str(found.meta["e_tag"]) if found.attributes.get(_WRITER) == writer else None

    def versioned(self, key: str) -> tuple[bytes, float, str]:
        """(content, when it was put by the store's clock, version) of an object."""

        def ask(objects: Any) -> tuple[bytes, float, str]:
            found = objects.get(key)
            return bytes(found.bytes()), found.meta["last_modified"].timestamp(), str(found.meta["e_tag"])

        return self._request(key, ask)

    def move(self, key: str, to: str) -> None:
        self._request(key, lambda objects: objects.copy(key, to))
        self.delete(key)

    def delete(self, key: str) -> None:
        try:
            self._request(key, lambda objects: objects.delete(key))
        except FileNotFoundError:
            return

    def delete_tree(self, prefix: str) -> None:
        """As `Store.delete_tree`: what is directly below goes first, seals and plans among it. ConflictError."""
        self._leases.check()
        entries = list(self.walk(prefix))
        depth = prefix.count("/") + 1
        files = [entry.key for entry in entries if entry.kind == "file"]
        # Some servers keep directories without objects and list them. Elsewhere nothing has such a key.
        folders = sorted({prefix} | {entry.key for entry in entries if entry.kind == "directory"}, reverse=True)
        outer = [key for key in files if key.count("/") <= depth]
        inner = [*(key for key in files if key.count("/") > depth), *(folder for folder in folders if folder)]
        for keys in (outer, inner):
            for start in range(0, len(keys), 1000):
                part = keys[start : start + 1000]
                self._request(prefix, lambda objects, part=part: objects.delete(part))  # type: ignore[misc]

    # What other libraries need.

    def kvstore(self, prefix: str) -> dict[str, Any]:
        return self.settings.tensorstore(self.bucket, f"{self.prefix}/{prefix}/")

    def context(self, settings: Mapping[str, Any]) -> Any:
        retries = {self.retry_resource: tensorstore_retries(self.settings.retry_s)}
        return shared_context(None, json.dumps({**settings, **retries}, sort_keys=True))

    def delta(self, prefix: str) -> tuple[str, dict[str, str]]:
        return f"{self.location}/{prefix}", self.settings.delta()

    # Jobs.

    def clock(self) -> float:
        key = f"{TEMPORARY_PREFIX}clock-{secrets.token_hex(4)}"
        self.put(key, b"")
        entry = self._object(key)
        self.delete(key)
        if entry is None:
            raise StorageError("what was put is not there", where=self.name(key))
        return entry.modified

    def lock(
        self, key: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> AbstractContextManager[None]:
        return self._leases.held(key, busy=busy, shared=shared, wait=wait)

    def is_locked(self, key: str) -> bool:
        return self._leases.is_held(key)

    def check_locks(self) -> None:
        self._leases.check()


class S3Store(ObjectStore):
    """The objects below `s3://bucket/prefix`; AWS_* variables and profiles say how to reach them."""

    scheme, extra = "s3", "s3"
    obstore_class, retry_resource = "S3Store", "s3_request_retries"
    settings_class = S3Settings


class GcsStore(ObjectStore):
    """The objects below `gs://bucket/prefix`; GOOGLE_APPLICATION_CREDENTIALS says how to reach them."""

    scheme, extra = "gs", "gcp"
    obstore_class, retry_resource = "GCSStore", "gcs_request_retries"
    settings_class = GcsSettings


def _entry(key: str, meta: Mapping[str, Any]) -> Entry:
    return Entry(key, "file", meta["size"], meta["last_modified"].timestamp())


def _is_failure(error: Exception) -> bool:
    """Whether a request failed, rather than that the store answered it or Glimmer refused what came."""
    if isinstance(error, (GlimmerError, FileNotFoundError)):
        return False
    if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
        return False
    return type(error).__module__.startswith("obstore") or isinstance(error, OSError)


def _is_beyond(error: Exception) -> bool:
    """Whether a range begins where the object ends, or after that."""
    return "status code: 416" in str(error) or "InvalidRange" in str(error) or "longer than length" in str(error)


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = _STATUS.search(str(error))
    if status is not None:
        return int(status.group(1)) >= 500 or int(status.group(1)) in _PASSING
    return type(error).__name__ in ("GenericError", "BaseError", "JoinError") or isinstance(error, OSError)
