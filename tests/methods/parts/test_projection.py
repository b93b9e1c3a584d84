"""The projection head against its layers stated once more."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl4seg.methods.parts.projection import Projection


@torch.no_grad()
def test_a_projection_is_two_blocks_of_convolution_norm_and_relu_and_a_last_convolution():
    projection = Projection(3, 8).double().eval()
    for p in projection.parameters():
        p.uniform_(-0.5, 0.5)
    x = expected = torch.randn(2, 3, 5, 7).double()
    w_1, b_1, gamma_1, beta_1, w_2, b_2, gamma_2, beta_2, w_3, b_3 = projection.parameters()
    for w, b, gamma, beta in ((w_1, b_1, gamma_1, beta_1), (w_2, b_2, gamma_2, beta_2)):
        expected = F.conv2d(expected, w, b, padding=1) / (1 + 1e-5) ** 0.5  # running statistics 0 and 1
        expected = (expected * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)).clamp(min=0)
    expected = F.conv2d(expected, w_3, b_3)
    torch.testing.assert_close(projection(x), expected)


def test_each_block_ends_in_a_dropout_of_whole_channels():
    kinds = [type(layer) for layer in Projection(3, 8)]
    assert [i for i, kind in enumerate(kinds) if kind is nn.Dropout2d] == [3, 7]
    assert {layer.p for layer in Projection(3, 8) if isinstance(layer, nn.Dropout2d)} == {0.1}
