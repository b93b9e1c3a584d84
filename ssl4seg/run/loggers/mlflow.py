"""MLflow: a tracking server, a database, or a folder of files."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ssl4seg.keys import Key, expect, is_line, optional
from ssl4seg.run.loggers.base import Logger, Start, expect_package, known_id, remember
from ssl4seg.scoring.pictures import Picture

LINE = Key(is_line, "a text of at most 200 bytes")
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST = 100
"""Entries that a server takes at once."""
LONGEST = 500
"""Characters of a parameter that every server takes."""
Entry = TypeVar("Entry")


class MLflow(Logger):
    """A run of MLflow. A resumed run goes on in the same one.

    Args:
        uri: of the tracking server, as http://localhost:5000, or a folder; None is what MLFLOW_TRACKING_URI says, else
            the folder mlruns where the command was started.
        experiment: the name under which the run appears.
    """

    client: Any
    number: str

    def __init__(self, *, uri: str | None = None, experiment: str = "ssl4seg") -> None:
        expect("logger.mlflow.uri", uri, optional(LINE))
        expect("logger.mlflow.experiment", experiment, LINE)
        expect_package("mlflow", "mlflow")
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns"
        if not re.match(r"[a-z+]{2,}:", self.uri) and self.uri != "databricks":
            self.uri = Path(self.uri).expanduser().resolve().as_uri()
        self.experiment = experiment

    def start(self, run: Start) -> str:
        if self.uri.startswith("file:"):  # MLflow asks for this word, since its newer features need a database
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=self.uri)
        if number := known_id(run, "mlflow"):
            self.client.update_run(number, status="RUNNING")
            experiment = self.client.get_run(number).info.experiment_id
        else:
            known = self.client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else self.client.create_experiment(self.experiment)
            tags = {"run_folder": str(run.folder.resolve()), "mlflow.source.name": "ssl4seg-train"}
            number = self.client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            self.client.log_text(number, yaml.safe_dump(dict(run.config), sort_keys=False), "config.yaml")
        self.number = str(number)
        there = f"/#/experiments/{experiment}/runs/" if self.uri.startswith("http") else f"/{experiment}/"
        place = f"{self.uri.rstrip('/')}{there}{number}"
        remember(run, "mlflow", self.number, place)
        return place

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for some in _parts([Metric(_name(name), float(value), now, step) for name, value in values.items()]):
            self.client.log_batch(self.number, metrics=some)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        for name, picture in pictures.items():
            self.client.log_image(self.number, picture, f"{_name(name)}/{step:07d}.png")

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        from mlflow.entities import Param

        for some in _parts([Param(_name(key), str(value)[:LONGEST]) for key, value in settings.items()]):
            self.client.log_batch(self.number, params=some)
        self.scalars(0, scores)

    def close(self, status: str) -> None:
        self.client.set_terminated(self.number, STATUS[status])


def _name(name: str) -> str:
    """A name that MLflow takes; of other signs it has _."""
    parts = (re.sub(r"[^\w\-. ]", "_", part) for part in name.split("/"))
    return "/".join("_" if part.strip(".") == "" else part for part in parts)


def _parts(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    left = iter(entries)
    while some := list(islice(left, MOST)):
        yield some
