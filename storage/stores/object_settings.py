"""How object stores are reached: one reading of the environment, handed to obstore, TensorStore and Delta Lake alike.

The three libraries look for credentials in different places, in different order, and retry by different rules. So the
variables are read here, once a store, and each library is told the same in its own words.
"""

from __future__ import annotations

import configparser
import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ... import UsageError

RETRY_VARIABLE: Final = "GLIMMER_RETRY_SECONDS"
RETRY_SECONDS: Final = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Before the first repetition of a request, and before the later ones at most; each is a random part of it."""
REQUESTS_AT_ONCE: Final = 16
"""Reads of many small objects that are asked for together."""
POLL_S: Final = 2.0
"""How often a listing is asked for that shows progress: each costs something."""
_REQUEST_S: Final = 30
_CONNECT_S: Final = 5
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_DEFAULT_REGION: Final = "us-east-1"


def split_location(location: str, scheme: str) -> tuple[str, str]:
    """(bucket, prefix without slashes at its ends) of `<scheme>://bucket/prefix`; UsageError for what is none."""
    bucket, _, prefix = location.partition("://")[2].partition("/")
    prefix = prefix.strip("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise UsageError(
            f"a memory in a bucket is named like {scheme}://bucket/prefix, and a bucket's name has 3 to 63 lower-case "
            "letters, digits, dots and hyphens",
            where=location,
        )
    if not prefix or _PREFIX.fullmatch(prefix) is None or {".", ".."} & set(prefix.split("/")):
        raise UsageError(
            f"a memory in a bucket is named like {scheme}://bucket/prefix; the prefix is of letters, digits and "
            "!_.*'()-, in parts that / separates",
            where=location,
        )
    return bucket, prefix


def retry_seconds() -> float:
    """How long a request is repeated that the store does not answer, in seconds; UsageError for a bad variable."""
    text = os.environ.get(RETRY_VARIABLE, "")
    try:
        seconds = float(text) if text else RETRY_SECONDS
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 3600:
        raise UsageError(f"{RETRY_VARIABLE}={text!r} is not a number of seconds from 0 to 3600")
    return seconds


@dataclass(frozen=True)
class S3Settings:
    """What reaches S3, or a server that speaks its protocol.

    Attributes:
        region: of the bucket.
        endpoint: URL of the server; "" for Amazon's own.
        keys: `access_key_id`, `secret_access_key` and perhaps `session_token`; empty where they come from the machine.
        profile: section of the credentials file that the keys are from; "" where they are not from a file.
        credentials_file: that file.
        retry_s: how long a request is repeated, in seconds.
    """

    region: str
    endpoint: str
    keys: Mapping[str, str] = field(repr=False)
    profile: str
    credentials_file: str
    retry_s: float

    @classmethod
    def from_environment(cls) -> S3Settings:
        """Reads AWS_* variables, then the profile in ~/.aws; UsageError for an http:// endpoint that is not allowed."""
        names = ("access_key_id", "secret_access_key", "session_token")
        keys = {name: value for name in names if (value := os.environ.get(f"AWS_{name.upper()}"))}
        profile, file, section = "", "", dict[str, str]()
        if "secret_access_key" not in keys:
            profile, file, section = _profile()
            keys = {name: section[f"aws_{name}"] for name in names if section.get(f"aws_{name}")}
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or section.get("endpoint_url", "")
        ).rstrip("/")
        if endpoint.startswith("http://") and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in ("1", "true", "yes"):
            raise UsageError(
                "the endpoint is not encrypted", where=endpoint, remedy="set AWS_ALLOW_HTTP=true to use it all the same"
            )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or section.get("region")
        return cls(region or _DEFAULT_REGION, endpoint, keys, profile if keys else "", file, retry_seconds())

    def obstore(self) -> dict[str, Any]:
        """Keyword arguments of `obstore.store.S3Store`, which does not repeat requests: `ObjectStore` does."""
        return {
            "region": self.region,
            **({"endpoint": self.endpoint} if self.endpoint else {}),
            **self.keys,
            **obstore_client(allow_http=self.endpoint.startswith("http://")),
        }

    def tensorstore(self, bucket: str, path: str) -> dict[str, Any]:
        """The `kvstore` of a TensorStore spec."""
        kvstore: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path, "aws_region": self.region}
        if self.endpoint:
            kvstore["endpoint"] = self.endpoint
        if self.profile:
            kvstore["aws_credentials"] = {
                "type": "profile",
                "profile": self.profile,
                "credentials_file": self.credentials_file,
            }
        elif self.keys:
            kvstore["aws_credentials"] = {"type": "environment"}
        return kvstore

    def delta(self) -> dict[str, str]:
        """Delta Lake's storage options: its commits put a log entry where none is, or fail."""
        return {
            "aws_conditional_put": "etag",
            "aws_region": self.region,
            **({"aws_endpoint": self.endpoint} if self.endpoint else {}),
            **({"allow_http": "true"} if self.endpoint.startswith("http://") else {}),
            **{f"aws_{name}": value for name, value in self.keys.items()},
            **delta_retries(self.retry_s),
        }


