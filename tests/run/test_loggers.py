"""Loggers: what they hold after a run and after it was resumed, and that none of them ends a training."""

import json
import logging
import signal
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import PHANTOM, Command, curve, load, refused, results, succeed
from PIL import Image

from ssl4seg.errors import Interrupted, UserError
from ssl4seg.report.figures import curve as curve_of_report
from ssl4seg.run.assemble import loggers_of
from ssl4seg.run.folder import differences
from ssl4seg.run.loggers.base import PLACES, Logger, Start, expect_package
from ssl4seg.run.loggers.csv_file import FILE, CsvFile, rows
from ssl4seg.run.record import Record

RUN = Path("outputs/phantom/supervised/unet-0.1-s0")
BLOCK, WHOLE, LAST = 2**15, 1, 4
"""Of a .wandb file: the bytes of a block, and kinds of parts."""
RED = np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 9, 3))


def begun(folder: Path, step: int = 0) -> Start:
    return Start(folder=folder, name="mine/uamt/run", step=step, config={"seed": 1, "method": {"weight": 0.5}})


def logged(logger: Logger, run: Start, steps: tuple[int, ...], status: str = "stopped") -> None:
    """Let a logger log a loss, which is the step, and an overlay at some steps, and the final scores at the end."""
    logger.start(run)
    for step in steps:
        logger.scalars(step, {"train/loss": float(step), "val/dice/left ventricle (core)": 0.5})
        logger.pictures(step, {"val/overlay/deep/case": RED})
    if status == "finished":
        logger.conclude()
        logger.finals({"seed": 1, "labeled": "2 of 4"}, {"final/test/dice/mean": 0.75})
    logger.close(status)


# -- csv --------------------------------------------------------------------------------------------------------------


def test_scalars_of_steps_that_were_lost_and_lines_that_were_cut_are_left_out_as_a_run_goes_on(tmp_path: Path) -> None:
    logged(CsvFile(), begun(tmp_path), (1, 2, 3), "finished")
    with (tmp_path / FILE).open("a") as handle:
        handle.write("2,train/lr,0.1\n2,tra")
    logged(CsvFile(), begun(tmp_path, step=2), (3,))
    found = [row for row in rows(tmp_path / FILE) if row[1].startswith(("train", "final"))]
    assert found == [(1, "train/loss", 1), (2, "train/loss", 2), (2, "train/lr", 0.1), (3, "train/loss", 3)]
    pictures = sorted(tmp_path.glob("overlays/val/*/*.png"))
    assert [file.parent.name for file in pictures] == ["0000001", "0000002", "0000003"]
    assert np.array_equal(Image.open(pictures[0]), RED)
    logged(CsvFile(), begun(tmp_path), (7,))  # a new run
    assert [row[0] for row in rows(tmp_path / FILE)] == [7, 7]


def test_nothing_is_written_through_a_link_of_a_strangers_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE).symlink_to(tmp_path / "mine.csv")
    with pytest.raises(UserError, match=r"scalars.csv: is a link"):
        CsvFile().start(begun(tmp_path / "run"))
    assert (tmp_path / "mine.csv").read_text() == "precious"


# -- trackers ---------------------------------------------------------------------------------------------------------


