"""What the site adds to the files of `docs/`: pages that live at the repository's root, and links that leave the site.

README, changelog and the notes for contributors stand at the root, where repositories have them, and are pages of the
site as well. Links are written as they work in the repository; the site turns those into its own pages into links
between pages, and those to any other file into links to the repository.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose files are not under `docs/`."""
    for page, path in ROOT_PAGES.items():
        text = config.config_file_path and posixpath.join(posixpath.dirname(config.config_file_path), path)
        with open(str(text), encoding="utf-8") as file:
            files.append(File.generated(config, page, content=file.read()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Turns links to files of the repository into links that work on the site."""
    source = page.file.src_uri
    directory = "" if source in ROOT_PAGES else posixpath.join("docs", posixpath.dirname(source))
    pages = {path: name for name, path in ROOT_PAGES.items()}

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(directory, match[2]))
        name = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if name and files.get_file_from_path(name):
            found = posixpath.relpath(name, posixpath.dirname(source) or ".")
        else:
            found = f"{config.repo_url}/blob/main/{path}"
        return f"{match[1]}{found}{match[3] or ''})"

    return _LINK.sub(target, markdown)
