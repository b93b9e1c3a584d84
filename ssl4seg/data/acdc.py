"""ACDC, the Automated Cardiac Diagnosis Challenge (Bernard et al., IEEE TMI 2018).

It is read in the h5 layout of the semi-supervised literature: ROOT/data/patientXXX_frameYY.h5 with `image` [S, H, W] in
[0, 1] and `label` [S, H, W] (0 background, 1 right ventricle, 2 myocardium, 3 left ventricle). `ssl4seg-prepare acdc`
converts the challenge's NIfTI folders to this layout. In the literature's copy frame01 is end diastole and frame02 end
systole; a converted copy keeps the numbers of the acquired frames, and has the voxel spacing as an attribute.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from ssl4seg.data.case import Case
from ssl4seg.data.dataset import SPLITS, Common, Dataset, Split
from ssl4seg.data.formats import h5_facts
from ssl4seg.data.h5_reader import H5Reader
from ssl4seg.data.keys import only
from ssl4seg.errors import UserError
from ssl4seg.keys import expect


class ACDC(Dataset):
    """The published 70 / 10 / 20 patients.

    Args:
        root: the folder that holds data/.
        patients: patient numbers of train, val and test, in the published order.
    """

    name = "acdc"
    published_test = True
    place = "the folder of ACDC, dataset.root=DATA/ACDC"
    remedy = "mend dataset.patients"

    def __init__(
        self,
        *,
        root: str | None,
        patients: Mapping[Split, Sequence[int]],
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        expect("dataset.channels", self.channels, only(1, "ACDC"))
        if missing := [split for split in SPLITS if not patients.get(split)]:
            raise UserError(f"dataset.patients names no patient for {', '.join(missing)}")
        self.patients, self.reader = patients, H5Reader(self.scaling, self.ignore_index)
        self.files = self._find(self.folder(root))

    def _find(self, root: Path) -> dict[str, list[Path]]:
        """The volume files by patient, in the order of their frames."""
        if not root.is_dir():
            raise UserError(f"dataset.root={root}: there is no such folder")
        files: dict[str, list[Path]] = {}
        for file in sorted((root / "data").glob("patient[0-9]*_frame[0-9]*.h5")):
            files.setdefault(file.name.split("_")[0], []).append(file)
        if files:
            return files
        if next(root.glob("**/patient*/Info.cfg"), None) or next(root.glob("**/patient*_frame*.nii*"), None):
            raise UserError(
                f"dataset.root={root} holds the challenge's NIfTI files; convert them once with\n"
                f"  ssl4seg-prepare acdc {root} DEST\nand give dataset.root=DEST"
            )
        raise UserError(f"dataset.root={root}: holds no data/patientXXX_frameYY.h5; see `ssl4seg-prepare acdc --help`")

    def cases(self, split: Split) -> list[Case]:
        names = [f"patient{number:03d}" for number in self.patients[split]]
        if missing := [name for name in names if name not in self.files]:
            raise UserError(
                f"dataset.root: {len(missing)} of the {len(names)} {split} patients are missing "
                f"({', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}); "
                "complete the folder or shorten dataset.patients"
            )
        return [self.shaped(self._case(name, file)) for name in names for file in self.files[name]]

    def _case(self, patient: str, file: Path) -> Case:
        shape, labeled, spacing = h5_facts(file)
        if len(shape) != 3:
            raise UserError(f"{file}: the image has shape {shape}; expected slices x height x width")
        return Case(
            name=file.stem,
            group=patient,
            num_images=shape[0],
            size=shape[1:],
            labeled=labeled,
            read=partial(self.reader.volume, file, (), labeled),
            read_part=partial(self.reader.volume, file),
            spacing=spacing,
            files=(file,),
        )
