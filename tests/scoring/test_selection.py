"""The key `select`, which chooses the best model, and metrics of the user's own."""

import math
from pathlib import Path

import pytest
import torch
from helpers import PHANTOM, curve, load, refused, results, succeed, table

from ssl4seg.errors import UserError
from ssl4seg.scoring.metrics import METRICS, Metric, metric_table
from ssl4seg.scoring.selection import Selection, goodness_of, selected_by, selection_of
from ssl4seg.scoring.tables import CaseTable, PixelTable

CLASSES = ["background", "myocardium", "ventricle"]
CASES, PIXELS = CaseTable(CLASSES), PixelTable(CLASSES)
BOTH = PixelTable(CLASSES, distances=CASES)
STREETS = PixelTable(["road", "car"], background=False)


@pytest.mark.parametrize(
    ("select", "table", "metric", "name"),
    [
        ("auto", CASES, "dice", "mean"),
        ("auto", PIXELS, "iou", "foreground_mean"),
        ("auto", BOTH, "iou", "foreground_mean"),
        ("auto", STREETS, "iou", "mean"),
        ("dice", PIXELS, "dice", "foreground_mean"),
        ("iou/mean", PIXELS, "iou", "mean"),  # as VOC publishes it
        ("hd95", BOTH, "hd95", "mean"),  # of which the background is no class
        ("hd95", CASES, "hd95", "mean"),
        ("dice/myocardium", CASES, "dice", "myocardium"),
        ("iou/background", PIXELS, "iou", "background"),
        ("pixel_accuracy", PIXELS, "pixel_accuracy", "mean"),
        ("asd/ventricle", BOTH, "asd", "ventricle"),
    ],
)
def test_select_names_a_metric_and_perhaps_a_class(select: str, table: CaseTable, metric: str, name: str) -> None:
    assert selection_of(select, table).as_dict() == {"split": "val", "metric": metric, "class": name}


@pytest.mark.parametrize(
    ("select", "table", "words"),
    [
        ("hd59", CASES, "did you mean hd95?"),
        ("dice/heart", CASES, "myocardium, ventricle, mean, not for 'heart'"),
        ("dice/ventrical", CASES, "did you mean ventricle?"),
        ("iou/foreground_mean", STREETS, "road, car, mean, not for"),
        ("dice/background", CASES, "not for 'background'"),
        ("hd95", PIXELS, "metrics.distances=true"),
        ("pixel_accuracy", CASES, "dice, hd95, asd, iou"),
        ("mean_accuracy/ventricle", PIXELS, "all pixels at once"),
    ],
)
def test_what_the_table_does_not_measure_is_refused(select: str, table: CaseTable, words: str) -> None:
    with pytest.raises(UserError, match=f"select={select}") as raised:
        selection_of(select, table)
    assert words in str(raised.value)


def test_a_smaller_distance_is_better_a_larger_share_is_and_nan_is_worst() -> None:
    hd95, dice = (selection_of(select, CASES) for select in ("hd95", "dice/ventricle"))

    def summary(value: float) -> dict[str, dict[str, float]]:
        return {"hd95": {"mean": value}, "dice": {"mean": 0.0, "ventricle": value}}

    assert hd95.better(summary(0.1), summary(0.2))
    assert not hd95.better(summary(0.2), summary(0.1))
    assert dice.better(summary(0.2), summary(0.1))
    for selection in (hd95, dice):
        assert not selection.better(summary(0.1), summary(0.1))  # the earlier model stays
        assert selection.better(summary(0.1), summary(math.nan))
        assert not selection.better(summary(math.nan), summary(0.1))
    assert (hd95.goodness(summary(0.2)), dice.goodness(summary(0.2))) == (-0.2, 0.2)


def test_under_last_every_later_model_replaces_the_earlier_one_and_the_main_score_compares_runs() -> None:
    last = selection_of("last", CASES)
    assert last.as_dict() == selection_of("auto", CASES).as_dict()
    for value in (0.1, 0.9, math.nan):
        assert last.better({"dice": {"mean": value}}, {"dice": {"mean": 0.5}})
    assert (last.selected, selection_of("auto", CASES).selected) == ("last", "best")


def test_the_mean_over_the_foreground_of_an_earlier_validation_comes_from_its_classes() -> None:
    chosen = selection_of("auto", PIXELS)
    old = {"iou": {"mean": 0.6, "background": 0.9, "myocardium": 0.5, "ventricle": 0.4}}
    assert chosen.value(old) == pytest.approx(0.45)
    assert chosen.better({"iou": {"mean": 0.5, "foreground_mean": 0.46}}, old)
    assert math.isnan(chosen.value({"iou": {"mean": None, "background": 0.9, "myocardium": None}}))


def test_the_entry_of_results_is_read_as_every_version_wrote_it() -> None:
    now = {"split": "val", "metric": "dice", "class": "mean"}
    assert selected_by({"selected_by": "val dice mean"}) == selected_by({"selected_by": now}) == ("val", "dice", "mean")
    for entry in ("val dice", {"split": "val"}, None):
        with pytest.raises(UserError, match="selected_by"):
            selected_by({"selected_by": entry})
    scores = {"val": {"hd95": {"mean": 3.0}, "dice": {"mean": None}}}
    assert goodness_of({"selected_by": now | {"metric": "hd95"}} | scores) == -3
    assert goodness_of({"selected_by": now} | scores) is None


