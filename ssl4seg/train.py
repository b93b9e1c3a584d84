"""`ssl4seg-train`: compose the configuration and train."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import chosen_by_user, keys_of, resolved, to_plain
from ssl4seg.errors import UserError
from ssl4seg.run import targets
from ssl4seg.run.folder import remove_empty


def run(config: DictConfig) -> float | None:
    """Train one run in its folder; return the val score that a sweeper may maximise."""
    hydra = HydraConfig.get()
    names = {key: str(hydra.runtime.choices[key]) for key in ("dataset", "method", "network")}
    folder = Path(hydra.runtime.output_dir)
    try:
        targets.check(
            to_plain(config),
            "the configuration of this run",
            "name the choice on the command line (GROUP=CHOICE), or add trust=true",
            trust="trust" in keys_of(hydra.overrides.task) and config["trust"] is True,
            typed=chosen_by_user(hydra),
        )
        container = resolved(config)
        names["dataset"] = container["dataset"].get("name") or names["dataset"]
    except UserError:
        remove_empty(folder)  # Hydra made it
        raise
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.run.training import train

    return train(container, names, folder)


def main() -> None:
    command("train", run)


if __name__ == "__main__":
    main()
