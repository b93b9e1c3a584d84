"""The work of `ssl4seg-rank`: order unlabelled images by what labelling them would teach a run's model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl4seg.commands.evaluation import writable
from ssl4seg.commands.prediction import images_of, inputs_of
from ssl4seg.data.case import Case, ImageArray, checked
from ssl4seg.data.formats import stem
from ssl4seg.data.patterns import first_groups
from ssl4seg.errors import UserError
from ssl4seg.files import write_csv, write_text
from ssl4seg.keys import DISTANT
from ssl4seg.run.assemble import dataset_of
from ssl4seg.run.device import out_of_memory_explained
from ssl4seg.run.folder import read_json
from ssl4seg.run.model import Model
from ssl4seg.run.passes import Passes, features
from ssl4seg.run.record import start_log
from ssl4seg.run.settings import Config, RankSettings, read
from ssl4seg.scoring.pictures import captioned, contact_sheet, legend, overlay, palette
from ssl4seg.scoring.ranking import Candidate, Place, Uncertainty, ranked, uncertainty

log = logging.getLogger("ssl4seg")

HEAD = ("order", "case", "chosen", "images", "entropy", "disagreement", "distance")
"""The columns of ranking.csv."""
DISAGREEING = ("disagreement", "combined")
"""Rankings for which several passes are made."""
TILE, COLUMNS = 256, 4
"""Height in pixels and number in a row of the pictures in ranking.png."""


@dataclass(frozen=True, kw_only=True)
class Unlabeled:
    """Images that are read, and labelled or not, as one: a case, or a file."""

    name: str
    group: str
    """The patient, which is ranked as a whole."""
    read: Callable[[], ImageArray]
    """[S, C, *X], scaled as in training."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the model says of S images."""

    source: Unlabeled
    scores: Uncertainty
    """[S] each"""
    feature: npt.NDArray[np.float64] | None
    """[F] The sum over the images."""


def rank_images(config: Config) -> None:
    """Write ranking.csv and ranking.png; of the run's own cases also the list with which the next run begins.

    Args:
        config: the run's configuration, with the typed words laid on it.

    Raises:
        UserError: also after the ranking is written, if some images could not be read; it lists them.
    """
    start_log(None)
    # Post-processing would hide what the network is unsure of.
    settings = read(RankSettings, {**config, "postprocess": {}})
    output = Path(settings.output) if settings.output is not None else Path(settings.run) / "rank"
    model = Model([settings])
    sources, faults = _files(settings, model, output) if settings.input is not None else (_own(settings), [])
    writable(output)
    with out_of_memory_explained():
        measured, unread = _measured_all(sources, model, settings)
        faults += unread
        if not measured:
            raise UserError("\n".join(["no image could be read:", *faults]))
        reference = _reference(settings, model) if _needs_distance(settings) else None
        places = ranked(_candidates(measured), settings.by, settings.count, reference)
        chosen = [place for place in places if place.chosen]
        picture = _sheet(chosen, measured, model)
    lines = [_line(number, place, settings.by) for number, place in enumerate(places, start=1)]
    write_csv(output / "ranking.csv", [HEAD, *lines])
    Image.fromarray(picture).save(output / "ranking.png")
    written = ["ranking.csv", "ranking.png"]
    if settings.input is None:
        written.append(_write_list(settings, chosen, output))
    shown = ", ".join(place.candidate.name for place in chosen[:10])
    log.info(f"{len(places)} cases ranked by {settings.by}; label first: {shown}{', ...' if len(chosen) > 10 else ''}")
    log.info(f"written: {output}/{', '.join(written)}")
    if faults:
        raise UserError("\n".join([f"{len(faults)} of the images could not be ranked:", *faults]))


def _needs_distance(settings: RankSettings) -> bool:
    return settings.by in DISTANT


# -- the images -------------------------------------------------------------------------------------------------------


def _own(settings: RankSettings) -> list[Unlabeled]:
    """The run's own unlabelled cases, in their published order."""
    if not (cases := _cases_of_split(settings, "unlabeled")):
        raise UserError(f"run={settings.run}: all of its training cases are labelled; give input=FOLDER")
    return [_of_case(case, settings) for case in cases]


def _of_case(case: Case, settings: RankSettings) -> Unlabeled:
    return Unlabeled(name=case.name, group=case.group, read=partial(_read_case, case, settings.dataset))


def _read_case(case: Case, data: Config) -> ImageArray:
    return checked(case.volume(label=False), case.name, data["num_classes"], data["channels"]).image


def _cases_of_split(settings: RankSettings, part: str) -> list[Case]:
    """The training cases that split.json calls labeled or unlabeled.

    Raises:
        UserError: the dataset has other cases now.
    """
    names = _listed(settings, part)
    cases = {case.name: case for case in dataset_of(settings.dataset).cases("train")}
    if missing := [name for name in names if name not in cases]:
        raise UserError(
            f"run={settings.run}: {len(missing)} of its {part} cases are no training cases of the dataset now, for "
            f"example {missing[0]}; give dataset.root=DIR, the data that it was trained on"
        )
    return [cases[name] for name in names]


def _listed(settings: RankSettings, part: str) -> list[str]:
    """A list of names in the run's split.json."""
    file = Path(settings.run) / "split.json"
    if not file.exists():
        raise UserError(f"{file}: is missing; it says which cases are labelled")
    names = read_json(file).get(part)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: is damaged; it holds no list of names {part!r}")
    return names


