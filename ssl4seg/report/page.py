"""The report as one HTML page that opens from the disk: it embeds its figures and style, and has no script."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ssl4seg.report.collect import Missing, Row
from ssl4seg.report.sheets import Sheet

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
p, figcaption { max-width: 50rem; color: #444; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1.5px solid #333; } td { border-bottom: 1px solid #e5e5e5; }
.word { text-align: left; }
tbody tr:hover { background: #f3f7fb; }
figure { margin: 2rem 0; } figure img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .5rem .8rem; overflow-wrap: anywhere; }
"""


MISSING = "Runs that are not in the tables"
"""The heading above the runs that failed, are not finished, ..."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A figure's file and caption."""

    file: Path
    caption: str


def page(
    rows: Sequence[Row],
    sheets: Sequence[Sheet],
    images: Sequence[Image],
    missing: Sequence[Missing],
    notes: Sequence[str],
) -> str:
    """The page as text."""
    num = sum(len(run.parts) or 1 for row in rows for run in row.runs)
    datasets = ", ".join(dict.fromkeys(row.dataset for row in rows))
    title = f"Segmentation runs on {datasets}" if rows else "Segmentation runs"
    summary = f"{num} finished runs in {len(rows)} settings. {_machines(rows)}" if rows else "No run is finished yet."
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{summary}</p>"]
    parts += map(_table, sheets)
    if images:
        parts += ["<h2>Figures</h2>", *map(_figure, images)]
    if missing:
        parts += [
            f"<h2>{MISSING} ({len(missing)})</h2>",
            *(f"<pre>{escape(str(run))}</pre>" for run in missing),
        ]
    if notes:
        parts += ["<h2>Left out</h2>", *(f"<p>{escape(note)}</p>" for note in notes)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _machines(rows: Sequence[Row]) -> str:
    """The devices and versions with which the runs were computed."""
    versions = [run.result.get("versions", {}) for row in rows for run in row.runs]
    devices = dict.fromkeys(str(v.get("device")) for v in versions)
    packages = {name: dict.fromkeys(str(v.get(name)) for v in versions) for name in ("ssl4seg", "torch")}
    listed = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in packages.items())
    return escape(f"Computed on {', '.join(devices)}; {listed}.")


def _table(sheet: Sheet) -> str:
    kinds = [' class="word"' if name in sheet.words else "" for name in sheet.head]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, sheet.head, strict=True))
    lines = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True)) + "</tr>"
        for line in sheet.lines
    )
    return (
        f"<h2>{escape(sheet.title)}</h2>\n<p>{escape(sheet.caption)}</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        f"{lines}\n</tbody></table></div>"
    )


def _figure(image: Image) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[image.file.suffix]
    data = b64encode(image.file.read_bytes()).decode()
    caption = escape(image.caption)
    return f'<figure><img alt="{caption}" src="data:{kind};base64,{data}">\n<figcaption>{caption}</figcaption></figure>'
