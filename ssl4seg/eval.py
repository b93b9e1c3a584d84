"""`ssl4seg-eval`: score a run's checkpoint, or a bare network's weights, on val or test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.cli import check_root, command, given_keys, plain
from ssl4seg.errors import UserError
from ssl4seg.runs import checkpoint_file, read_config


def run(config: DictConfig) -> None:
    """Evaluate and write results_<split>.json and cases_<split>.csv, or names that say what is not as in the run."""
    container = plain(config)
    names = names_of(HydraConfig.get().runtime.choices, container)
    given = given_keys()
    if container["run"] is not None:
        run_folder = Path(container["run"])
        trained = read_config(run_folder)
        checkpoint_file(run_folder, container["checkpoint"])
        if not any(key in ("dataset", "dataset.root") for key in given):
            check_root(trained["dataset"])
    elif container["network"].get("weights") is None:
        raise UserError("nothing to evaluate: give run=DIR, or network.weights=FILE with dataset=... and network=...")
    from ssl4seg.inference import evaluate_checkpoint  # imports torch, after the command line is known to be right

    evaluate_checkpoint(container, names, given)


def names_of(choices: Mapping[str, object], config: Mapping[str, Any]) -> dict[str, str]:
    """The choice of each group; several of post-processing, of which Hydra tells none, with a + between them."""
    names = {group: str(choice) for group, choice in choices.items() if "/" not in group}
    return names | {"postprocess": "+".join(config["postprocess"]) or "none"}


def main() -> None:
    command("eval", run)


if __name__ == "__main__":
    main()
