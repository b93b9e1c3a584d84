"""`ssl4seg-report DIR ...`: run folders in, one table out: rows method x labels, mean and deviation over seeds."""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from ssl4seg.errors import UserError
from ssl4seg.runs import MAY_DIFFER, flat, read_config, read_json

HEAD = ("dataset", "method", "network", "labels", "tag")
Settings = dict[str, Any]
"""config.yaml, flat, without what may differ between the runs of a row."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The finished runs that differ only in their seed."""

    key: tuple[str, ...]
    """dataset, method, network, labels, tag"""
    runs: tuple[dict[str, Any], ...]
    """Their results.json."""
    differs: str = ""
    """ "key=value ..." of the settings by which rows of the same key differ."""

    def values(self, metric: str, name: str) -> list[float]:
        """One a seed; a metric that was NaN (null in the file) is NaN."""
        found = (run["test"][metric].get(name) for run in self.runs)
        return [math.nan if value is None else float(value) for value in found]


def collect(roots: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """Rows of all finished runs below `roots`, and a message for each run that is not finished."""
    grouped: dict[str, tuple[Settings, list[dict[str, Any]]]] = {}
    unfinished, seen = [], 0
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder")
        for folder in sorted(file.parent for file in root.rglob("config.yaml") if file.parent.name != ".hydra"):
            seen += 1
            file = folder / "results.json"
            result = read_json(file) if file.exists() else {"status": "not finished", "error": "no results.json yet"}
            if result["status"] != "finished":
                unfinished.append(f"{folder}: {result['status']}\n{indent(str(result.get('error')), '    ')}")
                continue
            every = sorted(flat(read_config(folder)).items())
            settings = {key: value for key, value in every if key not in (*MAY_DIFFER, "seed")}
            grouped.setdefault(repr(settings), (settings, []))[1].append(result)
    if not seen:
        raise UserError(f"{', '.join(map(str, roots))}: holds no run folder")
    ordered = sorted(grouped.values(), key=lambda group: _order(group[1][0]))
    alike: dict[tuple[str, ...], list[Settings]] = {}
    for settings, runs in ordered:
        alike.setdefault(_key(runs[0]), []).append(settings)
    rows = [
        Row(key=(key := _key(runs[0])), runs=tuple(runs), differs=_differing(settings, alike[key]))
        for settings, runs in ordered
    ]
    return rows, unfinished


def _differing(settings: Settings, alike: Sequence[Settings]) -> str:
    """ "key=value ..." of the keys whose values are not the same in all of `alike`."""
    keys = [
        key for key in {key: None for other in alike for key in other} if len({repr(s.get(key)) for s in alike}) > 1
    ]
    # What a recipe says shows in the keys that follow it.
    told = [key for key in keys if not key.startswith("dataset.recipe.")] or keys
    return " ".join(f"{key}={'null' if (value := settings.get(key)) is None else value}" for key in told)


def _key(result: dict[str, Any]) -> tuple[str, ...]:
    labeled = result["labeled"]
    labels = f"{labeled['cases']} of {labeled['of_cases']} ({100 * labeled['ratio']:.3g} %)"
    return result["dataset"], result["method"], result["network"], labels, result.get("tag") or ""


def _order(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["dataset"], result["labeled"]["images"], result["method"] != "supervised", _key(result)


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """ "mean ± standard deviation" (of the sample; none for a single seed)."""
    mean = statistics.fmean(values) * scale
    return f"{mean:.2f} ± {statistics.stdev(values) * scale:.2f}" if len(values) > 1 else f"{mean:.2f}"


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and cells: Dice in %, HD95 in the runs' unit; a column `differs` where rows would look the same."""
    units = sorted({run["test"]["distance_unit"] for row in rows for run in row.runs})
    head = names(rows)
    cells = []
    for row in rows:
        unit = row.runs[0]["test"]["distance_unit"]
        hd95 = spread(row.values("hd95", "mean")) + (f" {unit}" if len(units) > 1 else "")
        cells.append([*words(row, head), str(len(row.runs)), spread(row.values("dice", "mean"), 100), hd95])
    return [*head, "seeds", "Dice %", "HD95" if len(units) > 1 else f"HD95 {''.join(units)}"], cells


def names(rows: Sequence[Row]) -> list[str]:
    """The columns that name a row."""
    return [*HEAD, *(["differs"] if any(row.differs for row in rows) else [])]


def words(row: Row, head: Sequence[str]) -> list[str]:
    """What a row holds in them."""
    return [*row.key, *([row.differs] if "differs" in head else [])]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    rule = ["---" if name in (*HEAD, "differs") else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines)) + "\n"


def write_runs(rows: Sequence[Row], file: Path) -> None:
    """A line a run, numbers as they are."""
    head = names(rows)
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow([*head, "seed", "best_step", "val_dice", "test_dice", "test_hd95", "distance_unit"])
        for row in rows:
            for run in row.runs:
                test = run["test"]
                numbers = [run["val"]["dice"]["mean"], test["dice"]["mean"], test["hd95"]["mean"]]
                writer.writerow([*words(row, head), run["seed"], run["best_step"], *numbers, test["distance_unit"]])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="ssl4seg-report", description="One table over run folders: method x labels, mean and deviation over seeds."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="run folders, or folders that hold them")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where report.md and report.csv go (default: first DIR)"
    )
    arguments = parser.parse_args()
    output: Path = arguments.output or arguments.folders[0]
    try:
        rows, unfinished = collect(arguments.folders)
        if rows:
            head, cells = table(rows)
            shown = RichTable()
            for column in head:
                shown.add_column(column, justify="left" if column in (*HEAD, "differs") else "right")
            for line in cells:
                shown.add_row(*line)
            Console(width=None if sys.stdout.isatty() else 160).print(shown)
            output.mkdir(parents=True, exist_ok=True)
            (output / "report.md").write_text(markdown(head, cells))
            with (output / "report.csv").open("w", newline="") as file:
                csv.writer(file).writerows([head, *cells])
            write_runs(rows, output / "runs.csv")
            print(f"written: {output}/report.md, report.csv (the table) and runs.csv (a line a run)")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: cannot be written ({error.strerror})")
    for message in unfinished:
        print(message, file=sys.stderr)
    if not rows:
        sys.exit("error: no run is finished yet")


if __name__ == "__main__":
    main()
