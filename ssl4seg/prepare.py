"""`ssl4seg-prepare`: `acdc` converts the challenge's folders, `import` those of other tools, `check` reports on one."""

import argparse
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.commands.import_folder import import_folder
from ssl4seg.data.acdc_challenge import prepare_acdc, published
from ssl4seg.data.imports.content import Choices
from ssl4seg.data.imports.kinds import KINDS
from ssl4seg.errors import ArgumentParser, UserError, ends_with_its_pipe, plain


def acdc(arguments: argparse.Namespace) -> None:
    """Convert the folders, and print the next command."""
    written, up_to_date = prepare_acdc(arguments.source, arguments.dest)
    print(f"{written} volumes written, {up_to_date} already there, in {arguments.dest}")
    print(published(arguments.dest))
    print(f"train with: ssl4seg-train dataset=acdc dataset.root={arguments.dest}")


def check(arguments: argparse.Namespace) -> None:
    """Report on a folder; a UserError lists its faults."""
    check_folder(arguments.root, sheet=arguments.sheet, write=arguments.write, every=arguments.all)


def import_(arguments: argparse.Namespace) -> None:
    """Write a folder for dataset=folder; a UserError lists the faults of the source."""
    given = vars(arguments)
    import_folder(
        arguments.source,
        arguments.dest,
        choices=Choices(**{name: given[name] for name in Choices.__dataclass_fields__}),
        kind=arguments.kind_of_source,
        group=arguments.group,
        copy=arguments.copy,
        every=arguments.all,
    )


class Plain(io.TextIOBase):
    """A stream for texts that may hold names of a stranger's files."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(plain(text))


def _add_import(kinds: Any) -> None:
    """Add the words of `import`; docs/import.md explains them."""
    listed = "; ".join(f"{kind.NAME} ({kind.TITLE})" for kind in KINDS)
    parser = kinds.add_parser(
        "import",
        help="annotations of other tools (COCO, LabelMe, CVAT, ...) to a folder for dataset=folder",
        description="Write a folder that dataset=folder reads: images linked, masks drawn, dataset.yaml with the "
        f"classes. SOURCE is not touched. All faults are listed at once, and nothing is written then. Kinds: {listed}.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder, or file of annotations")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder to write; becomes dataset.root")
    names = [kind.NAME for kind in KINDS]
    parser.add_argument("--from", dest="kind_of_source", metavar="KIND", help=f"{', '.join(names)} (recognised)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are (in SOURCE)")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    parser.add_argument(
        "--order", choices=["file", "area"], default="file", help="which object lies above: the later, or the smaller"
    )
    parser.add_argument(
        "--empty",
        choices=["unlabeled", "background"],
        default="unlabeled",
        help="what an image without annotations is (unlabeled)",
    )
    parser.add_argument("--boundary", metavar="NAME", help="a class of this name between touching objects")
    parser.add_argument("--legend", type=Path, metavar="FILE", help="the colours of masks and their classes")
    parser.add_argument(
        "--by-folder", action="store_true", help="the folder of a mask is its class (one mask an object)"
    )
    parser.add_argument("--name", metavar="NAME", help="of the class, where the source only has objects")
    parser.add_argument("--group", metavar="REGEX", help="whose first group in an image's name is the patient")
    parser.add_argument("--all", action="store_true", help="list every fault, not three of each kind")
    parser.set_defaults(run=import_)


@ends_with_its_pipe
def main() -> None:
    parser = ArgumentParser(
        prog="ssl4seg-prepare", description="Prepare data for ssl4seg-train. Running it again does no harm."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="acdc|import|check")
    convert = kinds.add_parser(
        "acdc", help="the ACDC challenge's NIfTI folders to h5", description=prepare_acdc.__doc__
    )
    convert.add_argument("source", type=Path, metavar="SOURCE", help="folder with patientXXX/patientXXX_frameNN.nii.gz")
    convert.add_argument("dest", type=Path, metavar="DEST", help="folder to write; becomes dataset.root")
    convert.set_defaults(run=acdc)
    _add_import(kinds)
    report = kinds.add_parser(
        "check",
        help="read a folder of your own data (dataset=folder), and list its faults",
        description="Read every file of a folder for dataset=folder, list the faults, print counts, sizes and classes, "
        "and paint some images with their masks. The exit code is 1 if there are faults.",
    )
    report.add_argument(
        "root", type=Path, metavar="ROOT", help="folder with images/ and masks/, or train/, val/, test/"
    )
    report.add_argument("--sheet", type=Path, metavar="FILE", help="contact sheet to write (<name of ROOT>_check.png)")
    report.add_argument("--write", action="store_true", help="write the suggested ROOT/dataset.yaml if there is none")
    report.add_argument("--all", action="store_true", help="list every fault, not three of each kind")
    report.set_defaults(run=check)
    arguments = parser.parse_args()
    try:
        with redirect_stdout(Plain(sys.stdout)):
            arguments.run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.exit(plain(f"error: {error.filename}: cannot be written or read ({error.strerror})"))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
