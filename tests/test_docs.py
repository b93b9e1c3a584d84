"""The pages: links and anchors lead somewhere, modules that are named exist, no method or network is forgotten, and the
site shows what the repository shows."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config

import ssl4seg
from ssl4seg.commands.conf import choices, conf_dir

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ssl4seg.__file__).parent
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}
TAGS = ("a", "code", "h1", "h2", "h3", "img", "li", "ol", "pre", "strong", "table", "td", "ul")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def is_module(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or something that a module defines."""
    *path, last = dotted.split(".")[1:]
    place = PACKAGE.joinpath(*path)
    if (place / last).is_dir() or (place / f"{last}.py").is_file():
        return True
    file = place.with_suffix(".py") if path else place / "__init__.py"
    return file.is_file() and bool(re.search(rf"^(class|def) {last}\b|^{last}\b.* =", file.read_text(), re.MULTILINE))


def test_every_link_leads_to_a_file_and_an_anchor() -> None:
    broken = []
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            if link.startswith("http"):
                continue
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                broken.append(f"{page}: {link}")
    assert not broken


def test_every_module_that_a_page_names_exists() -> None:
    named = {(page, name) for page, text in PAGES.items() for name in re.findall(r"\bssl4seg(?:\.\w+)+", text)}
    assert not [entry for entry in sorted(named) if not is_module(entry[1])]


def test_every_file_of_the_architecture_exists() -> None:
    text = PAGES["docs/architecture.md"]
    files = re.findall(r"`([\w/]+(?:\.py|\.yaml|/))`", text)
    assert len(files) > 40
    assert not [name for name in files if not (PACKAGE / name).exists() and not (ROOT / name).exists()]


def test_every_page_is_in_the_index() -> None:
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert not [page for page in sorted(pages) if f"({page}" not in PAGES["docs/README.md"]]


@pytest.mark.parametrize("group", ["method", "network"])
def test_the_page_of_a_group_names_every_choice_and_no_other(group: str) -> None:
    rows = PAGES[f"docs/{group}s.md"].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)) == choices(group, [conf_dir()])


def test_the_site_shows_what_the_repository_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict build finds no fault; a page has as many items, blocks of code, cells and links as in CommonMark."""
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    moved = {"README": "", "docs/README": "pages", "CONTRIBUTING": "contributing", "CHANGELOG": "changelog"}
    reader = MarkdownIt().enable("table")
    for page, text in PAGES.items():
        name = page.removesuffix(".md")
        html = (tmp_path / moved.get(name, name.removeprefix("docs/")) / "index.html").read_text()
        shown = re.sub(r'<a class="headerlink".*?</a>', "", html.partition("<article")[2].partition("</article>")[0])
        counts = [{tag: len(re.findall(rf"<{tag}[ >]", each)) for tag in TAGS} for each in (shown, reader.render(text))]
        assert counts[0] == counts[1], page
        assert not re.findall(r"<code>[^<]*\\\|", shown), page
