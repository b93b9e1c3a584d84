"""`ssl4seg-train`: compose the configuration and train."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.cli import command, plain


def run(config: DictConfig) -> None:
    """One run in its folder."""
    from ssl4seg.training import train  # imports torch, after the command line is known to be right

    hydra = HydraConfig.get()
    names = {key: str(hydra.runtime.choices[key]) for key in ("dataset", "method", "network")}
    train(plain(config), names, Path(hydra.runtime.output_dir))


def main() -> None:
    command("train", run)


if __name__ == "__main__":
    main()
