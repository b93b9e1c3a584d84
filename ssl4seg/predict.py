"""`ssl4seg-predict`: masks for new images with a run's best model, or with several runs' together."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import laid_on_runs
from ssl4seg.errors import UserError


def run(config: DictConfig) -> None:
    """Check the keys, then predict a file, or every file of a folder."""
    if missing := [key for key in ("run", "input", "output") if not config[key] and config[key] != 0]:
        raise UserError(f"{', '.join(missing)} not set: ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER")
    runs = laid_on_runs("predict", config, HydraConfig.get())
    if not Path(runs[0]["input"]).exists():
        raise UserError(f"input={runs[0]['input']}: there is no such file or folder")
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.commands.prediction import predict_files

    predict_files(runs)


def main() -> None:
    command("predict", run)


if __name__ == "__main__":
    main()
