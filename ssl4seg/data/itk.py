"""Read and write NRRD (.nrrd) and MetaImage (.mha, .mhd): volumes and images that know their place.

ITK has positions in LPS (left, posterior, superior grow); the affines here are in RAS, as those of NIfTI.

SimpleITK reads NRRD and writes both. Both formats may name another file that holds the voxels. SimpleITK would read any
file of this machine by that name, so the header is looked at first: .nrrd and .mha must hold their voxels, and .mhd may
name a file beside it.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl4seg.data.case import Spacing
from ssl4seg.data.guards import checked_spacing, expect_memory, expect_numbers, named_faults
from ssl4seg.data.orientation import Affine, check_affine
from ssl4seg.errors import UserError
from ssl4seg.userfiles import irregular

NRRD = (".nrrd",)
META = (".mha", ".mhd")
ITK = NRRD + META
READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
MAX_HEAD = 2**20
"""Bytes of a header in text."""
CHUNK = 2**20
"""Bytes that are unpacked at once."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's axes of the body to those of NIfTI, and back."""
BODY = ("left", "right", "l", "r")
"""How a `space` of NRRD begins that says where the body lies; others, as "scanner-xyz", do not."""


class Header(NamedTuple):
    """What the header says."""

    shape: tuple[int, ...]
    """[H, W], [S, H, W] or [S, C, H, W]; also [1, C, H, W], of one image with channels."""
    dtype: np.dtype[Any]
    spacing: Spacing
    """Millimetres between slices, rows and columns."""
    affine: Affine | None
    """From voxels (x, y, z) to mm right, anterior and superior; None if the file does not say it, or has two axes."""
    stored: "Stored"
    """Where the voxels are."""
    grid: "Grid"


class Grid(NamedTuple):
    """Where voxels lie, as ITK says it, in LPS."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: npt.NDArray[np.float64]
    """A column for each axis of the file."""

    def affine(self, path: Path) -> Affine:
        """The same from voxels to RAS."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction[:3, :3] * np.array(self.spacing[:3])
        affine[:3, 3] = self.origin[:3]
        affine = LPS @ affine
        check_affine(str(path), affine)
        return affine


class Stored(NamedTuple):
    """Where a file holds its voxels, and how."""

    file: Path
    start: int
    """Bytes before them."""
    container: int | None
    """How they are compressed, as zlib's `wbits`; None if they are not, or if ITK itself compares a check sum."""
    is_text: bool = False


def itk_header(path: Path) -> Header:
    """The header; the last ones are remembered, for a header is asked for many times."""
    with named_faults(path, _kind(path)):
        status = path.stat()
    return _header_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(64)
def _header_of(path: Path, _changed: int, _size: int) -> Header:
    if path.name.lower().endswith(META):
        fields, stored = _meta_head(path)
        with named_faults(path, "MetaImage"):
            is_placed = bool(_TURN & fields.keys())
            return _header(path, *_meta_facts(path, fields), stored, is_placed=is_placed)
    fields, stored = _nrrd_head(path)
    with named_faults(path, "NRRD"):
        reader = _reader(path)
        reader.ReadImageInformation()
        size, axes = tuple(map(int, reader.GetSize())), reader.GetDimension()
        direction = np.array(reader.GetDirection(), float).reshape(axes, axes)
        grid = Grid(reader.GetSpacing(), reader.GetOrigin(), direction)
        is_placed = fields.get("space", "").lower().startswith(BODY)
        return _header(
            path, size, reader.GetNumberOfComponents(), _dtype(path, reader), grid, stored, is_placed=is_placed
        )


def _header(
    path: Path,
    size: tuple[int, ...],
    components: int,
    dtype: np.dtype[Any],
    grid: Grid,
    stored: Stored,
    *,
    is_placed: bool,
) -> Header:
    """The header of `size` voxels (x, y, z) of so many values each.

    Args:
        is_placed: whether the file says where the body lies.
    """
    shape = _shape(path, size, components)
    expect_memory(path, shape, dtype, scaled=True)
    spacing = checked_spacing([*grid.spacing[:3], 1.0][2::-1], path)
    return Header(shape, dtype, spacing, grid.affine(path) if is_placed and len(size) > 2 else None, stored, grid)


