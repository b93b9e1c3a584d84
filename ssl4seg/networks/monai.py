"""Architectures of MONAI for slices and volumes, as networks in parts.

Encoder, decoder and head are MONAI's own; this module takes them apart. Images of other sizes are resized first (see
`fitted`). Keys have MONAI's names unless a class says otherwise. Deep supervision is off: methods put heads of their
own on the decoder's maps.
"""

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from monai.networks import nets
from torch import Tensor, nn

from ssl4seg.axes import interpolated, safe_convolutions
from ssl4seg.errors import UserError
from ssl4seg.keys import Key, expect, is_list, list_of, one_of, whole
from ssl4seg.networks.base import Names, Network, fitted, renamed

OWN = (
    *("spatial_dims", "in_channels", "out_channels", "keys"),
    *("deep_supervision", "deep_supr_num", "use_checkpoint", "save_attn"),  # which change the output, or only the speed
    *("upsample_kernel_size", "upsample_mode", "use_conv_final", "img_size", "patch_size", "proj_type", "normalize"),
    *("act", "norm", "norm_layer", "num_groups"),
)
"""Arguments of MONAI that are no keys of ours."""


class MONAI(Network):
    """One of MONAI's architectures; its logits equal those of MONAI's own model.

    Args:
        keys: of the architecture, by MONAI's names; each class says where they differ.
    """

    possible_axes = (2, 3)
    architecture: ClassVar[Any]
    places: ClassVar[int] = 2
    """Places that the norm needs at the coarsest scale."""
    names: ClassVar[Names]
    """Patterns of MONAI's names of parameters, and ours."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Beginnings of MONAI's names of parameters that we do not have."""
    decoder: nn.ModuleList
    """Blocks, coarsest first, that take a map and the features of the next finer scale."""

    def __init__(self, *, in_channels: int, num_classes: int, axes: int = 2, **keys: Any) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, axes=axes)
        taken = {*inspect.signature(self.architecture).parameters, *inspect.signature(self.arguments).parameters}
        for key in keys:
            if key not in taken.difference(OWN):
                known = ", ".join(sorted(taken.difference(OWN)))
                raise UserError(f"network.{key}: {type(self).__name__} has no such key, but {known}")
        given = self.arguments(**keys)
        try:
            model = self.architecture(spatial_dims=axes, in_channels=in_channels, out_channels=num_classes, **given)
        except Exception as error:  # MONAI raises errors of many types
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            words = " ".join(f"network.{key}={value}" for key, value in keys.items())
            raise UserError(f"{words}: MONAI cannot build {type(self).__name__} of this ({why})") from None
        safe_convolutions(model)
        self.stride: int | Sequence[int] = 32
        """The number that an image's sides must be multiples of; or one number for each axis."""
        self._channels: tuple[int, ...] = ()
        self.split(model)

    def arguments(self, **keys: Any) -> dict[str, Any]:
        """MONAI's arguments for our keys."""
        return keys

    @abstractmethod
    def split(self, model: Any) -> None:
        """Set encoder, decoder, head, the stride and the channels of the features, finest first, from MONAI's model."""

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return self._channels

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        return self._channels[:-1]

    def features(self, image: Tensor) -> list[Tensor]:
        return self.maps(fitted(image, self.stride, places=self.places))

    @abstractmethod
    def maps(self, image: Tensor) -> list[Tensor]:
        """The features of an image whose sides are multiples of the stride."""

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        maps = [features[-1]]
        for up, skip in zip(self.decoder, features[-2::-1], strict=True):
            maps.insert(0, up(maps[0], skip))
        return maps[:-1]

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of MONAI's model under our names; one of ours stays as it is."""
        return renamed({key: value for key, value in state.items() if not key.startswith(self.left_out)}, self.names)


