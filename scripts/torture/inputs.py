"""Mutate one file of a folder of data; `check`, at times training and prediction, refuse it or read what is there."""

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import h5py
import numpy as np
import tifffile
from attack import Attack
from folders import CASES, KINDS, drawn, write_case, write_folder
from PIL import Image
from processes import check, run
from runs import TINY
from verdicts import ACCEPTED, WRONG, Verdict, judged, wrong_if

REFUSE, SAME, ANY = "must be refused", "must be refused or read as before", "may be read"

Mutation = tuple[str, str]
"""What was done, and what is expected."""

WITH_CHECK_SUMS = (".png", ".gz")
"""Kinds of file in which a changed byte can be seen."""


class Inputs(Attack):
    name = "inputs"
    per_minute = 15

    def strike(self, number: int, random: Random, box: Path) -> list[Verdict]:
        """One mutation of one folder."""
        kind = KINDS[number % len(KINDS)]
        root = write_folder(box / "data", kind)
        self._sheet(kind)
        what, expected = random.choice(MUTATIONS)(root, kind, random)
        ended = check(root)
        verdict = judged(f"{kind}: {what}; check", ended)
        if verdict.kind == ACCEPTED and expected == REFUSE:
            return [replace(verdict, kind=WRONG, text=f"it {expected}, and was accepted")]
        if verdict.kind == ACCEPTED and expected == SAME and not self._same(kind, root.parent / "sheet.png"):
            return [replace(verdict, kind=WRONG, text=f"it {expected}, and other pixels were read")]
        if number % 10 == 9 and not verdict.is_fault:
            return [verdict, self._trained(kind, what, expected, root), self._predicted(kind, what, root)]
        return [verdict]

    def _sheet(self, kind: str) -> np.ndarray:
        """The contact sheet of an unharmed folder of this kind: every image and mask as it is read."""
        file = self.runs.home / f"sheets/{kind}/sheet.png"
        with self.runs.lock:
            if not file.exists():
                ended = check(write_folder(file.parent / "data", kind))
                if ended.code:
                    raise SystemExit(f"error: check of an unharmed folder failed: {ended.line}\n{ended.output}")
        return np.asarray(Image.open(file))

    def _same(self, kind: str, sheet: Path) -> bool:
        return np.array_equal(self._sheet(kind), np.asarray(Image.open(sheet)))

    def _trained(self, kind: str, what: str, expected: str, root: Path) -> Verdict:
        """Training reads the same files, so that it must refuse the same ones."""
        words = (
            *TINY,
            "dataset=folder",
            f"dataset.root={root}",
            "iterations=1",
            "labeled_ratio=1",
            "hydra.run.dir=run",
        )
        verdict = judged(f"{kind}: {what}; train", run("train", *words, cwd=root.parent))
        return wrong_if(verdict, [f"it {expected}, and was trained on"] if expected == REFUSE else [])

    def _predicted(self, kind: str, what: str, root: Path) -> Verdict:
        words = (f"run={self.runs.unbroken('streamed')}", f"input={root / 'images'}", "output=masks", "num_threads=1")
        return judged(f"{kind}: {what}; predict", run("predict", *words, cwd=root.parent))


def _file(root: Path, random: Random) -> Path:
    """An image or a mask."""
    return random.choice(sorted(file for file in root.rglob("*") if file.is_file() and file.name != "dataset.yaml"))


# -- any kind of file -------------------------------------------------------------------------------------------------


def cut(root: Path, kind: str, random: Random) -> Mutation:
    file = _file(root, random)
    size = random.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"{file.name} cut to {size} bytes", SAME


def other_bytes(root: Path, kind: str, random: Random) -> Mutation:
    file, number = _file(root, random), random.choice((1, 1, 3, 20))
    content = bytearray(file.read_bytes())
    head = random.random() < 0.5  # the first bytes say what the rest means
    for _ in range(number):
        content[random.randrange(min(len(content), 200 if head else len(content)))] = random.randrange(256)
    file.write_bytes(content)
    return f"{number} bytes of {file.name} changed", SAME if file.suffix in WITH_CHECK_SUMS else ANY


def zeros(root: Path, kind: str, random: Random) -> Mutation:
    file = _file(root, random)
    content = bytearray(file.read_bytes())
    at = random.randrange(len(content))
    content[at : at + 512] = bytes(len(content[at : at + 512]))
    file.write_bytes(content)
    return f"zeros from byte {at} of {file.name}", SAME if file.suffix in WITH_CHECK_SUMS else ANY


def not_a_file(root: Path, kind: str, random: Random) -> Mutation:
    """A FIFO, a device, a loop of links, ... in the place of a file."""
    file = _file(root, random)
    file.unlink()
    thing = random.choice(("a FIFO", "a link to /dev/zero", "a link to nothing", "a link to itself", "a folder"))
    match thing:
        case "a FIFO":
            os.mkfifo(file)
        case "a link to /dev/zero":
            file.symlink_to("/dev/zero")
        case "a link to nothing":
            file.symlink_to("nothing")
        case "a link to itself":
            file.symlink_to(file.name)
        case _:
            file.mkdir()
    return f"{file.name} is {thing}", ANY if thing == "a folder" else REFUSE


