"""Encoders that start from weights: files under every library's names, names without a network, and what is refused."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from helpers import PHANTOM, composed, refused, small_network, succeed
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet18, resnet34

from ssl4seg.errors import UserError
from ssl4seg.networks.dinov2_dpt import DINOv2DPT
from ssl4seg.networks.resnet50_decoder import ResNet50Decoder
from ssl4seg.networks.smp import DPT, FPN, PSPNet
from ssl4seg.networks.torchvision_networks import LRASPP
from ssl4seg.networks.vgg import transplant
from ssl4seg.run.assemble import network_maker

pytestmark = pytest.mark.slow

CHANNELS = {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}


def on_resnet18(weights: object, channels: int = 3) -> ResNet50Decoder:
    network = ResNet50Decoder(in_channels=channels, num_classes=2, encoder="resnet18", encoder_weights=str(weights))
    return network.eval()


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A classifier of torchvision's."""
    torch.manual_seed(1)
    return resnet18().state_dict()


@pytest.fixture(scope="module")
def file(published, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(published, path)
    return path


# -- the first layer --------------------------------------------------------------------------------------------------


def test_one_channel_takes_the_sum_of_the_first_layer_over_three(file, published):
    weight = on_resnet18(file, channels=1).encoder.conv1.weight
    red, green, blue = published["conv1.weight"].unbind(dim=1)
    torch.testing.assert_close(weight, (red + green + blue)[:, None])


@torch.no_grad()
def test_a_grey_image_has_the_features_that_it_has_as_rgb(file):
    grey = torch.rand(2, 1, 64, 64)
    as_rgb = on_resnet18(file).features(grey.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(on_resnet18(file, channels=1).features(grey)[0], as_rgb, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("channels", "taken"), [(2, [0, 1]), (5, [0, 1, 2, 0, 1])])
def test_n_channels_take_those_of_rgb_in_turn_and_keep_the_sum_of_a_flat_image(file, published, channels, taken):
    weight = on_resnet18(file, channels).encoder.conv1.weight
    for i, source in enumerate(taken):
        torch.testing.assert_close(weight[:, i], published["conv1.weight"][:, source] * 3 / channels)


# -- files ------------------------------------------------------------------------------------------------------------


def as_whole_network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"encoder.{key}": value for key, value in state.items()} | {"decoder.0.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"backbone.{key}": v for key, v in state.items()} | {"classifier.4.weight": torch.zeros(2)},
        as_whole_network,
        lambda state: {"model_state": {f"_orig_mod.network.{k}": v for k, v in as_whole_network(state).items()}},
        lambda state: {f"net.{key}": value for key, value in state.items()} | {"net.fc.weight": torch.zeros(2)},
        lambda state: {
            "predictor": "student",
            "method": {f"student.{k}": v for k, v in as_whole_network(state).items()},
        },
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},  # of old versions
    ],
    ids=[
        "wrapped",
        "torchvision's segmentation",
        "another network of ours",
        "compiled",
        "net",
        "a run's best.pt",
        "old",
    ],
)
def test_the_encoder_is_found_in_whatever_the_file_holds(content, file, published, tmp_path):
    torch.save(content(published), tmp_path / "weights.pt")
    found, expected = on_resnet18(tmp_path / "weights.pt").encoder, on_resnet18(file).encoder
    assert all(torch.equal(value, published[key]) for key, value in expected.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


def test_a_safetensors_file_and_the_names_of_smp_are_read(tmp_path):
    theirs = smp.encoders.get_encoder("mobilenet_v2", weights=None).state_dict()
    save_file(theirs, tmp_path / "model.safetensors")
    weights = str(tmp_path / "model.safetensors")
    ours = FPN(in_channels=3, num_classes=2, encoder="mobilenet_v2", encoder_weights=weights).encoder.state_dict()
    assert len(ours) > 100
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_classifier_of_timms_under_its_own_names_gives_its_own_features(tmp_path):
    theirs = timm.create_model("test_convnext").eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    weights = str(tmp_path / "timm.pth")
    ours = PSPNet(in_channels=3, num_classes=2, encoder="tu-test_convnext", encoder_weights=weights).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)
        for found in ours.features(image):  # two scales: the others are not there
            torch.testing.assert_close(found, next(x for x in expected if x.shape == found.shape))


