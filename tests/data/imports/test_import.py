"""What all kinds share: which one a source is, the folder that is written, and a second import."""

import hashlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from folders import folder
from helpers import Command, refused, succeed
from PIL import Image
from sources import (
    PALETTE,
    SIZE,
    SOURCES,
    box,
    coco,
    colored,
    cvat,
    imported,
    labelme,
    mask_in,
    outline,
    picture,
    runs,
    save,
    shape,
    some_coco,
)

from ssl4seg.commands.check_folder import check_folder
from ssl4seg.data.imports.content import Choices, Source
from ssl4seg.data.imports.kinds import KINDS, TOLD, kind_of
from ssl4seg.errors import UserError


def contents(top: Path) -> dict[str, str]:
    """A digest of each file, and when it was changed."""
    return {
        file.relative_to(top).as_posix(): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mtime_ns}"
        for file in sorted(top.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_kind_is_recognised_and_its_source_is_not_touched(tmp_path: Path, kind: str) -> None:
    assert [*SOURCES] == [each.NAME for each in KINDS]
    source = SOURCES[kind](tmp_path / "in")
    before = contents(source)
    assert kind == kind_of(Source(source)).NAME
    out = imported(source, tmp_path / "out")
    assert contents(source) == before
    assert json.loads((out / "import.json").read_text())["kind"] == kind
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]


def test_what_is_no_kind_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        imported(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"looks like nothing that can be imported; expected one of\n  --from coco: "):
        imported(tmp_path / "empty", tmp_path / "out")
    source = labelme(some_coco(tmp_path / "in"), [shape("cat", [[5, 5], [9, 5], [9, 9]])])
    with pytest.raises(
        UserError, match=r"looks like COCO JSON .* and like LabelMe JSON .*; say which by --from coco or"
    ):
        imported(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"--from labelmi: expected one of .*; did you mean labelme\?"):
        imported(source, tmp_path / "out", kind="labelmi")
    (tmp_path / "msd/imagesTr").mkdir(parents=True)
    with pytest.raises(UserError, match="holds imagesTr/, which dataset=folder reads without an import"):
        imported(tmp_path / "msd", tmp_path / "out")


@pytest.mark.parametrize("folders", [[], ["images"]])
def test_a_file_that_cannot_be_parsed_is_named_where_no_kind_is_recognised(tmp_path: Path, folders: list[str]) -> None:
    source = some_coco(tmp_path / "in")
    for name in folders:  # which dataset=folder knows
        (source / name).mkdir()
    file = source / "instances.json"
    file.write_text(file.read_text()[:99])
    (source / "annotations.xml").touch()
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out")
    json_fault, xml_fault, last = str(refusal.value).splitlines()[:3]
    assert json_fault.startswith(f"{file}: cannot be read as JSON (")
    assert xml_fault.startswith(f"{source / 'annotations.xml'}: cannot be read as XML (")
    assert ("which dataset=folder reads" if folders else "looks like nothing that can be imported") in last
    (source / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"instances\.json: cannot be read as JSON .*\n.*in: holds 2 files \.json"):
        imported(source, tmp_path / "out", kind="panoptic")


def test_a_word_that_one_kind_reads_tells_the_kind_where_files_tell_none(tmp_path: Path) -> None:
    source = tmp_path / "in"
    picture(source / "images/a.png")
    label = np.full((*SIZE, 3), (64, 128, 64), np.uint8)
    label[box(0, 5, 0, 5)] = 0
    save(source / "masks/a.png", label)
    (tmp_path / "l2.txt").write_text("animal 64 128 64\n")
    with pytest.raises(UserError, match=r"holds images/, which dataset=folder reads .*: --from KIND$"):
        imported(source, tmp_path / "out")
    out = imported(source, tmp_path / "out", legend=tmp_path / "l2.txt")
    assert np.array_equal(mask_in(out / "masks/a.png"), ~box(0, 5, 0, 5))
    save(source / "masks/a.png", np.where(box(0, 5, 0, 5), np.uint8(0), np.uint8(255)))
    out = imported(source, tmp_path / "out2", by_folder=True)
    assert json.loads((out / "import.json").read_text())["kind"] == "masks"


