"""Encoders that start from weights: by the names of torchvision, segmentation-models-pytorch or timm, or from a file.

Published weights are for RGB images. An encoder of one channel takes the sum of their first layer over the three, so
that it sees a grey image as it would see the same image in RGB; an encoder of n channels takes for channel i the
weights of channel i mod 3, times 3/n.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from ssl4seg import checkpoint
from ssl4seg.errors import UserError
from ssl4seg.networks.base import weighted_layers

State = Mapping[str, Tensor]
Download = Callable[[str], State]
"""Maps a name of weights to the state dict of an encoder with three channels; a UserError for an unknown name."""


def load_encoder(
    encoder: nn.Module,
    name: str,
    weights: str | None,
    download: Download,
    renamed: Callable[[State], State] | None = None,
) -> State:
    """Load weights into all of an encoder, and return the state dict that holds them, with a classifier if it has one.

    Args:
        name: of the encoder, for messages.
        weights: a name that `download` knows; or a file: the state dict of the encoder, of a classifier or a whole
            network that contains it, or a run's best.pt; None leaves the encoder as it is.
        renamed: brings a file's state dict to the encoder's names, where its authors have others.
    """
    if weights is None:
        return {}
    state = _read(Path(weights)) if _is_file(weights) else _downloaded(weights, download)
    state = renamed(state) if renamed else state
    names = [*map(_canonical, encoder.state_dict())]
    state = checkpoint.fitted(state, names, weights, lambda part: {_canonical(key): key for key in part})
    found, faults = _matched(encoder, state)
    if not found:
        faults = [checkpoint.unlike(state, encoder.state_dict())]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise UserError(
            f"network.encoder_weights={weights}: is of another encoder than network.encoder={name}: "
            f"{'; '.join(faults[:3])}{more}"
        )
    encoder.load_state_dict({**encoder.state_dict(), **found})
    return state


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in (".pth", ".pt", ".safetensors", ".ckpt") or len(Path(weights).parts) > 1


def _read(file: Path) -> State:
    if not file.is_file():
        raise UserError(f"network.encoder_weights={file}: there is no such file")
    return checkpoint.network_state(file)


def _downloaded(weights: str, download: Download) -> State:
    try:
        with torch.random.fork_rng(devices=[]):  # a library that draws random numbers must not change the decoder
            return download(weights)
    except UserError:
        raise
    except Exception as error:  # each library and its HTTP client raise errors of their own
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        why = (str(cause) or type(cause).__name__).splitlines()[0][:160]
        raise UserError(
            f"network.encoder_weights={weights}: could not be fetched ({why}); without a network connection give the "
            "weights as a file, network.encoder_weights=FILE, or start anew with network.encoder_weights=null"
        ) from None


def _matched(encoder: nn.Module, state: State) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of `state` under the encoder's keys, and the differences in words."""
    own = encoder.state_dict()
    theirs = {_canonical(key): key for key in state}
    ours = {_canonical(key): key for key in own}
    found, faults = {}, []
    for name, key in ours.items():
        value = state.get(theirs.get(name, ""))
        if value is None:
            if not key.endswith("num_batches_tracked"):  # old files lack it
                faults.append(f"it lacks {key}")
            continue
        found[key] = value = _for_channels(value, own[key].shape)
        if value.shape != own[key].shape:
            faults.append(f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape)}")
    layers = weighted_layers(encoder)
    parts = tuple(_canonical(f"{name}.") for name, part in encoder.named_modules() if part in layers)
    # Other surplus weights belong to a classifier, or to scales that are not used.
    faults += [f"it has {key} too" for name, key in theirs.items() if name not in ours and name.startswith(parts)]
    return found, faults


def _canonical(key: str) -> str:
    """A name that is independent of the wrapper of the encoder: timm's "stages_0" is "stages.0"."""
    return re.sub(r"^(model\.|features\.)+", "", key).replace("_", ".")


def _for_channels(weight: Tensor, shape: torch.Size) -> Tensor:
    """Convert a first layer [O, 3, ...] to the channels of `shape` [O, C, ...]; other weights stay as they are."""
    channels = shape[1] if len(shape) == 4 else 3
    if weight.ndim != 4 or weight.shape[1] != 3 or channels == 3:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [i % 3 for i in range(channels)]] * (3 / channels)


def from_torchvision(encoder: str) -> Download:
    """Weights of a classifier of torchvision: imagenet, which is IMAGENET1K_V1, or a name in its enumeration."""
    known = get_model_weights(encoder).__members__

    def download(weights: str) -> State:
        name = "IMAGENET1K_V1" if weights == "imagenet" else weights
        if name not in known:
            raise UserError(
                f"network.encoder_weights={weights}: expected imagenet, {', '.join(known)}, a file (.pth, .pt, "
                ".safetensors) or null"
            )
        state: State = known[name].get_state_dict(check_hash=True)
        return state

    return download


def take_channels(encoder: nn.Module, channels: int) -> None:
    """Replace the first convolution of an encoder for RGB by a new one for another number of channels."""
    if channels == 3:
        return
    name, old = next((name, part) for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d))
    bias = old.bias is not None
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=bias)  # type: ignore[arg-type]
    encoder.set_submodule(name, new)