@dataclass(frozen=True)
class GcsSettings:
    """What reaches Google Cloud Storage: the libraries' own search for application default credentials."""

    retry_s: float

    @classmethod
    def from_environment(cls) -> GcsSettings:
        return cls(retry_seconds())

    def obstore(self) -> dict[str, Any]:
        """Keyword arguments of `obstore.store.GCSStore`."""
        return obstore_client(allow_http=False)

    def tensorstore(self, bucket: str, path: str) -> dict[str, Any]:
        """The `kvstore` of a TensorStore spec."""
        return {"driver": "gcs", "bucket": bucket, "path": path}

    def delta(self) -> dict[str, str]:
        """Delta Lake's storage options; a put that must not replace anything needs none here."""
        return delta_retries(self.retry_s)


def obstore_client(*, allow_http: bool) -> dict[str, Any]:
    """Settings of obstore's client: deadlines of one request, and none repeated."""
    return {
        "retry_config": {"max_retries": 0},
        "client_options": {
            "allow_http": allow_http,
            "connect_timeout": datetime.timedelta(seconds=_CONNECT_S),
            "timeout": datetime.timedelta(seconds=_REQUEST_S),
        },
    }


def delta_retries(seconds: float) -> dict[str, str]:
    """Delta Lake's storage options for repeating requests."""
    return {
        "max_retries": str(tries(seconds)),
        "retry_timeout": f"{max(int(seconds), 1)}s",
        "backoff_config.init_backoff": f"{int(FIRST_PAUSE_S * 1000)}ms",
        "backoff_config.max_backoff": f"{int(LONGEST_PAUSE_S)}s",
        "connect_timeout": f"{_CONNECT_S}s",
        "timeout": f"{_REQUEST_S}s",
    }


def tensorstore_retries(seconds: float) -> dict[str, Any]:
    """TensorStore's context resource for repeating requests, which counts them and knows no deadline."""
    return {
        "max_retries": tries(seconds),
        "initial_delay": f"{int(FIRST_PAUSE_S * 1000)}ms",
        "max_delay": f"{int(LONGEST_PAUSE_S)}s",
    }


def tries(seconds: float) -> int:
    """How often a request is repeated within `seconds`, with pauses that double up to the longest."""
    number, waited, pause = 0, 0.0, FIRST_PAUSE_S
    while waited + pause <= seconds:
        number, waited, pause = number + 1, waited + pause, min(2 * pause, LONGEST_PAUSE_S)
    return number


def _profile() -> tuple[str, str, dict[str, str]]:
    """(name, credentials file, settings) of the profile that AWS_PROFILE names; of `default` where it names none."""
    home = Path.home() / ".aws"
    name = os.environ.get("AWS_PROFILE") or "default"
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / "credentials")
    config = os.environ.get("AWS_CONFIG_FILE") or str(home / "config")
    found: dict[str, str] = {}
    for file, section in ((config, name if name == "default" else f"profile {name}"), (credentials, name)):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UsageError(f"not a file of profiles: {' '.join(str(error).split())}", where=file) from None
        if parser.has_section(section):
            found |= dict(parser.items(section))
    if not found and os.environ.get("AWS_PROFILE"):
        raise UsageError(f"there is no profile {name!r}", where=credentials, remedy="check AWS_PROFILE")
    return name, credentials, found
