"""`ssl4seg-rank`: which images to label next, by a run's best model."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import check_root, laid_on_runs
from ssl4seg.errors import UserError
from ssl4seg.keys import DISTANT


def run(config: DictConfig) -> None:
    """Check the keys, then order a run's unlabelled cases, or the images of a folder."""
    if config["run"] is None:
        raise UserError("run not set: ssl4seg-rank run=DIR [input=FILE|FOLDER]")
    if not isinstance(config["run"], str | int):
        raise UserError(f"run={config['run']}: expected the folder of one run")
    (keys,) = laid_on_runs("rank", config, HydraConfig.get())
    if keys["input"] is not None and not Path(keys["input"]).exists():
        raise UserError(f"input={keys['input']}: there is no such file or folder")
    if keys["input"] is None or keys["by"] in DISTANT:
        check_root(keys["dataset"])
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.commands.ranking import rank_images

    rank_images(keys)


def main() -> None:
    command("rank", run)


if __name__ == "__main__":
    main()