def test_a_word_that_one_kind_reads_tells_which_of_several_is_meant(tmp_path: Path) -> None:
    source = labelme(colored(tmp_path / "in"), [shape("cat", [[5, 5], [9, 5], [9, 9]])])
    with pytest.raises(UserError, match=r"looks like LabelMe JSON .* and like masks in colours"):
        imported(source, tmp_path / "out")
    assert kind_of(Source(source), choices=Choices(legend=source / "class_dict.csv")).NAME == "colors"
    assert kind_of(Source(source), choices=Choices(boundary="edge")).NAME == "labelme"


def test_the_words_that_tell_a_kind_are_read_by_it() -> None:
    assert all(word in kind.CHOICES for word, kind in TOLD.items())


def test_a_word_that_the_kind_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--by-folder: coco .*, but masks; leave it out, or .* by --from KIND$"):
        imported(some_coco(tmp_path / "in"), tmp_path / "out", by_folder=True)
    with pytest.raises(UserError, match=r"in: holds 0 files \.xml, and none with annotations and meta"):
        imported(tmp_path / "in", tmp_path / "out", kind="cvat")


def test_the_folder_is_a_dataset_with_its_groups(tmp_path: Path) -> None:
    source = some_coco(tmp_path / "in")
    out = imported(source, tmp_path / "out", group=r"(\d)")
    dataset = folder(out)
    cases = [case for split in ("train", "val", "test") for case in dataset.cases(split)]  # type: ignore[arg-type]
    assert sorted(case.group for case in cases) == [str(number) for number in range(8)]
    assert sum(case.labeled for case in cases) == 6
    with pytest.raises(UserError, match=r"--group \(p\\d\): does not match 8 of 8 names, as 0"):
        imported(source, tmp_path / "out2", group=r"(p\d)")


def coco_with_undrawn(folder: Path) -> Path:
    shapes = {1: outline(5, 9, 60, 70), 2: outline(6, 8, 6, 8), 3: outline(5, 9, 5, 9)}
    return coco(
        folder,
        [{"image_id": n, "category_id": k, "segmentation": [each]} for n in range(4) for k, each in shapes.items()],
        images=4,
        categories=[{"id": 1, "name": "far"}, {"id": 2, "name": "beneath"}, {"id": 3, "name": "seen"}],
    )


def labelme_with_undrawn(folder: Path) -> Path:
    for number in range(4):
        shapes = [("beneath", 6, 7), ("seen", 5, 8), ("far", 50, 60)]
        listed = [shape(name, [[start, start], [end, end]], "rectangle") for name, start, end in shapes]
        labelme(folder, [*listed, shape("far", [[-9, 5], [-5, 5], [-5, 9]])], str(number))
    return folder


def cvat_with_undrawn(folder: Path) -> Path:
    box = '<box label="{}" xtl="{}" ytl="5" xbr="{}" ybr="9" z_order="{}"/>'
    shapes = box.format("beneath", 6, 8, 0) + box.format("seen", 5, 9, 1) + box.format("far", 50, 60, 0)
    more = [f'<image id="{n}" name="{n}.png" width="48" height="40">{shapes}</image>' for n in range(1, 4)]
    source = cvat(folder, shapes, "".join(more))
    for number in range(1, 4):
        picture(source / f"images/{number}.png", number)
    file = source / "annotations.xml"
    head = "<label><name>beneath</name><color>#0000ff</color></label><label><name>car"
    text = file.read_text().replace("<label><name>car", head)
    file.write_text(text.replace("<name>car<", "<name>far<").replace("<name>road<", "<name>seen<"))
    return source