def test_the_table_says_of_every_metric_how_it_is_printed() -> None:
    assert [metric.printed(0.5, "mm") for metric in METRICS.values()] == ["50.00 %", "0.50 mm", "0.50 mm"] + [
        "50.00 %"
    ] * 3
    assert [metric.head("voxel") for metric in METRICS.values()][:2] == ["Dice %", "HD95 voxel"]
    assert [(metric.best, metric.worst) for metric in METRICS.values()][:2] == [(1, 0), (0, math.inf)]
    assert (
        Selection(metric=METRICS["iou"], name="ventricle").printed({"iou": {"ventricle": 0.25}})
        == "ventricle IoU 25.00 %"
    )


def test_a_run_keeps_the_model_with_the_smallest_hd95(tmp_path: Path) -> None:
    keys = ("iterations=10", "optimizer.lr=0.2", "select=hd95/myocardium", "labeled_ratio=1")
    output = succeed("train", *PHANTOM, *keys, cwd=tmp_path)
    run = tmp_path / "outputs/phantom/supervised/unet-1-s0"
    by_step = curve(run, "val/hd95/myocardium")
    assert len(by_step) == 5
    assert results(run)["best_step"] == min(by_step, key=lambda step: (by_step[step], step))
    assert results(run)["selected_by"] == {"split": "val", "metric": "hd95", "class": "myocardium"}
    assert "myocardium HD95" in output
    assert "select=hd95: " not in output
    assert "did you mean hd95?" in refused("train", *PHANTOM, "select=hd96", "tag=x", cwd=tmp_path)


@pytest.mark.parametrize("select", ["auto", "last"])
def test_the_result_is_the_best_model_or_with_last_that_of_the_last_step(select: str, tmp_path: Path) -> None:
    keys = ("iterations=12", "optimizer.lr=0.3", "schedule=constant", "labeled_ratio=1", f"select={select}")
    output = succeed("train", *PHANTOM, *keys, cwd=tmp_path)
    run = tmp_path / "outputs/phantom/supervised/unet-1-s0"
    by_step, found = curve(run, "val/dice/mean"), results(run)
    best = max(by_step, key=lambda step: (by_step[step], -step))
    assert best < 12
    assert found["best_step"] == load(run / "best.pt")["step"] == (12 if select == "last" else best)
    assert found["selected"] == ("last" if select == "last" else "best")
    assert found["val"]["dice"]["mean"] == pytest.approx(by_step[found["best_step"]])
    weights = [load(run / f"{name}.pt")["method"] for name in ("best", "last")]
    assert all(torch.equal(*pair) for pair in zip(*(w.values() for w in weights), strict=True)) == (select == "last")
    assert (" (best)" in output) == (select == "auto")
    assert f"{found['selected']} model of step {found['best_step']}" in output
    succeed("report", run, "--no-figures", cwd=tmp_path)
    chosen = "that of the last step (selected: last)" if select == "last" else "the one that is best on val by Dice"
    assert f"The model is {chosen}." in (run / "report.md").read_text()


METRIC = '''
from ssl4seg.scoring.metrics import Masks, Metric


def relative_error(masks: Masks) -> float:
    """| |p| - |y| | / |y|"""
    return abs(masks.num_predicted - masks.num_true) / masks.num_true


volume_error = Metric(
    name="volume_error",
    title="volume error",
    unit="share",
    range=(0, 1e9),
    higher_is_better=False,
    of_masks=relative_error,
)
dice_too = Metric(name="dice", title="Dice", unit="share", range=(0, 1), higher_is_better=True)
'''


def test_a_metric_from_outside_is_printed_written_and_chooses_the_model(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(METRIC)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    more = ("metrics.more=[mine.volume_error]", "select=volume_error")
    output = succeed("train", *PHANTOM, *more, cwd=tmp_path)
    assert "volume error %" in output
    run = tmp_path / "outputs/phantom/supervised/unet-0.1-s0"
    found = results(run)
    assert found["selected_by"]["metric"] == "volume_error"
    rows = [float(row["volume_error"]) for row in table(run / "cases_test.csv") if row["class"] == "myocardium"]
    assert found["test"]["volume_error"]["myocardium"] == pytest.approx(sum(rows) / len(rows), rel=1e-5)
    by_step = curve(run, "val/volume_error/mean")
    assert found["val"]["volume_error"]["mean"] == pytest.approx(min(by_step.values()))
    assert "volume error %" in succeed("eval", f"run={run}", "device=cpu", "trust=true", cwd=tmp_path)
    succeed("report", run, "--no-figures", cwd=tmp_path)
    told = (run / "report.md").read_text()
    assert "best on val by volume error. Lower volume error is better." in told
    assert f"{100 * found['test']['volume_error']['mean']:.2f}" == table(run / "report.csv")[0]["test volume error %"]


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("mine.nothing", "mine holds no nothing"),
        ("mine.volume_eror", "did you mean volume_error?"),
        (".volume_error", "cannot be imported"),
        ("nowhere.metric", "PYTHONPATH"),
        ("mine.relative_error", "is a function"),
        ("mine.dice_too", "a metric 'dice' already"),
    ],
)
def test_a_name_that_is_no_metric_is_refused(dotted: str, words: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(METRIC)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"metrics\.more=") as raised:
        metric_table([dotted])
    assert words in str(raised.value)
    assert isinstance(metric_table(["mine.volume_error"])["volume_error"], Metric)
