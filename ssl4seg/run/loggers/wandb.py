"""Weights & Biases."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl4seg.keys import Key, expect, is_line, one_of, optional
from ssl4seg.run.loggers.base import Logger, Start, expect_package, known_id, remember
from ssl4seg.scoring.pictures import Picture
from ssl4seg.userfiles import expect_own

NAME = Key(is_line, "a name of at most 200 bytes")


class WandB(Logger):
    """A run of W&B. A resumed run goes on in the same one.

    Args:
        project, entity: where the run appears; an entity of None is the account's default.
        mode: online, offline (files in wandb/ of the run folder, which `wandb sync` uploads) or disabled; None is what
            WANDB_MODE says, else online.
    """

    run: Any
    mode: Any
    """One of its words."""

    def __init__(self, *, project: str = "ssl4seg", entity: str | None = None, mode: str | None = None) -> None:
        expect("logger.wandb.project", project, NAME)
        expect("logger.wandb.entity", entity, optional(NAME))
        expect("logger.wandb.mode", mode, optional(one_of("online", "offline", "disabled")))
        expect_package("wandb", "wandb")
        self.project, self.entity, self.mode = project, entity, mode

    def start(self, run: Start) -> str:
        import wandb

        expect_own(run.folder / "wandb")
        number = known_id(run, "wandb") or secrets.token_hex(4)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=number,
            resume="allow",
            name=run.name,
            dir=run.folder,
            config={**run.config, "run_folder": str(run.folder.resolve())},
            allow_val_change=True,
            # its messages would break the progress bar
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        place = str(Path(self.run.dir).parent if self.run.offline else self.run.url)
        remember(run, "wandb", number, place)
        return place

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        import wandb

        if pictures:
            self.run.log({**{name: wandb.Image(picture) for name, picture in pictures.items()}, "step": step})

    def finals(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        self.run.summary.update(dict(scores))

    def close(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)
