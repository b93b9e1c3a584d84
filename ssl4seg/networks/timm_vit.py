"""timm's plain vision transformers as encoders for images of any size."""

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.networks.pretrained import Download, State

PlainTransformer = VisionTransformer | Eva
"""DINOv2 is of the first kind, DINOv3, whose positions are rotations, of the second."""


def vision_transformer(name: str, *, in_channels: int = 3, pretrained: bool = False) -> PlainTransformer:
    """A vision transformer without its classifier; each pass fits its positions to the image's size."""
    if not timm.is_model(name):
        raise UserError(f"network.encoder={name}: timm has no such model")
    try:
        vit = timm.create_model(
            name, pretrained=pretrained, in_chans=in_channels, num_classes=0, global_pool="", dynamic_img_size=True
        )
    except TypeError:  # other models do not take all of these keywords
        vit = None
    if not isinstance(vit, PlainTransformer):
        raise UserError(f"network.encoder={name}: is no plain vision transformer")
    return vit


def from_timm(name: str) -> Download:
    """Weights of a vision transformer: timm's tag, or imagenet for the tag that timm prefers."""

    def download(weights: str) -> State:
        tagged = name if weights == "imagenet" else f"{name.split('.')[0]}.{weights}"
        state: dict[str, Tensor] = vision_transformer(tagged, pretrained=True).state_dict()
        return state

    return download


def layers_of(vit: nn.Module) -> list[nn.Module]:
    """Patch embedding, blocks and last norm, if they have weights."""
    layers = [vit.patch_embed, *vit.blocks, vit.norm]  # type: ignore[misc]
    return [layer for layer in layers if any(True for _ in layer.parameters())]
