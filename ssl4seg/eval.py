"""`ssl4seg-eval`: score a run's checkpoint, or a bare network's weights, on val or test."""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.cli import command, plain
from ssl4seg.errors import UserError


def run(config: DictConfig) -> None:
    """Evaluate and write results_<split>.json and cases_<split>.csv."""
    container = plain(config)
    hydra = HydraConfig.get()
    given = [override.lstrip("+").split("=", 1)[0] for override in hydra.overrides.task]
    names = {key: str(hydra.runtime.choices[key]) for key in ("dataset", "network")}
    if container["run"] is None and container["network"].get("weights") is None:
        raise UserError("nothing to evaluate: give run=DIR, or network.weights=FILE with dataset=... and network=...")
    from ssl4seg.inference import evaluate_checkpoint  # imports torch, after the command line is known to be right

    evaluate_checkpoint(container, names, given)


def main() -> None:
    if any(word.startswith("run=") for word in sys.argv):
        # The run brings its dataset, whose keys the composed one need not have; they are checked against the run's.
        sys.argv = [f"++{word}" if word.startswith("dataset.") else word for word in sys.argv]
    command("eval", run)


if __name__ == "__main__":
    main()
