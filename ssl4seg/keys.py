"""Choices and ranges of keys, in one place for the command line, files and constructors.

A `Key` is a test of values, and the words for the values that pass. This module imports nothing slow, so that a typing
error is answered at once.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ssl4seg.errors import UserError, plain
from ssl4seg.processes import cores

IGNORE = 255
"""The label value that no loss and no metric counts; datasets map their own `ignore_index` to it."""

MEAN, FOREGROUND_MEAN = MEANS = ("mean", "foreground_mean")
"""Entries of tables and results.json beside the names of the classes, which no class may have: the mean over all
classes that are scored, and where a background is scored the mean over the others."""


MAX_SHOWN = 300
"""Characters of a refused value that a message shows."""


NAME = "a name of at most 200 bytes, without / and \\ and signs that are not printed"


class Key(NamedTuple):
    """A test of the values of a key, and the words for the values that pass."""

    fits: Callable[[Any], bool]
    expected: str


def expect(name: str, value: Any, key: Key) -> None:
    """Refuse a value that does not fit.

    Raises:
        UserError: "<name>=<value>: expected ...".
    """
    if not key.fits(value):
        raise UserError(f"{name}={_shown(value)}: expected {key.expected}")


def check_keys(values: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> None:
    """Refuse all values that do not fit, in one message.

    Args:
        where: prefix of the keys in the message, "dataset." or the name of a file.
    """
    wrong = {key: value for key, value in values.items() if not keys[key].fits(value)}
    if wrong:
        raise UserError(
            "\n".join(f"{where}{key}={_shown(v)}: expected {keys[key].expected}" for key, v in wrong.items())
        )


def _shown(value: Any) -> str:
    """A value as a message shows it: of a long one the beginning."""
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


# -- predicates -------------------------------------------------------------------------------------------------------


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def infinite(config: Any, key: str = "") -> Iterator[str]:
    """The dotted keys, in nested mappings and lists, of numbers that are NaN or infinite, which no key takes."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from infinite(value, f"{key}.{name}" if key else str(name))
    elif is_list(config):
        for value in config:
            yield from infinite(value, key)
    elif isinstance(config, float) and not math.isfinite(config):
        yield key


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_line(value: Any) -> bool:
    """Whether the value is a text of at most 200 bytes that is shown on one line: the name of a class, a tag."""
    short = isinstance(value, str) and 0 < len(value) <= 200 and len(value.encode(errors="replace")) <= 200
    return short and plain(value) == value and not set(value) & {"\n", "\t"}


def is_name(value: Any) -> bool:
    """Whether the value can be the name of a file or folder."""
    return is_line(value) and not set(value) & {"/", "\\"} and value.strip(". ") != ""


def is_rgb_color(value: Any) -> bool:
    """Whether the value is "#rrggbb" or [red, green, blue]."""
    if isinstance(value, str):
        return re.fullmatch("#?[0-9a-fA-F]{6}", value) is not None
    return is_list(value) and len(value) == 3 and all(is_whole(part) and 0 <= part <= 255 for part in value)


# -- keys -------------------------------------------------------------------------------------------------------------


MOST = 10**6
"""The largest count or size, where a key has no bound of its own: beyond it a run would hang, or fill the memory."""


def whole(low: int, high: int | None = None) -> Key:
    """A whole number in a range; `high` is by default MOST."""
    words = f"of at least {low}, at most {MOST:,}" if high is None else f"from {low} to {high}"
    return Key(lambda v: is_whole(v) and low <= v <= (MOST if high is None else high), f"a whole number {words}")


def at_least(low: float) -> Key:
    """A finite number in [low, inf)."""
    return Key(lambda v: is_number(v) and v >= low, f"a number of at least {low:g}")


def above(low: float) -> Key:
    """A finite number in (low, inf)."""
    return Key(lambda v: is_number(v) and v > low, f"a number above {low:g}")


def number_in(interval: str, noun: str = "a number") -> Key:
    """A number in an interval: "[0, 1)" holds 0, but not 1.

    Args:
        noun: the words for the number, such as "a share of the run".
    """
    low, high = (float(end) for end in interval[1:-1].split(","))

    def fits(value: Any) -> bool:
        inside = is_number(value) and low <= value <= high
        return inside and not (value == low and interval[0] == "(") and not (value == high and interval[-1] == ")")

    return Key(fits, f"{noun} in {interval}")


share = number_in("[0, 1]", "a share")
true_or_false = Key(lambda v: isinstance(v, bool), "true or false")


def one_of(*words: str) -> Key:
    """One of some words; a number or nan is compared as it is written (precision=32)."""
    expected = " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"
    return Key(lambda v: str(v) in words, expected)


def list_of(key: Key, low: int = 1, high: int | None = None) -> Key:
    """A list of `low` to `high` values, each of which fits `key`."""
    size = str(low) if low == high else f"at least {low}" if high is None else f"{low} to {high}"

    def fits(value: Any) -> bool:
        return is_list(value) and low <= len(value) <= (high or math.inf) and all(map(key.fits, value))

    return Key(fits, f"a list of length {size}, each {key.expected}")


def optional(key: Key) -> Key:
    """A value that fits `key`, or null."""
    return Key(lambda v: v is None or key.fits(v), f"{key.expected.removesuffix(', or null')}, or null")


def or_word(word: str, key: Key) -> Key:
    """A value that fits `key`, or the word itself."""
    return Key(lambda v: v == word or key.fits(v), f"{key.expected}, or {word}")


