"""What is compared: codecs of memories as `--codec` names them, and the peer, each to be fitted to the same sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ... import UsageError
from ...storage.codecs import Codec, FitSample, fit_codec, fit_samples, new_codec, parse_codec
from ...storage.codecs import code_bytes as bytes_of
from ..encoding.codec_fit import SEED
from .colbertv2 import FIT_SAMPLES, ResidualCodingFit, code_bytes, parse_peer

UNCOMPRESSED = "bfloat16"
"""What every codec is held against: two bytes a number."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A codec before it is fitted.

    Attributes:
        text: as the command line has it.
        peer: whether it is none of memories' codecs.
        code_bytes: bytes a token.
        samples: tokens it is fitted to at most, 0 for one without a fit.
        fit: the codec; a sample only where `samples` is not 0, which it may overwrite.
    """

    text: str
    peer: bool
    code_bytes: int
    samples: int
    fit: Callable[[FitSample | None], Codec]


def default_codecs(width: int, vocabulary: int) -> list[str]:
    """`int8`, and `pq` with a 16th, a 32nd and a 64th of bfloat16's bytes, where the width allows."""
    found = ["int8"]
    for part in (8, 16, 32):
        text = f"pq:bytes={width // part}"
        try:
            parse_codec(text, width, vocabulary)
        except UsageError:
            continue
        found.append(text)
    return found


def contenders(
    codecs: Sequence[str], peers: Sequence[str], *, width: int, vocabulary: int, tokens: int
) -> list[Contender]:
    """The uncompressed codec, then each of `codecs` and `peers` once, in order.

    `tokens` are those of the memory. Raises UsageError for a name or a parameter that there is not.
    """
    together = ResidualCodingFit(tokens=tokens, seed=SEED)
    texts = dict.fromkeys([UNCOMPRESSED, *(codecs or default_codecs(width, vocabulary))])
    return [
        *(_codec(text, width, vocabulary) for text in texts),
        *(_peer(text, width, together) for text in dict.fromkeys(peers)),
    ]


def _codec(text: str, width: int, vocabulary: int) -> Contender:
    spec = parse_codec(text, width, vocabulary)

    def fit(sample: FitSample | None) -> Codec:
        return new_codec(spec) if sample is None else fit_codec(spec, sample, SEED)

    return Contender(text=text, peer=False, code_bytes=bytes_of(spec), samples=fit_samples(spec), fit=fit)


def _peer(text: str, width: int, together: ResidualCodingFit) -> Contender:
    bits, centroids = parse_peer(text)

    def fit(sample: FitSample | None) -> Codec:
        assert sample is not None, "the peer is always fitted"
        return together.fit(sample, bits=bits, centroids=centroids)

    return Contender(text=text, peer=True, code_bytes=code_bytes(width, bits), samples=FIT_SAMPLES, fit=fit)
