"""Inference at native size against hand-made averages and PyTorch's own interpolation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.feed.store import Raw
from ssl4seg.feed.views import CropView, sample
from ssl4seg.networks.unet import UNet
from ssl4seg.scoring.inference import Inference, Resized, Sliding, Whole

WAYS = [Resized(shape=(16, 16)), Whole(shape=(16, 16)), Sliding(shape=(16, 16), overlap=0.5)]


def linear(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


class Recorder:
    """Logits that number the calls: 1 everywhere for the first window, 2 for the second ..."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.count = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        number = torch.arange(self.count + 1, self.count + len(image) + 1, dtype=torch.float32)
        self.count += len(image)
        return number.view(-1, 1, 1, 1).expand(len(image), 2, *image.shape[2:])


# -- one pass ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 24), (16, 16), (9, 31)])
def test_resized_goes_to_the_square_and_back_linearly(size):
    image = torch.rand(2, 3, *size)
    logits = Resized(shape=(16, 16))(lambda square: 2 * square, image)
    torch.testing.assert_close(logits, linear(2 * linear(image, (16, 16)), size), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(40, 24), (9, 31)])
def test_whole_sees_the_image_as_it_is(size):
    image, seen = torch.rand(2, 3, *size), []
    logits = Whole(shape=(16, 16))(lambda x: seen.append(x) or 2 * x, image)
    assert torch.equal(seen[0], image)
    assert torch.equal(logits, 2 * image)


# -- windows ----------------------------------------------------------------------------------------------------------


@given(length=st.integers(1, 300), window=st.integers(16, 80), overlap=st.floats(0, 0.9))
def test_windows_cover_every_pixel_stay_inside_and_overlap_as_asked(length, window, overlap):
    places = Sliding(shape=(16, 16), window=window, overlap=overlap).places((length, 1))
    starts = [rows.start for rows, _ in places]
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert min(starts) == 0
    assert max(starts) == max(0, length - window)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    stride = max(1, round(window * (1 - overlap)))
    assert all(0 < step <= stride for step in steps)
    assert all(step == stride for step in steps[:-1])
    assert len(starts) == max(0, math.ceil((length - window) / stride)) + 1  # none too many


def test_where_windows_overlap_their_logits_are_averaged():
    # Windows of 16 at 0, 8 and 12 of 28 columns, in the one row: numbers 1, 2, 3.
    network = Recorder()
    logits = Sliding(shape=(16, 16), overlap=0.5, batch_size=2)(network, torch.rand(1, 3, 16, 28))
    expected = [1.0] * 8 + [1.5] * 4 + [2.0] * 4 + [2.5] * 8 + [3.0] * 4
    assert network.shapes == [(2, 3, 16, 16), (1, 3, 16, 16)]
    expected[12:16] = [(1 + 2 + 3) / 3] * 4
    assert logits[0, 0].unique(dim=0).squeeze(0).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_windows_of_several_images_do_not_mix_and_no_pass_has_more_than_asked(batch_size):
    image, sizes = torch.rand(3, 2, 40, 25), []
    logits = Sliding(shape=(16, 16), overlap=0.25, batch_size=batch_size)(lambda x: sizes.append(len(x)) or x, image)
    torch.testing.assert_close(logits, image)
    full, rest = divmod(3 * 3 * 2, batch_size)  # windows at 0, 12, 24 (rows) and 0, 9 (columns) of three images
    assert sizes == [batch_size] * full + [rest] * (rest > 0)


@pytest.mark.parametrize("size", [(9, 40), (40, 9), (5, 5)])
def test_a_side_that_is_shorter_than_the_window_is_taken_whole(size):
    network = Recorder()
    logits = Sliding(shape=(16, 16), overlap=0)(network, torch.rand(1, 3, *size))
    assert logits.shape == (1, 2, *size)
    assert {shape[2:] for shape in network.shapes} == {(min(16, size[0]), min(16, size[1]))}
    assert network.count == math.ceil(size[0] / 16) * math.ceil(size[1] / 16)


def test_the_window_is_the_training_side_unless_it_is_set():
    network = Recorder()
    Sliding(shape=(24, 24))(network, torch.rand(1, 1, 24, 24))
    Sliding(shape=(24, 24), window=16)(network, torch.rand(1, 1, 24, 24))
    assert [shape[2:] for shape in network.shapes] == [(24, 24), (16, 16)]


@torch.no_grad()
def test_a_network_that_looks_only_near_sees_the_same_in_windows_inside_the_image():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))  # 2 pixels far
    image = torch.rand(1, 3, 50, 70)
    whole = Whole(shape=(32, 32))(network, image)
    sliding = Sliding(shape=(32, 32), overlap=0.5)(network, image)
    # Windows at 0, 16, 18 (rows) and 0, 16, 32, 38 (columns): away from all their borders the two agree.
    border = torch.zeros(50, 70, dtype=torch.bool)
    for edge in (0, 16, 18, 32, 48, 50):
        border[max(0, edge - 2) : edge + 2] = True
    for edge in (0, 16, 32, 38, 48, 64, 70):
        border[:, max(0, edge - 2) : edge + 2] = True
    assert (~border).sum() > 1000
    torch.testing.assert_close(sliding[..., ~border], whole[..., ~border], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(sliding, whole)


# -- several passes ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Neither mirrored nor scaled input gives mirrored or scaled output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return 3 * self.conv(image) + torch.linspace(0, 1, image.shape[-1])


@torch.no_grad()
def test_scales_and_flip_of_whole_are_averaged_probabilities():
    network, image = Net(), torch.rand(2, 3, 20, 30)
    scores = Whole(shape=(16, 16), scales=(0.5, 1.0, 1.5), flip=True)(network, image)
    expected = torch.zeros(2, 4, 20, 30)
    for size in ((10, 15), (20, 30), (30, 45)):
        scaled = image if size == (20, 30) else linear(image, size)
        expected += linear(network(scaled), (20, 30)).softmax(dim=1) / 6
        expected += linear(network(scaled.flip(-1)).flip(-1), (20, 30)).softmax(dim=1) / 6
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2, 20, 30))