def linked(root: Path, kind: str, random: Random) -> Mutation:
    file = _file(root, random)
    elsewhere = root.parent / f"elsewhere{''.join(file.suffixes)}"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)
    return f"{file.name} is a link to a file", SAME


def renamed(root: Path, kind: str, random: Random) -> Mutation:
    """The ending of another kind, a name that is not UTF-8, control characters."""
    file = _file(root, random)
    stem = file.name.split(".")[0].encode()
    names = [stem + ending for ending in (b".png", b".jpg", b".tif", b".nii.gz", b".h5", b".nii", b".exe", b"")]
    names += [b"\xff\xfe.png", b"a\nb.png", b"a\x1b[31m.png", b"\xe2\x80\xae.tif", stem + b"\xcc\x81.png", b"-rf.png"]
    name = random.choice(names)
    os.rename(file, os.path.join(os.fsencode(file.parent), name))
    return f"{file.name} renamed to {name!r}", ANY


# -- files that hold what they should not -----------------------------------------------------------------------------


def other_mask(root: Path, kind: str, random: Random) -> Mutation:
    """A mask with labels or a size of its own."""
    number = random.randrange(CASES - 1)
    image, label = drawn(number)
    what = random.choice(("label 200", "another size", "half of the slices"))
    if what == "label 200":
        label[0, 4:8, 4:8] = 200
    elif what == "another size" or kind not in ("stack", "nii", "h5"):
        what, label = "another size", label[:, :-3]
    else:
        label = label[:1]
    write_case(root, kind, f"p{number}", image, label)
    return f"the mask of p{number} has {what}", REFUSE


def other_values(root: Path, kind: str, random: Random) -> Mutation:
    """Numbers that are no intensities, in the kinds of file that can hold them."""
    image = drawn(0)[0]
    made = {
        "NaN": np.where(image > 150, np.nan, image).astype(np.float32),
        "infinity": np.where(image > 150, np.inf, image).astype(np.float32),
        "complex numbers": image.astype(np.complex64),
    }
    what = random.choice(sorted(made))
    values = made[what]
    if kind == "h5":
        with h5py.File(root / "images/p0.h5", "a") as file:
            del file["image"]
            file["image"] = values
    elif kind == "nii":
        import nibabel

        nibabel.save(nibabel.Nifti1Image(values.T, np.diag([1.5, 1.5, 5.0, 1.0])), root / "images/p0.nii.gz")
    elif kind in ("tif", "stack"):
        tifffile.imwrite(root / "images/p0.tif", values[0] if kind == "tif" else values, photometric="minisblack")
    else:
        return cut(root, kind, random)
    return f"p0 holds {what}", REFUSE


def odd_h5(root: Path, kind: str, random: Random) -> Mutation:
    """Arrays of HDF5 that are strings, elsewhere, empty or missing."""
    if kind != "h5":
        return cut(root, kind, random)
    name, image = random.choice(("image", "image", "label")), drawn(0)[0]
    secret = root.parent / "secret.bin"
    secret.write_bytes(image.tobytes())
    whole = root / "images/p1.h5"
    with h5py.File(root / "images/p0.h5", "a") as file:
        del file[name]
        match what := random.choice(
            ("strings", "objects", "a compound", "references", "Empty", "a group", "external storage", "virtual",
             "a link to another file", "a link to nothing", "a scalar", "no slices", "five axes")
        ):  # fmt: skip
            case "strings":
                file[name] = np.full((3, 32, 32), b"a")
            case "objects":
                file.create_dataset(name, (3, 4, 4), h5py.vlen_dtype(np.uint8))
            case "a compound":
                file[name] = np.zeros((3, 32, 32), [("a", "u1"), ("b", "f4")])
            case "references":
                file.create_dataset(name, (3, 32, 32), h5py.ref_dtype)
            case "Empty":
                file[name] = h5py.Empty("u1")
            case "a group":
                file.create_group(name)["image"] = image
            case "external storage":
                file.create_dataset(name, image.shape, "u1", external=[(str(secret), 0, secret.stat().st_size)])
            case "virtual":
                layout = h5py.VirtualLayout(image.shape, "u1")
                layout[:] = h5py.VirtualSource("gone.h5", "image", image.shape)
                file.create_virtual_dataset(name, layout)
            case "a link to another file":
                file[name] = h5py.ExternalLink(str(whole), name)
            case "a link to nothing":
                file[name] = h5py.SoftLink("/gone")
            case "a scalar":
                file[name] = 1.0
            case "no slices":
                file[name] = image[:0]
            case _:
                file[name] = np.zeros((1, 1, 3, 32, 32), np.uint8)
    return f"{name} of p0.h5: {what}", REFUSE


