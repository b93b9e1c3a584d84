"""Networks for slices and volumes: V-Net and the U-Net of volumes against the public ones, MONAI's against its own."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from helpers import composed, small_network, succeed
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate

from ssl4seg.axes import LAYERS
from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.errors import UserError
from ssl4seg.methods.base import built_like
from ssl4seg.networks.base import FOR_VOLUMES, Network, fitted
from ssl4seg.networks.swin_unet import SwinUNet
from ssl4seg.networks.unet import UNet
from ssl4seg.networks.vnet import VNet
from ssl4seg.run.assemble import load_network, network_maker
from ssl4seg.run.device import keep_freed_memory

pytestmark = pytest.mark.slow


def small(name: str, axes: int = 3, channels: int = 1, **keys: object) -> Network:
    torch.manual_seed(0)
    return network_maker(small_network(name) | keys, channels, 3, axes=axes)()


def num(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- the contract of a network, with three axes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FOR_VOLUMES)
@torch.no_grad()
def test_a_volume_goes_through_the_parts_as_through_the_whole(name):
    network, volume = small(name, channels=2).eval(), torch.rand(1, 2, 32, 48, 64)
    features = network.encode(volume)
    maps = network.pyramid(features)
    assert tuple(f.shape[1] for f in features) == network.feature_channels
    assert tuple(m.shape[1] for m in maps) == network.pyramid_channels
    assert maps[0].shape[2:] == features[0].shape[2:] == fitted(volume, 32 if name == "swin_unetr" else 16).shape[2:]
    for finer, coarser in (*pairwise(features), *pairwise(maps)):
        assert finer.shape[2:] == tuple(2 * side for side in coarser.shape[2:])
    logits = network.head(maps[0])
    assert torch.equal(logits, network.decode(features))
    if logits.shape[2:] == volume.shape[2:]:
        assert torch.equal(logits, network(volume))


@pytest.mark.parametrize("name", FOR_VOLUMES)
@pytest.mark.parametrize("size", [(16, 16, 16), (9, 20, 33)])
def test_a_volume_of_any_size_gets_logits_of_its_size_and_every_parameter_learns(name, size):
    network = small(name).train()
    logits = network(torch.rand(1, 1, *size))
    assert (logits.shape, logits.dtype) == ((1, 3, *size), torch.float32)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("name", FOR_VOLUMES)
@torch.no_grad()
def test_channels_last_is_the_same_function_of_volumes(name):
    network, volume = small(name).eval(), torch.rand(1, 1, 32, 32, 32)
    expected, last = network(volume), LAYERS[3].channels_last
    assert last is torch.channels_last_3d
    turned = network.to(memory_format=last)(volume.to(memory_format=last))
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", FOR_VOLUMES)
@torch.no_grad()
def test_every_axis_counts(name):
    """A network that treated a volume as slices would not see its neighbours."""
    network, volume = small(name).eval(), torch.rand(1, 1, 32, 32, 32)
    before = network(volume)
    for axis in (2, 3, 4):
        other = volume.clone()
        other.select(axis, 16).add_(1)
        changed = (network(other) - before).abs().amax(dim=(0, 1))
        assert changed.select(axis - 2, 17).max() > 1e-6


@torch.no_grad()
def test_a_volume_is_standardised_channel_by_channel():
    network, volume = small("unet", channels=2).eval(), torch.rand(1, 2, 2, 2, 2)  # C = X = Y = Z, easily confused
    network.standardize([1.0, 2.0], [0.5, 4.0])
    seen: list[Tensor] = []
    network.features = lambda x: seen.append(x) or []  # type: ignore[method-assign]
    network.encode(volume)
    expected = torch.stack([(volume[:, 0] - 1) / 0.5, (volume[:, 1] - 2) / 4], dim=1)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("size", "strides", "places", "expected"),
    [
        ((17, 40, 16), 16, 1, (16, 48, 16)),  # 17: one voxel too many
        ((16, 16, 16), 16, 2, (32, 32, 32)),
        ((16, 16, 32), 16, 2, (16, 16, 32)),
        ((10, 10, 3), (4, 4, 1), 1, (12, 12, 3)),
    ],
)
def test_a_volume_is_resized_to_multiples_of_the_strides(size, strides, places, expected):
    volume = torch.rand(1, 1, *size)
    found = fitted(volume, strides, places=places)
    assert found.shape[2:] == expected
    torch.testing.assert_close(found, interpolate(volume, expected, mode="trilinear"))


# -- the number of axes -----------------------------------------------------------------------------------------------


def test_the_networks_for_volumes_are_those_that_messages_name():
    taking = []
    for name in choices("network", [conf_dir()]):
        try:
            network_maker(composed(f"network={name}")["network"], 1, 2, axes=3)
        except UserError:
            continue
        taking.append(name)
    assert sorted(taking) == sorted(FOR_VOLUMES)
    with pytest.raises(
        UserError, match=r"^network: FCN takes images of 2 axes, but dataset.image_size has 3; the netw"
    ):
        network_maker(small_network("fcn"), 1, 2, axes=3)


def test_a_second_network_has_the_axes_of_the_first():
    with pytest.raises(UserError, match=r"^method.transformer: SwinUNet takes images of 2 axes"):
        built_like(small("vnet"), partial(SwinUNet), "method.transformer")
    assert built_like(small("vnet"), partial(VNet, width=4), "method.peer").axes == 3
    with pytest.raises(UserError, match=r"network: UNet takes images of 2 or 3 axes, but dataset.image_size has 4"):
        network_maker(small_network("unet"), 1, 2, axes=4)


def test_monai_is_imported_with_its_networks_alone(tmp_path):
    code = (
        "import sys, ssl4seg.run.assemble, ssl4seg.networks.unet, ssl4seg.networks.vnet\n"
        "def main(): print('monai' in sys.modules)\n"
    )
    (tmp_path / "there.py").write_text(code)
    assert succeed("there", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}) == "False\n"


# -- the public networks, stated once more ----------------------------------------------------------------------------


def affine(network: nn.Module) -> nn.Module:
    """With statistics and affine weights of batch norm that are not those of a fresh network."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.uniform_(-0.5, 0.5)
    return network.eval()


