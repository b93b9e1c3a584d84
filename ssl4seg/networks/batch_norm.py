"""Batch norm of a single value: what a pooled branch gives it for a batch of one image."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, but where a channel has one value only, it is normalised by the running statistics.

    One value has no variance, so PyTorch refuses it in training mode; and less its own mean it would say nothing of the
    image. The statistics do not change then, so a branch that never sees more than one value learns with those that it
    predicts with.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def accept_single_values(module: nn.Module) -> None:
    """Make every batch norm inside such a one."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            norm = BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            accept_single_values(child)
