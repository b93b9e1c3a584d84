"""`ssl4seg-predict`: masks for new images with a run's best model."""

from pathlib import Path

from omegaconf import DictConfig

from ssl4seg.cli import command, given_keys, plain
from ssl4seg.errors import UserError
from ssl4seg.runs import checkpoint_file, read_config


def run(config: DictConfig) -> None:
    """Predict a file or every file of a folder."""
    if missing := [key for key in ("run", "input", "output") if config[key] is None]:
        raise UserError(f"{', '.join(missing)} not set: ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER")
    container = plain(config)
    read_config(Path(container["run"]))
    checkpoint_file(Path(container["run"]), container["checkpoint"])
    if not Path(container["input"]).exists():
        raise UserError(f"input={container['input']}: there is no such file or folder")
    from ssl4seg.inference import predict_files  # imports torch, after the command line is known to be right

    predict_files(container, given_keys())


def main() -> None:
    command("predict", run)


if __name__ == "__main__":
    main()
