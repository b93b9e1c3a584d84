"""Which weights of an encoder move, when, and how far."""

import math
from typing import Any

import pytest
import torch
from helpers import NAMES, PHANTOM, composed, differing, engine_in, go, load, refused, small_method, small_network
from torch import Tensor, nn

from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.errors import UserError
from ssl4seg.methods.supervised import Supervised
from ssl4seg.networks.base import Network
from ssl4seg.networks.unet import UNet
from ssl4seg.run.assemble import method_of, network_maker, optimizers_of
from ssl4seg.run.engine import Engine
from ssl4seg.run.training import Training
from ssl4seg.run.transfer import Transfer

KEYS = (*PHANTOM, "network.channels=[4,8,8]", "network.dropout=[0.1,0.1,0.1]", "labeled_ratio=0.5")
PLAIN = ("network.dropout=[0,0,0]", "schedule=constant", "optimizer.lr=0.1", "optimizer.momentum=0")
SHARES = {"freeze_encoder": 0, "encoder_lr_scale": 0.5, "layer_decay": 0.1}


def engine_of(*overrides: str) -> Engine:
    return Training(composed(*KEYS, *overrides), NAMES, None).engine()


def moved(engine: Engine) -> set[str]:
    """Names of the parameters and buffers that the next step changes."""
    before = {name: value.clone() for name, value in engine.method.state_dict().items()}
    engine.train_step()
    engine.step += 1
    return {name for name, value in engine.method.state_dict().items() if not torch.equal(value, before[name])}


def learning(method: nn.Module) -> dict[str, Network]:
    """The networks of a method that an optimiser moves, by name."""
    networks = {name: m for name, m in method.named_modules() if isinstance(m, Network)}
    return {name: network for name, network in networks.items() if next(network.head.parameters()).requires_grad}


def test_an_encoder_holds_still_for_its_steps_and_then_moves_like_the_rest():
    engine = engine_of("transfer.freeze_encoder=2", "optimizer.weight_decay=0.1")
    encoder = {name for name in engine.method.state_dict() if name.startswith("student.encoder.")}
    assert len(encoder) == 3 * 2 * 7  # convolution and batch norm, twice for each of three scales
    everything = set(engine.method.state_dict())
    for _ in range(2):
        assert moved(engine) == everything - encoder
        parameters = set(engine.method.student.encoder.parameters())
        assert not parameters & set(engine.optimizers["segmenter"].state)
    assert moved(engine) == everything
    assert parameters <= set(engine.optimizers["segmenter"].state)


@pytest.mark.parametrize("method", ["mean_teacher", "fixmatch_cta", "u2pl", "cps", "ctct", "dan", "mc_net", "abd"])
def test_the_encoders_of_every_network_that_learns_wait_and_their_teachers_follow(method):
    engine = engine_of(f"method={method}", "transfer.freeze_encoder=1")
    encoders = tuple(f"{name}.encoder." for name in learning(engine.method))
    teachers = tuple(
        f"{name}.encoder."
        for name, m in engine.method.named_modules()
        if isinstance(m, Network) and f"{name}.encoder." not in encoders
    )
    first, second = moved(engine), moved(engine)
    assert not [name for name in first if name.startswith((*encoders, *teachers))]
    for name, network in learning(engine.method).items():
        rest = (f"{name}.decoder.", f"{name}.head.")
        assert [n for n in first if n.startswith(rest)]
        assert {f"{name}.encoder.{n}" for n, _ in network.encoder.named_parameters()} <= second
    if method == "dan":
        assert [name for name in first if name.startswith("discriminator.")]
    if teachers:
        assert [name for name in second if name.startswith(teachers)]


def test_a_stage_begins_frozen_as_its_schedule_begins_afresh():
    engine = engine_of("method=st_plus_plus", "method.reinitialize=false", "iterations=9", "transfer.freeze_encoder=1")
    weight = "student.encoder.0.0.weight"
    assert [step for step in range(9) if weight not in moved(engine)] == [0, 3, 6]


