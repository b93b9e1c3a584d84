"""The architectures of segmentation-models-pytorch (SMP) with any of its encoders, as networks in parts.

Encoder, decoder and head are SMP's own; this module takes them apart and reads the decoder's inner maps. Images of
other sizes are resized first (see `fitted`). Parts of an encoder that a depth does not use are left out, so that every
parameter learns.
"""

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import Tensor, nn

from ssl4seg.errors import UserError
from ssl4seg.keys import expect, one_of
from ssl4seg.networks.base import Network, fitted
from ssl4seg.networks.batch_norm import accept_single_values
from ssl4seg.networks.pretrained import Download, State, load_encoder
from ssl4seg.networks.timm_vit import from_timm, layers_of

NAMES = {"output_stride": "encoder_output_stride", "upsampling": "decoder_interpolation", "head": "upsampling"}
"""SMP's names of our keys, where they differ; `head` is the factor of its last upsampling."""
OWN = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "upsampling", "kwargs")
"""Arguments of SMP that are no keys of ours."""


class SMP(Network):
    """One of SMP's architectures; its logits equal those of SMP's own model.

    Args:
        encoder: SMP's name (resnet50, mit_b2, ...), or tu- and a name of timm's.
        encoder_weights: SMP's name (imagenet, ssl, ...), for tu- imagenet or timm's tag; a file; None to start anew.
        keys: of the architecture, by SMP's names, except `output_stride` (encoder_output_stride) and `upsampling`
            (decoder_interpolation).
    """

    architecture: ClassVar[Any]
    levels: ClassVar[str | None] = None
    """Pattern of the decoder's parts whose outputs are pyramid maps, if coarser than the decoder's own output."""

    def __init__(
        self, *, in_channels: int, num_classes: int, encoder: str, encoder_weights: str | None = None, **keys: Any
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.upsampling = keys.get("upsampling")
        if self.upsampling is not None and self.upsamplings:
            expect("network.upsampling", self.upsampling, one_of(*self.upsamplings))
        self.layout = layout(type(self), encoder, json.dumps(keys, default=list))
        model = self.built(encoder, keys, in_channels, num_classes)
        for name in self.layout.unused:
            model.set_submodule(name, Unused())
        accept_single_values(model)
        self.encoder, self.decoder, self.head = model.encoder, model.decoder, model.segmentation_head
        self.by_kind = encoder.startswith("mit_")
        load_encoder(self.encoder, encoder, encoder_weights, self.published(encoder, keys))

    @classmethod
    def built(cls, encoder: str, keys: Mapping[str, Any], in_channels: int, num_classes: int) -> Any:
        """SMP's model with freshly drawn weights."""
        more = {"strict_img_size": False} if encoder.startswith("tu-swin") else {}
        return cls.architecture(
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=in_channels,
            classes=num_classes,
            **{NAMES.get(key, key): value for key, value in keys.items()},
            **more,
        )

    @classmethod
    def published(cls, encoder: str, keys: Mapping[str, Any]) -> Download:
        """Download weights by SMP's names, for timm's encoders by timm's."""

        def download(weights: str) -> State:
            name, settings = encoder, encoders.get(encoder, {}).get("pretrained_settings")
            if settings is not None and weights not in settings:
                raise UserError(
                    f"network.encoder_weights={weights}: expected {', '.join(settings)} for {encoder}, a file (.pth, "
                    ".pt, .safetensors) or null"
                )
            if settings is None and weights != "imagenet":
                name = f"{encoder.split('.')[0]}.{weights}"
            depth = keys.get("encoder_depth", 5)
            state: State = get_encoder(name, depth=depth, weights=weights if settings else True).state_dict()
            return state

        return download

    @classmethod
    def stride_of(cls, model: Any) -> int:
        """The number that an image's sides must be multiples of."""
        return int(model.encoder.output_stride)

    @staticmethod
    def scales(encoder: nn.Module, image: Tensor) -> list[Tensor | None]:
        """All outputs of SMP's encoder, with None for the image itself and for scales that the encoder lacks."""
        maps: list[Tensor] = encoder(image)
        return [None, *(x if x.shape[1] else None for x in maps[1:])]

    @staticmethod
    def decoded(decoder: nn.Module, scales: list[Tensor | None]) -> Tensor:
        """Run the decoder on the output of `scales`; a missing scale (None) becomes an empty tensor of its size."""
        first = next(i for i, x in enumerate(scales) if x is not None)
        finest: Any = scales[first]
        height, width = finest.shape[2:]
        whole = [
            finest.new_empty(finest.shape[0], 0, height * 2 ** (first - i), width * 2 ** (first - i))
            if x is None
            else x
            for i, x in enumerate(scales)
        ]
        output: Tensor = decoder(whole)
        return output

    @property
    def encoder_layers(self) -> list[nn.Module]:
        layers = super().encoder_layers
        if self.by_kind:  # the MiT lists its parts by kind, not by stage: block1, block2, ..., norm1, ...
            names = {child: name for name, child in self.encoder.named_children()}
            layers.sort(key=lambda layer: names[layer][-1])
        return layers

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self.layout.feature_channels

    def features(self, image: Tensor) -> list[Tensor]:
        return [x for x in self.scales(self.encoder, fitted(image, self.layout.stride)) if x is not None]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self.layout.pyramid_channels

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        each = iter(features)
        scales = [next(each) if present else None for present in self.layout.present]
        with outputs(self.decoder, self.layout.levels) as coarser:
            finest = self.decoded(self.decoder, scales)
        return [finest, *(coarser[name] for name in self.layout.levels)]

    @staticmethod
    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of SMP's model under our names; one of ours stays as it is."""
        return {re.sub(r"^segmentation_head\.", "head.", key): value for key, value in state.items()}


class Unused(nn.Module):
    """Replaces a part whose output nobody reads."""

    def forward(self, x: Tensor, *others: object) -> Tensor:
        return x


@contextmanager
def outputs(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of a module's parts while the context lasts."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(part: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class Layout(NamedTuple):
    """The facts that a trial pass shows about an architecture with an encoder and its keys."""

    stride: int
    """The number that an image's sides must be multiples of."""
    present: tuple[bool, ...]
    """Which of the scales that SMP's decoder expects are features."""
    feature_channels: tuple[int, ...]
    levels: tuple[str, ...]
    """Parts of the decoder that return the coarser maps of the pyramid, finest first."""
    pyramid_channels: tuple[int, ...]
    unused: tuple[str, ...]
    """Parts of the model without influence on the logits."""


@cache  # a method builds several networks of one kind
@torch.enable_grad()
def layout(kind: type[SMP], encoder: str, keys: str) -> Layout:
    """Find the layout by a trial pass, and drop its model.

    Args:
        kind: the architecture.
        keys: as JSON.
    """
    given = json.loads(keys)
    _check(kind, encoder, given)
    try:
        with torch.random.fork_rng(devices=[]):
            model = kind.built(encoder, given, 3, 2).eval()
        stride = max(kind.stride_of(model), 32 if encoder.startswith("mit_") else 0)  # for its attention's pooling
        image = torch.zeros(1, 3, 2 * stride, 2 * stride)
        scales = kind.scales(model.encoder, image)
        names = [name for name, _ in model.decoder.named_modules() if kind.levels and re.fullmatch(kind.levels, name)]
        with outputs(model.decoder, tuple(names)) as found:
            finest = kind.decoded(model.decoder, scales)
    except Exception as error:  # SMP and timm raise errors of many types
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"network.encoder={encoder} cannot be used in {kind.__name__} with {keys}: {why}") from None
    coarser = {found[name].shape[-1]: name for name in names if found[name].shape[-1] < finest.shape[-1]}
    levels = tuple(coarser[side] for side in sorted(coarser, reverse=True))
    return Layout(
        stride=stride,
        present=tuple(x is not None for x in scales),
        feature_channels=tuple(x.shape[1] for x in scales if x is not None),
        levels=levels,
        pyramid_channels=(finest.shape[1], *(found[name].shape[1] for name in levels)),
        unused=tuple(_unused(model, finest)),
    )


def _check(kind: type[SMP], encoder: str, keys: Mapping[str, Any]) -> None:
    known = [*encoders, *(f"tu-{name}" for name in timm.list_models())]
    if encoder.split(".")[0] not in known and not encoder.startswith("timm-"):  # SMP has aliases for these
        close = difflib.get_close_matches(encoder, known, n=3)
        near = f" (there are {', '.join(close)})" if close else ""
        raise UserError(
            f"network.encoder={encoder}: there is no such encoder{near}; "
            "expected a name of segmentation-models-pytorch, or tu- and a name of timm's"
        )
    ours = {theirs: name for name, theirs in NAMES.items()}
    taken = {ours.get(name, name) for name in inspect.signature(kind.architecture).parameters if name not in OWN}
    for key in keys:
        if key not in taken:
            raise UserError(f"network.{key}: {kind.__name__} has no such key, but {', '.join(sorted(taken))}")


def _unused(model: nn.Module, output: Tensor) -> Iterator[str]:
    """The outermost parts with parameters that do not affect the decoder's output."""
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith("segmentation_head.")}
    gradients = torch.autograd.grad(output.sum(), list(parameters.values()), allow_unused=True)
    used = {name: gradient is not None for name, gradient in zip(parameters, gradients, strict=True)}
    last = "/"
    for name, _ in model.named_modules():
        own = [matters for parameter, matters in used.items() if parameter.startswith(f"{name}.")]
        if own and not any(own) and not name.startswith(f"{last}."):
            last = name
            yield name


