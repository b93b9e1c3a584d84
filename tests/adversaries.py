"""For golden tests of adversarial methods: the discriminator in NumPy, and a check of what each phase may move."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from pixelwise import HALFWAY
from torch import Tensor, nn

from ssl4seg.keys import IGNORE
from ssl4seg.methods.base import Method
from ssl4seg.networks.unet import UNet
from ssl4seg.types import Batch


def judged(discriminator: nn.Module, maps: np.ndarray, *, side: int = 0, last_stride: int | None = None) -> np.ndarray:
    """The discriminator's logits by its parameters in the order in which they stand, in double precision.

    Zeros bring the maps to `side`; batch norm, where there is one, takes the batch's statistics. `last_stride`: of the
    last convolution, 2 with a margin of 1 or 1 without; None for a linear layer on the mean.
    """
    x = torch.from_numpy(maps).double()
    x = F.pad(x, (0, max(0, side - x.shape[3]), 0, max(0, side - x.shape[2])))
    *inner, weight, bias = (p.detach().double() for p in discriminator.parameters())
    while inner:
        w, b, *inner = inner
        x = F.conv2d(x, w, b, stride=2, padding=1)
        if inner and inner[0].ndim == 1:
            gamma, beta, *inner = inner
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
            x = (x - mean.view(1, -1, 1, 1)) / (var + 1e-5).sqrt().view(1, -1, 1, 1)
            x = x * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)
        x = torch.where(x > 0, x, 0.2 * x)
    if last_stride is None:
        return (x.mean(dim=(2, 3)) @ weight.T + bias).numpy()
    return F.conv2d(x, weight, bias, stride=last_stride, padding=last_stride - 1).numpy()


def bce(logits: np.ndarray, real: float) -> np.ndarray:
    """-[y ln s + (1 - y) ln(1 - s)] with the sigmoid s."""
    s = 1 / (1 + np.exp(-logits))
    return -(real * np.log(s) + (1 - real) * np.log(1 - s))


def tiny_unet(**keys: object) -> UNet:
    """A segmenter with batch norm."""
    return UNet(**{"in_channels": 1, "num_classes": 3, "channels": (4, 8), "dropout": (0, 0), **keys})


def some_batch(side: int = 16, labeled: int = 2, unlabeled: int = 3) -> Batch:
    """Random images for `tiny_unet`; a row of labels is ignored."""
    label = torch.randint(3, (labeled, side, side))
    label[0, 0] = IGNORE
    return Batch(torch.rand(labeled, 1, side, side), label, torch.rand(unlabeled, 1, side, side))


def check_phases_keep_apart(method: Method, batch: Batch) -> None:
    """No phase leaves a gradient, or changes a buffer, in another phase's modules; each parameter belongs to a phase.

    Without the engine, which switches gradients off besides.
    """
    method.train()
    owner = {id(p): phase for phase in method.phases for p in method.parameters_of(phase)}
    assert len(owner) == len(list(method.parameters()))
    of_module = {
        name: owner[id(next(module.parameters()))] for name, module in method.named_children() if [*module.parameters()]
    }
    for phase in method.phases:
        method.zero_grad()
        before = copy.deepcopy(method.state_dict())
        torch.stack(list(method(phase, batch, HALFWAY).values())).sum().backward()
        for p in method.parameters():
            assert (p.grad is not None) == (owner[id(p)] == phase)
        for name, value in method.state_dict().items():
            if of_module[name.split(".")[0]] != phase:
                assert torch.equal(value, before[name]), name


def reaches(term: Tensor, network: nn.Module) -> bool:
    """Whether the gradient of the term reaches every parameter of the network; it must reach all or none."""
    gradients = torch.autograd.grad(term, list(network.parameters()), retain_graph=True, allow_unused=True)
    reached = {g is not None and bool(g.abs().sum() > 0) for g in gradients}
    assert len(reached) == 1
    return reached.pop()
