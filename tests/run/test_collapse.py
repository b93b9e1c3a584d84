"""A collapse is told while it happens, with the key to turn; a run that does not collapse says nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import NAMES, PHANTOM, acdc, composed, load, write_h5

from ssl4seg.run.collapse import Collapse
from ssl4seg.run.folder import RunFolder
from ssl4seg.run.record import Record, start_log
from ssl4seg.run.training import Training

CLASSES, EXPECTED = ("background", "heart", "lung"), (0.8, 0.15, 0.05)
Told = Callable[[], tuple[str, str]]


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """Returns what the screen and train.log were told since the last call."""
    seen = [0]
    start_log(tmp_path / "train.log")

    def read() -> tuple[str, str]:
        text = (tmp_path / "train.log").read_text()
        new, seen[0] = text[seen[0] :], len(text)
        return capsys.readouterr().err, new

    return read


def shares(background: float, heart: float = 0.0, of: str = "share") -> dict[str, float]:
    values = (background, heart, 1 - background - heart)
    return {f"{of}/{name}": value for name, value in zip(CLASSES, values, strict=True)}


def test_the_screen_hears_of_it_while_it_lasts_and_the_log_once(told: Told) -> None:
    # Heart and lung have 20 % of the labelled masks: they are swallowed below 2.5 %.
    collapse = Collapse(CLASSES, EXPECTED)
    message = "pseudo-labels are 99.2 % background since step 10 (labelled masks: 80 %); try method.a=1"
    for step, found, screen, file in (
        (10, shares(0.9751), "", ""),  # every network begins so
        (20, shares(0.992), message, message),  # it has lasted for a quarter of the run
        (30, shares(0.992, 0.001), message, ""),
        (40, shares(0.974, 0.026), *2 * ("pseudo-labels hold other classes than background again",)),
        (50, shares(1.0), "", ""),
    ):
        collapse.watch(step, 40, found, "method.a=1")
        now = told()
        assert now[0].strip() == screen, step
        assert now[1].partition(" WARNING ")[2].strip() == file or file in now[1], step
        assert bool(now[1]) == bool(file), step
        assert (collapse.result is not None) == (screen == message), step


def test_one_class_may_fill_what_it_fills_in_the_masks_and_the_swallower_may_be_any(told: Told) -> None:
    collapse = Collapse(CLASSES, EXPECTED)
    for step in (10, 20, 30):
        collapse.watch(step, 40, shares(0.97), "")
    assert told() == ("", "")
    for step in (40, 50):
        collapse.watch(step, 40, shares(0.05, 0.95, of="predicted"), "")
    assert told()[0] == (
        "predictions of unlabelled images are 95 % heart since step 40 (labelled masks: 15 %); "
        "try a lower weight of the unlabelled images\n"
    )
    assert collapse.result == {"class": "heart", "share": 0.95, "since": 40}


def run(path: Path, until: int, *words: str) -> None:
    """Train fixmatch, every pixel of whose pseudo-labels counts, to the end of `until` steps, or go on from there."""
    config = composed(*words, "method=fixmatch", "method.threshold=0", "optimizer.lr=0.05", "labeled_cases=2")
    engine = Training(config, NAMES, RunFolder(path, config, resume=True)).engine()
    with Record(None, step=engine.step, total=engine.plan.total) as record:
        while engine.step < until:
            engine.train_step()
            engine.step += 1
            if engine.step % 10 == 0:
                engine.validate(record)
                engine.save()


def test_a_run_that_teaches_background_alone_says_so_also_after_a_resume(tmp_path: Path, told: Told) -> None:
    words = (*PHANTOM, "iterations=40")  # so small a network calls all background, and is taught to
    run(tmp_path / "run", 20, *words)
    screen, file = told()
    message = "pseudo-labels are 100 % background since step 10 (labelled masks: 89 %); try method.rampup_steps=null\n"
    assert message in screen
    assert file.count(message) == 1
    run(tmp_path / "run", 40, *words)
    screen, file = told()
    assert screen.count(message) == 2
    assert message not in file
    assert load(tmp_path / "run/last.pt")["collapse"]["since"] == 10


def test_a_run_that_learns_says_nothing(tmp_path: Path, told: Told) -> None:
    words = (*acdc(write_h5(tmp_path / "ACDC")), "method.consistency_weight=0.1", "iterations=60")
    run(tmp_path / "run", 40, *words)
    screen, _ = told()
    assert "step 40: val Dice" in screen
    assert "pseudo-labels" not in screen