# -- the architectures ------------------------------------------------------------------------------------------------


class Unet(SMP):
    """U-Net (Ronneberger et al. 2015) with a classifier's encoder; logits at full resolution."""

    architecture = smp.Unet
    levels = r"blocks\.\d"
    upsamplings = ("nearest", "bilinear")


class UnetPlusPlus(SMP):
    """U-Net++ (Zhou et al. 2018), whose skips are dense blocks; logits at full resolution."""

    architecture = smp.UnetPlusPlus
    levels = r"blocks\.x_0_\d"
    upsamplings = ("nearest", "bilinear")


class DeepLabV3Plus(SMP):
    """DeepLabV3+ (Chen et al., ECCV 2018): ASPP at the encoder's output stride, and one skip at 1/4."""

    architecture = smp.DeepLabV3Plus
    levels = "aspp"


class FPN(SMP):
    """Feature pyramid network for segmentation (Kirillov et al., CVPR 2019); logits from a map at 1/4."""

    architecture = smp.FPN
    levels = r"p\d"
    upsamplings = ("nearest", "bilinear")


class PSPNet(SMP):
    """Pyramid scene parsing (Zhao et al., CVPR 2017): features at 1/2^depth, pooled to 1, 2, 3 and 6 squared places."""

    architecture = smp.PSPNet

    @classmethod
    def built(cls, encoder: str, keys: Mapping[str, Any], in_channels: int, num_classes: int) -> Any:
        return super().built(encoder, {**keys, "head": 2 ** keys.get("encoder_depth", 3)}, in_channels, num_classes)


