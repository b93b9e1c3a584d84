"""timm's plain vision transformers as encoders for images of any size."""

import timm
from timm.models import eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.networks.pretrained import Download, State

PlainViT = VisionTransformer | eva.Eva
"""timm's two classes of plain vision transformers; Eva has rotary positions too, as in DINOv3."""


def vision_transformer(name: str, *, in_channels: int = 3, pretrained: bool = False) -> PlainViT:
    """A vision transformer without its classifier; each pass fits its positions to the image's size."""
    if not timm.is_model(name):
        raise UserError(f"network.encoder={name}: timm has no such model")
    try:
        vit = timm.create_model(
            name, pretrained=pretrained, in_chans=in_channels, num_classes=0, global_pool="", dynamic_img_size=True
        )
    except TypeError:  # other models do not take all of these keywords
        vit = None
    if not isinstance(vit, PlainViT):
        raise UserError(f"network.encoder={name}: is no plain vision transformer")
    return vit


def from_timm(name: str) -> Download:
    """Weights of a vision transformer: timm's tag, or imagenet for the tag that timm prefers."""

    def download(weights: str) -> State:
        tagged = name if weights == "imagenet" else f"{name.split('.')[0]}.{weights}"
        state: dict[str, Tensor] = vision_transformer(tagged, pretrained=True).state_dict()
        return state

    return download


def as_timm(vit: PlainViT, name: str, state: State) -> State:
    """A state dict of DINOv3's authors under timm's names; any other as it is.

    Raises:
        UserError: the state has biases of queries and values that the transformer `name` lacks.
    """
    if not isinstance(vit, eva.Eva) or "storage_tokens" not in state:
        return state
    if not any(key.endswith("q_bias") for key in vit.state_dict()):
        biases = {key: value for key, value in state.items() if key.endswith("qkv.bias")}
        if any(value.any() for value in biases.values()):
            raise UserError(f"network.encoder={name}: has no biases of queries, but the file has; take {name}_qkvb")
        state = {key: value for key, value in state.items() if key not in biases}
    converted: State = eva.checkpoint_filter_fn(dict(state), vit)
    return converted


def layers_of(vit: nn.Module) -> list[nn.Module]:
    """Patch embedding, blocks and last norm, if they have weights."""
    layers = [vit.patch_embed, *vit.blocks, vit.norm]  # type: ignore[misc]
    return [layer for layer in layers if any(True for _ in layer.parameters())]
