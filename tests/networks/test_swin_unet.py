"""Swin-UNet: the published size, where its pixels come from, and the network contract."""

import pytest
import torch
from torch import nn

from ssl4seg.errors import UserError
from ssl4seg.networks.swin_unet import PatchExpand, SwinUNet

SIZES = [(16, 16), (24, 16), (12, 20), (4, 4), (15, 18), (1, 9)]


def swin(**changes: object) -> SwinUNet:
    small = {"patch": 2, "window": 3, "embed_dim": 8, "depths": (2, 2, 2), "heads": (1, 2, 4)}
    return SwinUNet(**{"in_channels": 1, "num_classes": 4, **small, **changes})


def test_it_has_the_parameters_of_the_authors_network():
    network = SwinUNet(in_channels=1, num_classes=4)
    assert sum(p.numel() for p in network.parameters()) == 27_165_348  # 27,168,420 with their three input channels
    assert network.feature_channels == (96, 192, 384, 768)
    assert network.pyramid_channels == (96, 96, 192, 384)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 4), (3, 21)])
@torch.no_grad()
def test_logits_have_the_size_of_the_image_whatever_it_is(size, channels, classes):
    logits = swin(in_channels=channels, num_classes=classes)(torch.rand(2, channels, *size))
    assert logits.shape == (2, classes, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@torch.no_grad()
def test_features_and_decoder_maps_have_their_channels_and_sizes():
    network, image = swin().eval(), torch.rand(2, 1, 20, 28)
    features = network.encode(image)
    assert tuple(f.shape[1] for f in features) == network.feature_channels == (8, 16, 32)
    assert [tuple(f.shape[2:]) for f in features] == [(10, 14), (5, 7), (3, 4)]
    maps = network.pyramid(features)
    assert tuple(m.shape[1] for m in maps) == network.pyramid_channels == (8, 8, 16)
    assert [tuple(m.shape[2:]) for m in maps] == [(20, 28), (10, 14), (5, 7)]
    assert torch.equal(network.head(maps[0]), network(image))
    assert torch.equal(network.decode(features), network(image))


@pytest.mark.parametrize("size", [(16, 16), (12, 18), (22, 30)])
@torch.no_grad()
def test_a_pixel_reaches_the_pixels_of_its_own_block_where_windows_are_of_one_token(size):
    """Without attention between tokens a change stays in the 8 x 8 pixels that one coarsest token sees."""
    network, image = swin(window=1).eval(), torch.rand(1, 1, *size)
    before = network(image)
    for row, column in ((0, 0), (9, 3), (size[0] - 1, size[1] - 1)):
        other = image.clone()
        other[..., row, column] += 1
        changed = (network(other) != before).any(dim=1)[0]
        top, left = row // 8 * 8, column // 8 * 8
        assert changed[top : top + 8, left : left + 8].any()
        changed[top : top + 8, left : left + 8] = False
        assert not changed.any()


@torch.no_grad()
def test_shifted_windows_let_tokens_of_neighbouring_windows_meet():
    image = torch.rand(1, 1, 24, 24)
    other = image.clone()
    other[..., :6, :6] += 1  # the first window of 3 x 3 tokens of 2 x 2 pixels

    def reached(depth: int) -> bool:
        encoder = swin(depths=(depth, 1), heads=(1, 2)).eval().encode
        return bool((encoder(other)[0] != encoder(image)[0])[..., 3:, 3:].any())

    assert not reached(1)
    assert reached(2)


@torch.no_grad()
def test_an_expanded_token_becomes_its_own_square_of_pixels_row_by_row():
    expand = PatchExpand(1, 2, 3)
    expand.norm = nn.Identity()
    expand.expand.weight.copy_(torch.arange(18.0)[:, None])
    pixels = expand(torch.tensor([1.0, 10.0]).view(1, 1, 2, 1))
    square = torch.arange(18.0).view(3, 3, 2)
    torch.testing.assert_close(pixels[0], torch.cat([square, 10 * square], dim=1))


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_every_parameter_and_every_feature_matters_to_the_logits(size):
    network = swin(stochastic_depth=0.0)
    features = network.encode(torch.rand(2, 1, *size))
    for feature in features:
        feature.retain_grad()
    network.decode(features).square().mean().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@torch.no_grad()
def test_an_image_does_not_depend_on_the_rest_of_its_batch():
    network, image = swin().eval(), torch.rand(3, 1, 20, 28)
    torch.testing.assert_close(network(image)[1:2], network(image[1:2]))


@torch.no_grad()
def test_channels_last_is_the_same_function():
    network, image = swin(in_channels=3).eval(), torch.rand(2, 3, 20, 28)
    expected = network(image)
    turned = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, expected)


@torch.no_grad()
def test_stochastic_depth_acts_in_training_alone_and_rises_with_the_depth():
    network, image = swin(stochastic_depth=0.5), torch.rand(4, 1, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
    depths = [part.stochastic_depth.p for stage in network.encoder for part in stage[1]]
    assert depths == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_it_learns_where_a_square_is():
    network = swin(num_classes=2, depths=(2, 1), heads=(1, 2), stochastic_depth=0.0)
    label = torch.zeros(1, 18, 22, dtype=torch.int64)
    label[:, 5:12, 3:9] = 1
    image = label[:, None] + 0.1 * torch.randn(1, 1, 18, 22)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    assert (network(image).argmax(dim=1) == label).float().mean() > 0.97


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"patch": 0}, "network.patch"),
        ({"window": 0}, "network.window"),
        ({"embed_dim": 0}, "network.embed_dim"),
        ({"depths": (2, 2)}, "network.depths"),
        ({"depths": (2, 0, 2)}, "network.depths"),
        ({"depths": (2,), "heads": (1,)}, "network.depths"),
        ({"heads": (1, 2, 5)}, "network.heads"),
        ({"stochastic_depth": 1.0}, "network.stochastic_depth"),
        ({"in_channels": 0}, "network.in_channels"),
        ({"num_classes": 1}, "network.num_classes"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys, fault):
    with pytest.raises(UserError, match=fault):
        swin(**keys)
