"""MkDocs calls these functions where it builds the site (mkdocs.yml): the pages are written for the repository.

README.md becomes the first page of the site, docs/README.md the page "pages"; CONTRIBUTING.md and CHANGELOG.md become
pages too. A link to anything else outside of docs/ leads to the repository.
"""

import os
import re
from pathlib import Path
from posixpath import join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MOVED = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository -> pages of the site."""
BACK = {page: file for file, page in MOVED.items()}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")
"""The target of a link to a file, without its anchor."""
ITEM = re.compile(r"([-*]|\d+\.) ")
"""The first words of an item of a list."""


def on_config(config: MkDocsConfig) -> None:
    """Anchors are those of the repository's page."""
    config.mdx_configs["toc"]["slugify"] = anchor


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Give the pages of MOVED to MkDocs."""
    files.remove(next(file for file in files if file.src_uri == "README.md"))
    for path, page in MOVED.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to pages of the site, or to the repository."""
    here = page.file.src_uri
    path = BACK.get(here, f"docs/{here}")
    return loosened(LINK.sub(lambda link: target(link[1], path, here, str(config.repo_url)), markdown))


def target(link: str, path: str, page: str, repository: str) -> str:
    """Where a link leads on the site.

    Args:
        link: from a file of the repository.
        path: of that file.
        page: that the file is on the site.
    """
    file = normpath(join(os.path.dirname(path), link))
    if not (ROOT / file).exists():
        raise PluginError(f"{path}: {link} leads to no file")
    if file in MOVED or (file.startswith("docs/") and (ROOT / file).is_file()):
        return relpath(MOVED.get(file, file.removeprefix("docs/")), os.path.dirname(page) or ".")
    return f"{repository}/{'tree' if (ROOT / file).is_dir() else 'blob'}/main/{file}"


def anchor(heading: str, separator: str) -> str:
    """The anchor of a heading, as on the repository's page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", separator)


def loosened(markdown: str) -> str:
    """Markdown that Python-Markdown reads as the repository's page is read.

    It takes a list for text without an empty line before it, and keeps the backslash of a bar in a cell's code.
    """
    lines: list[str] = []
    code = False
    for line in markdown.splitlines():
        code ^= line.lstrip().startswith("```")
        above = lines[-1] if lines else ""
        if not code and ITEM.match(line) and above and not above.startswith(" ") and not ITEM.match(above):
            lines.append("")
        if line.startswith("|"):
            line = re.sub(r"`[^`]*`", lambda cell: cell[0].replace(r"\|", "|"), line)
        lines.append(line)
    return "\n".join(lines) + "\n"