def public_convs(inputs: int, outputs: int, times: int, kind: type = nn.Conv3d, norm: bool = True, **keys: int):
    """The scripts' block: `conv` holds convolution, batch norm and ReLU in turns."""
    keys = keys or {"kernel_size": 3, "padding": 1}
    parts: list[nn.Module] = []
    for _ in range(times):
        parts += [kind(inputs, outputs, **keys), *([nn.BatchNorm3d(outputs)] if norm else []), nn.ReLU()]
        inputs = outputs
    return nn.ModuleDict({"conv": nn.Sequential(*parts)})


class PublicVNet(nn.Module):
    """UA-MT's V-Net in evaluation mode, by the names of its scripts."""

    def __init__(self, n: int = 16, norm: bool = True) -> None:
        super().__init__()
        halve = {"kernel_size": 2, "stride": 2}
        down = {"one": (n, 1), "two": (2 * n, 2), "three": (4 * n, 3), "four": (8 * n, 3), "five": (16 * n, 3)}
        up = {"five": (8, "six", 3), "six": (4, "seven", 3), "seven": (2, "eight", 2), "eight": (1, "nine", 1)}
        for name, (channels, times) in down.items():
            setattr(self, f"block_{name}", public_convs(1 if name == "one" else channels, channels, times, norm=norm))
            if name != "five":
                halved = public_convs(channels, 2 * channels, 1, norm=norm, **halve)
                setattr(self, f"block_{name}_dw", halved)
        for name, (factor, following, times) in up.items():
            channels = factor * n
            doubled = public_convs(2 * channels, channels, 1, nn.ConvTranspose3d, norm, **halve)
            setattr(self, f"block_{name}_up", doubled)
            setattr(self, f"block_{following}", public_convs(channels, channels, times, norm=norm))
        self.out_conv = nn.Conv3d(n, 2, 1)

    def run(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, f"block_{name}")["conv"](x)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for name in ("one", "two", "three", "four"):
            skips.append(self.run(name, x))
            x = self.run(f"{name}_dw", skips[-1])
        x = self.run("five", x)
        for name, following in pairwise(("five", "six", "seven", "eight", "nine")):
            x = self.run(following, self.run(f"{name}_up", x) + skips.pop())
        return self.out_conv(x)


