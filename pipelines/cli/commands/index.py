"""`glimmer index`."""

from __future__ import annotations

import click

from ....reader.serving.analysis import DEFAULT_LANGUAGE, LANGUAGES, NO_STEMMER
from ....wording import counted
from ..printing import echo, print_json, shown_path
from ..terminal import TerminalProgress
from .options import json_option, memory_argument, version_option


@click.command()
@memory_argument
@version_option
@click.option(
    "--language",
    type=click.Choice(LANGUAGES, case_sensitive=False),
    help="Language of the stemmer, or none; an index of another is built anew.  "
    f"[default: that of the index that is there or of the version before, else {DEFAULT_LANGUAGE}]",
)
@click.option("--rebuild", is_flag=True, help="Build it even if a sound one is there.")
@json_option
def index(memory: str, version: int | None, language: str | None, rebuild: bool, as_json: bool) -> None:
    """Build the first-stage index of a memory's version.

    An index that is there is compared with its digests and kept if it is sound. `glimmer answer` and `glimmer search`
    build it on first use; this builds it beforehand, or in another language. Indexes of later versions take the
    language over. Text in scripts without spaces (Chinese, Japanese, Thai …) is found whatever the language.

    \b
    Example:
      glimmer index wiki.memory
      glimmer index wiki_de.memory --language german
    """
    from ....reader.serving.retrieval_index import find_index, open_index
    from ....storage.memory import Memory

    opened = Memory.open(memory, version)
    with TerminalProgress() as progress:
        existing = None if rebuild else find_index(opened, language=language)
        found = existing or open_index(opened, progress=progress, rebuild=rebuild, language=language)
    if as_json:
        record = {"memory": memory, "version": opened.version, "passages": found.count, "language": found.language}
        print_json(record | {"directory": str(found.directory), "nothing_to_do": existing is not None})
    else:
        stemmer = "no stemmer" if found.language == NO_STEMMER else f"{found.language} stemmer"
        facts = f"{counted(found.count, 'passage')} of version {opened.version}, {stemmer}"
        done = "nothing to do, the index is there and whole: " if existing is not None else ""
        echo(f"{shown_path(found.directory)}: {done}{facts}")