def in_wandb(file: Path) -> list[Any]:
    """The records of a .wandb file, which a process of W&B goes on to write for a moment after the run has finished."""
    until = time.monotonic() + 30
    while not (records := list(records_in(file.read_bytes()))) or records[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < until, records
        time.sleep(0.02)
    return records


def records_in(content: bytes) -> Iterator[Any]:
    """Of a log as LevelDB writes it: after 7 bytes each part of a record has a check sum, its length and its kind."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    at, record = 7, b""
    while at + 7 < len(content):
        if 0 < -at % BLOCK < 7:  # which no part begins in
            at += -at % BLOCK
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (WHOLE, LAST) and at <= len(content):
            yield Entry.FromString(record)
            record = b""


def history_in(records: list[Any]) -> list[dict[str, Any]]:
    """What was logged at once, by name."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb_offline_has_scalars_overlays_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(key, str(tmp_path / "home"))
    (logger,) = loggers_of({"wandb": {"_target_": "ssl4seg.run.loggers.wandb.WandB", "mode": "offline"}}).values()
    logged(logger, begun(tmp_path), (1, 2), "finished")
    place = json.loads((tmp_path / PLACES).read_text())["wandb"]
    (file,) = Path(place["place"]).glob("*.wandb")
    assert file.name == f"run-{place['id']}.wandb"
    records = in_wandb(file)
    history = history_in(records)
    assert [(row["step"], row["train/loss"]) for row in history if "train/loss" in row] == [(1, 1), (2, 2)]
    shown = [value for row in history for key, value in row.items() if key.startswith("val/overlay")]
    assert len(shown) >= 2
    assert len(list(tmp_path.rglob("media/images/**/*.png"))) == 2
    summary = [i for r in records if r.WhichOneof("record_type") == "summary" for i in r.summary.update]
    assert any("final/test/dice/mean" in (i.key, *i.nested_key) and json.loads(i.value_json) == 0.75 for i in summary)
    (config,) = (r.run.config for r in records if r.WhichOneof("record_type") == "run")
    assert {i.key: json.loads(i.value_json) for i in config.update}["run_folder"] == str(tmp_path.resolve())
    (tmp_path / PLACES).write_text(json.dumps({"wandb": {"id": "../../x"}}))
    with pytest.raises(UserError, match=r"loggers.json: wandb: '../../x' is no id of a run"):
        logger.start(begun(tmp_path, step=2))


def test_mlflows_folder_has_scalars_overlays_scores_and_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which the logger would set for the tests that follow too
    keys = {"_target_": "ssl4seg.run.loggers.mlflow.MLflow", "uri": str(tmp_path / "tracked"), "experiment": "mine"}
    (logger,) = loggers_of({"mlflow": keys}).values()
    logged(logger, begun(tmp_path), (1, 2))
    logged(logger, begun(tmp_path, step=2), (3,), "finished")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "tracked").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert found.info.run_id == json.loads((tmp_path / PLACES).read_text())["mlflow"]["id"]
    assert (found.info.run_name, found.info.status) == ("mine/uamt/run", "FINISHED")
    assert found.data.tags["run_folder"] == str(tmp_path.resolve())
    points = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 2), (3, 3)]
    assert found.data.metrics["final/test/dice/mean"] == 0.75
    assert found.data.metrics["val/dice/left ventricle _core_"] == 0.5
    assert found.data.params == {"seed": "1", "labeled": "2 of 4"}
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("artifacts/**/*") if file.is_file()}
    assert {file.partition("/artifacts/")[2] for file in files} == {
        "config.yaml",
        *(f"val/overlay/deep/case/{step:07d}.png" for step in (1, 2, 3)),
    }


def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it() -> None:
    with pytest.raises(UserError, match=r"logger=wandb needs no_such: pip install 'ssl4seg\[wandb\]'"):
        expect_package("wandb", "no_such")


# -- record -----------------------------------------------------------------------------------------------------------


