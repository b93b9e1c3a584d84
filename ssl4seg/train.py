"""`ssl4seg-train`: compose the configuration and train."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ssl4seg.cli import command


def run(config: DictConfig) -> None:
    """One run in its folder."""
    from ssl4seg.training import train  # imports torch, after the command line is known to be right

    container: Any = OmegaConf.to_container(config, resolve=True)
    hydra = HydraConfig.get()
    names = {key: str(hydra.runtime.choices[key]) for key in ("dataset", "method", "network")}
    train(container, names, Path(hydra.runtime.output_dir))


def main() -> None:
    command("train", run)


if __name__ == "__main__":
    main()
