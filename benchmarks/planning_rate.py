"""How fast one core plans: MB of source text a second of processor time, with the cache of words and without it.

Reads SOURCE, cuts it into passages, tokenises them, gives them ids and makes text shards of them, all in one thread,
and drops the shards. A tokenizer of BERT's kind is timed without its cache, with an empty one and with one that knows
the words; SentencePiece has none. What it prints goes into `glimmer estimate --planning-rate`.

    python benchmarks/planning_rate.py SOURCE [--model sample]
"""

from __future__ import annotations

import argparse
import os
import time

from glimmer.encoders.models import load_model
from glimmer.encoders.tokenizers import WordPieceTokenizer
from glimmer.encoders.word_cache import WordCache, word_cache
from glimmer.pipelines.corpus import Article, Corpus
from glimmer.pipelines.corpus.fitting import BATCH, Tokenise, fit, identify
from glimmer.pipelines.corpus.passages import PassageDraft, cut_article
from glimmer.storage.passage import SHARD_ROWS, Passage, content_hash
from glimmer.storage.text_shards import text_shard

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def plan(source: str, tokenise: Tokenise, window: int) -> int:
    """Plans all of a source and drops what it makes; the passages."""
    shard: list[Passage] = []
    drafts: list[PassageDraft] = []
    count = 0

    def take(batch: list[PassageDraft]) -> None:
        nonlocal count, shard
        for fitted in fit(batch, tokenise, window, None):
            for piece in fitted.pieces:
                draft, article = piece.draft, piece.draft.article
                assert piece.tokens is not None
                shard.append(
                    Passage(
                        passage_id=identify(draft, 0),
                        article_id=article.article_id,
                        title=article.title,
                        text=draft.text,
                        start_paragraph_id=draft.start_paragraph_id,
                        start_character=draft.start_character,
                        end_paragraph_id=draft.end_paragraph_id,
                        end_character=draft.end_character,
                        content_hash=content_hash(article.title, draft.text),
                        tokens=piece.tokens,
                    )
                )
                count += 1
                if len(shard) == SHARD_ROWS:
                    text_shard(shard)
                    shard = []

    for record in Corpus([source]).read(lambda share: None):
        if isinstance(record, Article):
            drafts += cut_article(record)
            if len(drafts) >= BATCH:
                take(drafts)
                drafts = []
    take(drafts)
    if shard:
        text_shard(shard)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="not compressed, so that its size is that of its text")
    parser.add_argument("--model", default="sample")
    options = parser.parse_args()
    model = load_model(options.model)
    tokenizer = model.tokenizer
    size = os.path.getsize(options.source)

    def timed(what: str, cache: WordCache | None) -> float:
        if isinstance(tokenizer, WordPieceTokenizer):
            tokenizer._cache = cache
        begun = time.process_time()
        passages = plan(options.source, model.passage_tokens, model.config.window)
        seconds = time.process_time() - begun
        print(f"{what}: {passages:,} passages, {size / 1e6 / seconds:.2f} MB/s", flush=True)
        return seconds

    if not isinstance(tokenizer, WordPieceTokenizer):
        timed("SentencePiece", None)
        return
    cache = word_cache(tokenizer._definition, tokenizer._tokenizer)
    plain, empty, full = timed("no cache", None), timed("empty cache", cache), timed("full cache", cache)
    print(f"time with a cache / without: {empty / plain:.2f} when it is empty at first, {full / plain:.2f} after that")


if __name__ == "__main__":
    main()