def low_high(above: float = 0, highest: float = math.inf) -> Key:
    """A range [low, high] with `above` < low <= high <= `highest`."""

    def fits(value: Any) -> bool:
        pair = is_list(value) and len(value) == 2 and all(map(is_number, value))
        return pair and above < value[0] <= value[1] <= highest

    return Key(fits, f"[low, high] with {above:g} < low <= high" + (f" <= {highest:g}" if highest < math.inf else ""))


def for_axes(axes: int, least: int = 1) -> Key:
    """One whole number for all axes of an image, or a list with one for each."""
    number = whole(least, 2**14)
    one, each = number, list_of(number, axes, axes)
    return Key(lambda v: one.fits(v) or each.fits(v), f"{one.expected}, or {each.expected}")


def by_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * axes if isinstance(value, int) else tuple(value)


# -- the keys of a run, of eval and of predict ------------------------------------------------------------------------


def _is_steps(value: Any) -> bool:
    """Whether it is a number of steps, or of epochs."""
    if isinstance(value, str):
        return re.fullmatch(r"\d{1,9}(\.\d{1,9})? ?epochs?", value) is not None
    return is_whole(value) and 0 <= value <= STEPS


STEPS = 10**9
SEED = whole(0, 2**63 - 1)
BATCH = whole(1, 2**16)  # `training.check_memory` compares the images of a step with the machine's memory
SIDE = whole(16, 2**14)
THREADS = max(64, 4 * cores())

PASSES = ("auto", "together", "apart")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")
COMPILE = ("default", "reduce-overhead")
FOLD = Key(
    lambda v: (
        isinstance(v, str)
        and (m := re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", v)) is not None
        and int(m[1]) <= int(m[2]) >= 3
    ),
    "NUMBER/FOLDS of at least 3 folds, as 2/5 for the second of five",
)
RANKINGS = ("entropy", "disagreement", "diversity", "combined")
DISTANT = ("diversity", "combined")
"""Rankings that compare features with those of the labelled cases, and so need the run's data."""
PROTOCOLS = ("default", "ssl4mis", "la")
UNITS = ("auto", "voxel", "mm")
EMPTY = ("worst", "nan", "zero")

KEYS: dict[str, Key] = {
    "labeled_ratio": number_in("(0, 1]")._replace(
        expected="a number in (0, 1], the share of labelled training images",
    ),
    "labeled_cases": optional(whole(1)),
    "split_seed": optional(SEED),
    "seed": SEED,
    "dataset.fold": optional(FOLD),
    "dataset.fold_seed": optional(SEED),
    "iterations": whole(1, STEPS),
    "eval_every": whole(1, STEPS),
    "batch_size": BATCH,
    "unlabeled_batch_size": BATCH,
    "passes": one_of(*PASSES),
    "precise_bn": whole(0, 10_000),
    "device": one_of(*DEVICES),
    "precision": one_of(*PRECISIONS),
    "num_threads": optional(whole(1, THREADS)),
    "deterministic": true_or_false,
    "tag": optional(Key(lambda v: is_name(str(v)), NAME)),
    "resume": true_or_false,
    "trust": true_or_false,
    "metrics.unit": one_of(*UNITS),
    "metrics.empty": one_of(*EMPTY),
    "metrics.distances": true_or_false,
    "metrics.more": Key(lambda v: is_list(v) and all(isinstance(name, str) for name in v), "a list: [module.metric]"),
    "transfer.freeze_encoder": Key(_is_steps, "a number of steps of at least 0, or of epochs as in '2 epochs'"),
    "transfer.encoder_lr_scale": above(0),
    "transfer.layer_decay": optional(number_in("(0, 1]", "a factor")),
    "transfer.frozen_batchnorm": true_or_false,
    "engine.devices": whole(1, 1024),
    "engine.num_nodes": whole(1, 10_000),
    "engine.accumulate": BATCH,
    "engine.clip_norm": optional(above(0)),
    "engine.compile": Key(lambda v: v is False or v in COMPILE, "false, default or reduce-overhead"),
    "engine.log_every": whole(1, STEPS),
    "engine.eval_batch_size": BATCH,
    "engine.diagnose": whole(0),
    "engine.num_overlays": whole(0, 1000),
    "engine.resident_gib": at_least(0),
    "engine.num_workers": optional(whole(0, THREADS)),
    "optimizer.lr": at_least(0),
    "optimizer.momentum": at_least(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.betas": list_of(number_in("[0, 1)"), 2, 2),
    "split": one_of("val", "test"),
    "protocol": one_of(*PROTOCOLS),
    "eval_batch_size": BATCH,
    "resident_gib": at_least(0),
    "by": one_of(*RANKINGS),
    "count": whole(1),
    "num_passes": whole(2, 64),
    "probabilities": true_or_false,
    "min_confidence": optional(number_in("(0, 1]", "a probability")),
    "overlay": true_or_false,
    "mask_values": one_of("classes", "dataset"),
}
"""Keys that the command line checks before it imports torch. The constructor of a dataset, method, ... owns the ranges
of its keys (`dataset.*`, `method.*`, ...), and checks them."""

OF_COMMAND: dict[str, dict[str, Key]] = {
    "export": {"format": one_of("onnx", "pt2", "weights")},
    "predict": {"format": one_of("masks", "coco", "panoptic", "labelme", "cvat")},
}
"""Keys that mean something else in another command."""


def keys_for(command: str) -> dict[str, Key]:
    """The keys of a command that are checked before torch is imported.

    Args:
        command: train, eval, predict, export or rank.
    """
    return KEYS | OF_COMMAND.get(command, {})


FILES = ("network.weights", "dataset.lists.train", "dataset.lists.val")
"""Keys that name a file, or are null."""
