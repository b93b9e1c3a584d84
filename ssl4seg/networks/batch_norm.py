"""Batch norm for a single value, which a pooled branch gives for a batch of one image."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, except that a channel with one value only is normalised by the running statistics.

    One value has no variance, so PyTorch refuses it in training mode; and minus its own mean it would say nothing about
    the image. The running statistics stay then, so a branch that never sees more than one value learns with the
    statistics that it predicts with.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def accept_single_values(module: nn.Module) -> None:
    """Replace every batch norm inside the module by `BatchNorm2d`."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            norm = BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            accept_single_values(child)
