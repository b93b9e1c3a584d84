"""The networks on published encoders: against torchvision's and SMP's own models, and the network contract."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from helpers import SMALL_NETWORKS, small_network
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ssl4seg.errors import UserError
from ssl4seg.networks import smp as ours
from ssl4seg.networks.base import Network
from ssl4seg.networks.batch_norm import BatchNorm2d
from ssl4seg.networks.fcn import FCN
from ssl4seg.networks.resnet50_decoder import ResNet50Decoder
from ssl4seg.networks.torchvision_networks import LRASPP, DeepLabV3
from ssl4seg.networks.vit_dpt import ViTDPT
from ssl4seg.networks.vocsegnet import VOCSegNet
from ssl4seg.run.assemble import network_maker

pytestmark = pytest.mark.slow

NAMES = [name for name in SMALL_NETWORKS if name != "swin_unet" and not name.startswith("gan")] + ["lraspp"]


def small(name: str, channels: int = 3, classes: int = 4) -> Network:
    torch.manual_seed(0)
    return network_maker(small_network(name), channels, classes)()


def trained(model: nn.Module) -> nn.Module:
    """With batch-norm statistics that are not those of a fresh network; in evaluation mode."""
    for name, value in model.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return model.eval()


def num(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- against the libraries' own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "theirs"),
    [
        ("deeplabv3", torchvision.models.segmentation.deeplabv3_mobilenet_v3_large),
        ("lraspp", torchvision.models.segmentation.lraspp_mobilenet_v3_large),
    ],
)
@torch.no_grad()
def test_a_state_dict_of_torchvisions_gives_its_own_logits(network, theirs):
    theirs = trained(theirs(weights=None, weights_backbone=None, num_classes=4))
    mine = small(network).eval()
    assert num(mine) == num(theirs)
    mine.load_state_dict(mine.rename(theirs.state_dict()))
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(mine(image), theirs(image)["out"])


ENCODER, VIT = {"encoder_name": "tu-test_resnet", "encoder_weights": None}, "tu-test_vit"
WIDE = {"encoder_output_stride": 16, "decoder_channels": 16, "decoder_atrous_rates": (6, 12, 18)}
WAYS = (16, 16, 16, 16, 16)
THEIRS = {
    "smp_unet": lambda: smp.Unet(**ENCODER, decoder_channels=WAYS, classes=4),
    "unetplusplus": lambda: smp.UnetPlusPlus(**ENCODER, decoder_channels=WAYS, classes=4),
    "deeplabv3plus": lambda: smp.DeepLabV3Plus(**ENCODER, **WIDE, classes=4),
    "fpn": lambda: smp.FPN(**ENCODER, decoder_pyramid_channels=16, decoder_segmentation_channels=64, classes=4),
    "pspnet": lambda: smp.PSPNet(**ENCODER, psp_out_channels=16, classes=4),
    "segformer": lambda: smp.Segformer(**ENCODER, decoder_segmentation_channels=16, classes=4),
    "upernet": lambda: smp.UPerNet(**ENCODER, decoder_channels=16, classes=4),
}


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_a_state_dict_of_smps_gives_its_own_logits(name):
    theirs, mine = trained(THEIRS[name]()), small(name).eval()
    assert num(mine) == num(theirs)
    mine.load_state_dict(mine.rename(theirs.state_dict()))
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(mine(image), theirs(image))


@torch.no_grad()
def test_dpt_is_smps_without_the_last_norm_and_the_classifier_that_it_does_not_use():
    keys = {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}
    theirs = smp.DPT(VIT, encoder_weights=None, decoder_readout="ignore", dynamic_img_size=True, classes=4, **keys)
    theirs, mine = trained(theirs), small("dpt").eval()
    state = {key: value for key, value in mine.rename(theirs.state_dict()).items() if key in mine.state_dict()}
    left_out = {key for key in theirs.state_dict() if key.startswith(("encoder.model.norm.", "encoder.model.head."))}
    assert len(state) == len(theirs.state_dict()) - len(left_out)
    mine.load_state_dict(state)
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(mine(image), theirs(image))


@torch.no_grad()
def test_scales_that_are_not_used_are_left_out_and_the_rest_is_smps():
    theirs = trained(smp.PSPNet("resnet18", encoder_weights=None, encoder_depth=3, psp_out_channels=16, classes=4))
    mine = ours.PSPNet(in_channels=3, num_classes=4, encoder="resnet18", encoder_depth=3, psp_out_channels=16).eval()
    assert num(mine) == num(theirs) - num(theirs.encoder.layer3) - num(theirs.encoder.layer4)
    mine.load_state_dict({k: v for k, v in mine.rename(theirs.state_dict()).items() if k in mine.state_dict()})
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(mine(image), theirs(image))


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        # 23,508,032 of torchvision's ResNet-50 without its classifier; convolutions with bias, batch norm
        (ResNet50Decoder, {}, 23_508_032 + 2048 * 512 * 9 + 3 * 512 + 512 * 256 * 9 + 3 * 256 + 257 * 21),
        # 14,714,688 of VGG16's convolutions
        (VOCSegNet, {}, 14_714_688 + 512 * 4096 * 9 + 4096 + 4097 * 4096 + 4097 * 21),
        (FCN, {}, 14_714_688 + 512 * 4096 * 49 + 4096 + 4097 * 4096 + (4097 + 513 + 257) * 21),
        (FCN, {"stride": 32}, 14_714_688 + 512 * 4096 * 49 + 4096 + 4097 * 4096 + 4097 * 21),
        (DeepLabV3, {}, 39_638_869),  # torchvision's 42,004,074 with its auxiliary classifier, without 2,365,205
        (LRASPP, {}, 3_221_538),  # torchvision's documentation
        (ViTDPT, {}, 24_721_397),
        # timm's 21,586,944 and the decoder of DINOv2's ViT-S
        (ViTDPT, {"encoder": "vit_small_patch16_dinov3"}, 21_586_944 + 24_721_397 - 22_056_192),
    ],
)
def test_parameters_are_as_many_as_published_or_counted_by_hand(kind, keys, expected):
    with torch.device("meta"):
        assert num(kind(in_channels=3, num_classes=21, **keys)) == expected


# -- the contract of a network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_and_decoder_maps_have_their_channels_finest_first(name):
    network = small(name).eval()
    features = network.encode(torch.rand(2, 3, 64, 96))
    maps = network.pyramid(features)
    assert tuple(f.shape[1] for f in features) == network.feature_channels
    assert tuple(m.shape[1] for m in maps) == network.pyramid_channels
    heights = [[f.shape[2] for f in features], [m.shape[2] for m in maps]]
    assert heights == [sorted(each, reverse=True) for each in heights]
    assert len(set(heights[1])) == len(maps)
    assert all(m.shape[3] * 2 == m.shape[2] * 3 for m in (*features, *maps))
    assert torch.equal(network.head(maps[0]), network.decode(features))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_images_of_any_size_and_channels_get_logits_of_their_size(name):
    for channels, size in ((1, (1, 9)), (1, (32, 32)), (5, (45, 70)), (3, (33, 64))):
        logits = small(name, channels).eval()(torch.rand(2, channels, *size))
        assert (logits.shape, logits.dtype) == ((2, 4, *size), torch.float32)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_one_small_image_is_a_batch_to_train_on_and_every_parameter_learns(name):
    network = small(name, channels=1).train()
    network(torch.rand(1, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_channels_last_is_the_same_function_and_bfloat16_nearly(name):
    # Not narrower: where a strided convolution leaves a map one pixel wide, bfloat16 on some processors with AMX gives
    # NaN for finite input (oneDNN in PyTorch 2.15).
    network, image = small(name).eval(), torch.rand(2, 3, 96, 64)
    expected = network(image)
    turned = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(image)
    assert rounded.dtype == torch.float32
    assert (rounded - expected).norm() < 0.1 * expected.norm() + 0.1


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_its_state_is_all_that_it_is_and_its_noise_is_torchs(name):
    network, image = small(name), torch.rand(2, 3, 32, 32)
    network(image)  # moves the batch norm's statistics
    other = network_maker(small_network(name), 3, 4)()
    other.load_state_dict(network.state_dict())
    drawn = []
    for each in (other, copy.deepcopy(network)):
        torch.manual_seed(1)
        drawn.append(each.train()(image))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_reads_features_alone_and_the_layers_are_the_encoders(name):
    network = small(name).eval()
    with torch.no_grad():
        features = network.encode(torch.rand(1, 3, 32, 32))
        expected = network.decode(features)
    of_layers = [id(p) for layer in network.encoder_layers for p in layer.parameters()]
    assert len(network.encoder_layers) >= 3
    assert len(set(of_layers)) == len(of_layers)
    loose = {id(p) for p in network.encoder.parameters()} - set(of_layers)
    assert len(loose) <= 3, "tokens and positions alone are in no layer"
    network.encoder = nn.Identity()
    with torch.no_grad():
        assert torch.equal(network.decode(features), expected)


@torch.no_grad()
def test_a_layer_comes_before_what_reads_it():
    """A layer's input does not change with the weights of a later one."""
    encoder = {"encoder": "mit_b0", "decoder_segmentation_channels": 8}
    network = ours.Segformer(in_channels=3, num_classes=2, **encoder).eval()
    order: list[nn.Module] = []
    for layer in network.encoder_layers:
        layer.register_forward_pre_hook(lambda module, inputs: order.append(module))
    network(torch.rand(1, 3, 64, 64))
    assert order == network.encoder_layers


