"""Batch norms that predict with statistics taken without dropout: their numbers by hand, and what does not change."""

from contextlib import nullcontext
from pathlib import Path
from typing import Self

import pytest
import torch
from helpers import PHANTOM, composed, engine_in, load, results, succeed
from torch import Tensor, nn

from ssl4seg.methods.base import Method
from ssl4seg.methods.supervised import Supervised
from ssl4seg.run.precise_bn import batch_norms, precise

WORDS = (*PHANTOM, "labeled_cases=2", "network.dropout=[0.5,0.5]")


def rows(*values: float) -> Tensor:
    """An image with one channel and one row of pixels."""
    return torch.tensor([[[values]]], dtype=torch.float32)


def method_of(*layers: nn.Module) -> Method:
    return Supervised(network=lambda: nn.Sequential(*layers))


def statistics(network: nn.Module) -> list[tuple[float, float]]:
    return [(norm.running_mean.item(), norm.running_var.item()) for norm in batch_norms(network)]


def test_means_and_unbiased_variances_of_the_batches_are_averaged_and_nothing_is_dropped() -> None:
    norm = nn.BatchNorm2d(1, momentum=0.3)
    method = method_of(nn.Dropout(0.9), norm)
    norm(rows(7, 9))  # what training left behind
    before = statistics(method)
    with precise(method, [rows(0, 2), rows(4, 8)], nullcontext):
        # Means 1 and 6; squares about them 1 + 1 and 4 + 4, each over 2 - 1 pixels.
        assert statistics(method) == [(3.5, 5.0)]
        assert not any(module.training for module in method.modules())
        assert method.predict(rows(3.5)).item() == 0
    assert statistics(method) == before
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.3, 1)


def test_training_has_a_variance_that_is_larger_by_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(1, momentum=None)
    method, images = method_of(nn.Dropout(0.5), norm), 1 + torch.randn(40, 1, 1, 64, 64)
    for image in images:
        method.predict(image)
    ((_, trained),) = statistics(method)
    with precise(method, images, nullcontext):
        ((_, found),) = statistics(method)
    # E[x^2] / (1 - p) - E[x]^2 = 2 / 0.5 - 1 = 3 in place of 1.
    assert (trained, found) == pytest.approx((3, 1), rel=0.02)


class Still(nn.BatchNorm2d):
    """A batch norm that stays in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.still, self.used, self.unused = Still(1).train(), nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, image: Tensor) -> Tensor:
        return self.used(self.still(image))


def test_a_frozen_batch_norm_and_one_that_no_image_reaches_predict_with_theirs() -> None:
    method = Supervised(network=Norms)
    with precise(method, [rows(0, 4)], nullcontext):
        assert [mean for mean, _ in statistics(method)] == [0, pytest.approx(2, rel=1e-4), 0]
    assert batch_norms(nn.BatchNorm2d(1, track_running_stats=False)) == []


def test_a_method_that_raises_meanwhile_has_its_own_again() -> None:
    norm = nn.BatchNorm2d(1)
    method = method_of(norm)
    for images in ([rows(0, 2), torch.zeros(1)], [rows(0, 2)]):
        with pytest.raises((ValueError, KeyError)), precise(method, images, nullcontext):
            raise KeyError
        assert (statistics(method), norm.momentum, int(norm.num_batches_tracked)) == ([(0, 1)], 0.1, 0)


PREDICTORS = {
    "supervised": {"student"},
    "mean_teacher method.predict_with=teacher": {"teacher"},
    "cps method.predict_with=mean": {"student", "peer"},
    "bcp": {"student"},
    "mc_net": {"student"},
}


@pytest.mark.parametrize("words", PREDICTORS)
def test_the_networks_that_predict_have_them_and_training_has_its_own(words: str, tmp_path: Path) -> None:
    engine = engine_in(tmp_path, composed(*WORDS, *f"method={words}".split(), "precise_bn=3"))
    engine.train_step()

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in engine.method.state_dict().items()}

    before = state()
    with engine.predicting():
        inside = state()
    after = state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    differing = {name for name in before if not torch.equal(before[name], inside[name])}
    assert {name.rpartition(".")[2] for name in differing} == {"running_mean", "running_var"}
    assert {name.partition(".")[0] for name in differing} == PREDICTORS[words]


@pytest.mark.parametrize("words", [("transfer.frozen_batchnorm=true",), ("transfer.freeze_encoder=2",)])
def test_those_of_a_frozen_encoder_stay_as_they_are(words: tuple[str, ...], tmp_path: Path) -> None:
    engine = engine_in(tmp_path, composed(*WORDS, *words, "precise_bn=3"))
    engine.train_step()
    before = statistics_of(engine.method)
    with engine.predicting():
        inside = statistics_of(engine.method)
    same = {name for name in before if torch.equal(before[name], inside[name])}
    assert same == {name for name in before if ".encoder." in name}
    assert same


def statistics_of(method: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items() if "running" in name}


def test_the_best_model_is_saved_with_them_and_scored_so_again(tmp_path: Path) -> None:
    output = succeed("train", *WORDS, "method=bcp", "select=last", "precise_bn=3", cwd=tmp_path)
    assert "best.pt: batch norms with the statistics of 3 batches, taken without dropout" in output
    run = tmp_path / "outputs/phantom/bcp/unet-2cases-s0"
    last, best = (load(run / name)["method"] for name in ("last.pt", "best.pt"))
    differing = {name for name in last if not torch.equal(last[name], best[name])}
    assert {name.rpartition(".")[2] for name in differing} == {"running_mean", "running_var"}
    before = (run / "cases_val.csv").read_text()
    succeed("eval", f"run={run}", "split=val", "device=cpu", f"output={tmp_path}", cwd=tmp_path)
    assert (tmp_path / "cases_val.csv").read_text() == before


def test_a_network_without_batch_norm_is_told_of(tmp_path: Path) -> None:
    others = [word for word in WORDS if not word.startswith("network.")]
    words = (*others, "network=vnet", "network.width=4", "network.normalization=instance", "precise_bn=3")
    assert "warning: precise_bn=3: the network has no batch norm, nothing is taken anew" in succeed(
        "train", *words, cwd=tmp_path
    )
    (folder,) = (tmp_path / "outputs/phantom/supervised").iterdir()
    assert results(folder)["status"] == "finished"
