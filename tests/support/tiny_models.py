"""Small real things for tests of whole jobs: a corpus of made-up articles, and readers of random weights.

Everything is drawn from fixed seeds, so equal calls write equal bytes. The words are made of syllables and one
WordPiece vocabulary covers them, with single letters as a fallback for any other text. `tests/conftest.py` offers these
functions as fixtures.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glimmer.encoders.families.encoder_family import TokenizerSpec
from glimmer.encoders.families.family_registry import find_family
from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.model_directory import save_model
from glimmer.reader.config import DecoderConfig, LateInteractionConfig, ReaderConfig, RerankerConfig
from glimmer.reader.model import Reader
from glimmer.storage.memory import Memory

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(4)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SIGNS = ".,:;?!'\"()-"
SYLLABLES = ("ka", "lo", "mi", "ter", "nu", "sha", "ven", "or", "pi", "dus", "fe", "ral")


def tiny_words() -> list[str]:
    """The 144 two-syllable words of the made-up language."""
    return [first + second for first in SYLLABLES for second in SYLLABLES]


def tiny_corpus(path: Path, articles: int = 200, *, seed: int = 0) -> Path:
    """Writes `articles` made-up articles as Wikipedia JSON lines (`id`, `title`, `text`), two to five paragraphs each.

    Every article is mostly about its own few words, so that BM25 has something to find.
    """
    words, lines = tiny_words(), []
    for number in range(articles):
        draw = random.Random(f"{seed}/{number}")
        topic = [words[draw.randrange(len(words))] for _ in range(4)]
        paragraphs = []
        for _ in range(2 + draw.randrange(4)):
            sentences = []
            for _ in range(2 + draw.randrange(3)):
                length = 6 + draw.randrange(8)
                chosen = [
                    topic[draw.randrange(4)] if draw.random() < 0.4 else words[draw.randrange(len(words))]
                    for _ in range(length)
                ]
                sentences.append(" ".join(chosen).capitalize() + f" {1000 + draw.randrange(1000)}.")
            paragraphs.append(" ".join(sentences))
        title = f"{topic[0].capitalize()} {topic[1]} {number}"
        lines.append(json.dumps({"id": str(1000 + number), "title": title, "text": "\n\n".join(paragraphs)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_questions(path: Path, questions: int = 20, *, seed: int = 0, longest: int = 12) -> Path:
    """Writes KILT questions of 2 to `longest` words of the made-up language, without gold."""
    words, lines = tiny_words(), []
    for number in range(questions):
        draw = random.Random(f"{seed}/question/{number}")
        chosen = [words[draw.randrange(len(words))] for _ in range(2 + draw.randrange(longest - 1))]
        lines.append(json.dumps({"id": f"q{number}", "input": " ".join(chosen) + "?"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_gold(memory: Memory, path: Path, first: int, count: int) -> Path:
    """Writes KILT records about `count` passages: their title is the question, a word of their text the answer."""
    lines = []
    for passage in memory.texts(np.arange(first, first + count)):
        words = passage.text.split()
        place = {
            "wikipedia_id": passage.article_id,
            "title": passage.title,
            "start_paragraph_id": passage.start_paragraph_id,
            "end_paragraph_id": passage.end_paragraph_id,
        }
        answer_word = random.Random(passage.passage_id).choice(words).strip(".")
        question = f"{passage.title} {words[0]} {words[1]}?"
        record = {
            "id": passage.passage_id,
            "input": question,
            "output": [{"answer": answer_word, "provenance": [place]}],
        }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_tokenizer() -> bytes:
    """A `tokenizer.json`: WordPiece over the made-up words, with every letter, digit and sign as a fallback."""
    pieces = [*SPECIALS, *SIGNS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *tiny_words()]
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in enumerate(SPECIALS)
    ]
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", SEP], "cls": ["[CLS]", CLS]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
        },
    }
    return json.dumps(definition, indent=1).encode()


@functools.cache
def _drawn(config: ReaderConfig, seed: int) -> Mapping[str, np.ndarray[Any, Any]]:
    """A reader's random weights, drawn once in a process: the programs that draw them take long to compile."""
    reader = Reader(config)
    # Fresh cross-attention barely tells passages apart: sharper weights make answers differ between questions.
    return {
        name: np.asarray(value * 4 if ".cross_attention." in name or name.endswith("lm_head.kernel") else value)
        for name, value in reader.tensors(reader.init(seed)).items()
    }


def tiny_reader(
    directory: Path,
    *,
    memory_layers: int = 2,
    live_a: int = 1,
    live_b: int = 1,
    with_decoder: bool = True,
    family: Literal["bert", "t5"] = "bert",
    reranker_layers: int = 0,
    retrieval_weight: float = 0.0,
    late_interaction: LateInteractionConfig | None = None,
    copy_width: int = 0,
    window: int = 64,
    width: int = 32,
    vocabulary: int = 256,
    seed: int = 0,
) -> Path:
    """Writes a complete model directory of random weights and returns it.

    Encoders drawn from one seed and family have equal lower layers however they are split, so their memories fit.
    """
    sizes = {"d_model": width, "d_ff": 64, "num_heads": 4, "d_kv": width // 4}
    sizes["num_layers"] = memory_layers + live_a + live_b
    if family == "t5":
        extra = {"layer_norm_eps": 1e-6, "relative_buckets": 32, "relative_max_distance": 128, "gated": True}
    else:
        extra = {"layer_norm_eps": 1e-12, "max_positions": 512, "type_vocab_size": 2}
    encoder = find_family(family).config(vocab_size=vocabulary, **sizes, **extra)  # type: ignore[arg-type]
    decoder = DecoderConfig(
        vocab_size=vocabulary,
        d_model=width,
        d_ff=64,
        num_heads=4,
        d_kv=width // 4,
        num_layers=2,
        kv_heads=4,
        copy_width=copy_width,
        copy_by_score=copy_width > 0,
        start_id=CLS,
        eos_id=SEP,
        pad_id=PAD,
    )
    reranker = None
    if reranker_layers or retrieval_weight:
        reranker = RerankerConfig(layers=reranker_layers, retrieval_weight=retrieval_weight)
    whole = ReaderConfig(
        encoder=encoder,
        memory_layers=memory_layers,
        live_a_layers=live_a,
        live_b_layers=live_b,
        decoder=decoder,
        reranker=reranker,
    )
    tensors = {
        name: value for name, value in _drawn(whole, seed).items() if with_decoder or name.startswith("encoder.")
    }
    config = ModelConfig(
        encoder=encoder,
        memory_layers=memory_layers,
        live_a_layers=live_a,
        live_b_layers=live_b,
        tokenizer=TokenizerSpec(kind="wordpiece", file="tokenizer.json"),
        passage_template="{title}: {text}",
        question_template="{question}",
        source="random weights",
        window=window,
        decoder=decoder.to_json() if with_decoder else None,
        reranker=reranker.to_json() if with_decoder and reranker else None,
        late_interaction=late_interaction.to_json() if late_interaction else None,
    )
    return save_model(directory, config, tensors, {"tokenizer.json": tiny_tokenizer()}, "Random weights, for tests.\n")
