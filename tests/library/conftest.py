"""A small memory of the real sample reader, made from a few articles written for these tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glimmer.pipelines.demo_data import MINILM_PACKAGE, missing_packages

ARTICLES = {
    "Eiffel Tower": "The Eiffel Tower is a lattice tower of wrought iron on the Champ de Mars in Paris, France. It is "
    "named after Gustave Eiffel, whose company designed and built the tower from 1887 to 1889.\nLocals "
    "gave it the nickname Iron Lady. It was made as the centrepiece of the World's Fair of 1889.",
    "Sistine Chapel ceiling": "The Sistine Chapel ceiling was painted in fresco by Michelangelo between 1508 and 1512. "
    "It is a work of the High Renaissance.\nThe chapel was built for Pope Sixtus IV, after whom it is named.",
    "Yuri Gagarin": "Yuri Gagarin was a Soviet pilot and cosmonaut, the first human to travel into space. Aboard the "
    "capsule Vostok 1 he completed one orbit of Earth on 12 April 1961.",
    "Danube": "The Danube is a river in Europe, the second longest after the Volga. It rises in Germany and flows to "
    "the southeast through ten countries before it drains into the Black Sea.",
    "Guernica (Picasso)": "Guernica is a large oil painting of 1937 by the Spanish artist Pablo Picasso. It shows the "
    "suffering of people and animals in war.",
    "Hamlet": "Hamlet is a tragedy written by William Shakespeare between 1599 and 1601. It is set in Denmark.",
    "Mount Everest": "Mount Everest is the highest mountain of Earth above sea level, at 8,849 metres. It lies in the "
    "Himalayas, on the border of Nepal and China.",
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven articles as Wikipedia JSON lines; the test is skipped where the sample reader's weights are absent."""
    if any(package.startswith(MINILM_PACKAGE[0]) for package in missing_packages()):
        pytest.skip(f"the sample reader needs {'=='.join(MINILM_PACKAGE)}")
    path = tmp_path_factory.mktemp("library") / "corpus.jsonl"
    records = ({"id": str(n), "title": title, "text": text} for n, (title, text) in enumerate(ARTICLES.items(), 1))
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