@pytest.mark.parametrize(
    ("given", "overrides", "steps"),
    [
        ("1 epoch", (), 15),  # two of the four patients have 30 slices, and a step has two
        ("0.5 epochs", ("batch_size=3",), 5),
        ("2epochs", ("batch_size=4", "engine.accumulate=2"), 8),  # 7.5, rounded up
        ("7", (), 7),
    ],
)
def test_epochs_are_of_the_labelled_images(given, overrides, steps):
    training = Training(composed(*KEYS, f"transfer.freeze_encoder={given}", *overrides), NAMES, None)
    assert training.split.num_labeled_images == 30
    assert training.transfer.frozen_steps == steps


def by_hand(*overrides: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before the first step, and the gradient there."""
    training = Training(composed(*KEYS, *PLAIN, *overrides), NAMES, None)
    method = training.method.to(memory_format=torch.channels_last).train()
    loss = method("segmenter", training.batches(0), None)["supervised"]
    weights = dict(method.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: p.detach() for name, p in weights.items()}, dict(zip(weights, gradients, strict=True))


def test_a_step_is_plain_sgd_with_each_layers_share_of_the_learning_rate():
    overrides = ("optimizer.weight_decay=0",)
    weights, gradients = by_hand(*overrides)
    engine = engine_of(*PLAIN, *overrides, *(f"transfer.{key}={value}" for key, value in SHARES.items()))
    engine.train_step()
    rates = {"encoder.0": 0.1 * 0.5 * 0.01, "encoder.1": 0.1 * 0.5 * 0.1, "encoder.2": 0.1 * 0.5}
    for name, p in engine.method.named_parameters():
        rate = rates.get(".".join(name.split(".")[1:3]), 0.1)
        torch.testing.assert_close(p.detach(), weights[name] - rate * gradients[name], rtol=1e-5, atol=1e-8)
    lr = [group["lr"] for group in engine.optimizers["segmenter"].param_groups]
    assert lr == pytest.approx([0.1, 0.0005, 0.005, 0.05])


def test_frozen_batch_norm_keeps_its_statistics_its_scale_and_its_shift():
    engine = engine_of("transfer.frozen_batchnorm=true")
    norms = {
        f"student.encoder.{name}.{key}"
        for name, m in engine.method.student.encoder.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for key in m.state_dict()
    }
    assert len(norms) == 3 * 2 * 5
    for _ in range(2):
        assert moved(engine) == set(engine.method.state_dict()) - norms
    optimised = {p for group in engine.optimizers["segmenter"].param_groups for p in group["params"]}
    assert not optimised & {p for name, p in engine.method.named_parameters() if name in norms}


@pytest.mark.parametrize("method", ["fixmatch_cta", "u2pl", "mean_teacher"])
def test_batch_norm_stays_frozen_whatever_mode_a_method_puts_its_networks_in(method):
    engine = engine_of(f"method={method}", "transfer.frozen_batchnorm=true")
    found = moved(engine) | moved(engine)
    assert "student.encoder.0.0.weight" in found
    assert not [name for name in found if ".encoder." in name and "running" in name]


def unimatch_v2() -> tuple[Any, dict[str, torch.optim.Optimizer]]:
    recipe = ("optimizer=adamw", "optimizer.lr=2e-4", "transfer.encoder_lr_scale=0.025")
    config = composed("method=unimatch_v2", *recipe)
    method = method_of(config["method"], network_maker(config["network"], 1, 4))
    return method, optimizers_of(
        config["optimizer"], config["method"].get("optimizers", {}), method, Transfer(method, **config["transfer"])
    )


def test_the_recipe_of_unimatch_v2_can_be_said():
    method, optimizers = unimatch_v2()
    rest, encoder = optimizers["segmenter"].param_groups
    assert (rest["lr"], encoder["lr"]) == pytest.approx((2e-4, 5e-6), rel=1e-12)
    assert set(encoder["params"]) == set(method.student.encoder.parameters())
    assert len(rest["params"]) + len(encoder["params"]) == len(list(method.student.parameters()))


class Positions(UNet):
    """Its encoder has a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, num_classes=2, channels=(4, 8, 8), dropout=(0, 0, 0))
        self.encoder.register_parameter("positions", nn.Parameter(torch.zeros(3)))


