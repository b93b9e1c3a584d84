"""The U-Net against an independent re-statement of the public one, the network contract, and dropout."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.networks.dropout import Dropout
from ssl4seg.networks.unet import UNet
from ssl4seg.run.assemble import load_network

CHANNELS, DROPOUT = (16, 32, 64, 128, 256), (0.05, 0.1, 0.2, 0.3, 0.5)


def unet(**changes: object) -> UNet:
    return UNet(**{"in_channels": 1, "num_classes": 4, "channels": (4, 6, 8), "dropout": (0, 0, 0), **changes})


# -- the public network, stated once more -----------------------------------------------------------------------------


def public_block(inputs: int, outputs: int, dropout: float) -> nn.Module:
    def layer(c: int) -> list[nn.Module]:
        return [nn.Conv2d(c, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()]

    return nn.ModuleDict({"conv_conv": nn.Sequential(*layer(inputs), nn.Dropout(dropout), *layer(outputs))})


class PublicUNet(nn.Module):
    """Five scales by max pooling; back up a 1x1 conv, doubling, the skip in front; the names of the public scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.in_conv = public_block(1, 16, DROPOUT[0])
        for i, (coarser, finer, p) in enumerate(zip(CHANNELS[1:], CHANNELS, DROPOUT[1:], strict=False), start=1):
            pooled = nn.ModuleList([nn.MaxPool2d(2), public_block(finer, coarser, p)])
            setattr(self.encoder, f"down{i}", nn.ModuleDict({"maxpool_conv": pooled}))
        for i, (coarser, finer) in enumerate(itertools.pairwise(CHANNELS[::-1]), start=1):
            parts = {"conv1x1": nn.Conv2d(coarser, finer, 1), "conv": public_block(2 * finer, finer, 0.0)}
            setattr(self.decoder, f"up{i}", nn.ModuleDict(parts))
        self.decoder.out_conv = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.encoder.in_conv["conv_conv"](x)]
        for i in range(1, 5):
            pool, block = getattr(self.encoder, f"down{i}")["maxpool_conv"]
            features.append(block["conv_conv"](pool(features[-1])))
        x = features.pop()
        for i in range(1, 5):
            up = getattr(self.decoder, f"up{i}")
            x = nn.functional.interpolate(up["conv1x1"](x), scale_factor=2, mode="bilinear", align_corners=True)
            x = up["conv"]["conv_conv"](torch.cat([features.pop(), x], dim=1))
        return self.decoder.out_conv(x)


@pytest.fixture
def public() -> PublicUNet:
    """With batch-norm statistics and affine weights that are not those of a fresh network."""
    network = PublicUNet()
    for name, value in network.state_dict().items():
        if value.is_floating_point() and (value.ndim == 1):
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.uniform_(-0.5, 0.5)
    return network


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_a_state_dict_of_the_public_scripts_gives_the_public_logits(public, training):
    state = public.state_dict()
    assert {
        "encoder.in_conv.conv_conv.0.weight",
        "encoder.down1.maxpool_conv.1.conv_conv.0.weight",
        "decoder.up1.conv1x1.weight",
        "decoder.up1.conv.conv_conv.0.weight",
        "decoder.out_conv.weight",
    } <= state.keys()
    ours = UNet(in_channels=1, num_classes=4, channels=CHANNELS, dropout=DROPOUT)
    ours.load_state_dict(UNet.rename(state))
    image = torch.rand(2, 1, 48, 32)
    for network in (public, ours):  # with batch statistics too, but without dropout
        network.train(training)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    torch.testing.assert_close(ours(image), public(image), atol=1e-5, rtol=1e-5)


def test_public_names_are_known_below_a_prefix_too(public, tmp_path):
    state = {f"module.model.{key}": value for key, value in public.state_dict().items()}
    torch.save({"model_state": state | {"module.criterion.weight": torch.ones(4)}, "epoch": 3}, tmp_path / "a.pt")
    ours = UNet(in_channels=1, num_classes=4, channels=CHANNELS, dropout=DROPOUT)
    load_network(ours, tmp_path / "a.pt")
    expected = UNet.rename(public.state_dict())
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


def test_a_state_dict_of_ours_keeps_its_names():
    state = unet().state_dict()
    assert UNet.rename(state).keys() == state.keys()


def test_dropout_stands_in_the_encoder_alone_with_the_published_probabilities():
    network = UNet(in_channels=1, num_classes=4)
    found = {name: m.p for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
    assert tuple(found.values()) == DROPOUT
    assert all(name.startswith("encoder.") for name in found)


# -- size and shape ---------------------------------------------------------------------------------------------------


def test_the_recipes_unet_has_1813764_parameters():
    assert sum(p.numel() for p in UNet(in_channels=1, num_classes=4).parameters()) == 1_813_764


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (17, 31), (16, 100), (12, 40), (5, 5), (1, 33)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 4), (3, 21)])
def test_logits_have_the_size_of_the_image_whatever_it_is(size, channels, classes):
    logits = UNet(in_channels=channels, num_classes=classes)(torch.rand(2, channels, *size))
    assert logits.shape == (2, classes, *size)
    assert logits.dtype == torch.float32


