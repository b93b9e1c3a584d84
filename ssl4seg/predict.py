"""`ssl4seg-predict`: masks for new images with a run's best model."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import check, laid
from ssl4seg.errors import UserError
from ssl4seg.run.folder import checkpoint_file


def run(config: DictConfig) -> None:
    """Check the keys, then predict a file, or every file of a folder."""
    if missing := [key for key in ("run", "input", "output") if config[key] is None]:
        raise UserError(f"{', '.join(missing)} not set: ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER")
    keys = laid("predict", config, HydraConfig.get()).config
    checkpoint_file(Path(keys["run"]), keys["checkpoint"])
    if not Path(keys["input"]).exists():
        raise UserError(f"input={keys['input']}: there is no such file or folder")
    check(keys)
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.commands.prediction import predict_files

    predict_files(keys)


def main() -> None:
    command("predict", run)


if __name__ == "__main__":
    main()
