"""Writes `tokenizers.json`: texts with odd Unicode and the ids that the original tokenizers give them.

Run in an environment with transformers and sentencepiece:
    python tests/goldens/make_tokenizer_goldens.py SPIECE_MODEL MINILM_MODEL_ZIP
`t5_sentencepiece` is the reference T5 was trained with; `t5_transformers` is Hugging Face's port, kept where it differs
so that the test can say which texts those are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer, T5Tokenizer

TEXTS = [
    "The capital of France is Paris.",
    "title: Albert Einstein context: Born on 14 March 1879, he was a German-born physicist.",
    "",
    " ",
    "   leading and   inner    spaces   ",
    "tabs\tand\nnewlines\r\nhere",
    "Ünïcödé: naïve café, Zürich, Łódź, Đặng, İstanbul, ß, ﬁ ligature",
    "decomposed e\u0301 and composed \u00e9",
    "中文维基百科 日本語テキスト 한국어",
    "العربية עברית हिन्दी ภาษาไทย",
    "Ελληνικά Кириллица ՀԱՅԵՐԵՆ ქართული",
    "emoji 😀 👩‍👩‍👧‍👦 🇫🇷 and ☃",
    "math ∑∫√∞ ½ ² ① ㍿ № ™",
    "zero\u200bwidth\u200djoiner\ufeffbom\u00adsoft hyphen",
    "non\u00a0breaking\u2009thin\u3000ideographic spaces",
    "control \u0001\u0007 characters \u007f \u0085",
    "quotes “curly” ‘single’ «guillemets» – en — em … ellipsis",
    "[CLS] [SEP] [PAD] [UNK] [MASK] </s> <pad> <unk> <extra_id_0>",
    "supercalifragilisticexpialidocious antidisestablishmentarianism " + "x" * 120,
    "1,234,567.89 3.14159 1e-5 0xDEADBEEF 192.168.0.1",
    "http://example.com/path?query=1&b=2#frag user@example.org",
    "ALL CAPS mIxEd CaSe",
    "don't can't it's we're o'clock",
    "astral 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎",
    "private \ue000 use and \ufffd replacement",
]


def main(spiece: str, archive: str) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=spiece)
    port = T5Tokenizer.from_pretrained(str(Path(spiece).parent))
    with tempfile.TemporaryDirectory() as scratch:
        zipfile.ZipFile(archive).extractall(scratch)
        bert = AutoTokenizer.from_pretrained(scratch)
        result = {
            "texts": TEXTS,
            "t5_sentencepiece": [[*pieces.encode(text), pieces.eos_id()] for text in TEXTS],
            "t5_transformers": [port(text)["input_ids"] for text in TEXTS],
            "minilm": [bert(text)["input_ids"] for text in TEXTS],
        }
    path = Path(__file__).parent / "tokenizers.json"
    path.write_text(json.dumps(result, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
