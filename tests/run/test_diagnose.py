"""The diagnosis of pseudo-labels: its numbers by hand, and that training does not feel it."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PHANTOM, composed, curve, engine_in, events, lasting, load, results, succeed
from pixelwise import Pixelwise
from torch import Tensor

from ssl4seg.feed.views import WeakView
from ssl4seg.keys import IGNORE
from ssl4seg.methods.base import Method
from ssl4seg.methods.bcp import BCP
from ssl4seg.methods.mean_teacher import MeanTeacher
from ssl4seg.methods.supervised import Supervised
from ssl4seg.run.diagnose import Counts, Diagnosis
from ssl4seg.types import Progress, PseudoLabels

CLASSES = ("background", "a", "b")
CPU = torch.device("cpu")


def probabilities(rows: list[tuple[float, float, float]]) -> Tensor:
    """One image of a row of pixels."""
    return torch.tensor(rows).T[None, :, None, :]


def scores(
    rows: list[tuple[float, float, float]], used: list[int], label: list[int], background: bool = True
) -> dict[str, float]:
    counts = Counts(3, CPU)
    found = PseudoLabels(probabilities(rows), torch.tensor(used, dtype=torch.bool)[None, None])
    counts.add(found, torch.tensor(label)[None, None])
    return counts.scores(CLASSES, background=background)


def test_scores_of_five_pixels_by_hand():
    # Pseudo 0 0 1 1 2, truth 0 1 1 ignored 2; the second is unused.
    rows = [(0.9, 0.1, 0.0), (0.5, 0.3, 0.2), (0.2, 0.7, 0.1), (0.1, 0.8, 0.1), (0.0, 0.4, 0.6)]
    found = scores(rows, used=[1, 0, 1, 1, 1], label=[0, 1, 1, IGNORE, 2])
    assert found["coverage"] == pytest.approx(3 / 4)
    assert found["accuracy"] == 1
    assert [found[f"dice/{name}"] for name in ("a", "b", "mean")] == [1, 1, 1]
    assert [found[f"share/{name}"] for name in CLASSES] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert [found[f"true_share/{name}"] for name in CLASSES] == pytest.approx([1 / 4, 1 / 2, 1 / 4])
    # Each of the four lies in a bin of its own: |.9 - 1|, |.5 - 0|, |.7 - 1|, |.6 - 1|.
    assert found["calibration_error"] == pytest.approx((0.1 + 0.5 + 0.3 + 0.4) / 4, abs=1e-6)


def test_pixels_of_one_bin_are_averaged_before_they_are_compared():
    # 0.61 and 0.65 share the bin [0.6, 0.667); one of them is right: |0.63 - 0.5|.
    found = scores([(0.61, 0.39, 0.0), (0.65, 0.35, 0.0)], used=[1, 1], label=[0, 1])
    assert found["calibration_error"] == pytest.approx(0.13, abs=1e-6)
    assert found["accuracy"] == 0.5
    assert found["dice/a"] == 0
    assert "dice/b" not in found
    assert found["dice/mean"] == 0


def test_class_0_is_one_as_the_others_where_it_is_no_background():
    # Pseudo 0 0 1, truth 0 1 1: Dice 2/3 of both; of b there is nothing.
    rows = [(0.9, 0.1, 0.0), (0.5, 0.3, 0.2), (0.2, 0.7, 0.1)]
    found = scores(rows, used=[1, 1, 1], label=[0, 1, 1], background=False)
    assert [found[f"dice/{name}"] for name in ("background", "a", "mean")] == pytest.approx([2 / 3] * 3)
    assert "dice/background" not in scores(rows, used=[1, 1, 1], label=[0, 1, 1])


def test_counting_has_a_deterministic_form_on_every_device(monkeypatch):
    bincount = torch.bincount  # with weights PyTorch refuses it on GPUs where deterministic=true

    def unweighted(value: Tensor, weights: None = None, minlength: int = 0) -> Tensor:
        assert weights is None
        return bincount(value, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", unweighted)
    found = scores([(0.61, 0.39, 0.0), (0.65, 0.35, 0.0)], used=[1, 1], label=[0, 1])
    assert found["calibration_error"] == pytest.approx(0.13, abs=1e-6)


def test_where_nothing_is_used_there_is_no_accuracy():
    found = scores([(0.4, 0.3, 0.3)], used=[0], label=[0])
    assert found["coverage"] == 0
    assert not {"accuracy", "dice/mean", "share/a"} & found.keys()


class Told(Method):
    """Its pseudo-labels are class 1 with probability x where x > 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.seen = Pixelwise(), []

    def forward(self, phase, batch, progress):
        raise NotImplementedError

    def pseudo_labels(self, image, progress):
        self.seen.append(len(image))
        x = image[:, 0]
        return PseudoLabels(torch.stack([1 - x, x, torch.zeros_like(x)], dim=1), x > 0.5)


def diagnosis(cases, num_images=100, side=4, labeled=()) -> Diagnosis:
    return Diagnosis(
        cases,
        labeled,
        num_images=num_images,
        classes=CLASSES,
        background=True,
        shape=(side, side) if isinstance(side, int) else side,
        view=WeakView(rot90_flip=0, rotate=0, max_angle=0),
        batch_size=2,
        device=CPU,
        autocast=nullcontext,
    )


