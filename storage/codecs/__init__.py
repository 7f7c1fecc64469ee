"""Codecs: how one token's representation becomes bytes, and back. `codec` says what one is, `codec_registry` lists all.

`float32` and `bfloat16` keep the bits; `int8` keeps a scale per token. Another codec, with tables or without, is one
more file.
"""

from __future__ import annotations

from .codec import (
    Codec,
    CodecSpec,
    FitSample,
    Parameter,
    RefusesNonFinite,
    Scalar,
    Tables,
    TableShape,
    spec_text,
    tables_from_bytes,
    tables_to_bytes,
)
from .codec_registry import (
    code_bytes,
    codec_from_spec,
    codec_from_tables,
    codec_names,
    codec_with_zero_tables,
    codecs_forgotten_afterwards,
    fit_codec,
    fit_samples,
    make_codec,
    new_codec,
    parse_codec,
    parse_codec_text,
    parse_spec,
    register_codec,
    spec_for_encoder,
    table_shapes,
)

__all__ = [
    "Codec",
    "CodecSpec",
    "FitSample",
    "Parameter",
    "RefusesNonFinite",
    "Scalar",
    "TableShape",
    "Tables",
    "code_bytes",
    "codec_from_spec",
    "codec_from_tables",
    "codec_names",
    "codec_with_zero_tables",
    "codecs_forgotten_afterwards",
    "fit_codec",
    "fit_samples",
    "make_codec",
    "new_codec",
    "parse_codec",
    "parse_codec_text",
    "parse_spec",
    "register_codec",
    "spec_for_encoder",
    "spec_text",
    "table_shapes",
    "tables_from_bytes",
    "tables_to_bytes",
]