def read_itk(path: Path) -> npt.NDArray[Any]:
    """The voxels, in the shape that `Header` says."""
    shape, dtype, _, _, stored, grid = itk_header(path)
    with named_faults(path, _kind(path)):
        if path.name.lower().endswith(META):
            return _read_meta(path, shape, dtype, stored, axes=len(grid.spacing))
        _expect_whole(path, stored, math.prod(shape) * dtype.itemsize)
        image = _reader(path).Execute()
        voxels: npt.NDArray[Any] = _sitk().GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            voxels = np.moveaxis(voxels, -1, -3)
        elif voxels.ndim == 4:
            voxels = voxels.swapaxes(0, 1)
        return voxels.reshape(shape)


def _expect_whole(path: Path, stored: Stored, size: int) -> None:
    """Refuse voxels that are cut off or damaged: ITK reads some of them as other numbers, without an error.

    Args:
        size: bytes of the voxels, unpacked.
    """
    found = max(0, stored.file.stat().st_size - stored.start)
    if stored.container is not None:
        found = _unpacked(path, stored, stored.container, size)
    if found < size and not stored.is_text:
        raise UserError(f"{path}: declares {size} bytes of voxels, but holds {found}; copy the file again")


def _unpacked(path: Path, stored: Stored, container: int, size: int) -> int:
    """The number of unpacked bytes, which is expected to be `size`; the check sum at their end is compared."""
    stream, total = zlib.decompressobj(container), 0
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        while not stream.eof and total <= size and (chunk := stream.unconsumed_tail or file.read(CHUNK)):
            total += len(stream.decompress(chunk, CHUNK))
    if total > size:
        raise UserError(f"{path}: goes on after the {size} bytes of voxels that its header declares; mend the header")
    if not stream.eof:
        raise UserError(f"{path}: its compressed voxels have no end; copy the file again")
    return total


def write_itk(path: Path, label: npt.NDArray[Any], like: Path) -> None:
    """A mask [S, H, W] with spacing, origin and direction of the file `like`, compressed."""
    grid = itk_header(like).grid
    _write(path, label if len(grid.spacing) > 2 else label[0], grid)


def copy_itk(file: Path, target: Path) -> None:
    """The same volume without channels as one file of another ending, .mha of an .mhd."""
    _write(target, read_itk(file), itk_header(file).grid)


def _write(path: Path, voxels: npt.NDArray[Any], grid: Grid) -> None:
    axes = voxels.ndim
    image = _sitk().GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing[:axes])
    image.SetOrigin(grid.origin[:axes])
    image.SetDirection(grid.direction[:axes, :axes].ravel().tolist())
    try:
        _sitk().WriteImage(image, str(path), useCompression=True, imageIO=_io(path))
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())[-160:]})") from None