def odd_header(root: Path, kind: str, random: Random) -> Mutation:
    """A field of a header that says what cannot be, with a right check sum."""
    number = random.randrange(CASES - 1)
    if kind == "png":
        file, side = root / f"images/p{number}.png", random.choice((0, 1, 33, 2**16, 2**31 - 1))
        whole = file.read_bytes()
        head = b"IHDR" + struct.pack(">II", side, 32) + whole[24:29]
        file.write_bytes(whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:])
        return f"width of p{number}.png is {side}", REFUSE
    if kind == "nii":
        file = root / f"images/p{number}.nii.gz"
        content = bytearray(gzip.decompress(file.read_bytes()))
        what, at, form, value = random.choice(NIFTI)
        struct.pack_into(form, content, at, value)
        file.write_bytes(gzip.compress(bytes(content)))
        return f"{what} of p{number}.nii.gz is {value}", SAME if what == "scl_slope" else REFUSE  # inf: unscaled
    if kind == "h5":
        spacing = random.choice(([0.0, 0.0, 0.0], [float("nan")] * 3, [-1.0, 1.0, 1.0], [1.0], "mm", [1e400] * 3))
        with h5py.File(root / f"images/p{number}.h5", "a") as opened:
            opened.attrs["spacing"] = spacing
        return f"spacing of p{number}.h5 is {spacing}", REFUSE
    return other_bytes(root, kind, random)


NIFTI = (
    *(("pixdim[3]", 88, "<f", value) for value in (0.0, float("nan"), float("inf"))),
    *(("dim[3]", 46, "<h", value) for value in (0, -1, 32767)),
    *(("dim[0]", 40, "<h", value) for value in (0, 8, 7)),
    *(("datatype", 70, "<h", value) for value in (0, 1, 32, 1792, 999)),
    *(("magic", 344, "<i", value) for value in (0, 7)),
    ("sform", 280, "<f", float("nan")),
    ("vox_offset", 108, "<f", 1e9),
    ("scl_slope", 112, "<f", float("inf")),
)


# -- text -------------------------------------------------------------------------------------------------------------


BOMB = "b0: [x, x]\n" + "".join(f"b{n}: &b{n} [{f'*b{n - 1}, ' * 2 if n > 1 else 'x, '}x]\n" for n in range(1, 40))
"""Of aliases: 2^39 words when it is written out."""


def odd_yaml(root: Path, kind: str, random: Random) -> Mutation:
    """A dataset.yaml that is no description."""
    texts: tuple[tuple[str, str], ...] = (
        ("", ANY),
        ("classes: [ground, disc", REFUSE),
        ("- a\n- b\n", REFUSE),
        ("classes: 7\n", REFUSE),
        ("classes: [a, a]\n", REFUSE),
        ("classes: [a, mean]\n", REFUSE),
        ("classes: [ground, disc, nowhere]\n", ANY),  # a fault in check, a warning in training
        ("clases: [ground, disc]\n", REFUSE),
        ('classes: [ground, "\\ud800"]\n', REFUSE),
        ('classes: [ground, "a\\e[31m"]\n', ANY),
        (f"classes: [ground, {'a' * 10**6}]\n", ANY),
        ("a: " + "[" * 5000 + "]" * 5000, REFUSE),
        (BOMB, REFUSE),
        ("classes: !!python/object/apply:os.system ['true']\n", REFUSE),
        ("classes: [ground, disc]\ngroup: '(^(\\w+\\w+)+)!'\n", ANY),
        ("classes: [ground, disc]\ngroup: '('\n", REFUSE),
        ("classes: [ground, disc]\nignore_index: 300\n", REFUSE),
        ("classes: [ground, disc]\nchannels: -1\n", REFUSE),
        ("classes: [ground, disc]\nchannels: 1000000000\n", REFUSE),
        ("classes: [ground, disc]\nval_ratio: 2\n", REFUSE),
        ("classes: [ground, disc]\nmean: [.nan]\nstd: [1]\n", REFUSE),
        ("classes: [ground, disc]\nname: ../../OUTSIDE\n", ANY),
        ("classes: [ground, disc]\ncolors: [0, 0]\n", REFUSE),
    )  # fmt: skip
    text, expected = random.choice(texts)
    (root / "dataset.yaml").write_text(text)
    return f"dataset.yaml is {text[:60]!r}", expected


def other_text(root: Path, kind: str, random: Random) -> Mutation:
    file = root / "dataset.yaml"
    content = bytearray(file.read_bytes())
    for _ in range(random.choice((1, 2, 8))):
        content[random.randrange(len(content))] = random.randrange(256)
    file.write_bytes(content)
    return f"dataset.yaml is {bytes(content)!r}", ANY


MUTATIONS: tuple[Callable[[Path, str, Random], Mutation], ...] = (
    *(cut, cut, other_bytes, other_bytes, zeros),
    *(not_a_file, not_a_file, linked, renamed),
    *(other_mask, other_values, odd_h5, odd_h5, odd_header, odd_header, odd_yaml, odd_yaml, other_text),
)
