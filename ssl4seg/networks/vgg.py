"""The base of networks on the convolutions of torchvision's VGG: the encoder, and VGG's classifier as convolutions."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from ssl4seg.keys import expect, number_in, one_of, whole
from ssl4seg.networks.base import Network, fitted
from ssl4seg.networks.dropout import Dropout
from ssl4seg.networks.pretrained import State, from_torchvision, load_encoder, take_channels

KINDS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


class OnVGG(Network):
    """The decoder begins with conv k x k and conv 1x1 to `hidden` channels at 1/32, each with ReLU and dropout.

    Args:
        encoder: vgg11, vgg13, vgg16 (the articles' choice) or vgg19, without batch norm.
        encoder_weights: imagenet, torchvision's name, a file, or None to start anew; see `pretrained`.
        hidden: channels of the two convolutions; 4096 as in the classifier.
        dropout: probability behind each of them.
    """

    encoder: nn.Sequential
    kernel: ClassVar[int]
    """k; if it is 7 and `hidden` is 4096, the convolutions are VGG's classifier and start from its weights too."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        encoder: str = "vgg16",
        encoder_weights: str | None = None,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.encoder", encoder, one_of(*KINDS))
        expect("network.hidden", hidden, whole(1))
        expect("network.dropout", dropout, number_in("[0, 1)", "a probability"))
        self.encoder = make_layers(cfgs[KINDS[encoder]])
        take_channels(self.encoder, in_channels)
        for layer in self.encoder:  # as torchvision draws them
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        state = load_encoder(self.encoder, encoder, encoder_weights, from_torchvision(encoder))
        convolutions = (
            nn.Conv2d(512, hidden, self.kernel, padding=self.kernel // 2),
            nn.Conv2d(hidden, hidden, 1),
        )
        if (self.kernel, hidden) == (7, 4096):
            transplant(state, *convolutions)
        parts = [part for layer in convolutions for part in (layer, nn.ReLU(inplace=True), Dropout(dropout))]
        self.decoder, self.hidden = nn.Sequential(*parts), hidden

    def pooled(self, image: Tensor) -> list[Tensor]:
        """The five maps behind max pooling, finest first."""
        maps, x = [], fitted(image, 32)
        for layer in self.encoder:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps


@torch.no_grad()
def transplant(state: State, first: nn.Conv2d, second: nn.Conv2d) -> None:
    """Load the hidden layers of VGG's classifier as convolutions, if `state` has them (some published ones are all
    NaN).
    """
    for key, layer in (("classifier.0", first), ("classifier.3", second)):
        weight = state.get(f"{key}.weight")
        if weight is not None and weight.isfinite().all() and layer.bias is not None:
            layer.weight.copy_(weight.view_as(layer.weight))
            layer.bias.copy_(state[f"{key}.bias"])