@cache
def _sitk() -> Any:
    """SimpleITK, which takes a second to import, without its own warnings on the screen."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    return SimpleITK


def _kind(path: Path) -> str:
    return "NRRD" if path.name.lower().endswith(NRRD) else "MetaImage"


def _io(path: Path) -> str:
    return READERS[path.suffix.lower()]


def _reader(path: Path) -> Any:
    """A reader of this kind alone, whatever the content looks like."""
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_io(path))
    return reader


def _dtype(path: Path, reader: Any) -> np.dtype[Any]:
    words = str(_sitk().GetPixelIDValueAsString(reader.GetPixelID()))
    bits = re.search(r"(\d+)-bit (unsigned|signed|float)", words)
    if bits is None or "complex" in words:
        raise UserError(f"{path}: holds {words}; expected whole numbers or float")
    kind = {"unsigned": "u", "signed": "i", "float": "f"}[bits[2]]
    dtype = np.dtype(f"{kind}{int(bits[1]) // 8}")
    expect_numbers(path, dtype)
    return dtype


def _shape(path: Path, size: tuple[int, ...], components: int) -> tuple[int, ...]:
    """The shape of voxels as `Header` has it; a fourth axis is one of channels, as in NIfTI."""
    shape, axes = size[::-1], len(size) + (components > 1)
    if min(shape, default=0) < 1:
        raise UserError(f"{path}: has the dimensions {size}, and so no voxels; mend or remove the file")
    if len(size) not in (2, 3, 4) or axes > 4:
        raise UserError(
            f"{path}: has the dimensions {size}{f' of {components} values' if components > 1 else ''}; expected a "
            "volume or an image, with channels or without"
        )
    if len(size) == 4:
        return (shape[1], shape[0], *shape[2:])
    return (*(shape[:-2] or (1,)), components, *shape[-2:]) if components > 1 else shape


# -- headers in text --------------------------------------------------------------------------------------------------


def _nrrd_head(path: Path) -> tuple[dict[str, str], Stored]:
    """The fields of a NRRD header, which must not name another file, and where its voxels begin.

    Raises:
        UserError: it does, or is no header of NRRD.
    """
    with named_faults(path, "NRRD"):
        head = _head(path)
        text, end, _ = head.partition(b"\r\n\r\n" if b"\r\n\r\n" in head.partition(b"\n\n")[0] else b"\n\n")
        start = len(text) + len(end)
        if not head.startswith(b"NRRD"):
            raise UserError(f"{path}: is no NRRD file; expected one that begins with NRRD")
        lines = text.decode("latin-1").replace("\r\n", "\n").split("\n")
        if not end or any("\r" in line for line in lines):
            raise UserError(f"{path}: its NRRD header has no end, or strange ends of lines; save the file again")
    pairs = [line.partition(":") for line in lines[1:] if not line.startswith("#")]
    fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
    if any(re.sub(r"[^a-z]", "", key) == "datafile" for key in fields):
        raise UserError(
            f"{path}: its voxels lie in another file (data file), which is not read; save header and voxels as one "
            ".nrrd"
        )
    if any(fields.get(key, "0") != "0" for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise UserError(f"{path}: its header skips some of the voxels (line skip, byte skip); save the file again")
    encoding = fields.get("encoding", "").lower()
    container = 31 if encoding in ("gzip", "gz") else None
    return fields, Stored(path, start, container, is_text=encoding not in ("raw", "gzip", "gz"))


TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"}
TYPES |= {"LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
"""Of MetaImage; the size of its LONG depends on the machine that wrote it."""
_TURN = {"TransformMatrix", "Rotation", "Orientation"}
"""Names of the field of MetaImage that says how the axes lie."""
LONGEST = 4000
"""Characters of a line; ITK itself has a limit, behind which it may take the rest for a line of its own."""


def _meta_head(path: Path) -> tuple[dict[str, str], Stored]:
    """The fields of a MetaImage header, which may name only a file beside it (in .mhd), and where its voxels are.

    Raises:
        UserError: it names another one, or is no header of MetaImage.
    """
    fields: dict[str, str] = {}
    start = 0
    with named_faults(path, "MetaImage"):
        for line in _head(path).split(b"\n"):
            start += len(line) + 1
            text = line.decode("latin-1").strip()
            key, sign, value = (part.strip() for part in text.partition("="))
            if not sign or key in fields or "\r" in text or len(text) > LONGEST:
                raise UserError(f"{path}: is no MetaImage file; expected a header of lines such as NDims = 3")
            fields[key] = value
            if "elementdatafile" in key.lower():
                break
        place = fields.get("ElementDataFile")
        if place is None:
            raise UserError(f"{path}: its header names no voxels; expected ElementDataFile at its end")
    is_local = place.upper() == "LOCAL"
    if not is_local:
        _expect_beside(path, place)
        start = 0
    if (skipped := fields.get("HeaderSize", "0")) not in ("0", "-1"):
        raise UserError(f"{path}: HeaderSize = {skipped} skips a part of the file; save the volume as .mha")
    container = 15 if fields.get("CompressedData", "").lower() in ("true", "1") else None
    if fields.get("BinaryData", "True").lower() in ("false", "0"):
        raise UserError(
            f"{path}: holds its voxels as text (BinaryData = False), which is not read; save them as binary"
        )
    return fields, Stored(path if is_local else path.parent / place, start, container)


def _meta_facts(path: Path, fields: Mapping[str, str]) -> tuple[tuple[int, ...], int, np.dtype[Any], Grid]:
    """Sizes (x, y, z), values in each voxel, their type and place, from the fields of a MetaImage."""

    def numbers(keys: Sequence[str], count: int, otherwise: Sequence[float] | None = None) -> list[float]:
        key = next((key for key in keys if key in fields), None)
        found = [float(word) for word in fields[key].split()] if key else otherwise
        if found is None or len(found) != count or not np.isfinite(found).all():
            raise UserError(f"{path}: {keys[0]} = {fields.get(key or '')}: expected {count} number(s)")
        return list(found)

    axes = int(numbers(["NDims"], 1)[0])
    if axes not in (2, 3, 4):
        raise UserError(f"{path}: NDims = {axes}; expected 2, 3 or 4")
    size = tuple(map(int, numbers(["DimSize"], axes)))
    components = int(numbers(["ElementNumberOfChannels"], 1, [1])[0])
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in TYPES or components < 1:
        shown = fields.get("ElementType", "missing")
        raise UserError(f"{path}: ElementType is {shown}; expected MET_ and one of {', '.join(TYPES)}")
    is_big = any(
        fields.get(key, "").lower() in ("true", "1") for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    )
    turn = numbers([*sorted(_TURN, reverse=True)], axes**2, np.eye(axes).ravel().tolist())
    grid = Grid(
        tuple(numbers(["ElementSpacing", "ElementSize"], axes, [1.0] * axes)),
        tuple(numbers(["Offset", "Position", "Origin"], axes, [0.0] * axes)),
        np.array(turn).reshape(axes, axes).T,
    )
    return size, components, np.dtype(f"{'>' if is_big else '<'}{TYPES[kind]}"), grid


def _read_meta(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], stored: Stored, *, axes: int
) -> npt.NDArray[Any]:
    """The voxels of a MetaImage, read here: ITK's own reader writes beyond its memory on damaged files."""
    size = math.prod(shape) * dtype.itemsize
    _expect_whole(path, stored, size)
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        content = (
            zlib.decompressobj(stored.container).decompress(file.read(), size) if stored.container else file.read(size)
        )
    voxels = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    if axes == 4:  # the channels come last in the file, that is first here
        return voxels.reshape(shape[1], shape[0], *shape[2:]).swapaxes(0, 1)
    if len(shape) == 4:  # the values of a voxel follow one another
        return np.moveaxis(voxels.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return voxels.reshape(shape)


def _expect_beside(path: Path, name: str) -> None:
    """Refuse all voxels but those of one regular file in the header's folder."""
    if not path.name.lower().endswith(".mhd"):
        raise UserError(f"{path}: its voxels lie in another file ({name}), which only .mhd may have; save it again")
    if name in ("", ".", "..") or re.search(r"[/\\%:]", name) or name.upper().startswith("LIST"):
        raise UserError(
            f"{path}: ElementDataFile = {name}: expected the name of one file in the same folder; save the volume "
            "as .mha"
        )
    file = path.parent / name
    if not file.exists():
        raise UserError(f"{file}: is missing; {path.name} says that it holds the voxels")
    if kind := irregular(file):
        raise UserError(f"{file}: is {kind}; only regular files are read")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_HEAD)