@pytest.mark.parametrize("make", [coco_with_undrawn, labelme_with_undrawn, cvat_with_undrawn])
def test_classes_of_which_no_mask_holds_a_pixel_are_left_out_and_the_folder_passes_the_check(
    tmp_path: Path, make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = imported(make(tmp_path / "in"), tmp_path / "out")
    said = capsys.readouterr().out
    if make is labelme_with_undrawn:  # which knows of no shape outside
        assert "classes without an object are left out: far\n" in said
    undrawn = {coco_with_undrawn: "far, beneath", labelme_with_undrawn: "beneath", cvat_with_undrawn: "beneath, far"}
    assert f"note: classes of which no mask holds a pixel are left out: {undrawn[make]}\n" in said
    assert "outlines lie outside of their image, and are left out" in said
    assert "1 seen: 0.83% of the pixels" in said
    check_folder(out, sheet=tmp_path / "sheet.png")
    description = yaml.safe_load((out / "dataset.yaml").read_text())
    assert description["classes"] == ["background", "seen"]
    assert json.loads((out / "import.json").read_text())["classes"] == ["background", "seen"]
    for number in range(4):
        assert np.array_equal(mask_in(out / f"masks/{number}.png"), box(5, 9, 5, 9))
    if make is cvat_with_undrawn:
        assert description["palette"] == ["#000000", "#00ff00"]
        assert Image.open(out / "masks/0.png").getpalette()[3:6] == [0, 255, 0]  # type: ignore[index]


def covered() -> np.ndarray:
    """A dog on a cell that fills the rest."""
    return np.where(box(5, 20, 5, 20), np.uint8(2), np.uint8(1))


def coco_covered(folder: Path) -> Path:
    shapes = [{"category_id": 3, "segmentation": [outline(0, 40, 0, 48)]}]
    shapes += [{"category_id": 7, "segmentation": runs(covered() == 2)}]
    return coco(folder, [{"image_id": n, **each} for n in range(4) for each in shapes], images=4)


def voc_covered(folder: Path) -> Path:
    for number in range(4):
        picture(folder / f"JPEGImages/{number}.png", number)
        save(folder / f"SegmentationClass/{number}.png", covered(), PALETTE)
    (folder / "class_names.txt").write_text("_background_\ncell\ndog\n")
    return folder


def labelme_covered(folder: Path) -> Path:
    for number in range(4):
        cell, dog = shape("cell", [[0, 0], [47, 39]], "rectangle"), shape("dog", [[5, 5], [19, 19]], "rectangle")
        labelme(folder, [cell, dog], str(number))
    return folder


def colors_covered(folder: Path) -> Path:
    for number in range(4):
        picture(folder / f"train/{number}.png", number)
        lut = np.array([(0, 0, 0), (64, 128, 64), (192, 0, 128)], np.uint8)
        save(folder / f"train_labels/{number}_L.png", lut[covered()])
    (folder / "label_colors.txt").write_text("0 0 0 background\n64 128 64 cell\n192 0 128 dog\n")
    return folder


@pytest.mark.parametrize("make", [coco_covered, voc_covered, labelme_covered, colors_covered])
def test_a_source_that_labels_every_pixel_has_no_background_and_passes_the_check(
    tmp_path: Path, make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = imported(make(tmp_path / "in"), tmp_path / "out")
    said = capsys.readouterr().out
    assert "a pixel are left out: background\n" in said
    assert "note: there is no background: class 0 is cell\n" in said
    check_folder(out, sheet=tmp_path / "sheet.png")
    dataset = folder(out)
    assert (dataset.classes, dataset.background) == (("cell", "dog"), False)
    for number in range(4):
        assert np.array_equal(mask_in(out / f"masks/{number}.png"), covered() - 1)


def test_a_source_that_draws_nothing_is_refused_with_the_classes(tmp_path: Path) -> None:
    source = coco(tmp_path / "in", [{"segmentation": runs(box(0, 0, 0, 0))}])
    with pytest.raises(
        UserError, match=r"in: no mask holds a pixel of cell, and nothing is left .* within their images\?$"
    ):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_of_one_class_everywhere_is_refused(tmp_path: Path) -> None:
    source = coco(tmp_path / "in", [{"segmentation": [outline(0, 40, 0, 48)]}])
    with pytest.raises(UserError, match=r"a pixel of background, and nothing .* which one may be background$"):
        imported(source, tmp_path / "out")


def test_images_are_links_copies_or_become_png(tmp_path: Path) -> None:
    source = coco(tmp_path / "in", [{"segmentation": [outline(1, 9, 1, 9)]}])
    out = imported(source, tmp_path / "out")
    assert (out / "images/0.png").readlink() == source / "0.png"
    out = imported(source, tmp_path / "copy", copy=True)
    assert not (out / "images/0.png").is_symlink()
    assert (out / "images/0.png").read_bytes() == (source / "0.png").read_bytes()
    pixels = np.array(Image.open(source / "0.png"))
    (source / "0.png").unlink()
    save(source / "0.webp", pixels, lossless=True)
    file = source / "instances.json"
    file.write_text(file.read_text().replace("0.png", "0.webp"))
    out = imported(source, tmp_path / "png")
    assert np.array_equal(np.array(Image.open(out / "images/0.png")), pixels)


def test_annotations_apart_from_the_images(tmp_path: Path) -> None:
    source = coco(tmp_path / "in", [{"segmentation": [outline(1, 9, 1, 9)]}])
    (source / "0.png").rename(picture(tmp_path / "elsewhere/0.png"))
    out = imported(source / "instances.json", tmp_path / "out", images=tmp_path / "elsewhere")
    assert np.array_equal(mask_in(out / "masks/0.png"), box(1, 9, 1, 9))


# -- again ------------------------------------------------------------------------------------------------------------


def test_a_second_import_changes_nothing_or_what_the_source_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = some_coco(tmp_path / "in")
    out = imported(source, tmp_path / "out")
    before = contents(out)
    imported(source, out)
    assert "all as it was" in capsys.readouterr().out
    after = contents(out)
    assert {path for path in before if before[path] != after[path]} == {"import.json"}

    content = json.loads((source / "instances.json").read_text())
    content["images"] = [each for each in content["images"] if each["id"] != 7]
    content["annotations"][0]["segmentation"] = [outline(0, 3, 0, 3)]
    (source / "instances.json").write_text(json.dumps(content))
    imported(source, out)
    said = capsys.readouterr().out
    assert "2 files differ from the earlier import\n  removed images/7.png\n  replaced masks/0.png\n" in said
    assert np.array_equal(mask_in(out / "masks/0.png") == 1, box(0, 3, 0, 3))
    assert not (out / "images/7.png").is_symlink()


def test_what_somebody_has_changed_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = some_coco(tmp_path / "in")
    out = imported(source, tmp_path / "out")
    with (out / "dataset.yaml").open("a") as file:
        file.write("val_ratio: 0.3\n")
    (out / "notes.txt").write_text("mine")
    imported(source, out)
    assert "dataset.yaml was edited, and is left as it is" in capsys.readouterr().out
    assert "val_ratio: 0.3" in (out / "dataset.yaml").read_text()
    assert (out / "notes.txt").read_text() == "mine"
    save(out / "masks/1.png", np.zeros((40, 48), np.uint8))
    before = contents(out)
    with pytest.raises(UserError, match=r"masks/1\.png: is not as the import wrote it, and importing again would"):
        imported(source, out)
    assert contents(out) == before


def test_only_a_new_folder_or_that_of_the_same_source_is_written(tmp_path: Path) -> None:
    source, other = some_coco(tmp_path / "in"), some_coco(tmp_path / "in2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: exists, and no import wrote it; give a folder that is new or empty"):
        imported(source, tmp_path / "mine")
    out = imported(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds the import of another source, .*in; this one is .*in2"):
        imported(other, out)
    for dest in (source / "out", source, tmp_path):
        with pytest.raises(UserError, match="give a folder apart from it: the source is not touched"):
            imported(source, dest)


def test_a_record_that_leads_out_of_the_folder_removes_nothing(tmp_path: Path) -> None:
    source, out = some_coco(tmp_path / "in"), tmp_path / "out"
    imported(source, out)
    (tmp_path / "thesis.txt").write_text("mine")
    record = json.loads((out / "import.json").read_text())
    record["files"]["../thesis.txt"] = hashlib.sha256(b"mine").hexdigest()
    (out / "import.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"import\.json: names \.\./thesis\.txt, which leads out of"):
        imported(source, out)
    assert (tmp_path / "thesis.txt").exists()


def test_a_killed_import_leaves_no_folder_and_can_be_repeated(tmp_path: Path) -> None:
    source, words = some_coco(tmp_path / "in"), ("import", tmp_path / "in", tmp_path / "out")
    killed = Command.start("prepare", *words, cwd=tmp_path, killed_writing="dataset.yaml").wait()
    assert killed.code == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    before = contents(source)
    said = succeed("prepare", *words, "--empty", "background", cwd=tmp_path)
    assert "2 images without annotations are background everywhere" in said
    assert contents(source) == before
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith(".log")) == ["in", "out"]
    file = source / "instances.json"
    file.write_text(file.read_text()[:-1])
    assert "instances.json: cannot be read as JSON" in refused("prepare", *words, cwd=tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in", [shape("cat", [[5, 5], [9, 5], [9, 9]])])
    picture(source / "0.jpg")
    with pytest.raises(UserError, match="0: 2 images would have this name; give each a name of its own"):
        imported(source, tmp_path / "out")


def test_without_pycocotools_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = some_coco(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"this import needs pycocotools: pip install 'ssl4seg\[import\]'"):
        imported(source, tmp_path / "out")
