"""Files of annotation tools, written by the tools' own libraries: imported, trained on, predicted, imported again.

    pip install datumaro supervision label-studio-sdk labelme imgviz rt-utils dcmqi
    python scripts/tools_round_trip.py

Every tool whose library is there writes six small images, or six series of four slices, with objects that overlap, have
holes or several parts; one image has no object. `ssl4seg-prepare import` and `check` read them, `ssl4seg-train` trains
for a few steps, `ssl4seg-predict` writes masks, and predictions in the same form, which are imported again. A table
counts the pixels that differ at both imports. The exit code is 1 if one differs where no known cause explains it.
"""

import argparse
import functools
import importlib.util
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from PIL import Image
from scipy.ndimage import find_objects, grey_dilation, grey_erosion, label
from tools_files import (
    NUMBERS,
    Array,
    Truth,
    datumaro,
    dcmqi,
    imgviz,
    label_studio,
    labelme,
    rt_utils,
    supervision,
)


@dataclass(kw_only=True)
class Tool:
    """What a library writes."""

    package: str
    module: str
    form: str
    """Of the import, and of predictions."""
    write: Callable[[Path], Truth]
    what: str = ""
    words: tuple[str, ...] = ()
    """Of the import."""
    cause: str = ""
    explains: Callable[[Array], Array] = np.zeros_like
    """Where a true mask may differ, and why."""


# -- what explains a difference ---------------------------------------------------------------------------------------


def borders(mask: Array, width: int = 1) -> Array:
    """Pixels beside another class; or up to `width` pixels from it."""
    size = (1 + 2 * width, 1 + 2 * width)
    return grey_dilation(mask, size) != grey_erosion(mask, size)


def thin(mask: Array) -> Array:
    """Regions of a slice that are one pixel or a straight line of pixels."""
    found = np.zeros(mask.shape, bool)
    for place, kind in itertools.product(range(len(mask)), NUMBERS.values()):
        parts = label(mask[place] == kind, np.ones((3, 3)))[0]
        for number, box in enumerate(find_objects(parts), 1):
            sides = parts[box].shape
            if (parts[box] == number).sum() == max(sides) and min(sides) in (1, max(sides)):
                found[place] |= parts == number
    return found


# -- imports and predictions ------------------------------------------------------------------------------------------

KEYS = ("device=cpu", "precision=32", "num_threads=1")
SMALL = ("network.channels=[4,8]", "network.dropout=[0.1,0.1]", "dataset.image_size=64", "optimizer=adamw")
SHORT = ("batch_size=2", "unlabeled_batch_size=2", "dataset=folder", "labeled_ratio=1", "hydra.run.dir=run")
EMPTY = ("--empty", "background")


def run(*words: object, cwd: Path | None = None) -> None:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def command(name: str, *words: object, cwd: Path) -> None:
    run(sys.executable, "-m", f"ssl4seg.{name}", *words, cwd=cwd)


def predict(home: Path, source: Path, target: Path, *words: str) -> Path:
    command("predict", "run=run", f"input={source}", f"output={target}", *KEYS, *words, cwd=home)
    return target


def predicted(tool: Tool, home: Path) -> tuple[Path, tuple[object, ...]]:
    """Write predictions in the tool's form, with images where it needs them; return where, and words of the import."""
    back, images = home / "back", home / "data/images"
    if tool.form == "dicom":
        shutil.copytree(home / "in", back, ignore=shutil.ignore_patterns("seg.dcm"))
        predict(home, back, back / "masks")
        return back, ()
    if tool.form == "voc":
        predict(home, images, back / "SegmentationClass")
        shutil.copytree(images, back / "JPEGImages")
        names = yaml.safe_load((home / "data/dataset.yaml").read_text())["classes"]
        (back / "class_names.txt").write_text("\n".join(names))
        return back, ()
    return predict(home, images, back, f"format={tool.form}"), ("--images", images, *EMPTY)


def masks_in(folder: Path, description: Path) -> Truth:
    """The masks below a folder, their classes numbered as in NAMES."""
    names = yaml.safe_load(description.read_text())["classes"]
    numbers = np.full(256, 255, np.uint8)
    numbers[: len(names)] = [NUMBERS.get(name, 0) for name in names]
    found = {}
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as mask:
            found[file.stem] = numbers[np.array(mask)]
    for file in sorted(folder.rglob("*.nii.gz")):
        found[file.name.removesuffix(".nii.gz")] = numbers[np.asarray(nibabel.load(file).dataobj).transpose()]
    return found


