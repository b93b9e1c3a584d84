"""Two segmentation networks of torchvision: DeepLabV3 (Chen et al. 2017) and LR-ASPP (Howard et al., ICCV 2019)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model

from ssl4seg.keys import expect, one_of
from ssl4seg.networks.base import Network, fitted, renamed
from ssl4seg.networks.batch_norm import accept_single_values
from ssl4seg.networks.pretrained import from_torchvision, load_encoder, take_channels


class DeepLabV3(Network):
    """ASPP with rates 12, 24, 36 on the coarsest features, at 1/8 (ResNets) or 1/16 (MobileNet); conv 3x3; conv 1x1.

    A state dict of torchvision's own, without or with its auxiliary classifier, loads as network.weights.

    Args:
        encoder: resnet50, resnet101 or mobilenet_v3_large.
        encoder_weights: imagenet, torchvision's name, a file, or None to start anew; see `pretrained`.
    """

    kinds = ("resnet50", "resnet101", "mobilenet_v3_large")

    def __init__(
        self, *, in_channels: int, num_classes: int, encoder: str = "resnet50", encoder_weights: str | None = None
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        expect("network.encoder", encoder, one_of(*self.kinds))
        whole = get_model(f"deeplabv3_{encoder}", weights_backbone=None, num_classes=num_classes, aux_loss=False)
        *layers, self.head = whole.classifier
        self.encoder, self.decoder = whole.backbone, nn.Sequential(*layers)
        self._channels: int = layers[0].convs[0][0].in_channels
        self.stride = 16 if encoder.startswith("mobilenet") else 8
        take_channels(self.encoder, in_channels)
        load_encoder(self.encoder, encoder, encoder_weights, from_torchvision(encoder))
        accept_single_values(self)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return (self._channels,)

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.encoder(fitted(image, self.stride))["out"]]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return (256,)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        return [self.decoder(features[-1])]

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of torchvision's network under our names; one of ours stays as it is."""
        names = ((r"^backbone\.", "encoder."), (r"^classifier\.4\.", "head."), (r"^classifier\.", "decoder."))
        return renamed({key: value for key, value in state.items() if not key.startswith("aux_classifier.")}, names)


class LRASPP(Network):
    """logits = score(low) + score(up(x)), x = conv 1x1 (high) * sigmoid(conv 1x1 (mean of high)), on MobileNetV3-Large.

    low: features at 1/8 [N, 40, h, w]; high: features at 1/16 [N, 960, h / 2, w / 2]; x has 128 channels. The finest
    decoder map is low and up(x) stacked, so that the head remains a convolution 1x1.

    A state dict of torchvision's own loads as network.weights.

    Args:
        encoder_weights: imagenet, torchvision's name, a file, or None to start anew; see `pretrained`.
    """

    def __init__(self, *, in_channels: int, num_classes: int, encoder_weights: str | None = None) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        encoder = "mobilenet_v3_large"
        whole = get_model(f"lraspp_{encoder}", weights_backbone=None, num_classes=num_classes)
        parts = whole.classifier
        self.encoder = whole.backbone
        self.decoder = Gate(parts.cbr, parts.scale)
        self.head = Scores(parts.low_classifier, parts.high_classifier)
        self._channels = parts.low_classifier.in_channels, parts.cbr[0].in_channels, parts.cbr[0].out_channels
        take_channels(self.encoder, in_channels)
        load_encoder(self.encoder, encoder, encoder_weights, from_torchvision(encoder))
        accept_single_values(self)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels[:2]

    def features(self, image: Tensor) -> list[Tensor]:
        maps = self.encoder(fitted(image, 16))
        return [maps["low"], maps["high"]]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        low, _, x = self._channels
        return (low + x, x)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        low, high = features
        x = self.decoder(high)
        up = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return [torch.cat([low, up], dim=1), x]

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of torchvision's network under our names; one of ours stays as it is."""
        names = (
            (r"^backbone\.", "encoder."),
            (r"^classifier\.((low|high)_classifier)\.", r"head.\1."),
            (r"^classifier\.", "decoder."),
        )
        return renamed(state, names)


class Gate(nn.Module):
    """The product of two branches."""

    def __init__(self, cbr: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.cbr, self.scale = cbr, scale

    def forward(self, high: Tensor) -> Tensor:
        gated: Tensor = self.cbr(high) * self.scale(high)
        return gated


class Scores(nn.Module):
    """The sum of two convolutions 1x1 on different channels."""

    def __init__(self, low_classifier: nn.Conv2d, high_classifier: nn.Conv2d) -> None:
        super().__init__()
        self.low_classifier, self.high_classifier = low_classifier, high_classifier

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.split([self.low_classifier.in_channels, self.high_classifier.in_channels], dim=1)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(high)
        return logits