class Kept(Logger):
    """Keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, run: Start) -> str:
        self.calls.append(("start", run.step))
        return "somewhere"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, dict(values)))

    def pictures(self, step: int, pictures: Mapping[str, Any]) -> None:
        self.calls.append((step, list(pictures)))

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        self.calls.append(("finals", dict(scores)))

    def close(self, status: str) -> None:
        self.calls.append(("close", status))


def test_a_logger_whose_disk_is_full_is_named_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full, kept = CsvFile(), Kept()
    unwritable = tmp_path / "no folder"  # where not even a start succeeds
    with Record(begun(tmp_path), {"csv": full, "kept": kept}, step=0, total=9) as record:
        full.handle.close()
        full.handle = open("/dev/full", "w")  # noqa: SIM115
        for step in (1, 2):
            record.scalars(step, {"loss": 0.5}, 7.0)
            record.scores("val", step, {"dice": {"mean": 0.5, "organ": float("nan")}}, {"case": RED})
    with Record(begun(unwritable), {"csv": CsvFile(), "kept": kept}, step=0, total=9):
        pass
    lost = [line.message for line in caplog.records if line.levelno == logging.WARNING]
    assert [line.split("(")[0] for line in lost] == ["logger=csv: cannot go on "] * 2
    assert "No space left on device" in lost[0]
    scores = [call for step in (1, 2) for call in ((step, {"train/loss": 0.5}), (step, {"val/dice/mean": 0.5}))]
    assert [call for call in kept.calls if isinstance(call[1], dict)] == scores
    assert (2, ["val/overlay/case"]) in kept.calls


@pytest.mark.parametrize(("error", "status"), [(Interrupted, "stopped"), (UserError, "failed"), (None, "finished")])
def test_a_logger_hears_how_the_run_ended(tmp_path: Path, error: type[Exception] | None, status: str) -> None:
    kept = Kept()
    with suppress(Interrupted, UserError), Record(begun(tmp_path), {"kept": kept}, step=0, total=9):
        if error:
            raise error("...")
    assert kept.calls[-1] == ("close", status)


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_in_several_loggers_with_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {f"WANDB_{key}_DIR": str(tmp_path / "home") for key in ("CONFIG", "CACHE", "DATA")}
    same = (*PHANTOM, "iterations=8", "engine.num_overlays=1")
    words = (*same, "logger.wandb.mode=offline", "logger.mlflow.uri=tracked")
    run, last = tmp_path / RUN, tmp_path / RUN / "last.pt"
    started = Command.start("train", *words, "logger=[tensorboard,wandb,mlflow]", cwd=tmp_path, env=home)
    told = started.wait_for(last.exists).send(signal.SIGINT)
    assert (told.code, "cannot go on" in told.output) == (130, False), told.output
    stopped, ids = load(last)["step"], {name: of["id"] for name, of in results(run, PLACES).items()}
    told = succeed("train", *words, "logger=[tensorboard,csv,wandb,mlflow]", cwd=tmp_path, env=home)
    assert f"going on from step {stopped} of 8" in told
    assert "cannot go on" not in told
    assert {name: of["id"] for name, of in results(run, PLACES).items() if name in ids} == ids

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "tracked").as_uri())
    (tracked,) = client.search_runs([client.get_experiment_by_name("ssl4seg").experiment_id])
    assert (tracked.info.run_id, tracked.info.status) == (ids["mlflow"], "FINISHED")
    in_mlflow = {
        name: {point.step: point.value for point in client.get_metric_history(ids["mlflow"], name)}
        for name in ("train/loss", "val/dice/mean", "final/test/dice/mean")
    }
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{ids['wandb']}.wandb"] * 2
    rows_of = [row for file in files for row in history_in(in_wandb(file))]
    for name, whole in in_mlflow.items():
        assert [*whole.values()] == pytest.approx([*curve(run, name).values()], rel=1e-6)
        in_csv = {step: value for step, tag, value in rows(run / FILE) if tag == name}
        if name.startswith("final"):  # each logger has a step of its own for it
            assert [*in_csv.values()] == [*whole.values()] == [results(run)["test"]["dice"]["mean"]]
        else:
            later = {step: value for step, value in whole.items() if step > stopped}
            assert in_csv == pytest.approx(later, rel=1e-6)
            assert {row["step"]: row[name] for row in rows_of if name in row} == pytest.approx(whole, rel=1e-6)
    assert [*in_mlflow["train/loss"]] == [*range(1, 9)]
    assert (run / "overlays/val/0000008").is_dir()

    main = SimpleNamespace(metric="dice", name="mean")
    whole = curve_of_report(SimpleNamespace(folder=run, parts=()), main)
    for file in run.glob("tensorboard/*"):
        file.unlink()
    left = curve_of_report(SimpleNamespace(folder=run, parts=()), main)  # what scalars.csv has
    assert left == {step: score for step, score in whole.items() if step > stopped}
    assert "is finished" in succeed("train", *same, "logger=none", cwd=tmp_path)
    told = refused("train", *PHANTOM, "logger=wandb", "logger.wandb.mode=of", "tag=x", cwd=tmp_path)
    assert "logger.wandb.mode=of: expected one of online, offline, disabled, or null" in told
    assert not (tmp_path / f"{RUN}-x").exists()


def test_loggers_are_no_part_of_what_a_run_is() -> None:
    assert not differences({"seed": 1, "logger": {"csv": {"_target_": "a"}}}, {"seed": 1, "logger": {}})
    assert differences({"seed": 1, "loggers": 2}, {"seed": 1}) == [("loggers", 2, None)]
