"""Every method in conf/method keeps the contract with the U-Net, and steps and predicts with every other network.

A new file in conf/method or conf/network is tested by itself.
"""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import composed, small_method, small_network
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import Parameter

from ssl4seg import checkpoint
from ssl4seg.commands.conf import choices, conf_dir
from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.base import Method
from ssl4seg.methods.bcp import BCP
from ssl4seg.methods.parts.teacher import EMATeacher
from ssl4seg.networks.base import FOR_VOLUMES, Network
from ssl4seg.run.assemble import build, forward_of, method_of, network_maker, optimizers_of
from ssl4seg.run.engine import Engine, Plan
from ssl4seg.run.transfer import Transfer
from ssl4seg.types import Batch, Losses, Progress

pytestmark = pytest.mark.slow

SIDE, NUM_LABELED, NUM_UNLABELED = 32, 2, 3
HALFWAY = Progress(5, 10)

# -- which methods meet which networks --------------------------------------------------------------------------------

METHODS = """
supervised
mean_teacher uamt ict cutmix_seg classmix augseg u2pl ad_mt expert
fixmatch fixmatch_cta unimatch unimatch_v2 prevmatch corrmatch crossmatch
cps ctct deep_co_training gct abd beta_fft tracoco
urpc cct mc_net dtc r_drop
pseudo_label confidence_weighted st_plus_plus bcp sdcl
dan gan adv_semi_seg
entropy_minimization s4l
"""
NETWORKS = """
unet vnet swin_unet gan_generator_deconv gan_generator_strided
resnet50_decoder vocsegnet fcn deeplabv3 lraspp
smp_unet unetplusplus deeplabv3plus fpn pspnet segformer upernet dpt
dynunet segresnet swin_unetr unetr
vit_dpt
"""
ENOUGH = 4


def families(lines: str, names: Iterable[str]) -> dict[str, str]:
    """The family of each name, a line each; a name that stands in none of them is a family of its own."""
    known = {name: line for line in lines.splitlines() for name in line.split()}
    return {name: known.get(name, name) for name in names}


