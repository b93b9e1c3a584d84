"""Compare a device's training in float32 with the CPU's, step after step, or with a second run of its own.

    python scripts/check_device.py --json FILE device=cuda method=bcp
    python scripts/check_device.py --twice --json FILE device=cuda method=unimatch

The first trains on the CPU and on the device from the same weights and random numbers, and exits with 1 if a loss
differs by more than a thousandth; choose a method that draws on the CPU alone (dropout is switched off). The second
trains twice with `deterministic=true`, and exits with 1 if a weight differs in one bit. `--json` writes the losses.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from bench_step import engine_of, name_of

from ssl4seg.run.engine import Engine

TOLERANCE = 1e-3
"""Of a loss, relative to the larger of itself and 0.1; sums in another order differ by 1e-6, more from step to step."""


def losses_of(engine: Engine, steps: int) -> list[dict[str, float]]:
    """The losses of each step, the middle of the run first, where all terms of a loss take part."""
    engine.step = engine.plan.total // 2
    found = []
    for _ in range(steps):
        found.append({name: float(value) for name, value in engine.train_step().items()})
        engine.step += 1
    return found


def largest_difference(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    pairs = [(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x]
    return max(abs(x - y) / max(abs(x), 0.1) for x, y in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    arguments, words = parser.parse_known_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    other = ["deterministic=true"] if arguments.twice else ["device=cpu", "network.dropout=[0,0,0,0,0]"]
    own = other if arguments.twice else other[1:]
    first, second = (engine_of([*words, "precision=32", *more]) for more in (own, other))
    losses = [losses_of(engine, arguments.steps) for engine in (first, second)]
    found = {"words": words, "device": name_of(first.fabric.device), "losses": losses}
    if arguments.twice:
        pairs = zip(first.method.state_dict().values(), second.method.state_dict().values(), strict=True)
        found["same"] = all(torch.equal(a, b) for a, b in pairs)
        agreed = found["same"]
    else:
        found["largest_difference"] = largest_difference(*losses)
        agreed = found["largest_difference"] < TOLERANCE
    arguments.json.write_text(json.dumps(found) + "\n")
    print("agreed" if agreed else f"NOT AGREED: {found.get('largest_difference', 'weights differ')}")
    sys.exit(not agreed)


if __name__ == "__main__":
    main()
