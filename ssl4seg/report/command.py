"""The command `ssl4seg-report DIR ...`. Slow modules are imported where they are used: --help answers at once."""

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from ssl4seg.errors import ArgumentParser, UserError, ends_with_its_pipe, plain
from ssl4seg.files import write_text
from ssl4seg.report.figure_folder import FigureFolder
from ssl4seg.report.names import PATIENT

if TYPE_CHECKING:
    from ssl4seg.report.collect import Missing, Row
    from ssl4seg.report.page import Image


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = ArgumentParser(
        prog="ssl4seg-report",
        description="Tables, comparisons and figures of all run folders below DIR: mean and deviation over seeds, "
        "of which each pools its folds. "
        "Runs that differ in more than their seed are rows of their own; runs in no row are listed with the reason.",
    )
    add = result.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="run folders, or folders that hold them")
    add("--output", type=Path, metavar="DIR", help="where report.html, .md ... go (default: the first DIR)")
    add("--classes", action="store_true", help="columns for every class")
    add("--baseline", default="supervised", metavar="METHOD", help="compare with this method (default: supervised)")
    add(
        "--patient",
        default=PATIENT,
        metavar="REGEX",
        help="its one group is the patient in a test case's name; the comparison pairs patients; a case whose name "
        f"does not match is a patient of its own (default: {PATIENT})",
    )
    add(
        "--pictures",
        nargs="*",
        metavar="METHOD",
        help="predict and draw the worst, median and best test patient of these methods, or of all if none is "
        "named; needs the checkpoints and the datasets; give it after the folders",
    )
    add(
        "--trust",
        action="store_true",
        help="let the runs of --pictures name classes from outside of ssl4seg, which run their own code",
    )
    add("--no-figures", action="store_true", help="write only tables, in a second")
    return result


@ends_with_its_pipe
def main() -> None:
    arguments = parser().parse_args()
    output: Path = arguments.output or arguments.folders[0]
    from ssl4seg.report.collect import collect  # imports NumPy, which --help does not need
    from ssl4seg.report.folds import pooled

    try:
        rows, missing = collect(arguments.folders)
        rows, left_out = pooled(rows)
        missing += left_out
        check(arguments, {row.method for row in rows})
        report(arguments, rows, missing, output)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.exit(plain(f"error: {error.filename}: cannot be written or read ({error.strerror})"))
    for run in missing:
        print(plain(run), file=sys.stderr)
    if not rows:
        sys.exit("error: no run is finished yet")


def check(arguments: argparse.Namespace, methods: Collection[str]) -> None:
    """Refuse contradictory options and unknown methods before anything is written.

    Args:
        methods: the methods of the finished runs.
    """
    if arguments.no_figures and arguments.pictures is not None:
        raise UserError("--pictures: --no-figures leaves the pictures out; give one of the two")
    named = [("--pictures", name) for name in arguments.pictures or ()]
    named += [("--baseline", arguments.baseline)] if arguments.baseline != "supervised" else []
    for option, name in named if methods else ():
        if name not in methods:
            raise UserError(f"{option} {name}: no finished run has this method; there are {', '.join(sorted(methods))}")


def report(arguments: argparse.Namespace, rows: "Sequence[Row]", missing: "Sequence[Missing]", output: Path) -> None:
    """Write all files into `output`, and print the tables."""
    from ssl4seg.report import compare, page, sheets

    patient = compare.patient_of(arguments.patient)
    results = sheets.results(rows, classes=arguments.classes)
    comparisons, notes = compare.compare(rows, arguments.baseline, patient)
    shown = [sheet.shown() for sheet in sheets.results(rows, classes=False)]
    shown += [sheet.shown() for sheet in (sheets.results_of_classes(rows) if arguments.classes else ())]
    shown += [sheet.shown() for sheet in compare.sheets(comparisons, arguments.baseline)]
    for sheet in shown:
        sheets.show(sheet)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "report.md", "\n".join([*map(sheets.markdown, shown), markdown_of(missing)]))
    write_text(output / "report.tex", "\n".join(map(sheets.latex, shown)))
    sheets.write_csv(results, output / "report.csv")
    compare.write_csv(comparisons, output / "comparison.csv")
    sheets.write_runs(rows, output / "runs.csv")
    images = write_figures(arguments, rows, patient, FigureFolder(output / "figures"), notes)
    write_text(output / "report.html", plain(page.page(rows, shown, images, missing, notes)))
    for note in notes:
        print(plain(f"left out: {note}"), file=sys.stderr)
    files = "report.html, report.md, report.tex, report.csv, comparison.csv, runs.csv (a line a run)"
    print(plain(f"written: {output}/{files}"))
    if images:
        print(plain(f"         {output}/figures/*.png and *.svg"))


def markdown_of(missing: "Sequence[Missing]") -> str:
    """The runs that are in no table, as a list with their whole reasons."""
    from ssl4seg.report.page import MISSING
    from ssl4seg.report.sheets import markdown_text

    items = (
        f"- {_code(entry.run)}: {markdown_text(entry.status)}\n\n{indent(plain(entry.reason), ' ' * 6)}\n"
        for entry in missing
    )
    return "\n".join([f"## {MISSING}\n", *items]) if missing else ""


def _code(text: str) -> str:
    """A line in which Markdown shows every sign as it is."""
    line = " ".join(plain(text).split()).replace("`", "'")
    return f"`{line}`"


def write_figures(
    arguments: argparse.Namespace,
    rows: "Sequence[Row]",
    patient: re.Pattern[str],
    folder: FigureFolder,
    notes: list[str],
) -> "list[Image]":
    """Draw and write the figures; add a message to `notes` for each figure that cannot be drawn."""
    if arguments.no_figures:
        return []
    from ssl4seg.report import figures
    from ssl4seg.report.page import Image

    images = []
    for group in figures.groups(rows):
        for drawing in figures.draw(group, patient, notes):
            images.append(Image(file=Path(f"{folder.save(drawing)}.svg"), caption=drawing.caption))
    wanted = arguments.pictures
    if wanted is None:
        return images
    from ssl4seg.report import patients  # imports torch

    for row in rows:
        if wanted and row.method not in wanted:
            continue
        try:
            drawing = patients.draw(row, patient, trust=arguments.trust)
        except UserError as error:
            notes.append(f"pictures of {row.name}, {row.labels}: {error}")
            continue
        images.append(Image(file=Path(f"{folder.save(drawing)}.png"), caption=drawing.caption))
    return images


if __name__ == "__main__":
    main()
