"""`ssl4seg-predict`: masks for new images with a run's best model."""

from omegaconf import DictConfig

from ssl4seg.cli import command, plain
from ssl4seg.errors import UserError


def run(config: DictConfig) -> None:
    """Predict a file or every file of a folder."""
    if missing := [key for key in ("run", "input", "output") if config[key] is None]:
        raise UserError(f"{', '.join(missing)} not set: ssl4seg-predict run=DIR input=FILE|FOLDER output=FOLDER")
    from ssl4seg.inference import predict_files  # imports torch, after the command line is known to be right

    predict_files(plain(config))


def main() -> None:
    command("predict", run)


if __name__ == "__main__":
    main()