@pytest.fixture
def cases(make_case):
    """Two cases of two and three slices, a third without a mask; slice i is i/10 + 0.45 everywhere."""
    levels = np.arange(5)[:, None, None] / 10 + 0.45
    image, label = np.broadcast_to(levels, (5, 4, 4)), np.ones((5, 4, 4), int)
    return [make_case("one", image[:2], label[:2]), make_case("two", image[2:], label[2:]), make_case("bare", image)]


def test_every_slice_with_a_mask_is_scored_once_in_batches(cases):
    method = Told()
    found = diagnosis(cases)(method, Progress(3, 10))
    assert method.seen == [2, 2, 1]
    assert found["coverage"] == pytest.approx(4 / 5)
    assert found["accuracy"] == 1
    assert "teacher_distance" not in found


@pytest.mark.parametrize(("num_images", "levels"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4])])
def test_fewer_images_are_spread_evenly(cases, num_images, levels):
    (images,) = (torch.cat(diagnosis(cases, num_images).images),)
    assert images.amax(dim=(1, 2, 3)).tolist() == pytest.approx([level / 10 + 0.45 for level in levels])


def test_of_methods_without_targets_the_predictions_are_counted_but_not_in_a_stage_on_labels_alone(cases):
    method = Supervised(network=Pixelwise)
    (images,) = (torch.cat(diagnosis(cases).images),)
    with torch.no_grad():
        share = torch.bincount(method.eval().predict(images).argmax(dim=1).flatten(), minlength=3) / images.numel()
    found = diagnosis(cases)(method, Progress(0, 1))
    assert found == pytest.approx(
        {f"predicted/{name}": value.item() for name, value in zip(CLASSES, share, strict=True)}
    )
    assert diagnosis(cases)(BCP(network=Pixelwise), Progress(0, 8)) == {}
    assert diagnosis(cases, num_images=0)(Told(), Progress(0, 1)) == {}


def test_without_masks_there_are_the_shares_of_what_is_taught(cases):
    # Of five slices the first, at 0.45, is not used, and all others are class 1; beside a slice nothing counts.
    assert diagnosis(cases[2:], side=8)(Told(), Progress(0, 1)) == {
        "coverage": pytest.approx(4 / 5),
        **{f"share/{name}": float(name == "a") for name in CLASSES},
    }


def test_the_shares_to_expect_are_those_of_the_labelled_masks(make_case):
    label = np.array([[[0, 0, 1, 2], [0, 0, 0, IGNORE]]])
    labeled = [make_case("labelled", np.zeros((1, 2, 4)), label)]
    bare = [make_case("bare", np.zeros((1, 4, 4)))]
    assert diagnosis(bare, labeled=labeled, side=(2, 4)).expected == pytest.approx([5 / 7, 1 / 7, 1 / 7])
    assert diagnosis([], labeled=labeled).expected == []


def test_the_distance_of_the_teacher_is_relative_to_the_student(cases):
    method = MeanTeacher(network=Pixelwise)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.mul_(1.5)
    assert diagnosis(cases)(method, Progress(0, 1))["teacher_distance"] == pytest.approx(0.5)


def test_a_call_has_no_more_images_than_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine teacher passes over 32 patches of LA at once filled a memory of 24 GB."""
    engine = engine_in(tmp_path, composed(*PHANTOM, "method=uamt", "unlabeled_batch_size=3", "labeled_ratio=0.25"))
    sizes, score = [], engine.method.pseudo_labels
    monkeypatch.setattr(engine.method, "pseudo_labels", lambda *given: sizes.append(len(given[0])) or score(*given))
    assert engine.diagnose(engine.method, Progress(2, 4))
    assert max(sizes) == 3
    assert sum(sizes) == 60 - 16  # the labelled patient has 16 of the 60 slices


@pytest.mark.parametrize("method", ["uamt", "cutmix_seg"])
def test_training_is_the_same_to_the_last_bit_without_it(method: str, tmp_path: Path) -> None:
    common = (*PHANTOM, f"method={method}", "labeled_ratio=0.5")
    for number in (64, 0):
        succeed("train", *common, f"engine.diagnose={number}", f"tag=n{number}", cwd=tmp_path)
    on, off = (tmp_path / f"outputs/phantom/{method}/unet-0.5-s0-n{number}" for number in (64, 0))
    for name in ("best.pt", "last.pt"):
        a, b = load(on / name), load(off / name)
        told = [content if name == "best.pt" else content["best"] for content in (a, b)]
        assert told[0].pop("pseudo_labels")
        assert not told[1].pop("pseudo_labels")
        assert a.keys() == b.keys()
        assert all(torch.equal(a["method"][key], b["method"][key]) for key in a["method"])
        assert told[0] == told[1] if name == "last.pt" else told[0]["step"] == told[1]["step"]
    same = [
        {k: v for k, v in lasting(run).items() if k not in ("pseudo_labels", "collapse", "tag")} for run in (on, off)
    ]
    assert same[0] == same[1]
    found = results(on)["pseudo_labels"]
    assert {"coverage", "calibration_error", "true_share/background", "teacher_distance"} <= found.keys()
    assert not [tag for tag in events(off).Tags()["scalars"] if tag.startswith("pseudo/")]
    assert curve(on, "pseudo/coverage")[results(on)["best_step"]] == pytest.approx(found["coverage"])
