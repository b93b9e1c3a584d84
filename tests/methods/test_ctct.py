"""Cross teaching between CNN and transformer against its formula in NumPy."""

import numpy as np
import pytest
import torch
from adversaries import check_phases_keep_apart, some_batch, tiny_unet
from helpers import composed
from pixelwise import HALFWAY, W_HALFWAY, K, Pixelwise, numpy_dice, numpy_supervised

from ssl4seg.errors import UserError
from ssl4seg.keys import IGNORE
from ssl4seg.methods.ctct import CTCT
from ssl4seg.networks.swin_unet import SwinUNet
from ssl4seg.networks.unet import UNet
from ssl4seg.run.assemble import method_of, network_maker, optimizers_of
from ssl4seg.run.transfer import Transfer

PHASES = ("segmenter", "transformer")


def transformer(*, in_channels: int, num_classes: int) -> Pixelwise:
    assert (in_channels, num_classes) == (1, K)
    return Pixelwise()


def made(**keys: object) -> CTCT:
    return CTCT(network=Pixelwise, transformer=transformer, **keys).train()


def both(method: CTCT, phase: str) -> tuple[Pixelwise, Pixelwise]:
    """The network that learns in a phase, and the one that teaches."""
    networks = (method.student, method.transformer)
    return networks if phase == "segmenter" else networks[::-1]


def losses(method: CTCT, phase: str, batch) -> dict[str, float]:
    prefix = "transformer_" if phase == "transformer" else ""
    return {name.removeprefix(prefix): value.item() for name, value in method(phase, batch, HALFWAY).items()}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("labelled", "unlabelled"), [(2, 3), (1, 1)])
def test_loss_is_the_dice_with_the_other_networks_class(batch, phase, labelled, unlabelled):
    method = made()
    batch = batch._replace(
        image=batch.image[:labelled], label=batch.label[:labelled], unlabeled=batch.unlabeled[:unlabelled]
    )
    pupil, teacher = both(method, phase)
    label = teacher.numpy(batch.unlabeled).argmax(axis=1)
    assert losses(method, phase, batch) == pytest.approx(
        {
            "supervised": numpy_supervised(pupil.numpy(batch.image), batch.label.numpy()),
            "cross_teaching": W_HALFWAY * numpy_dice(pupil.numpy(batch.unlabeled), label),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("phase", PHASES)
def test_a_teacher_of_one_class_and_no_label_at_all_leave_the_loss_finite(batch, phase):
    method = made()
    pupil, teacher = both(method, phase)
    with torch.no_grad():
        teacher.head.weight.zero_()
        teacher.head.bias.copy_(torch.tensor([0, 500.0, 0]))
    found = losses(method, phase, batch._replace(label=torch.full_like(batch.label, IGNORE)))
    assert found["supervised"] == pytest.approx(0, abs=1e-6)
    expected = numpy_dice(pupil.numpy(batch.unlabeled), np.ones((3, 4, 5), np.int64))
    assert found["cross_teaching"] == pytest.approx(W_HALFWAY * expected, rel=1e-4)


def test_the_two_phases_tell_different_terms(batch):
    method = made()
    names = [name for phase in PHASES for name in method(phase, batch, HALFWAY)]
    assert len(set(names)) == len(names) == 4


@pytest.mark.parametrize("term", ["supervised", "cross_teaching"])
@pytest.mark.parametrize("phase", PHASES)
def test_each_term_reaches_the_network_that_learns_and_not_its_teacher(batch, phase, term):
    method = made()
    pupil, teacher = both(method, phase)
    next(v for name, v in method(phase, batch, HALFWAY).items() if name.endswith(term)).backward()
    assert all(p.grad.abs().sum() > 0 for p in pupil.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_network_that_teaches_keeps_no_trace_of_it():
    check_phases_keep_apart(CTCT(network=tiny_unet, transformer=tiny_unet), some_batch())


@pytest.mark.parametrize("phase", PHASES)
def test_the_optimiser_of_a_phase_moves_the_network_that_learns_in_it(phase):
    method = made()
    pupil, _ = both(method, phase)
    assert {id(p) for p in method.parameters_of(phase)} == {id(p) for p in pupil.parameters()}


def test_the_cnn_predicts_and_learns_from_the_transformers_classes(batch):
    method = made().eval()
    assert method.predictor is method.student
    probability, used = method.pseudo_labels(batch.unlabeled, HALFWAY)
    label = method.transformer.numpy(batch.unlabeled).argmax(axis=1)
    np.testing.assert_array_equal(probability, np.moveaxis(np.eye(K)[label], -1, 1))
    assert used.all()


def test_the_configuration_makes_a_cnn_by_sgd_and_a_transformer_by_adamw():
    small = ("embed_dim=4", "depths=[1,1]", "heads=[1,2]")
    config = composed("method=ctct", "optimizer=sgd", *(f"method.transformer.{key}" for key in small))
    method = method_of(config["method"], network_maker(config["network"], 3, 5))
    assert isinstance(method.student, UNet)
    assert isinstance(method.transformer, SwinUNet)
    assert (method.transformer.in_channels, method.transformer.num_classes) == (3, 5)
    kinds = {
        phase: type(optimizer)
        for phase, optimizer in optimizers_of(
            config["optimizer"], config["method"].get("optimizers", {}), method, Transfer(method)
        ).items()
    }
    assert kinds == {"segmenter": torch.optim.SGD, "transformer": torch.optim.AdamW}


def test_a_transformer_that_cannot_be_called_is_refused():
    with pytest.raises(UserError, match=r"method.transformer=None: .*_partial_"):
        CTCT(network=Pixelwise, transformer=None)


@pytest.mark.parametrize("keys", [{"consistency_weight": -1}, {"rampup_steps": -1}])
def test_a_wrong_value_is_refused_by_its_key(keys):
    with pytest.raises(UserError, match=f"method.{next(iter(keys))}"):
        made(**keys)