def chain(blocks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """The output of each block, which the next one takes."""
    maps = []
    for block in blocks:
        x = block(x)
        maps.append(x)
    return maps


class DynUNet(MONAI):
    """nnU-Net's U-Net (Isensee et al. 2021): two convolutions a scale with instance norm and leaky ReLU, strided
    convolutions down, transposed ones up.

    Args:
        strides: of each scale, finest first; a number, or a list of one number an axis.
        kernel_size: a number for all scales, or a list of one number or list for each.
        filters: channels of each scale; None is nnU-Net's: 32, 64, ... up to 512 for slices and 320 for volumes.
        dropout: probability behind each convolution; None for none.
        res_block: whether blocks are residual.
    """

    architecture = nets.DynUNet
    encoder: nn.ModuleList
    left_out = ("skip_layers.", "deep_supervision_heads.")  # MONAI holds every block twice
    names = (
        (r"input_block\.", "encoder.0."),
        (r"downsamples\.(\d+)\.", lambda m: f"encoder.{int(m[1]) + 1}."),
        (r"upsamples\.", "decoder."),
        (r"output_block\.", "head."),
    )

    def arguments(
        self,
        *,
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
        kernel_size: int | Sequence[int | Sequence[int]] = 3,
        **keys: Any,
    ) -> dict[str, Any]:
        expect("network.strides", strides, _strides(self.axes))
        steps = [[step] * self.axes if isinstance(step, int) else list(step) for step in strides]
        kernels = [kernel_size] * len(steps) if isinstance(kernel_size, int) else kernel_size
        return {**keys, "strides": steps, "kernel_size": kernels, "upsample_kernel_size": steps[1:]}

    def split(self, model: Any) -> None:
        self.stride = [math.prod(by) for by in zip(*model.strides, strict=True)]
        self._channels = tuple(model.filters)
        self.encoder = nn.ModuleList([model.input_block, *model.downsamples, model.bottleneck])
        self.decoder, self.head = model.upsamples, model.output_block

    def maps(self, image: Tensor) -> list[Tensor]:
        return chain(self.encoder, image)

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return renamed(super().rename(state), [(r"bottleneck\.", f"encoder.{len(self._channels) - 1}.")])


def _strides(axes: int) -> Key:
    """A list of at least three strides."""
    step, of_axes = whole(1), list_of(whole(1), axes, axes)

    def fits(value: Any) -> bool:
        return is_list(value) and len(value) >= 3 and all(step.fits(v) or of_axes.fits(v) for v in value)

    return Key(fits, f"a list of length at least 3, each {step.expected}, or a list of {axes} of them")


class SegResNet(MONAI):
    """The residual encoder and decoder of Myronenko (2018), without its autoencoder: group norm, strided convolutions
    down, skips are added.

    Args:
        init_filters: channels of the finest scale, a multiple of 8; each coarser one has twice as many.
        blocks_down: residual blocks of each scale, finest first.
        blocks_up: residual blocks of the decoder at each scale but the coarsest, coarsest first.
        dropout_prob: probability behind the first convolution; None for none.
        upsampling: MONAI's `upsample_mode`: bilinear (its nontrainable; trilinear in volumes), transposed (deconv) or
            pixelshuffle.
    """

    architecture = nets.SegResNet
    places = 1
    encoder: nn.ModuleList
    upsamplings = ("bilinear", "transposed", "pixelshuffle")
    names = (
        (r"convInit\.", "encoder.0.0."),
        (r"down_layers\.(\d+)\.", lambda m: f"encoder.{int(m[1]) + 1}."),
        (r"up_samples\.(\d+)\.", r"decoder.\1.up."),
        (r"up_layers\.(\d+)\.", r"decoder.\1.blocks."),
        (r"conv_final\.", "head."),
    )

    def arguments(
        self,
        *,
        upsampling: str = "bilinear",
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        **keys: Any,
    ) -> dict[str, Any]:
        expect("network.upsampling", upsampling, one_of(*self.upsamplings))
        expect("network.blocks_down", blocks_down, list_of(whole(1), 2))
        expect("network.blocks_up", blocks_up, list_of(whole(1), len(blocks_down) - 1, len(blocks_down) - 1))
        self.upsampling = upsampling
        mode = {"bilinear": "nontrainable", "transposed": "deconv"}.get(upsampling, upsampling)
        return {**keys, "upsample_mode": mode, "blocks_down": blocks_down, "blocks_up": blocks_up}

    def split(self, model: Any) -> None:
        scales = len(model.blocks_down)
        self.stride = 2 ** (scales - 1)
        self._channels = tuple(model.init_filters * 2**i for i in range(scales))
        dropout = getattr(model, "dropout", nn.Identity())
        self.encoder = nn.ModuleList([nn.Sequential(model.convInit, dropout), *model.down_layers])
        self.decoder = nn.ModuleList(map(Up, model.up_samples, model.up_layers))
        self.head = model.conv_final

    def maps(self, image: Tensor) -> list[Tensor]:
        return chain(self.encoder, image)[1:]


class Up(nn.Module):
    """blocks(up(x) + skip)"""

    def __init__(self, up: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.up, self.blocks = up, blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        found: Tensor = self.blocks(self.up(x) + skip)
        return found


class SwinUNETR(MONAI):
    """Swin UNETR (Hatamizadeh et al. 2022): a Swin transformer on patches of side 2, whose scales go through residual
    blocks to a convolutional decoder.

    Args:
        feature_size: channels of the finest scale, a multiple of 12; 48 in the paper.
        depths, num_heads: transformer blocks and attention heads of each of the four stages.
        window_size: side of the attention windows, in patches; a number, or one for each axis.
        drop_rate, attn_drop_rate, dropout_path_rate: probabilities of dropout, and of leaving out the last block.
        use_v2: whether a residual block stands before each stage.
    """

    architecture = nets.SwinUNETR
    free_sizes = False  # each block pads and cuts windows: tracing takes five minutes with free sizes, seconds without
    encoder: nn.ModuleDict
    names = (
        (r"(swinViT|encoder\d+)\.(?!swinViT|encoder\d)", r"encoder.\1."),
        (r"decoder(\d)\.", lambda m: f"decoder.{5 - int(m[1])}."),
        (r"out\.", "head."),
    )

    def split(self, model: Any) -> None:
        size = model.swinViT.embed_dim
        self._channels = (size, *(size * 2**i for i in range(5)))
        parts = ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10")
        self.encoder = nn.ModuleDict({name: getattr(model, name) for name in parts})
        self.decoder = nn.ModuleList(getattr(model, f"decoder{i}") for i in (5, 4, 3, 2, 1))
        self.head = model.out

    def maps(self, image: Tensor) -> list[Tensor]:
        part, states = self.encoder, self.encoder["swinViT"](image, True)
        finer = [part[f"encoder{i}"](x) for i, x in enumerate((image, *states[:3]), start=1)]
        return [*finer, states[3], part["encoder10"](states[4])]

    @property
    def encoder_layers(self) -> list[nn.Module]:
        swin, *blocks = self.encoder.values()
        stages = [getattr(swin, f"layers{i}{kind}", None) for i in (1, 2, 3, 4) for kind in ("c", "")]
        return [swin.patch_embed, *(stage for stage in stages if stage is not None), *blocks]


class UNETR(MONAI):
    """UNETR (Hatamizadeh et al. 2022): a vision transformer of 12 blocks on patches of side 16, four of whose maps are
    upsampled to the scales of a convolutional decoder.

    Args:
        image_size: sides of the images in training, which give the number of learned positions; images of other sizes
            interpolate them. A number, or one for each axis.
        feature_size: channels of the finest scale.
        hidden_size, mlp_dim, num_heads: of the transformer.
        dropout_rate: probability in the transformer.
    """

    architecture = nets.UNETR
    places = 1
    encoder: nn.ModuleDict
    left_out = tuple(f"vit.blocks.{i}.norm_cross_attn." for i in range(12))  # of an attention that MONAI does not run
    names = (
        (r"(vit|encoder\d)\.(?!vit|encoder\d)", r"encoder.\1."),
        (r"decoder(\d)\.", lambda m: f"decoder.{5 - int(m[1])}."),
        (r"out\.", "head."),
    )

    def arguments(self, *, image_size: int | Sequence[int] = 96, **keys: Any) -> dict[str, Any]:
        sides = [image_size] * self.axes if isinstance(image_size, int) else image_size
        expect("network.image_size", sides, list_of(whole(1), self.axes, self.axes))
        self.grid = [max(1, -(-(side - 1) // 16)) for side in sides]  # as `fitted` makes it
        return {**keys, "img_size": [16 * places for places in self.grid]}

    def split(self, model: Any) -> None:
        for block in model.vit.blocks:
            block.norm_cross_attn = nn.Identity()
        size = model.encoder1.layer.conv1.out_channels
        self.stride, self._channels = 16, (*(size * 2**i for i in range(4)), model.hidden_size)
        parts = ("vit", "encoder1", "encoder2", "encoder3", "encoder4")
        self.encoder = nn.ModuleDict({name: getattr(model, name) for name in parts})
        self.decoder = nn.ModuleList(getattr(model, f"decoder{i}") for i in (5, 4, 3, 2))
        self.head = model.out

    def maps(self, image: Tensor) -> list[Tensor]:
        vit: Any = self.encoder["vit"]
        patches = vit.patch_embedding.patch_embeddings(image)
        tokens = (patches + self.positions(patches.shape[2:])).flatten(2).transpose(1, 2)
        states = chain(vit.blocks, vit.patch_embedding.dropout(tokens))
        states = [states[3], states[6], states[9], vit.norm(states[-1])]
        *finer, last = (x.transpose(1, 2).unflatten(2, patches.shape[2:]) for x in states)
        skips = [self.encoder[f"encoder{i}"](x) for i, x in enumerate((image, *finer), start=1)]
        return [*skips, last]

    def positions(self, grid: Sequence[int]) -> Tensor:
        """The learned positions [1, D, *grid]."""
        vit: Any = self.encoder["vit"]
        found: Tensor = vit.patch_embedding.position_embeddings.transpose(1, 2).unflatten(2, self.grid)
        return found if list(grid) == self.grid else interpolated(found, grid)

    @property
    def encoder_layers(self) -> list[nn.Module]:
        vit: Any = self.encoder["vit"]
        return [vit.patch_embedding, *vit.blocks, vit.norm, *(self.encoder[f"encoder{i}"] for i in (1, 2, 3, 4))]