@torch.no_grad()
@pytest.mark.parametrize(("size", "inner"), [((65, 33), (64, 32)), ((50, 20), (64, 32)), ((96, 97), (96, 96))])
def test_a_size_that_is_no_multiple_goes_through_resized_to_the_next_but_for_one_pixel_too_many(size, inner):
    network, image = small("smp_unet").eval(), torch.rand(1, 3, *size)
    resized = interpolate(image, inner, mode="bilinear")
    torch.testing.assert_close(network(image), interpolate(network(resized), size, mode="bilinear"))


@pytest.mark.parametrize(("side", "places"), [(321, 20), (513, 32), (801, 50)])
@torch.no_grad()
def test_crops_of_the_literature_lose_a_pixel(side, places):
    network = small("deeplabv3plus").eval()
    assert network.encode(torch.zeros(1, 3, side, side))[-1].shape[2:] == (places, places)


# -- of single networks -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_resnet_decoder_is_two_convolutions_with_upsampling():
    network, image = trained(small("resnet50_decoder")), torch.rand(2, 3, 64, 96)
    resnet = torchvision.models.resnet18()
    resnet.load_state_dict(network.encoder.state_dict(), strict=False)
    body = nn.Sequential(*list(resnet.eval().children())[:-2])
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    (conv_1, norm_1, _), (conv_2, norm_2, _) = network.decoder
    x = up(norm_2(conv_2(up(norm_1(conv_1(body(image))).relu()))).relu())
    logits = interpolate(network.head(x), (64, 96), mode="bilinear")
    torch.testing.assert_close(network(image), logits)