@pytest.mark.parametrize("kind", [DPT, DINOv2DPT])
@torch.no_grad()
def test_a_vision_transformer_of_timms_gives_its_own_tokens_at_every_size(kind, tmp_path):
    theirs = timm.create_model("test_vit", dynamic_img_size=True).eval()
    more = {"mask_token": torch.zeros(1, 64)}  # as DINOv2's authors publish them
    torch.save(theirs.state_dict() | more, tmp_path / "vit.pth")
    name, keys = ("tu-test_vit", CHANNELS) if kind is DPT else ("test_vit", {"channels": 8, "reassembled": [8] * 4})
    network = kind(in_channels=3, num_classes=2, encoder=name, encoder_weights=str(tmp_path / "vit.pth"), **keys).eval()
    image = torch.rand(1, 3, 64, 96)
    blocks = network.encoder._output_indices if kind is DPT else [0, 2, 3, 5]
    expected = theirs.forward_intermediates(image, indices=blocks, norm=kind is DINOv2DPT, intermediates_only=True)
    for found, tokens in zip(network.features(image), expected, strict=True):
        torch.testing.assert_close(found, tokens)


@torch.no_grad()
def test_a_transformer_with_rotations_for_positions_as_dinov3_gives_its_own_tokens(tmp_path):
    theirs = timm.create_model("eva02_tiny_patch14_224", dynamic_img_size=True, num_classes=0, global_pool="").eval()
    torch.save(theirs.state_dict(), tmp_path / "eva.pth")
    keys = {"encoder": "eva02_tiny_patch14_224", "encoder_weights": str(tmp_path / "eva.pth"), "channels": 8}
    network = DINOv2DPT(in_channels=3, num_classes=2, reassembled=[8] * 4, **keys).eval()
    image = torch.rand(1, 3, 42, 70)
    expected = theirs.forward_intermediates(image, indices=[2, 5, 8, 11], norm=True, intermediates_only=True)
    for found, tokens in zip(network.features(image), expected, strict=True):
        torch.testing.assert_close(found, tokens)
    assert network(image).shape == (1, 2, 42, 70)


@torch.no_grad()
def test_hidden_layers_of_a_classifier_become_convolutions_that_compute_the_same():
    linear = nn.Sequential(nn.Linear(2 * 49, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 3))
    convolutions = nn.Conv2d(2, 3, 7, padding=3), nn.Conv2d(3, 3, 1)
    transplant({f"classifier.{key}": value for key, value in linear.state_dict().items()}, *convolutions)
    image = torch.rand(4, 2, 7, 7)
    found = convolutions[1](convolutions[0](image).relu())[:, :, 3, 3]
    torch.testing.assert_close(found, linear.eval()(image.flatten(1)))