def compare(true: Truth, found: Truth, explains: Callable[[Array], Array]) -> tuple[int, int]:
    """Pixels that differ, and those among them without a cause. Only an image without an object may have no mask."""
    differ = {name: found.get(name, 0 * mask) != mask for name, mask in true.items()}
    causes = {name: explains(mask).astype(bool) for name, mask in true.items()}
    return sum(int(each.sum()) for each in differ.values()), sum(int((d & ~causes[n]).sum()) for n, d in differ.items())


def round_trip(tool: Tool, home: Path, steps: int) -> int:
    """Print the row of a tool; return the number of pixels that nothing explains."""
    with redirect_stdout(sys.stderr):
        truth = tool.write(home / "in")
    command("prepare", "import", "in", "data", "--copy", "--from", tool.form, *tool.words, cwd=home)
    command("prepare", "check", "data", cwd=home)
    read = compare(truth, masks_in(home / "data/masks", home / "data/dataset.yaml"), tool.explains)
    times = (f"iterations={steps}", f"eval_every={steps}", "engine.log_every=1")
    command("train", *KEYS, *SMALL, *SHORT, *times, f"dataset.root={home / 'data'}", cwd=home)
    plain = masks_in(predict(home, home / "data/images", home / "plain"), home / "data/dataset.yaml")
    source, words = predicted(tool, home)
    command("prepare", "import", source, "again", "--from", tool.form, *words, cwd=home)
    again = masks_in(home / "again/masks", home / "again/dataset.yaml")
    back = compare(plain, again, borders if tool.form == "labelme" else np.zeros_like)
    counts = [
        f"{differ:,} of {sum(int((m > 0).sum()) for m in t.values()):,}"
        for (differ, _), t in ((read, truth), (back, plain))
    ]
    causes = [tool.cause] * bool(read[0]) + [LINES] * bool(back[0] and tool.form == "labelme")
    title = f"{tool.package} {version(tool.package)}{tool.what and ', '}{tool.what}"
    print(f"| {title} | `{tool.form}` | {len(truth)} | {counts[0]} | {counts[1]} | {'; '.join(causes)} |", flush=True)
    return read[1] + back[1]


SINGLE_PRECISION = "it holds points in single precision"
MIDDLES = "its polygons go through the middles of the outermost pixels"
POINTS = "of a region of one pixel, or a straight line, it writes one or two points"
PERCENT = "it holds points in percent of the image"
LINES = "outlines are painted too"
HEAD = ("written by", "kind", "images", "differ at the import", "differ after the prediction", "cause")


def from_datumaro(form: str, kind: str, **keys: Any) -> Tool:
    write = functools.partial(datumaro, form=kind)
    cause = {"cause": SINGLE_PRECISION, "explains": borders}
    return Tool(package="datumaro", module="datumaro", form=form, write=write, **cause, **keys)


wide = functools.partial(borders, width=2)
STUDIO = ("--images", "in/pictures")
TOOLS = (
    from_datumaro("coco", "coco_instances"),
    from_datumaro("panoptic", "coco_panoptic", words=EMPTY),
    from_datumaro("voc", "voc_segmentation"),
    from_datumaro("cvat", "cvat"),
    Tool(package="supervision", module="supervision", form="coco", write=supervision, cause=MIDDLES, explains=wide),
    Tool(
        package="label-studio-sdk",
        module="label_studio_sdk",
        form="coco",
        write=label_studio,
        words=STUDIO,
        cause=PERCENT,
        explains=borders,
    ),
    Tool(package="labelme", module="labelme", form="labelme", write=labelme),
    Tool(package="imgviz", module="imgviz", form="voc", write=imgviz, what="as labelme2voc.py uses it"),
    Tool(package="rt-utils", module="rt_utils", form="dicom", write=rt_utils, cause=POINTS, explains=thin),
    Tool(package="dcmqi", module="dcmqi", form="dicom", write=dcmqi),
)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of training")
    packages = [*dict.fromkeys(tool.package for tool in TOOLS)]
    parser.add_argument("--only", choices=packages, nargs="+", default=packages)
    arguments = parser.parse_args(words)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    missing, unexplained = list[str](), 0
    for tool in TOOLS:
        if tool.package not in arguments.only or tool.package in missing:
            continue
        if importlib.util.find_spec(tool.module) is None:
            missing.append(tool.package)
            continue
        with tempfile.TemporaryDirectory() as place:
            unexplained += round_trip(tool, Path(place), arguments.steps)
    print(*(f"{name} is not installed: pip install {name}" for name in missing), sep="\n", end="\n" if missing else "")
    print(f"{unexplained} pixels differ without a known cause")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
