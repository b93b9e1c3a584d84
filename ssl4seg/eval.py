"""`ssl4seg-eval`: score a run's checkpoint, or a bare network's weights, on val or test."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import check, check_root, check_scores, completed, laid
from ssl4seg.errors import UserError
from ssl4seg.run.folder import checkpoint_file


def run(config: DictConfig) -> None:
    """Check the keys, then evaluate and write results_<split>.json and cases_<split>.csv.

    Settings that differ from the run's are appended to the file names (`evaluation.circumstances`).
    """
    evaluation = laid("eval", config, HydraConfig.get())
    keys = evaluation.config
    if keys["run"] is not None:
        checkpoint_file(Path(keys["run"]), keys["checkpoint"])
        if keys["network"].get("weights"):
            keys["network"]["weights"] = None  # the run started from this file, and needs it no more
    elif keys["network"].get("weights") is None:
        raise UserError("nothing to evaluate: give run=DIR, or network.weights=FILE with dataset=... and network=...")
    if keys["run"] is None or "dataset" in evaluation.typed:
        keys["dataset"] = completed(keys["dataset"])
    else:  # what is null in a run's configuration is off, as `dataset.mean=none` asked for
        check_root(keys["dataset"])
    check(keys)
    check_scores(keys)
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.commands.evaluation import evaluate_checkpoint

    evaluate_checkpoint(evaluation)


def main() -> None:
    command("eval", run)


if __name__ == "__main__":
    main()