def test_weights_that_are_not_numbers_are_no_hidden_layers():
    first, second = nn.Conv2d(2, 3, 7), nn.Conv2d(3, 3, 1)
    transplant(
        {"classifier.0.weight": torch.full((3, 98), torch.nan), "classifier.0.bias": torch.zeros(3)}, first, second
    )
    assert first.weight.isfinite().all()


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet", "IMAGENET1K_V1"])
def test_a_name_of_torchvisions_is_taken_from_its_cache(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = mobilenet_v3_large().state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(theirs, tmp_path / "hub/checkpoints/mobilenet_v3_large-8738ca79.pth")
    ours = LRASPP(in_channels=3, num_classes=2, encoder_weights=name).encoder.state_dict()
    assert len(ours) > 200
    assert all(torch.equal(value, theirs[f"features.{key}"]) for key, value in ours.items())


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_name_of_smps_is_taken_from_its_cache_and_changes_nothing_but_the_encoder(hub):
    theirs = smp.encoders.get_encoder("mobilenet_v2", weights=None).state_dict()
    settings = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
    folder = hub / f"models--{settings['repo_id'].replace('/', '--')}" / "snapshots" / settings["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(theirs, folder / "model.safetensors")

    def network(weights: str | None) -> FPN:
        torch.manual_seed(0)
        return FPN(in_channels=3, num_classes=2, encoder="mobilenet_v2", encoder_weights=weights)

    ours, anew = network("imagenet"), network(None)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.encoder.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(ours.decoder.parameters(), anew.decoder.parameters(), strict=True))


@pytest.mark.parametrize(
    ("network", "keys"),
    [
        ("lraspp", {}),
        ("smp_unet", {"encoder": "resnet18"}),
        ("fpn", {"encoder": "tu-resnet18"}),
        ("dinov2_dpt", {"encoder_weights": "lvd142m", "encoder": "vit_small_patch14_dinov2"}),
    ],
)
def test_a_download_that_fails_says_so_and_names_the_file_option(network, keys, hub, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(hub))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # where nobody listens
    config = {"network": small_network(network) | {"encoder_weights": "imagenet"} | keys}
    with pytest.raises(UserError, match=r"could not be fetched .*network\.encoder_weights=FILE") as caught:
        network_maker(config["network"], 3, 2)()
    assert str(caught.value).startswith("network.encoder_weights=")


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda state: resnet34().state_dict(), r"it has layer1\.2\.conv1\.weight too.*more"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("layer4.1")}, r"it lacks layer4\.1\.conv1"),
        (lambda state: {"conv.weight": torch.ones(2)}, r"it has conv\.weight, .*1 keys\); expected conv1\.weight, bn1"),
        (lambda state: state | {"bn1.weight": torch.ones(7)}, r"bn1\.weight is \(7,\), expected \(64,\)"),
        (
            lambda state: state | {"conv1.weight": torch.ones(64, 1, 7, 7)},
            r"conv1\.weight is \(64, 1, 7, 7\), expected",
        ),
    ],
)
def test_weights_of_another_encoder_are_refused_with_what_differs(content, fault, published, tmp_path):
    torch.save(content(published), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=f"network.encoder=resnet18.*{fault}"):
        on_resnet18(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ("missing.pth", r"network\.encoder_weights=missing\.pth: there is no such file"),
        ("folder/missing", r"network\.encoder_weights=folder/missing: there is no such file"),
        ("imagnet", "network.encoder_weights=imagnet: expected imagenet, IMAGENET1K_V1"),
    ],
)
def test_weights_that_are_not_there_are_refused(weights, fault):
    with pytest.raises(UserError, match=fault):
        on_resnet18(weights)


def test_an_unknown_name_of_an_smp_encoder_is_refused_with_those_that_it_has():
    with pytest.raises(UserError, match=r"imagenet22k: expected imagenet, ssl, swsl for resnet18"):
        PSPNet(in_channels=3, num_classes=2, encoder="resnet18", encoder_weights="imagenet22k")


@pytest.mark.parametrize("name", ["damaged.safetensors", "damaged.pth"])
def test_a_damaged_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=f"{name}: is no|{name}: is not a checkpoint"):
        on_resnet18(tmp_path / name)


# -- where all weights come from elsewhere ----------------------------------------------------------------------------


def test_weights_of_the_whole_network_make_those_of_the_encoder_needless(tmp_path):
    config = {"network": small_network("dinov2_dpt") | {"encoder_weights": "gone.pth"}}
    network_maker(config["network"], 1, 4, load=False)()
    network = network_maker(small_network("dinov2_dpt"), 1, 4)()
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    config["network"]["weights"] = str(tmp_path / "whole.pt")
    found = network_maker(config["network"], 1, 4)()
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), network.parameters(), strict=True))
    config["network"]["weights"] = None
    with pytest.raises(UserError, match=r"gone\.pth"):
        network_maker(config["network"], 1, 4)()


def test_a_run_starts_from_a_file_and_is_evaluated_without_it(tmp_path):
    torch.save(mobilenet_v3_large().state_dict(), tmp_path / "imagenet.pth")
    machine = [word for word in PHANTOM if not word.startswith("network.")]
    arguments = (*machine, "network=lraspp", "network.encoder_weights=imagenet.pth", "method=cct", "labeled_ratio=0.5")
    succeed("train", *arguments, cwd=tmp_path)
    (tmp_path / "imagenet.pth").unlink()
    run = tmp_path / "outputs/phantom/cct/lraspp-0.5-s0"
    assert "imagenet.pth" in (run / "config.yaml").read_text()
    succeed("eval", f"run={run}", "device=cpu", "num_threads=1", cwd=tmp_path)
    assert "imagenet.pth: there is no such file" in refused("train", *arguments, "tag=again", cwd=tmp_path)


def test_nothing_is_downloaded_unless_asked_for():
    for name in ("resnet50_decoder", "fcn", "deeplabv3plus", "segformer", "dinov2_dpt"):
        assert composed(f"network={name}")["network"]["encoder_weights"] is None