def covering(methods: Mapping[str, str], networks: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs in which each method meets networks of `ENOUGH` families, and each network methods of as many.

    Every pair is looked at, along one diagonal after the other, and taken if either meets a family that it still lacks.
    """
    met: dict[str, set[str]] = {name: set() for name in (*methods, *networks)}
    pairs = []
    for shift in range(len(networks)):
        for index, method in enumerate(methods):
            network = list(networks)[(index + shift) % len(networks)]
            meetings = ((met[method], networks[network]), (met[network], methods[method]))
            if any(len(before) < ENOUGH and family not in before for before, family in meetings):
                pairs.append((method, network))
                for before, family in meetings:
                    before.add(family)
    return pairs


def pairs(folders: Sequence[Path]) -> list[tuple[str, str]]:
    names = (choices(group, folders) for group in ("method", "network"))
    return covering(*(families(*each) for each in zip((METHODS, NETWORKS), names, strict=True)))


@pytest.mark.parametrize("more", [[], ["added"], ["added", "another"]])
def test_every_method_meets_four_families_of_networks_and_every_network_four_of_methods(more: list[str]) -> None:
    methods = families(METHODS, [*choices("method", [conf_dir()]), *more])
    networks = families(NETWORKS, [*choices("network", [conf_dir()]), *(f"{name}_net" for name in more)])
    chosen = covering(methods, networks)
    assert len(set(chosen)) == len(chosen) < len(methods) * len(networks) / 3
    for name in methods:
        assert len({networks[network] for method, network in chosen if method == name}) >= ENOUGH, name
    for name in networks:
        assert len({methods[method] for method, network in chosen if network == name}) >= ENOUGH, name


def test_the_families_name_methods_and_networks_that_there_are() -> None:
    for lines, group in ((METHODS, "method"), (NETWORKS, "network")):
        assert not set(lines.split()) - set(choices(group, [conf_dir()]))


# -- what a method does -----------------------------------------------------------------------------------------------


@pytest.fixture(params=choices("method", [conf_dir()]))
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return composed(*small_method(request.param)) | {"network": small_network("unet")}


def assembled(config: dict[str, Any], channels: int = 1, classes: int = 4, axes: int = 2) -> Method:
    torch.manual_seed(0)
    return method_of(config["method"], network_maker(config["network"], channels, classes, axes=axes)).train()


def batch_for(method: Method, channels: int = 1, classes: int = 4, shape: tuple[int, ...] = (SIDE, SIDE)) -> Batch:
    """Random images; a fifth of the labels is ignored."""
    label = torch.randint(classes, (NUM_LABELED, *shape))
    label[torch.rand(label.shape) < 0.2] = IGNORE
    unlabeled = torch.rand(NUM_UNLABELED if method.needs_unlabeled else 0, channels, *shape)
    strong = tuple(torch.rand_like(unlabeled) for _ in range(method.strong_views))
    return Batch(torch.rand(NUM_LABELED, channels, *shape), label, unlabeled, strong)


def steps(method: Method, batch: Batch) -> Iterator[tuple[str, Losses]]:
    """The losses of each phase, their gradients taken."""
    for phase in method.phases:
        method.zero_grad()
        losses = method(phase, batch, HALFWAY)
        torch.stack(list(losses.values())).sum().backward()
        yield phase, losses


def checked(method: Method, batch: Batch) -> Iterator[str]:
    """The phases, each with finite scalar terms, and a finite gradient in every parameter that its optimiser moves.

    None may be left out: a distributed run of one phase waits for all of them.
    """
    for phase, losses in steps(method, batch):
        assert losses
        for name, value in losses.items():
            assert value.shape == (), name
            assert value.dtype == torch.float32, name
            assert value.isfinite(), name
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters_of(phase)), phase
        yield phase


def check_step(method: Method, batch: Batch) -> None:
    assert [*checked(method, batch)]


@torch.no_grad()
def predicted(method: Method, image: Tensor) -> Tensor:
    return method.eval().predict(image)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 21)])
def test_forward_gives_finite_scalars_and_every_parameter_its_gradient(config, channels, classes):
    method = assembled(config, channels, classes)
    for phase in checked(method, batch_for(method, channels, classes)):
        assert any(p.grad.abs().sum() > 0 for p in method.parameters_of(phase)), phase


def test_volumes_are_stepped_on_predicted_and_pseudo_labelled(config):
    if "SwinUNet" in str(config["method"]):
        with pytest.raises(
            UserError, match=r"method\.transformer: SwinUNet takes images of 2 axes, but dataset\.image_size has 3"
        ):
            assembled(config, axes=3)
        return
    method = assembled(config, axes=3)
    batch = batch_for(method, shape=(16, 20, 16))
    check_step(method, batch)
    assert predicted(method, batch.image).shape == (NUM_LABELED, 4, 16, 20, 16)
    with torch.no_grad():
        found = method.pseudo_labels(batch.unlabeled, HALFWAY)
    assert found is None or found.probability.shape[2:] == found.used.shape[1:] == (16, 20, 16)


def parts_of(method: Method) -> dict[str, Iterable[Parameter]]:
    """The parts of the networks that are trained, and the method's own heads."""
    moved = {id(p) for phase in method.phases for p in method.parameters_of(phase)}
    parts = {}
    for name, module in method.named_children():
        within = module.named_children() if isinstance(module, Network) else [("", module)]
        parts |= {f"{name}.{part}": [p for p in each.parameters() if id(p) in moved] for part, each in within}
    return {name: parameters for name, parameters in parts.items() if parameters}


@pytest.mark.parametrize("network", [name for name in FOR_VOLUMES if name not in ("unet", "swin_unetr")])
@pytest.mark.parametrize(
    "words",
    [("cct", "method.perturbations=[dropout]"), ("unimatch", "method.threshold=0.1"), ("dtc",)],
    ids=lambda words: words[0],
)
def test_volumes_teach_every_part_of_the_other_networks_for_them(words, network):
    """By way of features (unimatch), of decoders of its own (cct) and of a head on the decoder's finest map (dtc).

    Swin UNETR takes seconds a step, at 64 x 32 x 32 as the smallest; test_axes.py sees a gradient in each of its parts.
    """
    name, *keys = words
    method = assembled(composed(*small_method(name), *keys) | {"network": small_network(network)}, axes=3)
    parts = parts_of(method)
    assert len(parts) >= 3
    batch = batch_for(method, shape=(16, 16, 12))
    two = Batch(*(t[:2] for t in batch[:3]), tuple(view[:2] for view in batch.strong))
    for _ in checked(method, two):
        for part, parameters in parts.items():
            assert any(p.grad.abs().sum() > 0 for p in parameters), part


@pytest.mark.parametrize(("name", "network"), pairs([conf_dir()]))
def test_a_method_steps_and_predicts_with_networks_of_every_family_or_says_what_it_lacks(name, network):
    config = composed(*small_method(name))
    config |= {"network": small_network(network)}
    try:
        method = assembled(config)
    except UserError as error:
        refusal = str(error)
    else:
        batch = batch_for(method)
        check_step(method, batch)
        assert predicted(method, batch.image).shape == (NUM_LABELED, 4, SIDE, SIDE)
        optimizers = optimizers_of(
            config["optimizer"], config["method"].get("optimizers", {}), method, Transfer(method)
        )
        assert optimizers.keys() == set(method.phases)
        return
    assert refusal.startswith("network=")


def test_a_batch_of_one_is_enough(config):
    method = assembled(config)
    batch = batch_for(method)
    check_step(method, Batch(*(t[:1] for t in batch[:3]), tuple(view[:1] for view in batch.strong)))


def test_pseudo_labels_are_probabilities_of_every_image_and_change_nothing(config):
    method = assembled(config)
    image = torch.rand(NUM_UNLABELED, 1, SIDE, SIDE)
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        found = method.eval().pseudo_labels(image, HALFWAY)
    if found is not None:
        assert found.probability.shape == (NUM_UNLABELED, 4, SIDE, SIDE)
        torch.testing.assert_close(found.probability.sum(dim=1), torch.ones(image[:, 0].shape))
        assert (found.used.shape, found.used.dtype) == (image[:, 0].shape, torch.bool)
    assert same(method.state_dict(), before)


def test_nothing_labelled_is_finite(config):
    method = assembled(config)
    batch = batch_for(method)
    check_step(method, batch._replace(label=torch.full_like(batch.label, IGNORE)))


def test_autocast_to_bfloat16_keeps_losses_in_float32(config):
    method = assembled(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_step(method, batch_for(method))


def test_a_step_leaves_its_batch_as_it_was(config):
    method = assembled(config)
    batch = batch_for(method)
    before = copy.deepcopy(batch)
    list(steps(method, batch))
    for now, then in zip((*batch[:3], *batch.strong), (*before[:3], *before.strong), strict=True):
        assert torch.equal(now, then)


def test_the_same_seed_gives_the_same_losses(config):
    def drawn() -> list[float]:
        method = assembled(config)
        return [value.item() for _, losses in steps(method, batch_for(method)) for value in losses.values()]

    assert drawn() == drawn()


def test_the_loss_of_labelled_pixels_is_the_runs_choice(config):
    method = assembled(config)
    method.supervised = lambda logits, label: 0 * logits.sum()
    found = {name: value.item() for _, losses in steps(method, batch_for(method)) for name, value in losses.items()}
    chosen = {name: value for name, value in found.items() if name.endswith("supervised")}
    assert chosen
    assert set(chosen.values()) == {0}


def test_apart_the_unlabelled_images_do_not_touch_the_supervised_loss_and_together_they_do(config):
    """Through the batch norm's statistics; bcp, sdcl and beta_fft mix labelled and unlabelled images."""
    scales = {"channels": [4, 8, 8], "dropout": [0.1] * 3}
    method = assembled(config | {"network": config["network"] | scales})
    if not method.needs_unlabeled or isinstance(method, BCP):
        return
    batch, other = batch_for(method), batch_for(method)

    def supervised(batch: Batch) -> float:
        torch.manual_seed(0)
        return copy.deepcopy(method)("segmenter", batch, HALFWAY)["supervised"].item()

    for way in method.ways:
        method.passes = way
        same_loss = supervised(batch) == supervised(batch._replace(unlabeled=other.unlabeled, strong=other.strong))
        assert same_loss == (way == "apart"), way


def test_every_teacher_has_the_authors_decay_in_a_long_run_and_follows_sooner_in_a_short_one(config):
    published = {"UniMatchV2": 0.996, "AugSeg": 0.999}
    if "ema_decay" in config["method"]:
        method = assembled(config | {"method": config["method"] | {"ema_decay": "auto"}})
        teachers = [module for module in method.modules() if isinstance(module, EMATeacher)]
        found = {(teacher.decay_of(500), teacher.decay_of(30000)) for teacher in teachers}
        assert found == {(0.95, published.get(type(method).__name__, 0.99))}


def test_the_key_to_turn_in_a_collapse_is_one_of_the_methods_and_another_after_it_is_turned(config):
    """In a short run it is the decay of a teacher that follows too slowly."""
    slow = {key: 0.9995 for key in config["method"] if key == "ema_decay"}
    config = config | {"method": config["method"] | slow}
    method = assembled(config)
    short = method.remedy(500)
    remedies = (short, method.remedy(100_000))
    assert all(map(bool, remedies)) == method.needs_unlabeled
    words = OmegaConf.create({"method": config["method"]})
    for word in [word for remedy in remedies for word in remedy.split()]:
        key, _, value = word.partition("=")
        assert OmegaConf.select(words, key, default="no such key") not in ("no such key", yaml.safe_load(value))
    if slow and not {"pretrain", "labels_only"} & {*words.method}:
        assert short == "method.ema_decay=auto"
    turned = OmegaConf.merge(words, OmegaConf.from_dotlist(short.split()))
    method = assembled(config | {"method": OmegaConf.to_container(turned.method)})
    assert method.remedy(500) != short or not method.needs_unlabeled


def test_after_step_moves_nothing_that_an_optimiser_moves(config):
    method = assembled(config)
    list(steps(method, batch_for(method)))
    optimised = {id(p) for phase in method.phases for p in method.parameters_of(phase)}
    before = {name: p.detach().clone() for name, p in method.named_parameters() if id(p) in optimised}
    method.after_step(HALFWAY)
    assert optimised
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters() if id(p) in optimised)
    assert all(value.isfinite().all() for value in method.state_dict().values())


def test_every_parameter_that_wants_a_gradient_has_one_optimiser(config):
    method = assembled(config)
    optimised = [id(p) for phase in method.phases for p in method.parameters_of(phase)]
    assert sorted(optimised) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_weights_are_plain_numbers(config):
    weights = assembled(config).weights(HALFWAY)
    assert all(isinstance(name, str) and isinstance(value, float) for name, value in weights.items())


@pytest.mark.parametrize(("size", "precision"), [((SIDE, SIDE), "32-true"), ((70, 45), "bf16-mixed")])
def test_predict_gives_float32_logits_of_the_images_size(config, size, precision):
    method = assembled(config, 3, 5)
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        logits = forward_of(method, Fabric(accelerator="cpu", precision=precision))(image)
    assert (logits.shape, logits.dtype) == ((2, 5, *size), torch.float32)
    assert logits.isfinite().all()


def test_prediction_repeats_and_does_not_depend_on_the_rest_of_the_batch(config):
    method, image = assembled(config), torch.rand(3, 1, SIDE, SIDE)
    logits = predicted(method, image)
    assert torch.equal(predicted(method, image), logits)
    torch.testing.assert_close(predicted(method, image[1:2]), logits[1:2], atol=1e-4, rtol=1e-4)


def test_state_dict_restores_a_method_that_has_learned(config, tmp_path):
    method = assembled(config)
    batch = batch_for(method)
    list(steps(method, batch))  # moves batch-norm statistics
    method.after_step(HALFWAY)
    checkpoint.save({"method": method.state_dict()}, tmp_path / "last.pt")
    other = method_of(config["method"], network_maker(config["network"], 1, 4))
    assert not same(other.state_dict(), method.state_dict())
    checkpoint.load_into(other, checkpoint.load(tmp_path / "last.pt")["method"], "last.pt")
    assert same(other.state_dict(), method.state_dict())
    assert torch.equal(predicted(other, batch.image), predicted(method, batch.image))


def test_the_best_checkpoint_holds_the_network_that_predicts(config, tmp_path):
    method = assembled(config)
    engine = Engine(
        fabric=Fabric(accelerator="cpu"),
        method=method,
        optimizers=optimizers_of(config["optimizer"], config["method"].get("optimizers", {}), method, Transfer(method)),
        schedule=build(config["schedule"], "schedule"),
        batches=None,
        validate=None,
        selection=None,
        plan=Plan(total=1, eval_every=1, accumulate=1, clip_norm=None, log_every=1, seed=0),
        folder=None,
    )
    checkpoint.save(engine.model_state(), tmp_path / "best.pt")
    config["network"]["weights"] = str(tmp_path / "best.pt")
    torch.manual_seed(1)
    network = network_maker(config["network"], 1, 4)().eval()
    image = torch.rand(2, 1, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(network(image), predicted(method, image))


# -- a file that one would add ----------------------------------------------------------------------------------------

MINE = """
from ssl4seg.methods.parts.predictions import entropy
from ssl4seg.methods.base import Method


class Mine(Method):
    def __init__(self, *, network, weight):
        super().__init__()
        self.student, self.weight = network(), weight

    def forward(self, phase, batch, progress):
        z_l, z_u = self.student(batch.image), self.student(batch.unlabeled)
        confusion = entropy(z_u.softmax(dim=1)).mean()
        return {"supervised": self.supervised(z_l, batch.label), "entropy": self.weight * confusion}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of configurations with a method of one's own, which lives outside the package."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My method.\n_target_: my_method.Mine\nweight: 0.5\n")
    (tmp_path / "my_method.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_method", None)


def test_a_file_that_one_adds_is_found_and_keeps_the_contract(mine):
    assert len([network for method, network in pairs([mine, conf_dir()]) if method == "mine"]) >= ENOUGH
    config = composed(f"hydra.searchpath=[file://{mine}]", "method=mine", "network=unet")
    method = assembled(config)
    assert type(method).__name__ == "Mine"
    check_step(method, batch_for(method))