@pytest.mark.parametrize("way", [Whole, Sliding])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25])
def test_a_scaled_image_is_the_one_that_a_training_crop_of_that_scale_shows(way, scale):
    image, seen = torch.randn(1, 1, 64, 64), []
    way(shape=(100, 100), scales=(scale,))(lambda x: seen.append(x) or x, image)
    side = round(64 * scale)
    theta = CropView(side=side, scale=(scale, scale), flip=0).thetas(torch.tensor([[64.0, 64.0]]), torch.Generator())
    crop, _ = sample(
        Raw(image, torch.zeros(1, 64, 64, dtype=torch.uint8), torch.tensor([[64.0, 64.0]])), theta, (side, side)
    )
    torch.testing.assert_close(seen[0], crop, atol=1e-4, rtol=0)


@torch.no_grad()
def test_scales_of_resized_are_multiples_of_the_square():
    network, image, sides = Net(), torch.rand(1, 3, 20, 30), []
    scores = Resized(shape=(16, 16), scales=(1.0, 2.0))(lambda x: sides.append(tuple(x.shape[2:])) or network(x), image)
    assert sides == [(16, 16), (32, 32)]
    passes = [linear(network(linear(image, (side, side))), (20, 30)).softmax(dim=1) for side in (16, 32)]
    torch.testing.assert_close(scores, sum(passes) / 2, atol=1e-4, rtol=0)


@torch.no_grad()
def test_flip_of_sliding_is_the_average_with_the_mirrored_image():
    network, image = Net(), torch.rand(1, 3, 20, 40)
    one = Sliding(shape=(16, 16), overlap=0.5)
    both = Sliding(shape=(16, 16), overlap=0.5, flip=True)
    expected = (one(network, image).softmax(dim=1) + one(network, image.flip(-1)).flip(-1).softmax(dim=1)) / 2
    torch.testing.assert_close(both(network, image), expected)


@torch.no_grad()
@pytest.mark.parametrize("way", [Resized, Whole, Sliding])
def test_flip_along_chosen_axes_averages_every_combination_of_them(way):
    network, image = Net(), torch.rand(1, 3, 20, 28)
    one = way(shape=(16, 16))
    passes = [one(network, image.flip(axes)).softmax(dim=1).flip(axes) for axes in ((), (2,), (3,), (2, 3))]
    torch.testing.assert_close(way(shape=(16, 16), flip=[0, 1])(network, image), sum(passes) / 4, atol=1e-5, rtol=0)
    torch.testing.assert_close(way(shape=(16, 16), flip=[0])(network, image), sum(passes[:2]) / 2, atol=1e-5, rtol=0)
    assert torch.equal(way(shape=(16, 16), flip=[1])(network, image), way(shape=(16, 16), flip=True)(network, image))


@torch.no_grad()
@pytest.mark.parametrize("way", [Resized, Whole, Sliding])
def test_a_scale_may_leave_a_single_pixel(way):
    network = UNet(in_channels=3, num_classes=4, channels=[4, 4, 4], dropout=[0, 0, 0]).eval()
    scores = way(shape=(16, 16), scales=(0.01,))(network, torch.rand(1, 3, 20, 30))
    assert scores.shape == (1, 4, 20, 30)
    torch.testing.assert_close(scores, scores[..., :1, :1].expand_as(scores))


@pytest.mark.parametrize("way", WAYS)
def test_one_pass_gives_logits_and_no_gradient(way):
    logits = way(Net(), torch.rand(1, 3, 16, 16))
    assert not torch.allclose(logits.sum(dim=1), torch.ones(()))
    assert not logits.requires_grad


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "keys", "named"),
    [
        (Whole, {"scales": ()}, "inference.scales"),
        (Resized, {"scales": (1.0, 0.0)}, "inference.scales"),
        (Sliding, {"scales": (-1,)}, "inference.scales"),
        (Whole, {"scales": 0.5}, r"inference.scales=0.5: expected a list"),
        (Whole, {"scales": ["half"]}, r"inference.scales=\['half'\]: expected a list"),
        (Whole, {"flip": "yes"}, "inference.flip=yes: expected true or false, or a list of different axes"),
        (Whole, {"flip": []}, r"inference.flip=\[\]: expected true or false"),
        (Whole, {"flip": [0, 2]}, r"inference.flip=\[0, 2\]: expected .*\(0 rows, 1 columns\)"),
        (Sliding, {"flip": [1, 1]}, r"inference.flip=\[1, 1\]: expected .* different axes"),
        (Sliding, {"flip": [[1]]}, r"inference.flip=\[\[1\]\]: expected true or false"),
        (Sliding, {"window": 8}, "inference.window"),
        (Sliding, {"window": "large"}, "inference.window=large: expected a whole number from 16"),
        (Sliding, {"overlap": "half"}, "inference.overlap=half: expected a share"),
        (Sliding, {"overlap": 1}, "inference.overlap"),
        (Sliding, {"overlap": -0.1}, "inference.overlap"),
        (Sliding, {"batch_size": 0}, "inference.batch_size"),
        (Sliding, {"batch_size": 1.5}, "inference.batch_size"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(kind: type[Inference], keys, named):
    with pytest.raises(UserError, match=named):
        kind(shape=(32, 32), **keys)