def test_what_belongs_to_no_layer_moves_like_the_first():
    method = Supervised(network=Positions)
    groups = Transfer(method, layer_decay=0.5).groups(method.parameters())
    assert [(scale, len(group)) for scale, group in groups.items()] == [(1.0, 8 + 2 * 10 + 2), (0.25, 9), (0.5, 8)]
    assert any(p is method.student.encoder.positions for p in groups[0.25])


@pytest.mark.parametrize("name", choices("network", [conf_dir()]))
@pytest.mark.parametrize("method", ["cct", "mc_net"])
def test_more_decoders_have_no_encoder_that_would_wait(method, name):
    try:
        built = method_of(composed(*small_method(method))["method"], network_maker(small_network(name), 3, 4))
    except UserError as error:
        refusal = str(error)
    else:
        waiting = Transfer(built, freeze_encoder=1, layer_decay=0.5).scales
        assert {*waiting} == {p for p in built.student.encoder.parameters() if p.requires_grad}
        return
    assert refusal.startswith("network=")  # it has no decoder of that kind


def test_nothing_is_changed_by_default():
    method = method_of(composed(*KEYS)["method"], network_maker(composed(*KEYS)["network"], 1, 4))
    transfer = Transfer(method)
    assert list(transfer.groups(method.parameters())) == [1.0]
    assert str(transfer) == ""


@pytest.mark.parametrize("method", ["mean_teacher", "dan"])
def test_a_run_stopped_while_frozen_ends_as_if_it_had_not_been(method, tmp_path):
    config = composed(*KEYS, *small_method(method), "iterations=6", "transfer.freeze_encoder=3", "optimizer=adamw")
    go(engine_in(tmp_path / "unbroken", config), 6)
    for stop in (1, 3, 4, 6):  # frozen, at the border, thawed
        go(engine_in(tmp_path / "broken", config), stop)
    assert not differing(*(load(tmp_path / run / "last.pt") for run in ("unbroken", "broken")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("freeze_encoder", value) for value in (-1, 2.5, True, None, "two epochs", "-1 epochs")),
        *(("encoder_lr_scale", value) for value in (0, -1.0, math.nan, math.inf, None, True)),
        *(("layer_decay", value) for value in (0, 1.5, "0.5", True)),
        *(("frozen_batchnorm", value) for value in (1, None)),
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(UserError, match=rf"^transfer\.{key}={value}: expected "):
        Transfer(Supervised(network=Positions), **{key: value})


def test_what_is_probably_not_meant_is_told():
    def told(*, iterations: int, pretrained: bool, stages: tuple[float, ...] = (), **keys: Any) -> str:
        method = Supervised(network=Positions)
        method.stages = stages
        return "\n".join(Transfer(method, **keys).doubts(method, iterations, pretrained=pretrained))

    whole = "warning: the encoder never moves: it is frozen for 6 steps, and"
    assert told(iterations=6, pretrained=True, freeze_encoder=6) == f"{whole} the run has 6"
    assert told(iterations=7, pretrained=True, freeze_encoder=6) == ""
    assert told(iterations=12, pretrained=True, freeze_encoder=6, stages=(0.5,)).startswith(f"{whole} a stage has 6")
    assert told(iterations=12, pretrained=True, freeze_encoder=6, stages=(0.3,)) == ""
    assert told(iterations=7, pretrained=False, freeze_encoder=6).startswith(
        "warning: the encoder is frozen with random"
    )
    assert told(iterations=7, pretrained=False, frozen_batchnorm=True) == ""


def test_a_run_tells_that_its_encoder_never_moves(caplog):
    caplog.set_level("WARNING")
    Training(composed(*KEYS, "transfer.freeze_encoder=100"), NAMES, None)
    told = [record.message for record in caplog.records]
    assert any("frozen for 100 steps, and the run has 4" in line for line in told)
    assert any("with random weights: give weights to start from" in line for line in told)


def test_the_command_names_a_wrong_value(tmp_path):
    assert "error: transfer.layer_decay=2:" in refused("train", *KEYS, "transfer.layer_decay=2", cwd=tmp_path)