@torch.no_grad()
def test_vocsegnet_is_two_hidden_convolutions_at_a_thirty_second():
    network, image = small("vocsegnet").eval(), torch.rand(2, 3, 64, 96)
    first, _, _, second, _, _ = network.decoder
    x = second(first(network.encoder(image)).relu()).relu()
    assert x.shape == (2, 16, 2, 3)
    torch.testing.assert_close(network(image), interpolate(network.head(x), (64, 96), mode="bilinear"))


def fcn(**keys: object) -> FCN:
    return FCN(in_channels=3, num_classes=4, encoder="vgg11", hidden=8, **keys).eval()


@pytest.mark.parametrize("upsampling", ["bilinear", "transposed"])
@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_fcn_adds_the_scores_of_finer_pools(stride, upsampling):
    network, image = fcn(stride=stride, upsampling=upsampling), torch.rand(1, 3, 64, 96)
    x, pools = image, []
    for layer in network.encoder:
        x = layer(x)
        pools += [x] if isinstance(layer, nn.MaxPool2d) else []
    decoder = network.decoder
    expected = decoder.scores[0](decoder.hidden(pools[4]))
    for score, pool in zip(decoder.scores[1:], pools[3:1:-1], strict=False):
        expected = doubled(expected) + score(pool)
    assert 64 // expected.shape[2] == stride
    found = network.pyramid(network.features(image))[0]
    edge = (
        0 if upsampling == "bilinear" else {32: 0, 16: 1, 8: 3}[stride]
    )  # where the transposed one fades, for want of neighbours
    inner = (..., slice(edge, found.shape[2] - edge), slice(edge, found.shape[3] - edge))
    torch.testing.assert_close(found[inner], expected[inner])
    assert network(image).shape == (1, 4, 64, 96)


def doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear")


