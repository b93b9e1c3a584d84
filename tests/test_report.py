"""The report on run folders made by hand: every number is worked out here."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers import PHANTOM, refused, results, succeed, table
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ssl4seg.metrics import score
from ssl4seg.report import compare, figures, pictures, sheets
from ssl4seg.report.collect import PATIENT, Run, collect
from ssl4seg.runs import FAILURES

CASES = ("patient1_frame01", "patient1_frame02", "patient2_frame01", "patient2_frame02", "other")


def make_run(
    root: Path,
    method: str,
    dice: Sequence[float],
    *,
    cases: int = 1,
    seed: int = 0,
    main: str = "dice",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run of one class, in which the CASES of test score `dice`; on val it scores 0.1 less."""
    folder = root / f"{method}-{cases}-{seed}"
    (folder / "tensorboard").mkdir(parents=True)
    settings = {"method": {"_target_": method}, "labeled_cases": cases, "seed": seed, "iterations": 20}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, **(config or {})}))
    mean = sum(dice) / len(dice)
    distances = {"hd95": {"mean": 10 * mean, "heart": 10 * mean}, "distance_unit": "mm"} if main == "dice" else {}
    test = {main: {"mean": mean, "heart": mean}, "num_cases": len(dice), **distances}
    result = {
        "dataset": "hearts",
        "method": method,
        "network": "unet",
        "seed": seed,
        "tag": None,
        "labeled": {"ratio": cases / 8, "cases": cases, "images": cases, "of_cases": 8, "of_images": 8},
        "status": "finished",
        "selected_by": f"val {main} mean",
        "tested_on": "test" if main == "dice" else "val",
        "empty": "worst",
        "best_step": 20,
        "val": {**test, main: {"mean": mean - 0.1, "heart": mean - 0.1}},
        "test": test,
    }
    (folder / "results.json").write_text(json.dumps(result))
    with (folder / "cases_test.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", main])
        writer.writerows((case, "heart", value) for case, value in zip(CASES, dice, strict=True))
    with SummaryWriter(str(folder / "tensorboard")) as events:
        for step in (10, 20):
            events.add_scalar(f"val/{main}/mean", mean * step / 20, step)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two methods, two seeds, one and two labelled cases; the bound with all 8."""
    for cases, more in ((1, 0.0), (2, 0.1)):
        make_run(tmp_path / "runs", "supervised", [0.2 + more] * 5, cases=cases)
        make_run(tmp_path / "runs", "supervised", [0.4 + more] * 5, cases=cases, seed=1)
        make_run(tmp_path / "runs", "a_teacher", [0.5, 0.3, 0.4, 0.4, 0.2], cases=cases)
        make_run(tmp_path / "runs", "a_teacher", [0.7, 0.5, 0.2, 0.4, 0.2], cases=cases, seed=1)
    make_run(tmp_path / "runs", "supervised", [0.9] * 5, cases=8)
    return tmp_path / "runs"


def report(root: Path, *arguments: object) -> tuple[str, Path]:
    """What the screen shows, and the folder of the files."""
    output = root.parent / "report"
    return succeed("report", root, "--output", output, *arguments, cwd=root.parent), output


# -- tables -----------------------------------------------------------------------------------------------------------


def test_val_and_test_stand_side_by_side_as_mean_and_deviation_over_seeds(root: Path) -> None:
    _, output = report(root, "--no-figures")
    rows = [list(row.values()) for row in table(output / "report.csv")]
    assert [row[:1] + row[1:4] + row[6:] for row in rows] == [
        ["hearts", "supervised", "unet", "1 of 8 (12.5 %)", "2", "20.00 ± 14.14", "30.00 ± 14.14", "3.00 ± 1.41"],
        ["hearts", "a_teacher", "unet", "1 of 8 (12.5 %)", "2", "28.00 ± 2.83", "38.00 ± 2.83", "3.80 ± 0.28"],
        ["hearts", "supervised", "unet", "2 of 8 (25 %)", "2", "30.00 ± 14.14", "40.00 ± 14.14", "4.00 ± 1.41"],
        ["hearts", "a_teacher", "unet", "2 of 8 (25 %)", "2", "28.00 ± 2.83", "38.00 ± 2.83", "3.80 ± 0.28"],
        ["hearts", "supervised", "unet", "8 of 8 (100 %)", "1", "80.00", "90.00", "9.00"],
    ]
    runs = table(output / "runs.csv")
    assert [float(run["test_dice"]) for run in runs[:4]] == pytest.approx([0.2, 0.4, 0.36, 0.4])
    assert [run["seed"] for run in runs] == ["0", "1"] * 4 + ["0"]


def test_markdown_says_once_what_all_lines_share(root: Path) -> None:
    _, output = report(root, "--no-figures")
    text = (output / "report.md").read_text()
    assert "\nDataset hearts, network unet. Mean ± standard deviation over seeds." in text
    assert "\n| method | labels | seeds | val Dice % | test Dice % | test HD95 mm |\n" in text
    assert "\n| a_teacher | 1 of 8 (12.5 %) | 2 | 28.00 ± 2.83 | 38.00 ± 2.83 | 3.80 ± 0.28 |\n" in text


def test_latex_has_rules_of_booktabs_and_no_bare_special_characters(root: Path) -> None:
    _, output = report(root, "--no-figures")
    lines = (output / "report.tex").read_text().splitlines()
    assert r"    a\_teacher & 1 of 8 (12.5 \%) & 2 & 28.00 $\pm$ 2.83 & 38.00 $\pm$ 2.83 & 3.80 $\pm$ 0.28 \\" in lines
    assert [line.strip() for line in lines[:5]] == [
        r"\begin{table}",
        r"\centering",
        lines[2].strip(),
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
    ]
    for line in lines:
        assert not re.search(r"(?<!\\)[%#_]|[±Δ]", line), line


def test_columns_for_every_class(root: Path) -> None:
    _, output = report(root, "--no-figures", "--classes")
    row = table(output / "report.csv")[1]
    assert (row["heart Dice %"], row["heart HD95 mm"]) == ("38.00 ± 2.83", "3.80 ± 0.28")


def test_runs_that_are_scored_by_pixels(tmp_path: Path) -> None:
    for method, level in (("supervised", 0.3), ("fixmatch", 0.5)):
        make_run(tmp_path / "runs", method, [level] * 5, main="iou")
    shown, output = report(tmp_path / "runs", "--classes")
    row = table(output / "report.csv")[1]
    assert (row["val mIoU %"], row["test mIoU %"], row["heart IoU %"]) == ("40.00", "50.00", "50.00")
    assert not [name for name in row if "HD95" in name or "Dice" in name]
    assert "Test is val" in shown
    assert (output / "figures/hearts-unet-iou-1cases-patients.png").exists()


def test_a_run_below_two_of_the_folders_counts_once(root: Path) -> None:
    rows, _ = collect([root, root / "a_teacher-1-0", root.parent])
    assert [len(row.runs) for row in rows] == [2, 2, 2, 2, 1]


# -- runs without results ---------------------------------------------------------------------------------------------


def test_runs_without_results_are_listed_with_the_reason(root: Path) -> None:
    for name, status in (("a", {"status": "failed", "error": "no <memory>\nleft"}), ("b", None)):
        (root / name).mkdir()
        (root / name / "config.yaml").write_text("seed: 0\n")
        if status:
            (root / name / "results.json").write_text(json.dumps(status))
    (root / "c").mkdir()
    (root / "c/config.yaml").write_text("seed: 0\n")
    (root / "c/results.json").write_text("{")
    told = [("d", "seed=7", "first"), ("d", "seed=7", "later"), ("a", "seed=8", "has a folder now")]
    lines = [json.dumps({"folder": f, "overrides": words, "error": error}) for f, words, error in told]
    (root / FAILURES).write_text("\n".join(lines) + "\n")
    shown, output = report(root, "--no-figures")
    assert f"{root}/a: failed\n    no <memory>\n    left\n" in shown
    assert f"{root}/b: not finished\n    no results.json yet\n" in shown
    assert f"{root}/c: damaged\n" in shown
    assert "seed=7: refused\n    later\n" in shown
    assert "first" not in shown
    assert "seed=8" not in shown
    assert "no &lt;memory&gt;" in (output / "report.html").read_text()
    assert "\n- seed=7: refused. later\n" in (output / "report.md").read_text()


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    assert "holds no run folder" in refused("report", ".", cwd=tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0\n")
    assert "no run is finished yet" in refused("report", ".", cwd=tmp_path)


# -- comparison -------------------------------------------------------------------------------------------------------


def test_a_patients_score_is_the_mean_over_volumes_and_seeds(root: Path) -> None:
    row = collect([root])[0][1]
    scores = compare.scores_of_patients(row, re.compile(PATIENT))
    assert scores == pytest.approx({"patient1": 0.5, "patient2": 0.35, "other": 0.2})


def test_the_difference_is_paired_over_patients(root: Path) -> None:
    # patients: teacher 0.5, 0.35, 0.2; supervised 0.3 each
    report(root, "--no-figures")
    first = table(root.parent / "report/comparison.csv")[0]
    assert (first["method"], first["baseline"], first["labels"]) == ("a_teacher", "supervised", "1 of 8 (12.5 %)")
    assert float(first["difference"]) == pytest.approx((0.2 + 0.05 - 0.1) / 3)
    assert (first["better"], first["patients"]) == ("2", "3")
    # signed ranks 3, 1, -2: of the 8 ways to sign 1, 2, 3 six have a negative sum of at least 2, or a positive one
    assert float(first["p"]) == pytest.approx(0.75)


def test_each_name_may_be_a_patient_of_its_own(root: Path) -> None:
    report(root, "--no-figures", "--patient", "(.+)")
    assert {row["patients"] for row in table(root.parent / "report/comparison.csv")} == {"5"}
    for wrong in ("(", ".+", "(.)(.)"):
        assert "--patient" in refused("report", root, "--patient", wrong, cwd=root)


def test_the_bootstrap_interval() -> None:
    # of two values 0 and 1 the mean of a resample is 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert compare.interval([0.0, 1.0]) == (0.0, 1.0)
    assert compare.interval([0.25] * 7) == (0.25, 0.25)
    differences = np.random.default_rng(1).normal(0.5, 1, 400)
    low, high = compare.interval(differences)
    half = 1.96 * differences.std() / 20  # the normal approximation
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.01)
    assert compare.interval(differences) == (low, high)


def test_wilcoxon_and_holm() -> None:
    assert compare.wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 2**5)
    assert compare.wilcoxon(np.zeros(5)) == 1
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert compare.holm([0.5, 0.6]) == [1, 1]


def test_another_baseline_and_what_cannot_be_compared(root: Path) -> None:
    file = root / "a_teacher-2-0/cases_test.csv"
    file.write_text(file.read_text().replace("other", "another"))
    shown, output = report(root, "--no-figures", "--baseline", "a_teacher")
    assert [(row["method"], row["baseline"]) for row in table(output / "comparison.csv")] == [
        ("supervised", "a_teacher")
    ]
    assert "supervised, 2 of 8 (25 %): not compared with a_teacher: 2 test cases are not in both" not in shown
    assert "left out: supervised, 2 of 8 (25 %): not compared with a_teacher: 1 test cases are not in both" in shown
    assert "no finished run has this method" in refused("report", root, "--baseline", "uamt", cwd=root)


def test_other_settings_than_the_methods_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "supervised", [0.3] * 5)
    make_run(tmp_path / "runs", "uamt", [0.4] * 5, config={"iterations": 30, "method": {"weight": 1}})
    report(tmp_path / "runs", "--no-figures")
    assert table(tmp_path / "report/comparison.csv")[0]["other settings"] == "iterations"


# -- figures and the page ---------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_figures_are_written_and_the_page_holds_them_all(root: Path) -> None:
    _, output = report(root)
    names = sorted(file.stem for file in (output / "figures").glob("*.png"))
    of_labels = [f"hearts-unet-dice-{n}cases-{kind}" for n in (1, 2) for kind in ("patients", "steps")]
    assert names == [*of_labels, "hearts-unet-dice-labels"]
    for name in names:
        with Image.open(output / f"figures/{name}.png") as picture:
            assert min(picture.size) > 100
        assert ElementTree.parse(output / f"figures/{name}.svg").getroot().tag.endswith("svg")
    tags = Page((output / "report.html").read_text()).tags
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == len(names)
    assert all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert sum(tag == "table" for tag, _ in tags) == 2
    before = {file: file.read_bytes() for file in (output / "figures").iterdir()}
    report(root)
    assert {file: file.read_bytes() for file in before} == before


def drawn(root: Path) -> dict[str, figures.Drawing]:
    notes: list[str] = []
    (group,) = figures.groups(collect([root])[0])
    drawings = {drawing.name: drawing for drawing in figures.draw(group, re.compile(PATIENT), notes)}
    assert notes == []
    return drawings


def test_the_lines_show_the_scores(root: Path) -> None:
    drawings = drawn(root)
    axes = drawings["hearts-unet-dice-labels"].figure.axes[0]
    lines = [(line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_linestyle() in ("-", "--")]
    assert [list(x) for x, _ in lines] == [[1, 2], [1, 2]]
    assert [list(y) for _, y in lines] == [pytest.approx([30, 40]), pytest.approx([38, 38])]
    (bound,) = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert list(bound.get_ydata()) == pytest.approx([90, 90])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("labelled cases", "test Dice (%)")

    axes = drawings["hearts-unet-dice-1cases-steps"].figure.axes[0]
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert curves["a_teacher"] == ([10, 20], pytest.approx([19, 38]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "val Dice (%)")

    axes = drawings["hearts-unet-dice-1cases-patients"].figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["supervised", "a_teacher"]  # bottom to top
    points = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
    assert points == [pytest.approx([30, 30, 30]), pytest.approx([20, 35, 50])]


def test_with_one_number_of_labels_the_methods_stand_in_order(tmp_path: Path) -> None:
    for number in range(12):
        make_run(tmp_path, f"m{number:02d}", [0.1 + number / 20] * 5)
    make_run(tmp_path, "supervised", [0.31] * 5)
    drawings = drawn(tmp_path)
    axes = drawings["hearts-unet-dice-labels"].figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"m{n:02d}" for n in range(5)] + ["supervised"] + [f"m{n:02d}" for n in range(5, 12)]
    panels = drawings["hearts-unet-dice-1cases-steps"].figure.axes
    assert [panel.get_title("left") for panel in panels] == [f"m{n:02d}" for n in range(12)]
    assert all(len(panel.lines) == 2 for panel in panels[1:])  # its own, and the bound's


def test_a_curve_of_a_run_that_was_gone_on_with(root: Path) -> None:
    folder = root / "a_teacher-1-0"
    with SummaryWriter(str(folder / "tensorboard"), purge_step=15) as events:
        events.add_scalar("val/dice/mean", 0.75, 20)
    assert figures.curve(Run(folder=folder, result={}, settings={}), "dice") == pytest.approx({10: 0.18, 20: 0.75})


def test_missing_curves_and_cases_are_told(root: Path) -> None:
    for name in ("a_teacher-1-0/cases_test.csv", *(f"a_teacher-1-0/tensorboard/{f.name}" for f in events(root))):
        (root / name).unlink()
    shown, output = report(root)
    assert "holds no curve val/dice/mean" in shown
    assert "cases_test.csv: cannot be read" in shown
    assert "holds no curve" in (output / "report.html").read_text()
    assert (output / "figures/hearts-unet-dice-1cases-steps.png").exists()


def events(root: Path) -> list[Path]:
    return list((root / "a_teacher-1-0/tensorboard").iterdir())


def test_help_and_figures_do_without_torch(root: Path) -> None:
    code = (
        "import sys; from ssl4seg.report import command as c; c.parser().format_help(); "
        "print(sorted({'torch', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules))); "
        f"sys.argv[1:] = ['{root}']; c.main(); print(sorted({{'torch', 'matplotlib'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"
    assert done.stdout.splitlines()[-1] == "['matplotlib']"


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_of_the_worst_the_median_and_the_best_case(tmp_path: Path) -> None:
    succeed("train", *PHANTOM, "dataset.num_test=2", "iterations=30", "optimizer.lr=0.1", cwd=tmp_path)
    shown, output = report(tmp_path / "outputs", "--pictures")
    assert "left out" not in shown
    (file,) = (output / "figures").glob("*-pictures.png")
    assert file.name == "phantom-unet-1cases-supervised-pictures.png"
    assert 'src="data:image/png;base64,' in (output / "report.html").read_text()

    (row,) = collect([tmp_path / "outputs"])[0]
    scores = compare.scores_of_cases(row.runs[0], "dice")
    ordered = sorted(scores, key=lambda name: scores[name])
    titles = [axes.get_title("left").split("\n") for axes in pictures.draw(row).figure.axes]
    assert [title[1] for title in titles] == [ordered[0], ordered[1], ordered[3]]
    assert titles[2][0] == f"best: Dice {100 * scores[ordered[3]]:.1f} %"

    config = yaml.safe_load((row.runs[0].folder / "config.yaml").read_text())
    predictions = pictures.predict(row.runs[0], config, ordered)
    for name, (volume, prediction) in predictions.items():
        dices = [score(prediction == k, volume.label == k)[0] for k in (1, 2, 3)]
        assert sum(dices) / 3 == pytest.approx(scores[name], abs=1e-3)

    (row.runs[0].folder / "best.pt").unlink()
    assert "left out: pictures of supervised, 1 of 4" in report(tmp_path / "outputs", "--pictures", "supervised")[0]
    assert results(row.runs[0].folder)["status"] == "finished"


def test_pictures_of_a_method_that_is_not_there(root: Path) -> None:
    assert "--pictures uamt: no finished run has this method" in refused("report", root, "--pictures", "uamt", cwd=root)


def test_a_sheet_of_words_and_numbers_keeps_what_differs() -> None:
    sheet = sheets.Sheet(title="T", caption="C.", head=("dataset", "method", "tag", "n"), lines=(("d", "m", "", "1"),))
    folded = sheet.folded()
    assert (folded.head, folded.lines, folded.caption) == (("method", "n"), (("m", "1"),), "Dataset d. C.")
