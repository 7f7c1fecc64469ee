"""The names that corpora give to an article's id, its title and its text: one table for every format.

The same names are looked for in JSON objects, in Parquet and Arrow columns and in the header of a tab-separated file.
The first name of a list that is there decides, so where a passage has an id of its own beside its document's
(MS MARCO), the passage's comes first.
"""

from __future__ import annotations

from typing import Final

ID_NAMES: Final = (
    "id",
    "_id",
    "pid",
    "passage_id",
    "psg_id",
    "p_id",
    "docid",
    "doc_id",
    "document_id",
    "docno",
    "corpus_id",
    "corpus-id",
    "page_id",
    "pageid",
    "article_id",
    "wikipedia_id",
    "wiki_id",
    "kilt_id",
)
