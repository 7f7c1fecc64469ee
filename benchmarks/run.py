"""`make bench`: every benchmark in turn, each printing ratios measured in one run.

    python benchmarks/run.py --torch-python BENCH_ENV/bin/python [--only NAME]

The text is real: the knowledge source in the development data where it is present (`GLIMMER_TEST_DATA`, or
`../shared/data`), else the demo's Wikipedia lead sections. PyTorch and transformers, the named peers, live in an
environment of their own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def development_data() -> Path | None:
    """The development data's directory (Wikipedia, questions, T5's vocabulary), where it is present."""
    data = Path(os.environ.get("GLIMMER_TEST_DATA", ROOT.parent / "shared" / "data"))
    return data if (data / "wiki_small").is_dir() else None


def lead_sections(scratch: Path) -> Path:
    """The demo's corpus, written to `scratch`."""
    from glimmer.pipelines.demo_data import install_packages, write_corpus

    install_packages()
    corpus = scratch / "corpus.jsonl"
    write_corpus(corpus)
    return corpus


def commands(scratch: Path, torch_python: str) -> dict[str, list[str]]:
    """Each benchmark's script and arguments; those that need T5's vocabulary only where it is."""
    torch = ["--torch-python", str(Path(torch_python).absolute())]
    data = development_data()
    if data is None:
        print("without the development data (GLIMMER_TEST_DATA): MiniLM alone, and no reader benchmark", flush=True)
        source = str(lead_sections(scratch))
        return {
            "encoder": ["encoder_vs_torch.py", *torch, "--source", source, "--models", "minilm"],
            "encode": ["encode_vs_bare.py", source],
            "fetch": ["fetch_vs_pread.py"],
        }
    source = str(data / "wiki_small" / "knowledgesource.jsonl.gz")
    questions, vocabulary = str(data / "wiki_small" / "nq-dev-kilt.jsonl"), str(data / "t5" / "spiece.model")
    reader = ["--knowledge-source", source, "--questions", questions, "--tokenizer", vocabulary]
    return {
        "encoder": ["encoder_vs_torch.py", *torch, "--source", source, "--spiece", vocabulary],
        "encode": ["encode_vs_bare.py", source],
        "fetch": ["fetch_vs_pread.py"],
        "reader": ["reader_vs_fid.py", *torch, *reader],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch and transformers")
    parser.add_argument("--only", action="append", help="one of encoder, encode, fetch, reader; may be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glimmer-bench-") as scratch:
        failed = []
        for name, (script, *arguments) in commands(Path(scratch), options.torch_python).items():
            if options.only and name not in options.only:
                continue
            print(f"\n== {name}: {script}", flush=True)
            if subprocess.run([sys.executable, str(HERE / script), *arguments], check=False).returncode:
                failed.append(name)
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
