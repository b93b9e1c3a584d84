"""Batch norms that predict with statistics taken without dropout: their numbers by hand, and what does not change."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import PHANTOM, composed, engine_in, load, results, succeed
from torch import Tensor, nn

from ssl4seg.run.precise_bn import batch_norms, estimate

WORDS = (*PHANTOM, "labeled_cases=2", "network.dropout=[0.5,0.5]")


def rows(*values: float) -> Tensor:
    """An image with one channel and one row of pixels."""
    return torch.tensor([[[values]]], dtype=torch.float32)


def test_means_and_unbiased_variances_of_the_batches_are_averaged_and_nothing_is_dropped() -> None:
    norm = nn.BatchNorm2d(1, momentum=0.3)
    network = nn.Sequential(nn.Dropout(0.9), norm)
    norm(rows(7, 9))  # what training left behind, which has no part in it
    estimate(network, [rows(0, 2), rows(4, 8)], nullcontext)
    # Means 1 and 6; squares about them 1 + 1 and 4 + 4, each over 2 - 1 pixels.
    assert (norm.running_mean.item(), norm.running_var.item()) == (3.5, 5.0)
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.3, 1)
    assert not any(module.training for module in network.modules())


def test_dropout_makes_the_variance_larger_as_the_reason_says() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(1, momentum=None)
    network, images = nn.Sequential(nn.Dropout(0.5), norm), torch.randn(40, 1, 1, 64, 64)
    for image in images:
        network(image)
    trained = norm.running_var.item()
    estimate(network.train(), images, nullcontext)
    assert trained / norm.running_var.item() == pytest.approx(1 / (1 - 0.5), rel=0.01)


def test_a_frozen_batch_norm_and_one_that_no_image_reaches_keep_theirs() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.used, self.unused = (nn.BatchNorm2d(1) for _ in range(3))
            self.frozen.eval()

        def forward(self, image: Tensor) -> Tensor:
            return self.used(self.frozen(image))

    network = Network()
    estimate(network, [rows(0, 4)], nullcontext)
    means = [norm.running_mean.item() for norm in batch_norms(network)]
    assert means == [0, pytest.approx(2, rel=1e-4), 0]
    assert batch_norms(nn.BatchNorm2d(1, track_running_stats=False)) == []


def test_training_does_not_feel_it_and_the_best_model_has_the_statistics(tmp_path: Path) -> None:
    for number in (0, 3):
        succeed("train", *WORDS, "method=bcp", "select=last", f"precise_bn={number}", f"tag=n{number}", cwd=tmp_path)
    plain, other = (tmp_path / f"outputs/phantom/bcp/unet-2cases-s0-n{number}" for number in (0, 3))
    (last, best), (same, precise) = (
        [load(run / name)["method"] for name in ("last.pt", "best.pt")] for run in (plain, other)
    )
    torch.testing.assert_close(same, last, rtol=0, atol=0)
    differing = {name for name in best if not torch.equal(best[name], precise[name])}
    assert {name.partition(".")[0] + name.rpartition(".")[2] for name in differing} == {
        "studentrunning_mean",
        "studentrunning_var",
    }

    engine = engine_in(other, composed(*WORDS, "method=bcp", "select=last", "precise_bn=3", "tag=n3"))
    seen: list[Tensor] = []
    convolution = next(m for m in engine.method.student.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda module, given, output: seen.append(output))
    engine.method.eval()
    with torch.no_grad():
        for step in range(3):
            engine.method.student(engine.batches.weak_views(step))
    by_hand = torch.stack([features.transpose(0, 1).flatten(1).var(dim=1) for features in seen]).mean(dim=0)
    name = next(name for name in best if name.startswith("student") and name.endswith("running_var"))
    torch.testing.assert_close(precise[name], by_hand)


def test_a_network_without_batch_norm_is_told_of(tmp_path: Path) -> None:
    others = [word for word in WORDS if not word.startswith("network.")]
    words = (*others, "network=vnet", "network.width=4", "network.normalization=instance", "precise_bn=3")
    assert "precise_bn=3: the network has no batch norm, so nothing is taken anew" in succeed(
        "train", *words, cwd=tmp_path
    )
    (folder,) = (tmp_path / "outputs/phantom/supervised").iterdir()
    assert results(folder)["status"] == "finished"
