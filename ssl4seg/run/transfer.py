"""Transfer learning as a schedule: when and how fast the encoders of a method's networks are trained."""

import math
from collections.abc import Iterable

from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from ssl4seg.keys import KEYS, expect
from ssl4seg.methods.base import Method
from ssl4seg.networks.base import Network
from ssl4seg.types import Progress


class Transfer:
    """Freezes the encoders for `freeze_encoder` steps, then trains them at a share of the learning rate.

    The learning rate of layer l of an encoder's n layers, l = 0 at the input, is the optimiser's times
    `encoder_lr_scale` x `layer_decay`^(n - 1 - l); the decoder, the head and all other parameters have the optimiser's
    own. While a parameter is frozen it has no gradient, no weight decay and no optimiser state, and the
    encoder's batch norm is in evaluation mode. In a method with stages each stage begins frozen, as its learning rate
    begins anew.

    This holds for every network of the method that an optimiser trains, and for no discriminator. EMA teachers follow
    their student, so their encoders' batch norm is in evaluation mode whenever the student's is.

    Args:
        method: the method, not yet wrapped for several processes.
        steps_per_epoch: labelled images / labelled images in a step; needed if `freeze_encoder` is in epochs.
        freeze_encoder: steps, or "2 epochs".
        encoder_lr_scale: 0.025 with AdamW and lr 2e-4 is the recipe of UniMatch V2 (encoder 5e-6, the rest 40 x that).
        layer_decay: in (0, 1] (Clark et al. 2020, section 3: 0.8); None is 1.
        frozen_batchnorm: the encoder's batch norm stays in evaluation mode, its scale and shift never move.
    """

    def __init__(
        self,
        method: Method,
        *,
        steps_per_epoch: float = math.nan,
        freeze_encoder: int | str = 0,
        encoder_lr_scale: float = 1.0,
        layer_decay: float | None = None,
        frozen_batchnorm: bool = False,
    ) -> None:
        self.frozen_steps = _steps(freeze_encoder, steps_per_epoch)
        keys = {"encoder_lr_scale": encoder_lr_scale, "layer_decay": layer_decay, "frozen_batchnorm": frozen_batchnorm}
        for key, value in keys.items():
            expect(f"transfer.{key}", value, KEYS[f"transfer.{key}"])
        self.scale_of_encoder, self.decay = encoder_lr_scale, layer_decay or 1.0
        self.frozen_batchnorm, self.frozen = frozen_batchnorm, self.frozen_steps > 0
        networks = [m for m in method.modules() if isinstance(m, Network)]
        networks = [m for m in networks if any(True for _ in m.encoder.parameters())]  # no decoders of the method's own
        self.norms = [m for network in networks for m in network.encoder.modules() if isinstance(m, _BatchNorm)]
        for norm in self.norms:
            if frozen_batchnorm:
                norm.requires_grad_(False)
            if frozen_batchnorm or self.frozen:
                norm.register_forward_pre_hook(self._hold_still)  # also after the method calls train()
        self.scales = {p: scale for network in networks for p, scale in self._scales(network).items()}

    def __call__(self, step: int) -> None:
        """Freeze or thaw the encoders before a step, counted from the start of its stage."""
        self.frozen = step < self.frozen_steps
        if self.frozen_steps:
            for p in self.scales:
                p.requires_grad_(not self.frozen)

    def groups(self, parameters: Iterable[Parameter]) -> dict[float, list[Parameter]]:
        """The trainable parameters, grouped by learning-rate factor; the group with factor 1 comes first."""
        groups: dict[float, list[Parameter]] = {1.0: []}
        for p in parameters:
            if p.requires_grad:
                groups.setdefault(self.scales.get(p, 1.0), []).append(p)
        return {scale: group for scale, group in groups.items() if group}

    def doubts(self, method: Method, total: int, *, pretrained: bool) -> list[str]:
        """Warnings, for the log, of settings that are probably mistakes.

        Args:
            total: steps of the run.
            pretrained: whether the encoders start from weights.
        """
        if not self.frozen_steps:
            return []
        starts = (0, *(round(share * total) for share in method.stages))
        longest = max(method.stage(Progress(start, total))[1].total for start in starts)
        doubts = []
        if self.frozen_steps >= longest:
            where = f"a stage has {longest} steps at most" if method.stages else f"the run has {total}"
            doubts.append(f"the encoder never moves: it is frozen for {self.frozen_steps} steps, and {where}")
        if not pretrained:
            doubts.append(
                "the encoder is frozen with random weights: give weights to start from, network.weights=FILE or "
                "network.encoder_weights, or leave transfer.freeze_encoder out"
            )
        return [f"warning: {doubt}" for doubt in doubts]

    def __str__(self) -> str:
        """Describe the schedule for the log; "" if every key has its default."""
        parts = []
        if self.frozen_steps:
            num_weights = sum(p.numel() for p in self.scales)
            parts.append(f"frozen for {self.frozen_steps} steps ({num_weights:,} parameters)")
        if self.scale_of_encoder != 1:
            parts.append(f"{self.scale_of_encoder:g} x the learning rate")
        if self.decay != 1:
            parts.append(f"x {self.decay:g} for each layer above ({len(set(self.scales.values()))} rates)")
        if self.frozen_batchnorm:
            parts.append(f"{len(self.norms)} batch norms frozen")
        return f"encoder: {', '.join(parts)}" if parts else ""

    def _hold_still(self, norm: nn.Module, inputs: object) -> None:
        if self.frozen or self.frozen_batchnorm:
            norm.eval()

    def _scales(self, network: Network) -> dict[Parameter, float]:
        """Learning-rate factors of an encoder's parameters; a parameter outside of all layers counts to the first."""
        layers = network.encoder_layers
        above = {p: len(layers) - 1 - i for i, layer in enumerate(layers) for p in layer.parameters()}
        first = max(len(layers) - 1, 0)
        return {
            p: self.scale_of_encoder * self.decay ** above.get(p, first)
            for p in network.encoder.parameters()
            if p.requires_grad
        }


def _steps(given: int | str, steps_per_epoch: float) -> int:
    """Convert `freeze_encoder` to a number of steps; a part of a step counts as one."""
    expect("transfer.freeze_encoder", given, KEYS["transfer.freeze_encoder"])
    return given if isinstance(given, int) else math.ceil(float(given.split("epoch")[0]) * steps_per_epoch)