def as_bcp_on_la(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BCP keeps encoder and decoder apart, and saves heads of contrastive learning that it does not use."""

    def name(key: str) -> str:
        first = key.split(".")[0]
        down = first in {"block_one", "block_two", "block_three", "block_four", "block_five"} or first.endswith("_dw")
        return f"{'encoder' if down else 'decoder'}.{key}"

    more = ("projection_head.0.weight", "prediction_head.1.bias", "contrastive_class_selector_memory1.0.weight")
    return {name(key): value for key, value in state.items()} | {key: torch.zeros(3) for key in more}


def as_bcp_on_pancreas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Its last block and its head are a branch, with dropout between them."""

    def name(key: str) -> str:
        return key.replace("block_nine.", "branchs.0.0.").replace("out_conv.", "branchs.0.2.")

    return {name(key): value for key, value in state.items()}


@pytest.mark.parametrize("written", [dict, as_bcp_on_la, as_bcp_on_pancreas], ids=["uamt", "bcp-la", "bcp-pancreas"])
@torch.no_grad()
def test_a_state_dict_of_the_public_vnets_gives_the_public_logits(written: Callable, tmp_path):
    public = affine(PublicVNet(4))
    torch.save(written(public.state_dict()), tmp_path / "public.pth")
    network = VNet(in_channels=1, num_classes=2, axes=3, width=4)
    load_network(network, tmp_path / "public.pth")
    volume = torch.rand(2, 1, 32, 16, 48)
    torch.testing.assert_close(network.eval()(volume), public(volume), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_vnet_without_norm_is_the_public_one_without():
    public, network = (
        PublicVNet(4, norm=False),
        VNet(in_channels=1, num_classes=2, axes=3, width=4, normalization="none"),
    )
    network.load_state_dict(network.rename(public.state_dict()))
    volume = torch.rand(1, 1, 16, 32, 16)
    torch.testing.assert_close(network.eval()(volume), public.eval()(volume), atol=1e-5, rtol=1e-4)


def public_pair(inputs: int, outputs: int) -> nn.ModuleDict:
    def conv(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv3d(c, outputs, 3, padding=1), nn.InstanceNorm3d(outputs), nn.ReLU())

    return nn.ModuleDict({"conv1": conv(inputs), "conv2": conv(outputs)})


class PublicUNet3D(nn.Module):
    """SSL4MIS's `unet_3D` in evaluation mode, by the names of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (16, 32, 64, 128, 256)
        for i, (inputs, outputs) in enumerate(pairwise((1, *sizes[:-1])), start=1):
            setattr(self, f"conv{i}", public_pair(inputs, outputs))
            setattr(self, f"up_concat{i}", nn.ModuleDict({"conv": public_pair(outputs + 2 * outputs, outputs)}))
        self.center, self.final = public_pair(128, 256), nn.Conv3d(16, 2, 1)

    @staticmethod
    def run(pair: nn.ModuleDict, x: Tensor) -> Tensor:
        return pair["conv2"](pair["conv1"](x))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i in range(1, 5):
            skips.append(self.run(getattr(self, f"conv{i}"), x))
            x = nn.functional.max_pool3d(skips[-1], 2)
        x = self.run(self.center, x)
        for i in (4, 3, 2, 1):
            x = torch.cat([skips.pop(), interpolate(x, scale_factor=2, mode="trilinear")], dim=1)
            x = self.run(getattr(self, f"up_concat{i}")["conv"], x)
        return self.final(x)


@torch.no_grad()
def test_a_state_dict_of_ssl4mis_gives_the_logits_of_its_unet_of_volumes():
    public, network = PublicUNet3D().eval(), UNet(in_channels=1, num_classes=2, axes=3).eval()
    state = public.state_dict()
    assert {"conv1.conv2.0.weight", "center.conv1.0.bias", "up_concat4.conv.conv1.0.weight"} <= state.keys()
    network.load_state_dict(network.rename(state))
    volume = torch.rand(1, 1, 32, 16, 32)
    torch.testing.assert_close(network(volume), public(volume), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", [UNet, VNet])
def test_a_state_dict_of_ours_keeps_its_names(network):
    state = network(in_channels=1, num_classes=2, axes=3).state_dict()
    assert network.rename(state).keys() == state.keys()


# -- size, dropout and upsampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (partial(UNet, in_channels=1, num_classes=2, axes=3), 5_884_050),  # SSL4MIS
        (partial(VNet, in_channels=1, num_classes=2, axes=3), 9_448_866),  # UA-MT
        (partial(VNet, in_channels=1, num_classes=14, axes=3, width=32), 37_778_126),  # DHC
    ],
)
def test_parameters_are_as_many_as_published(network, expected):
    with torch.device("meta"):
        assert num(network()) == expected


def test_a_parameter_count_in_a_yaml_is_that_of_its_network():
    for name, count in (("dynunet", 31_189_410), ("segresnet", 4_700_914), ("swin_unetr", 15_703_004)):
        assert num(network_maker(composed(f"network={name}")["network"], 1, 2, axes=3)()) == count
        assert f" {count:,} parameters" in (conf_dir() / f"network/{name}.yaml").read_text()


def dropouts(network: nn.Module) -> list[tuple[str, float]]:
    return [(name, m.p) for name, m in network.named_modules() if isinstance(m, nn.Dropout | nn.Dropout3d) and m.p > 0]


def test_dropout_stands_where_the_public_networks_have_it():
    assert dropouts(UNet(in_channels=1, num_classes=2, axes=3)) == [("encoder.4.6", 0.3), ("head.0", 0.3)]
    network = VNet(in_channels=1, num_classes=2, axes=3)
    assert dropouts(network) == [("dropout", 0.5), ("head.0", 0.5)]
    *_, coarsest = network.train().encode(torch.rand(1, 1, 32, 32, 32))
    dead = (coarsest == 0).flatten(2).all(dim=2)  # whole channels
    assert 0.3 < dead.float().mean() < 0.7


def test_convolutions_of_the_unet_of_volumes_have_the_deviation_of_kaiming():
    network = UNet(in_channels=1, num_classes=2, axes=3)
    weight = network.encoder[4][3].weight  # 256 x 256 x 27
    assert weight.std().item() == pytest.approx((2 / (256 * 27)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("name", "axes"), [(name, axes) for name in ("unet", "vnet", "segresnet") for axes in (2, 3)])
def test_decoders_of_every_upsampling_take_the_same_features(name, axes):
    """MC-Net's."""
    kinds = type(small(name)).upsamplings
    assert len(kinds) == 3
    features = small(name, axes).eval().encode(torch.rand(1, 1, *[16] * axes))
    found = [small(name, axes, upsampling=kind).eval() for kind in kinds]
    logits = [network.decode(features) for network in found]
    assert all(z.shape == logits[0].shape for z in logits)
    assert not any(torch.equal(a, b) for a, b in pairwise(logits))


# -- MONAI's own ------------------------------------------------------------------------------------------------------

MONAIS = ("dynunet", "segresnet", "swin_unetr", "unetr")


def monais(name: str, axes: int) -> nn.Module:
    """MONAI's own model with the keys of the small network; its import takes seconds."""
    from monai.networks import nets

    if name == "dynunet":
        return nets.DynUNet(axes, 2, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 8, 8])
    if name == "segresnet":
        return nets.SegResNet(axes, 8, 2, 3, blocks_down=(1, 1, 1), blocks_up=(1, 1))
    if name == "unetr":
        return nets.UNETR(2, 3, 64, 4, 24, 32, 2, spatial_dims=axes)
    keys = {"depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4}
    return nets.SwinUNETR(2, 3, feature_size=12, spatial_dims=axes, **keys)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", MONAIS)
@torch.no_grad()
def test_a_state_dict_of_monais_gives_its_own_logits(name, axes):
    theirs, mine = affine(monais(name, axes)), small(name, axes, channels=2).eval()
    state = mine.rename(theirs.state_dict())
    mine.load_state_dict(state)
    assert num(mine) <= num(theirs)
    assert mine.rename(state).keys() == state.keys()
    image = torch.rand(1, 2, *[64] * axes)
    torch.testing.assert_close(mine(image), theirs(image))


@torch.no_grad()
def test_strides_and_kernels_may_differ_by_axis():
    strides, kernels = [[1, 1, 1], [2, 2, 1], [2, 2, 2]], [[3, 3, 1], 3, 3]
    network = small("dynunet", strides=strides, kernel_size=kernels, filters=[4, 6, 8]).eval()
    assert [f.shape[2:] for f in network.encode(torch.rand(1, 1, 15, 16, 6))] == [(16, 16, 6), (8, 8, 6), (4, 4, 3)]
    from monai.networks import nets

    theirs = nets.DynUNet(3, 1, 3, kernels, strides, strides[1:], filters=[4, 6, 8]).eval()
    network.load_state_dict(network.rename(theirs.state_dict()))
    volume = torch.rand(1, 1, 16, 16, 6)
    torch.testing.assert_close(network(volume), theirs(volume))


@torch.no_grad()
def test_unetr_interpolates_its_positions_for_images_of_other_sizes():
    network = small("unetr", axes=2, image_size=[64, 32]).eval()  # 4 x 2 patches
    learned = network.encoder["vit"].patch_embedding.position_embeddings
    assert learned.shape == (1, 8, 24)
    assert torch.equal(network.positions([4, 2]).flatten(2).transpose(1, 2), learned)
    wide = network.positions([4, 4])
    expected = 0.75 * network.positions([4, 2])[..., 0] + 0.25 * network.positions([4, 2])[..., 1]
    torch.testing.assert_close(wide[..., 1], expected)
    assert network(torch.rand(1, 1, 64, 64)).shape == (1, 3, 64, 64)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "fault"),
    [
        ("vnet", {"width": 0}, "network.width=0"),
        (
            "vnet",
            {"normalization": "layer"},
            "network.normalization=layer: expected one of batch, instance, group, none",
        ),
        ("vnet", {"normalization": "group"}, "network.width=4: expected a multiple of 16"),
        ("vnet", {"dropout": 1.0}, "network.dropout=1.0"),
        ("vnet", {"upsampling": "deconv"}, "network.upsampling=deconv: expected one of transposed, bilinear, nearest"),
        ("dynunet", {"strides": [1, 2]}, r"network.strides=\[1, 2\]: expected a list of length at least 3"),
        ("dynunet", {"strides": [1, 2, [2, 2]]}, "or a list of 3 of them"),
        ("dynunet", {"filters": [8]}, r"network.filters=\[8\].*MONAI cannot build DynUNet of this .*filters"),
        ("dynunet", {"deep_supervision": True}, "network.deep_supervision: DynUNet has no such key, but act_name"),
        ("segresnet", {"init_filters": 6}, "MONAI cannot build SegResNet of this"),
        ("segresnet", {"blocks_up": [1]}, r"network.blocks_up=\[1\]: expected a list of length 2"),
        ("segresnet", {"upsampling": "nearest"}, "network.upsampling=nearest: expected one of bilinear, transposed"),
        ("swin_unetr", {"feature_size": 10}, "feature_size should be divisible by 12"),
        ("unetr", {"image_size": [64, 64]}, r"network.image_size=\[64, 64\]: expected a list of length 3"),
        ("unetr", {"num_heads": 5}, "hidden_size should be divisible by num_heads"),
        ("unetr", {"num_classes": 1}, "network.num_classes=1"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(name, keys, fault):
    classes = keys.pop("num_classes", 3)
    with pytest.raises(UserError, match=fault):
        network_maker(small_network(name) | keys, 1, classes, axes=3)()


# -- short maps in bfloat16 -------------------------------------------------------------------------------------------


def with_dirty_memory() -> None:
    """Leave NaN in memory that is free, so that who reads what nobody has written finds it."""
    for size in (10, 100, 1_000, 5_000, 20_000, 60_000, 100_000, 300_000, 1_000_000):
        torch.full((size,), float("nan"))


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (LAYERS[3].conv(64, 128, 3, padding=1), (2, 3, 2)),
        (LAYERS[3].conv(16, 32, 3, stride=2, padding=1), (2, 2, 1)),
        (LAYERS[3].transposed(16, 32, 3, stride=2, padding=1), (2, 1, 1)),
    ],
    ids=["convolution", "strided", "transposed"],
)
def test_gradients_of_short_maps_in_bfloat16_are_those_of_float32_whatever_the_memory_holds(module, size):
    """oneDNN reads memory that nobody has written where it computes them in bfloat16."""
    keep_freed_memory()
    image = torch.randn(2, module.in_channels, *size, generator=Generator().manual_seed(0))
    found = []
    for enabled in (False, True, True, True):
        with_dirty_memory()
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = module(image)
        with_dirty_memory()
        out.square().sum().backward()
        found.append(module.weight.grad.clone())
    assert all(torch.equal(gradient, found[0]) for gradient in found)


@pytest.mark.parametrize("name", FOR_VOLUMES)
def test_every_convolution_of_a_network_of_volumes_is_safe(name):
    kinds = {type(part) for part in small(name).modules()}
    assert not kinds & {nn.Conv3d, nn.ConvTranspose3d}
