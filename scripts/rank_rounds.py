"""Labels that ssl4seg-rank chooses against labels drawn at random, in rounds, over several seeds.

    python scripts/rank_rounds.py OUT dataset.image_size=64 iterations=200 eval_every=100
    python scripts/rank_rounds.py OUT experiment=acdc_small dataset.root=DATA/ACDC iterations=300 eval_every=100

Both begin with the same labelled cases, the first ones of an order that is shuffled by the seed. Each round adds as
many: the random way the next ones of that order, the ranked way those that the model of the round before chooses. Each
model is trained from scratch and tested. The same command goes on where it was stopped; finished runs are not computed
again. It writes OUT/rounds.csv and OUT/rounds.png.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from ssl4seg.commands.conf import composed, own_keys, resolved
from ssl4seg.commands.ranking import rank_images
from ssl4seg.files import write_csv
from ssl4seg.run.folder import finished, read_config
from ssl4seg.run.training import train

WAYS = ("random", "ranked")


def trained(folder: Path, words: Sequence[str]) -> float:
    """The mean test Dice of the run in a folder, trained if it is not finished."""
    config = composed("train", words, hydra=True)
    names = {key: str(config.hydra.runtime.choices[key]) for key in ("dataset", "method", "network")}
    config = composed("train", words)
    train(resolved(config), names, folder)
    results = finished(folder)
    assert results
    return float(results["test"]["dice"]["mean"])


def ranked(run: Path, count: int, by: str) -> Path:
    """The list of a run's labelled cases and `count` more."""
    if not (lists := [*run.glob("rank/*ranked.txt")]):
        own = own_keys("rank") | {"run": str(run), "count": count, "by": by, "num_threads": 1}
        rank_images(read_config(run) | own)
        lists = [*run.glob("rank/*ranked.txt")]
    return lists[0]


def rounds_of(arguments: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """The Dice of each round, by way."""
    words = [*arguments.words, f"seed={seed}", f"split_seed={seed}", "num_threads=1"]
    folder = arguments.out / f"seed{seed}"
    first = trained(folder / "first", [*words, f"labeled_cases={arguments.add}"])
    scores = {way: [first] for way in WAYS}
    last = folder / "first"
    for number in range(1, arguments.rounds + 1):
        more = f"labeled_cases={arguments.add * (number + 1)}"
        scores["random"].append(trained(folder / f"random{number}", [*words, more]))
        chosen = f"labeled_list={ranked(last, arguments.add, arguments.by).resolve()}"
        last = folder / f"ranked{number}"
        scores["ranked"].append(trained(last, [*words, chosen]))
    return scores


def draw(out: Path, labeled: Sequence[int], each: Sequence[dict[str, list[float]]]) -> None:
    """Mean and range over seeds of both ways, by the number of labelled cases."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for way in WAYS:
        seeds = [[100 * score for score in scores[way]] for scores in each]
        columns = [*zip(*seeds, strict=True)]
        (line,) = axes.plot(labeled, [statistics.fmean(column) for column in columns], marker="o", label=way)
        axes.fill_between(labeled, [*map(min, columns)], [*map(max, columns)], alpha=0.2, color=line.get_color(), lw=0)
    axes.set(xlabel="labelled cases", ylabel="test Dice %", xticks=labeled)
    axes.legend()
    figure.savefig(out / "rounds.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("words", nargs="*", help="KEY=VALUE of ssl4seg-train")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--add", type=int, default=2, help="cases at the start, and added in each round")
    parser.add_argument("--by", default="combined")
    arguments = parser.parse_intermixed_args()
    each = []
    labeled = [arguments.add * (number + 1) for number in range(arguments.rounds + 1)]
    lines: list[Sequence[object]] = [("seed", "labeled", *WAYS)]
    for seed in range(arguments.seeds):
        each.append(rounds_of(arguments, seed))
        lines += [(seed, number, *(each[-1][way][i] for way in WAYS)) for i, number in enumerate(labeled)]
        write_csv(arguments.out / "rounds.csv", lines)
        draw(arguments.out, labeled, each)
    for i, number in enumerate(labeled):
        spread = {way: [100 * scores[way][i] for scores in each] for way in WAYS}
        words = (
            f"{way} {statistics.fmean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"
            for way, values in spread.items()
        )
        print(f"{number} labelled: {', '.join(words)}")


if __name__ == "__main__":
    main()