@torch.no_grad()
def test_an_image_that_is_too_small_for_the_coarsest_scale_is_seen_enlarged():
    network, image = unet().eval(), torch.rand(2, 1, 3, 10)  # three scales: a side needs 4 pixels
    large = nn.functional.interpolate(image, size=(4, 12), mode="bilinear", align_corners=False)
    back = nn.functional.interpolate(network(large), size=(3, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(image), back)
    assert network(torch.rand(1, 1, 1, 1)).shape == (1, 4, 1, 1)


def test_decode_of_encode_is_forward_and_features_have_their_channels():
    network, image = unet().eval(), torch.rand(2, 1, 20, 28)
    features = network.encode(image)
    assert tuple(f.shape[1] for f in features) == network.feature_channels == (4, 6, 8)
    assert [tuple(f.shape[2:]) for f in features] == [(20, 28), (10, 14), (5, 7)]  # finest first
    assert torch.equal(network.decode(features), network(image))


def test_every_feature_matters_to_the_logits():
    network, image = unet().eval(), torch.rand(1, 1, 16, 16)
    features = [f.detach().requires_grad_() for f in network.encode(image)]
    network.decode(features).square().mean().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


@torch.no_grad()
def test_channels_last_is_the_same_function():
    network, image = unet().eval(), torch.rand(2, 1, 20, 28)
    expected = network(image)
    turned = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"channels": (4, 6), "dropout": (0.1,)}, "network.channels"),
        ({"channels": (4,), "dropout": (0.1,)}, "network.channels"),
        ({"channels": (4, 0, 8)}, "network.channels"),
        ({"dropout": (0, 0, 1)}, "network.dropout"),
        ({"in_channels": 0}, "network.in_channels"),
        ({"num_classes": 1}, "network.num_classes"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(keys, fault):
    with pytest.raises(UserError, match=fault):
        unet(**keys)


# -- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_expectation_and_has_the_variance_of_a_scaled_coin(p):
    x = Dropout(p)(torch.ones(1 << 20))
    variance = p / (1 - p)  # of 1/(1-p) with probability 1-p, else 0
    assert sorted(x.unique().tolist()) == pytest.approx([0, 1 / (1 - p)])
    assert x.mean().item() == pytest.approx(1, abs=6 * (variance / len(x)) ** 0.5)
    assert x.var().item() == pytest.approx(variance, rel=0.03)


def test_dropout_draws_units_independently_though_four_share_a_word():
    kept = Dropout(0.5)(torch.ones(1 << 18, 4)) > 0
    correlation = torch.corrcoef(kept.T.float())
    torch.testing.assert_close(correlation, torch.eye(4), atol=6 / 2**9, rtol=0)  # deviation 1 / sqrt(2^18)


@pytest.mark.parametrize("make", [lambda: Dropout(0.0).train(), lambda: Dropout(0.5).eval()])
def test_dropout_of_nothing_or_in_evaluation_is_the_identity(make):
    x = torch.randn(3, 5)
    assert torch.equal(make()(x), x)


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 3, 5, 7).to(memory_format=torch.channels_last),
        torch.ones(2, 3, 5, 14)[..., ::2],
        torch.ones(1, 3, 1, 1).expand(2, 3, 5, 7),
        torch.ones(7).bfloat16(),
        torch.ones(0, 4),
    ],
    ids=["channels_last", "strided", "expanded", "bfloat16", "empty"],
)
def test_dropout_takes_any_layout(x):
    y = Dropout(0.5)(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert ((y == 0) | (y == 2)).all()


def test_gradient_of_dropout_is_its_mask():
    x = torch.randn(1000, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0))


def test_dropout_is_seeded():
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(64))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# -- standardised input -----------------------------------------------------------------------------------------------

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]


def standardized(**changes: object) -> UNet:
    network = unet(in_channels=3, **changes)
    network.standardize(MEAN, STD)
    return network.eval()


def test_a_standardised_network_sees_the_image_less_its_mean_over_its_deviation():
    network, image = standardized(), torch.rand(2, 3, 16, 16)
    expected = (image.double() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    seen = []
    network.features = lambda x: seen.append(x) or UNet.features(network, x)
    network(image)
    torch.testing.assert_close(seen[0].double(), expected)


def test_the_state_holds_the_numbers_and_the_optimiser_does_not():
    network = standardized()
    state = network.state_dict()
    assert [state[key].flatten().tolist() for key in ("mean", "std")] == [pytest.approx(MEAN), pytest.approx(STD)]
    assert {name for name, _ in network.named_parameters()} == unet(in_channels=3).state_dict().keys() - {
        name for name in state if "running" in name or "num_batches" in name
    }
    assert not {"mean", "std"} & unet().state_dict().keys()


def saved(network: UNet, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_weights_bring_their_own_numbers(tmp_path):
    trained = standardized()
    for network in (unet(in_channels=3), standardized()):
        if network.mean is not None:
            network.standardize([0.0] * 3, [1.0] * 3)
        load_network(network, saved(trained, tmp_path / "weights.pt"))
        image = torch.rand(1, 3, 16, 16)
        assert torch.equal(network.eval()(image), trained(image))


def test_weights_without_numbers_leave_the_networks_own(tmp_path):
    bare = unet(in_channels=3).eval()
    plain, own = unet(in_channels=3).eval(), standardized()
    for network in (plain, own):
        load_network(network, saved(bare, tmp_path / "weights.pt"))
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(plain(image), bare(image))
    expected = bare((image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    torch.testing.assert_close(own(image), expected)