class Segformer(SMP):
    """SegFormer (Xie et al., NeurIPS 2021): a linear layer brings each scale to 1/4, where all scales are fused."""

    architecture = smp.Segformer
    levels = r"mlp_stage\.\d"


class UPerNet(SMP):
    """UPerNet (Xiao et al., ECCV 2018): a pyramid pooling, a feature pyramid, and all their scales fused at 1/4."""

    architecture = smp.UPerNet
    levels = r"psp|fpn_conv_blocks\.\d"


class DPT(SMP):
    """DPT (Ranftl et al., ICCV 2021) on a vision transformer of timm's with patches of 16 pixels; logits at 1/2.

    Features are the patches' tokens of four blocks, all at 1/16. The class token does not reach the decoder (readout
    "ignore"), so that methods that perturb features perturb the decoder's whole input.
    """

    architecture = smp.DPT
    levels = r"fusion_blocks\.\d"

    @classmethod
    def built(cls, encoder: str, keys: Mapping[str, Any], in_channels: int, num_classes: int) -> Any:
        fixed = {"decoder_readout": "ignore", "dynamic_img_size": True, "num_classes": 0}
        return super().built(encoder, {**keys, **fixed}, in_channels, num_classes)

    @classmethod
    def published(cls, encoder: str, keys: Mapping[str, Any]) -> Download:
        return from_timm(encoder.removeprefix("tu-"))

    @classmethod
    def stride_of(cls, model: Any) -> int:
        return 2 * int(model.encoder.output_stride)  # the coarsest scale has half as many places

    @staticmethod
    def scales(encoder: nn.Module, image: Tensor) -> list[Tensor | None]:
        return list(encoder(image)[0])

    @staticmethod
    def decoded(decoder: nn.Module, scales: list[Tensor | None]) -> Tensor:
        output: Tensor = decoder(scales, [None] * len(scales))
        return output

    @property
    def encoder_layers(self) -> list[nn.Module]:
        return layers_of(self.encoder.get_submodule("model"))
