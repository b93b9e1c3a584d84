"""`ssl4seg-export`: a run's trained model as ONNX, as a program of torch.export, or as bare weights."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl4seg.commands.cli import command
from ssl4seg.commands.conf import laid_on_runs
from ssl4seg.errors import UserError


def run(config: DictConfig) -> None:
    """Check the keys, then write the model and check it."""
    if config["run"] is None:
        raise UserError("run not set: ssl4seg-export run=DIR format=onnx|pt2|weights")
    if not isinstance(config["run"], str | int):
        raise UserError(f"run={config['run']}: expected the folder of one run")
    (keys,) = laid_on_runs("export", config, HydraConfig.get())
    # It imports torch, so that it is imported after everything that can be refused without it.
    from ssl4seg.commands.export import export_run

    export_run(keys)


def main() -> None:
    command("export", run)


if __name__ == "__main__":
    main()
