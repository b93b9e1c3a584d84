"""Networks of a method's own, such as an expert: their weights, and when these are read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import composed

from ssl4seg.errors import UserError
from ssl4seg.methods.base import Method
from ssl4seg.networks.unet import UNet
from ssl4seg.run.assemble import method_of, network_maker

UNET = "{_target_: ssl4seg.networks.unet.UNet, _partial_: true, channels: [4, 8], dropout: [0, 0], weights: WEIGHTS}"
DINO = (
    "{_target_: ssl4seg.networks.vit_dpt.ViTDPT, _partial_: true, encoder: test_vit, encoder_weights: WEIGHTS, "
    "channels: 8, reassembled: [8, 8, 8, 8]}"
)


def expert_with(keys: str, weights: Path, *, load: bool = True) -> Method:
    config: dict[str, Any] = composed("method=expert", f"method.expert={keys.replace('WEIGHTS', str(weights))}")
    config["network"] |= {"channels": [4, 8], "dropout": [0.0, 0.0]}
    return method_of(config["method"], network_maker(config["network"], 1, 3), load=load)


@pytest.fixture
def unet(tmp_path: Path) -> tuple[UNet, Path]:
    network = UNet(in_channels=1, num_classes=3, channels=(4, 8), dropout=(0, 0))
    network.standardize([0.3], [0.2])
    torch.save(network.state_dict(), tmp_path / "unet.pt")
    return network, tmp_path / "unet.pt"


def test_an_expert_starts_from_the_weights_that_its_keys_name(unet):
    network, file = unet
    expert = expert_with(UNET, file).expert
    for name, value in network.state_dict().items():
        assert torch.equal(expert.network.state_dict()[name], value), name


@pytest.mark.parametrize("keys", [UNET, DINO])
def test_a_run_that_brings_its_weights_needs_no_other_file(keys, tmp_path):
    method = expert_with(keys, tmp_path / "gone.pt", load=False)
    assert any(name.startswith("expert.") for name in method.state_dict())


def test_a_checkpoint_brings_the_numbers_of_the_experts_file_too(unet):
    trained = expert_with(UNET, unet[1])
    loaded = expert_with(UNET, unet[1], load=False)
    loaded.load_state_dict(trained.state_dict())
    assert (loaded.expert.network.mean.item(), loaded.expert.network.std.item()) == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (UNET, r"method\.expert\.weights=.*gone\.pt: there is no such file"),
        (DINO, r"method\.expert\.encoder_weights=.*gone\.pt: there is no such file"),
        (DINO.replace("test_vit", "resnet18"), r"method\.expert\.encoder=resnet18: is no plain vision transformer"),
        (
            UNET.replace("channels", "chanels").replace("WEIGHTS", "null"),
            r"chanels: .* did you mean method\.expert\.channels",
        ),
    ],
)
def test_a_mistake_is_told_with_the_experts_own_keys(keys, message, tmp_path):
    with pytest.raises(UserError, match=message):
        expert_with(keys, tmp_path / "gone.pt")


def test_a_file_of_another_network_is_refused(unet):
    with pytest.raises(UserError, match=r"unet\.pt"):
        expert_with(UNET.replace("[4, 8]", "[4, 6]"), unet[1])
