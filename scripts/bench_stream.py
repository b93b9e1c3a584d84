"""Compare the speed of feeding with the speed of training: images/s read, images/s made into views, images/s trained.

    python scripts/bench_stream.py num_threads=2
    python scripts/bench_stream.py --workers 0 4 8 --data DATA/VOCdevkit method=unimatch dataset.image_size=513

Without --data it makes VOC-sized JPEGs (500 x 375, 33 KB) with palette masks in a temporary folder. By default
DeepLabV3+ with ResNet-50, batch 4, crop 321. Beside the wall time it prints the CPU time, which other jobs on the
machine disturb less; the ratio of the CPU times compares one core that feeds with one core that trains.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from ssl4seg.commands.conf import conf_dir
from ssl4seg.run.training import Training

SIZE, NUM = (375, 500), 96
USUAL = [
    "dataset=voc2012",
    "network=deeplabv3plus",
    "batch_size=4",
    "unlabeled_batch_size=4",
    "labeled_ratio=0.5",
    "engine.diagnose=0",
]


def write_voc(root: Path) -> Path:
    """VOCdevkit/VOC2012 with textured pictures, landscape and portrait."""
    base = root / "VOCdevkit/VOC2012"
    folders = [base / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")]
    for folder in folders:
        folder.mkdir(parents=True)
    names = [f"2012_{number:06d}" for number in range(NUM)]
    for number, name in enumerate(names):
        image, label = textured(number, SIZE if number % 4 else SIZE[::-1])
        Image.fromarray(image).save(folders[0] / f"{name}.jpg", quality=75)
        mask = Image.fromarray(label)
        mask.putpalette(list(range(256)) * 3)
        mask.save(folders[1] / f"{name}.png")
    for split, part in (("train", names[:-2]), ("val", names[-2:])):
        (folders[2] / f"{split}.txt").write_text("\n".join(part) + "\n")
    return root


def textured(number: int, size: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noise of three scales [H, W, 3], and a mask of patches with ignored borders [H, W]."""
    rng = np.random.default_rng(number)
    image = np.zeros((*size, 3), np.float32)
    for cell, share in ((60, 0.5), (12, 0.3), (3, 0.2)):
        coarse = rng.integers(0, 256, (size[0] // cell + 2, size[1] // cell + 2, 3), np.uint8)
        image += share * np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    patches = Image.fromarray(rng.integers(0, 21, (5, 6), np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    label = np.array(patches)
    label[:-1][np.diff(label, axis=0) != 0] = 255
    return image.astype(np.uint8), label


class Speed(NamedTuple):
    """The speed of one kind of work."""

    wall: float
    """Images/s."""
    cpu: float
    """CPU milliseconds of this process for an image."""


def speed(work: Callable[[int], object], images: int, *, first: int, steps: int) -> Speed:
    """Time `steps` steps of `work`, after `first` steps that are not timed."""
    for step in range(first):
        work(step)
    synchronize()
    start, spent = time.perf_counter(), time.process_time()
    for step in range(first, first + steps):
        work(step)
    synchronize()
    cpu = 1000 * (time.process_time() - spent) / (steps * images)
    return Speed(steps * images / (time.perf_counter() - start), cpu)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def training(root: Path, *overrides: str) -> Training:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(
            compose("train", overrides=[*USUAL, f"dataset.root={root}", *overrides]), resolve=True
        )
    return Training(config, {"dataset": "voc2012", "method": "-", "network": "-"}, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precisions", nargs="+", default=["32", "bf16-mixed"])
    parser.add_argument("--feed-steps", type=int, default=60)
    parser.add_argument("--train-steps", type=int, default=6)
    parser.add_argument("--data", type=Path, help="folder of a VOCdevkit; default: pictures that the script makes")
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, arguments.data or write_voc(Path(folder)), overrides)


def measure(arguments: argparse.Namespace, root: Path, overrides: list[str]) -> None:
    feed = 0.0
    for workers in arguments.workers:
        run = training(root, f"engine.num_workers={workers}", "engine.resident_gib=0", *overrides)
        ahead, images = run.batches.ahead, sum(run.batches.sizes)
        assert ahead
        keys = {"first": 4, "steps": arguments.feed_steps}
        read = speed(ahead, images, **keys)
        run.batches.close()
        views = speed(run.batches, images, **keys)
        run.batches.close()
        feed = feed or views.cpu
        cpu = f" ({read.cpu:.1f}, {views.cpu:.1f} ms of CPU an image)" if workers == 0 else ""
        print(
            f"{workers} workers: read {read.wall:.0f} images/s, with views {views.wall:.0f} images/s{cpu}", flush=True
        )
    for precision in arguments.precisions:
        engine = training(root, f"precision={precision}", *overrides).engine()

        def step(number: int, engine: Any = engine) -> None:
            engine.train_step()
            engine.step += 1

        used = speed(step, sum(engine.batches.sizes), first=1, steps=arguments.train_steps)
        ratio = f"; feeding takes 1/{used.cpu / feed:.0f} of it" if 0 in arguments.workers[:1] else ""
        print(f"training, {precision}: {used.wall:.2f} images/s ({used.cpu:.0f} ms of CPU an image{ratio})", flush=True)
    print(f"{torch.get_num_threads()} threads, device {engine.fabric.device}")


if __name__ == "__main__":
    main()
