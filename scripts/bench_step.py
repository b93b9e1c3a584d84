"""Time training steps of a configuration, through the engine itself.

    python scripts/bench_step.py dataset=acdc dataset.root=DATA/ACDC method=uamt labeled_ratio=0.19
    python scripts/bench_step.py --steps 20 method=supervised precision=32

Prints the median time of a step, the share of data and views in it, images/s, the number of files opened while
stepping, and peak memory; on a GPU also the share of the time in which it idles. For a method with stages it times the
last stage. `--json FILE` writes the same numbers to a file.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssl4seg.commands.conf import conf_dir
from ssl4seg.run.device import peak_memory
from ssl4seg.run.engine import Engine
from ssl4seg.run.training import Training


def engine_of(overrides: list[str]) -> Engine:
    """The engine of a run that has no folder."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    return Training(config, {"dataset": "-", "method": "-", "network": "-"}, None).engine()


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def wait(engine: Engine) -> None:
    if engine.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def timed(engine: Engine, work: Any) -> float:
    wait(engine)
    start = time.perf_counter()
    work()
    wait(engine)
    return time.perf_counter() - start


def step(engine: Engine) -> None:
    engine.train_step()
    engine.step += 1


def busy_share(engine: Engine, steps: int) -> float:
    """Share of the wall time in which a kernel runs on the GPU, steps following each other without waiting."""
    from torch.profiler import ProfilerActivity, profile

    def several() -> None:
        for _ in range(steps):
            step(engine)

    wall = timed(engine, several)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        several()
        wait(engine)
    spans = sorted((e.time_range.start, e.time_range.end) for e in trace.events() if e.device_type.name == "CUDA")
    covered, end = 0.0, 0.0
    for first, last in spans:
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    return covered / 1e6 / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments, overrides = parser.parse_known_args()
    engine = engine_of(overrides)
    engine.step = round(max(engine.method.stages, default=0) * engine.plan.total)
    opened: list[str] = []
    stepping = False
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if stepping and event == "open" else None)
    for _ in range(arguments.warmup):
        step(engine)
    stepping = True
    steps = [timed(engine, lambda: step(engine)) for _ in range(arguments.steps)]
    stepping = False
    data = [timed(engine, lambda: engine.batches(engine.step)) for _ in range(arguments.steps)]
    median, images = statistics.median(steps), sum(engine.batches.sizes)
    print(f"{' '.join(overrides)}")
    print(f"step_s: median {median:.4f}, min {min(steps):.4f}, max {max(steps):.4f} (n={len(steps)})")
    share = 100 * statistics.median(data) / median
    print(f"data_and_views_s: median {statistics.median(data):.4f}, {share:.1f} % of a step")
    print(f"images_per_s: {images / median:.1f}   files opened while stepping: {len(opened)}")
    print(f"peak_memory_mb: {peak_memory(engine.fabric.device) / 2**20:.0f}   threads: {torch.get_num_threads()}")
    idle = 1 - busy_share(engine, arguments.steps) if engine.fabric.device.type == "cuda" else None
    if idle is not None:
        print(f"gpu_idle_share: {100 * idle:.1f} %")
    if arguments.json:
        found = {
            "words": overrides,
            "device": name_of(engine.fabric.device),
            "torch": torch.__version__,
            "precision": engine.fabric.strategy.precision.precision,
            "step_seconds": median,
            "images_per_second": images / median,
            "data_share": share / 100,
            "idle_share": idle,
            "files_opened": len(opened),
            "peak_memory_bytes": peak_memory(engine.fabric.device),
        }
        arguments.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
