"""The command `ssl4seg-report DIR ...`. Help comes at once: what takes long to import is imported where it is used."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl4seg.errors import UserError
from ssl4seg.report.collect import PATIENT, Missing, Row, collect

if TYPE_CHECKING:
    from ssl4seg.report.page import Image


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = argparse.ArgumentParser(
        prog="ssl4seg-report",
        description="Tables, comparisons and figures of all run folders below DIR: mean and deviation over seeds. Runs "
        "that differ in more than their seed are rows of their own; runs without results are listed with the reason.",
    )
    add = result.add_argument
    add("folders", nargs="+", type=Path, metavar="DIR", help="run folders, or folders that hold them")
    add("--output", type=Path, metavar="DIR", help="where report.html, .md ... go (default: the first DIR)")
    add("--classes", action="store_true", help="columns for every class")
    add("--baseline", default="supervised", metavar="METHOD", help="what is compared with (default: supervised)")
    add(
        "--patient",
        default=PATIENT,
        metavar="REGEX",
        help="what in a test case's name, in its one group, is the patient, the unit of the comparison; a name that "
        f"does not match is a patient of its own (default: {PATIENT})",
    )
    add(
        "--pictures",
        nargs="*",
        metavar="METHOD",
        help="predict and draw the worst, median and best test case of these methods (none named: of all); needs the "
        "checkpoints and the datasets. Stands after the folders",
    )
    add("--no-figures", action="store_true", help="tables alone, in a second")
    return result


def main() -> None:
    arguments = parser().parse_args()
    output: Path = arguments.output or arguments.folders[0]
    try:
        rows, missing = collect(arguments.folders)
        if rows:
            report(arguments, rows, missing, output)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: cannot be written or read ({error.strerror})")
    for one in missing:
        print(one, file=sys.stderr)
    if not rows:
        sys.exit("error: no run is finished yet")


def report(arguments: argparse.Namespace, rows: Sequence[Row], missing: Sequence[Missing], output: Path) -> None:
    """Write everything into `output`, and the tables onto the screen."""
    from ssl4seg.report import compare, page, sheets

    patient = compare.patient_of(arguments.patient)
    if arguments.baseline not in {row.method for row in rows} and arguments.baseline != "supervised":
        raise UserError(f"--baseline {arguments.baseline}: no finished run has this method")
    results = sheets.results(rows, classes=arguments.classes)
    comparisons, notes = compare.compare(rows, arguments.baseline, patient)
    differences = compare.sheets(comparisons, arguments.baseline)
    shown = [sheet.folded() for sheet in (*results, *differences)]
    for sheet in shown:
        sheets.show(sheet)
    output.mkdir(parents=True, exist_ok=True)
    told = "".join(f"- {one.run}: {one.status}. {one.reason}\n".replace("\n", "\n  ")[:-2] for one in missing)
    (output / "report.md").write_text(
        "\n".join(map(sheets.markdown, shown)) + (f"\n## Runs without results\n\n{told}" if missing else "")
    )
    (output / "report.tex").write_text("\n".join(map(sheets.latex, shown)))
    sheets.write_csv(results, output / "report.csv")
    compare.write_csv(comparisons, output / "comparison.csv")
    sheets.write_runs(rows, output / "runs.csv")
    images = [] if arguments.no_figures else figures(arguments, rows, patient, output / "figures", notes)
    (output / "report.html").write_text(page.page(rows, shown, images, missing, notes))
    for note in notes:
        print(f"left out: {note}", file=sys.stderr)
    print(f"written: {output}/report.html, report.md, report.tex, report.csv, comparison.csv, runs.csv (a line a run)")
    if images:
        print(f"         {output}/figures/*.png and *.svg")


def figures(
    arguments: argparse.Namespace, rows: Sequence[Row], patient: re.Pattern[str], folder: Path, notes: list[str]
) -> "list[Image]":
    """Drawn and written; what cannot be drawn goes into `notes`."""
    from ssl4seg.report import figures as drawn
    from ssl4seg.report.page import Image

    images = []
    for group in drawn.groups(rows):
        for drawing in drawn.draw(group, patient, notes):
            drawing.save(folder)
            images.append(Image(file=folder / f"{drawing.name}.svg", caption=drawing.caption))
    wanted = arguments.pictures
    if wanted is None:
        return images
    if unknown := sorted(set(wanted) - {row.method for row in rows}):
        raise UserError(f"--pictures {unknown[0]}: no finished run has this method")
    from ssl4seg.report import pictures  # imports torch

    for row in rows:
        if wanted and row.method not in wanted:
            continue
        try:
            drawing = pictures.draw(row)
        except UserError as error:
            notes.append(f"pictures of {row.name}, {row.key[3]}: {error}")
            continue
        drawing.save(folder)
        images.append(Image(file=folder / f"{drawing.name}.png", caption=drawing.caption))
    return images


if __name__ == "__main__":
    main()
