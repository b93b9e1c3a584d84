"""Every number has bounds: no number, none that is infinite or NaN, and none that would hang the machine is taken."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from helpers import PHANTOM, composed, refused

from ssl4seg.commands.conf import check, choices, conf_dir
from ssl4seg.commands.words import check as check_words
from ssl4seg.data.reading import fits_in_memory
from ssl4seg.errors import UserError
from ssl4seg.keys import KEYS, THREADS, infinite, is_number
from ssl4seg.processes import cores, memory
from ssl4seg.run.assemble import build, check_numbers, method_of, network_maker
from ssl4seg.shipped import read_shipped

UNET = {"_target_": "ssl4seg.networks.unet.UNet", "channels": [4, 8, 8, 8, 8], "dropout": [0.1] * 5}
NO_NUMBERS = ("abc", float("nan"), float("inf"))


def numbers_of(group: str, choice: str) -> list[str]:
    """The keys of a choice that are numbers by default."""
    return [key for key, value in read_shipped(f"{group}/{choice}.yaml").items() if is_number(value)]


def assert_refused(group: str, choice: str, built: Callable[[dict[str, Any]], object]) -> None:
    keys = dict(composed(f"{group}={choice}")[group])
    built(keys)
    for key, value in product(numbers_of(group, choice), NO_NUMBERS):
        with pytest.raises(UserError, match=rf"\b{key}={value}: expected"):
            built(keys | {key: value})


@pytest.mark.parametrize("choice", choices("method", [conf_dir()]))
def test_a_method_names_its_key(choice: str) -> None:
    make = network_maker(UNET, 1, 4)
    assert_refused("method", choice, lambda keys: method_of(keys, make))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in ("schedule", "supervised_loss", "inference")
        for choice in choices(group, [conf_dir()])
    ],
)
def test_so_do_the_schedule_the_loss_and_the_inference(group: str, choice: str) -> None:
    more = {"shape": (32, 32)} if group == "inference" else {}
    assert_refused(group, choice, lambda keys: build(keys, group, **more))


@pytest.mark.parametrize("where", ["optimizer", "method.optimizers.discriminator"])
@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    ("name", "key"),
    [("SGD", "lr"), ("SGD", "dampening"), ("AdamW", "eps"), ("Adagrad", "lr_decay"), ("RMSprop", "alpha")],
)
def test_an_optimiser_of_torch_has_numbers_where_it_expects_them(where: str, name: str, key: str, value: Any) -> None:
    target = {"_target_": f"torch.optim.{name}"}
    check_numbers(target | {key: 0.5}, where)
    with pytest.raises(UserError, match=rf"{where}\.{key}={value}: expected a number"):
        check_numbers(target | {key: value}, where)


def test_numbers_that_are_not_finite_are_found_at_any_depth() -> None:
    config = {"a": 1.0, "b": {"c": [0.5, {"d": float("nan")}], "e": float("-inf")}, "f": "nan", "g": None}
    assert list(infinite(config)) == ["b.c.d", "b.e"]
    run = composed(*PHANTOM)
    check(run)
    with pytest.raises(UserError, match=r"views\.weak\.max_angle=nan: expected a finite number"):
        check(run | {"views": {"weak": {"max_angle": float("nan")}, "strong": []}})


@pytest.mark.parametrize(
    "key",
    [
        *("batch_size", "unlabeled_batch_size", "eval_batch_size", "num_threads", "seed", "split_seed", "iterations"),
        *(f"engine.{key}" for key in ("devices", "accumulate", "eval_batch_size", "num_overlays", "num_workers")),
        *("engine.diagnose", "engine.num_nodes", "transfer.freeze_encoder", "labeled_cases"),
    ],
)
def test_no_count_is_without_an_upper_bound(key: str) -> None:
    assert KEYS[key].fits(2)
    assert not KEYS[key].fits(99_999_999_999_999_999_999)


def test_threads_and_processes_are_bounded_by_the_cores() -> None:
    assert 4 * cores() <= THREADS
    for key in ("num_threads", "engine.num_workers"):
        assert KEYS[key].fits(cores())
        assert not KEYS[key].fits(THREADS + 1)


def test_data_is_kept_in_memory_only_if_the_machine_has_it() -> None:
    assert fits_in_memory(0.1, 8)
    assert not fits_in_memory(9, 8)
    assert not fits_in_memory(memory() / 2**30, 1e12)


def test_a_step_whose_images_the_memory_cannot_hold_is_refused(tmp_path: Path) -> None:
    output = refused("train", *PHANTOM, "dataset.image_size=16384", "engine.accumulate=65536", cwd=tmp_path)
    assert "engine.accumulate=65536, dataset.image_size=16384: the images of a step take" in output
    assert "this machine has" in output
    assert not (tmp_path / "outputs/phantom").exists()


@pytest.mark.parametrize("values", ["range(0,10000000000)", "range(0,1,1e-12)", "range(0,20000)"])
def test_an_endless_sweep_is_refused(values: str) -> None:
    with pytest.raises(UserError, match="is more than 10,000 runs"):
        check_words("train", [f"seed={values}"], [], sweep=True)
    check_words("train", ["seed=range(0,100)"], [], sweep=True)
