"""Step time and peak memory of every method, each in a process of its own, relative to supervised: a Markdown table.

    python scripts/bench_methods.py dataset.image_size=256 batch_size=12 unlabeled_batch_size=12 num_threads=2
    python scripts/bench_methods.py --methods uamt,unimatch --rounds 3 dataset=acdc dataset.root=DATA/ACDC

Supervised is timed in every round; a method's figure is the median of its rounds.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

from ssl4seg.commands.conf import choices, conf_dir

BASELINE = "supervised"


def measured(method: str, steps: int, overrides: list[str]) -> tuple[float, float]:
    """Median seconds of a step, and peak memory in MB."""
    script = Path(__file__).with_name("bench_step.py")
    words = [sys.executable, str(script), f"--steps={steps}", f"method={method}", *overrides]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{method}: {done.stderr.strip()}")
    match = re.search(r"step_s: median ([\d.]+).*peak_memory_mb: (\d+)", done.stdout, re.DOTALL)
    assert match, done.stdout
    return float(match[1]), float(match[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="comma-separated; default: all of conf/method")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    arguments, overrides = parser.parse_known_args()
    methods = arguments.methods.split(",") if arguments.methods else list(choices("method", [conf_dir()]))
    results: dict[str, list[tuple[float, float]]] = {}
    for _ in range(arguments.rounds):
        for method in dict.fromkeys([BASELINE, *methods]):
            results.setdefault(method, []).append(measured(method, arguments.steps, overrides))
            print(f"{method}: {results[method][-1]}", file=sys.stderr, flush=True)
    seconds, memory = ({m: statistics.median(r[i] for r in runs) for m, runs in results.items()} for i in (0, 1))
    print("| method | seconds a step | relative | peak memory, MB | relative |\n|---|---:|---:|---:|---:|")
    for m in methods:
        time, space = seconds[m] / seconds[BASELINE], memory[m] / memory[BASELINE]
        print(f"| {m} | {seconds[m]:.3f} | {time:.1f} | {memory[m]:.0f} | {space:.1f} |")


if __name__ == "__main__":
    main()