@torch.no_grad()
def test_a_transposed_convolution_starts_as_the_bilinear_interpolation_of_each_class():
    network, x = fcn(stride=8, upsampling="transposed"), torch.rand(1, 4, 9, 9)
    found, expected = network.head(x), interpolate(x, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


@torch.no_grad()
def test_vit_dpt_fuses_coarse_to_fine_whatever_the_number_of_patches():
    network = small("vit_dpt").eval()
    features = network.encode(torch.rand(1, 3, 48, 80))  # 3 x 5 patches, odd numbers
    maps = network.pyramid(features)
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 40), (12, 20), (6, 10), (3, 5)]
    decoder, x = network.decoder, features[3]
    for layer in decoder.reassemble[3]:
        x = layer(x)
    fuse = decoder.fuse[3]
    y = fuse.project(interpolate(residual(fuse.of_sum, x), (3, 5), mode="bilinear", align_corners=True))
    torch.testing.assert_close(maps[3], y)
    fuse, x = decoder.fuse[2], decoder.reassemble[2](features[2])
    x = residual(fuse.of_sum, y + residual(fuse.of_scale, x))
    y = fuse.project(interpolate(x, (6, 10), mode="bilinear", align_corners=True))
    torch.testing.assert_close(maps[2], y)


def residual(part: nn.Module, x: Tensor) -> Tensor:
    return x + part.second(part.first(x.relu()).relu())


# -- batch norm of a single value -------------------------------------------------------------------------------------


def test_a_single_value_is_normalised_by_the_running_statistics_which_stay():
    norm = BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 9.0]) - norm.eps)
    x = torch.tensor([5.0, -1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([2.0, -1.0]))
    assert norm.running_mean.tolist() == [1, 2]
    assert norm.num_batches_tracked == 0
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm2d(2)(x)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 2, 1)])
def test_of_several_values_it_is_pytorchs(shape):
    own, usual, x = BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(shape)
    torch.testing.assert_close(own(x), usual(x))
    torch.testing.assert_close(own.running_var, usual.running_var)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "fault"),
    [
        ("resnet50_decoder", {"encoder": "vgg16"}, "network.encoder=vgg16: expected one of resnet101"),
        ("vocsegnet", {"encoder": "vgg12"}, "network.encoder=vgg12: expected one of vgg11"),
        ("vocsegnet", {"hidden": 0}, "network.hidden=0"),
        ("fcn", {"dropout": 1.0}, "network.dropout=1.0"),
        ("fcn", {"stride": 4}, "network.stride=4: expected 32, 16 or 8"),
        ("fcn", {"upsampling": "nearest"}, "network.upsampling=nearest: expected bilinear or transposed"),
        ("deeplabv3", {"encoder": "resnet18"}, "network.encoder=resnet18: expected one of resnet50, resnet101"),
        ("smp_unet", {"encoder": "resnet19"}, "network.encoder=resnet19: there is no such encoder .there are resnet1"),
        ("smp_unet", {"encoder": "tu-nothing"}, "network.encoder=tu-nothing: there is no such encoder"),
        ("smp_unet", {"encoder_depth": 4}, "encoder_depth.*Model depth is 4"),
        ("smp_unet", {"colour": 1}, "network.colour: Unet has no such key, but decoder_attention_type"),
        ("smp_unet", {"upsampling": "transposed"}, "network.upsampling=transposed: expected nearest or bilinear"),
        ("smp_unet", {"num_classes": 1}, "network.num_classes=1"),
        ("unetplusplus", {"encoder": "mit_b0"}, "network.encoder=mit_b0 cannot be used in UnetPlusPlus"),
        ("deeplabv3plus", {"output_stride": 32}, "cannot be used in DeepLabV3Plus.*output stride 8 or 16, got 32"),
        ("deeplabv3plus", {"encoder": "densenet121"}, "do not support dilated mode"),
        ("dpt", {"encoder": "tu-test_resnet"}, "network.encoder=tu-test_resnet cannot be used in DPT"),
        ("vit_dpt", {"encoder": "resnet18"}, "network.encoder=resnet18: is no plain vision transformer"),
        ("vit_dpt", {"encoder": "vit_none"}, "network.encoder=vit_none: timm has no such model"),
        ("vit_dpt", {"reassembled": [8, 8, 8]}, r"network.reassembled=\[8, 8, 8\]"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(name, keys, fault):
    classes = keys.pop("num_classes", 4)
    with pytest.raises(UserError, match=fault):
        network_maker(small_network(name) | keys, 3, classes)()