def _files(settings: RankSettings, model: Model, output: Path) -> tuple[list[Unlabeled], list[str]]:
    """The images of `input`, and the faults of its files."""
    source = Path(str(settings.input))
    channel_files = bool(settings.dataset.get("channel_files", False))
    found = inputs_of(source, output, channel_files=channel_files)
    images, faults = images_of(found.files, model.channels if channel_files else None)
    names = [str(file.relative_to(source) if source.is_dir() else file.name) for file in images]
    pattern = settings.group or settings.dataset.get("group")
    groups = first_groups(pattern, [stem(Path(name)) for name in names], "group") if pattern else [None] * len(names)
    listed = zip(names, groups, images.values(), strict=True)
    return (
        [
            Unlabeled(name=name, group=group or name, read=partial(model.image_of, files))
            for name, group, files in listed
        ],
        [*faults, *found.faults.values()],
    )


# -- what the model says of them --------------------------------------------------------------------------------------


def _measured_all(
    sources: Sequence[Unlabeled], model: Model, settings: RankSettings
) -> tuple[list[Measured], list[str]]:
    """Every image that can be read, and the messages of the others."""
    passes = Passes(model, settings.num_passes if settings.by in DISAGREEING else 1)
    if passes.number < settings.num_passes and passes.number > 1:
        log.info(f"num_passes: the network has no dropout; {passes.number} passes are made, one of them mirrored")
    measured: list[Measured] = []
    faults = []
    for number, source in enumerate(sources, start=1):
        try:
            image = source.read()
        except (UserError, OSError) as error:
            faults.append(str(error) if source.name in str(error) else f"{source.name}: {error}")
            continue
        scores = uncertainty(passes(image, source.name))
        feature = features(model, image).sum(axis=0) if _needs_distance(settings) else None
        measured.append(Measured(source=source, scores=scores, feature=feature))
        if number % 100 == 0:
            log.info(f"{number} of {len(sources)} cases predicted")
    return measured, faults


def _reference(settings: RankSettings, model: Model) -> npt.NDArray[np.float64]:
    """The features of the run's labelled cases, the mean over each group's images: [m, F]."""
    each: dict[str, list[npt.NDArray[np.float64]]] = {}
    for case in _cases_of_split(settings, "labeled"):
        each.setdefault(case.group, []).append(features(model, _read_case(case, settings.dataset)))
    return np.stack([np.concatenate(parts).mean(axis=0) for parts in each.values()])


def _candidates(measured: Sequence[Measured]) -> list[Candidate]:
    """The groups; each score is the mean over all images of a group, and so is the feature."""
    candidates = []
    for name, parts in _by_group(measured).items():
        scores = [np.concatenate(each) for each in zip(*(part.scores for part in parts), strict=True)]
        found = [part.feature for part in parts if part.feature is not None]
        candidates.append(
            Candidate(
                name=name,
                num_images=len(scores[0]),
                entropy=float(scores[0].mean(dtype=np.float64)),
                disagreement=float(scores[1].mean(dtype=np.float64)),
                feature=np.sum(found, axis=0) / len(scores[0]) if found else None,
            )
        )
    return candidates


def _by_group(measured: Sequence[Measured]) -> Mapping[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for part in measured:
        groups.setdefault(part.source.group, []).append(part)
    return groups


# -- what is written --------------------------------------------------------------------------------------------------


def _line(number: int, place: Place, by: str) -> tuple[object, ...]:
    """A line of ranking.csv; the columns that `by` does not need are empty."""
    candidate, distance = place.candidate, place.distance
    return (
        number,
        candidate.name,
        "yes" if place.chosen else "no",
        candidate.num_images,
        f"{candidate.entropy:.6f}",
        f"{candidate.disagreement:.6f}" if by in DISAGREEING else "",
        "" if distance is None else f"{distance:.6f}",
    )


def _sheet(chosen: Sequence[Place], measured: Sequence[Measured], model: Model) -> npt.NDArray[np.uint8]:
    """Of each chosen case the most uncertain image, bare and with what the model sees in it, above the classes."""
    data, groups = model.data, _by_group(measured)
    colors = palette(data.get("palette"), background=data.get("background", True))
    pictures, classes = [], set[int]()
    for number, place in enumerate(chosen, start=1):
        part = max(groups[place.candidate.name], key=lambda part: _worst(part)[1])
        at, image = _worst(part)[0], part.source.read()
        label = model.members[0].predictor(image[at : at + 1])
        words = f"{number} {part.source.name}" + (f" {at + 1} of {len(image)}" if len(image) > 1 else "")
        classes |= {*colors.classes(label)}
        pictures.append(captioned(overlay(image[at : at + 1], [label], colors), words))
    sheet = contact_sheet(pictures, TILE, COLUMNS)
    return np.concatenate([sheet, legend(data["classes"], sorted(classes), colors, sheet.shape[1])])


def _worst(part: Measured) -> tuple[int, float]:
    """The most uncertain image of a case, and its score: its disagreement where passes were made, else its entropy."""
    scores = part.scores.disagreement if part.scores.disagreement.any() else part.scores.entropy
    return int(scores.argmax()), float(scores.max())


def _write_list(settings: RankSettings, chosen: Sequence[Place], output: Path) -> str:
    """Write the labelled groups and the chosen ones, for `labeled_list`; return the file's name.

    It tells their number, because the folder of the next run is named by it.
    """
    names = dict.fromkeys([*_listed(settings, "labeled_groups"), *(place.candidate.name for place in chosen)])
    name = f"{len(names)}ranked.txt"
    write_text(output / name, "".join(f"{each}\n" for each in names))
    return name
