"""LabelMe JSON and CVAT XML: shapes pixel by pixel, and the faults of files."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from sources import SIZE, box, cvat, imported, labelme, mask_in, picture, png, shape

from ssl4seg.errors import UserError

ROW, COLUMN = np.mgrid[: SIZE[0], : SIZE[1]]

# -- LabelMe ----------------------------------------------------------------------------------------------------------


def test_shapes_are_drawn_with_their_outline_as_labelme_does(tmp_path: Path) -> None:
    part = box(0, 5, 0, 3, (5, 6))
    source = labelme(
        tmp_path / "in",
        [
            shape("cat", [[5, 5], [20, 5], [20, 15], [5, 15]]),
            shape("_background_", [[7, 7], [9, 9]], "rectangle"),
            shape("dog", [[30, 20], [30, 26]], "circle"),
            shape("__ignore__", [[2, 30], [7, 34]], "mask", mask=png(part)),
            shape("cat", [[0, 0], [40, 40]], "line"),
        ],
    )
    (source / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\nbird\n")
    out = imported(source, tmp_path / "out")
    expected = np.zeros(SIZE, np.uint8)
    expected[box(5, 16, 5, 21)], expected[box(7, 10, 7, 10)] = 2, 0
    expected[(ROW - 20) ** 2 + (COLUMN - 30) ** 2 <= 6.2**2] = 1
    expected[box(30, 35, 2, 5)] = 255
    mask = mask_in(out / "masks/0.png")
    assert np.count_nonzero(mask != expected) <= 8  # Pillow's circle, at its eight corners
    assert np.array_equal(np.delete(mask, np.s_[22:40], 1), np.delete(expected, np.s_[22:40], 1))
    keys = yaml.safe_load((out / "dataset.yaml").read_text())
    assert keys == {"classes": ["background", "dog", "cat"], "ignore_index": 255}


def test_images_without_a_file_or_without_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = labelme(tmp_path / "in", [shape("cat", [[5, 5], [9, 5], [9, 9]])])
    labelme(source, [], "1")
    for name in "23":
        picture(source / f"{name}.png")
    (source / "3.json").write_text('{"exposure": 0.1}')
    out = imported(source, tmp_path / "out")
    assert [file.name for file in sorted((out / "masks").iterdir())] == ["0.png"]
    said = capsys.readouterr().out
    assert "1 images without annotations are unlabelled" in said
    assert "2 images without a LabelMe file are unlabelled" in said
    assert "1 files .json hold no shapes, and are not read" in said


def test_a_file_that_cannot_be_parsed_is_a_fault_wherever_it_was_cut_off(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in", [shape("cat", [[5, 5], [9, 5], [9, 9]])])
    whole = (labelme(source, [], "1") / "1.json").read_text()
    for text in ("", whole[: whole.index('"shapes"')], whole[:-2]):
        (source / "1.json").write_text(text)
        with pytest.raises(UserError, match=r"1\.json: cannot be read as JSON"):
            imported(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_shapes_of_a_group_do_not_touch_one_another(tmp_path: Path) -> None:
    halves = [[[5, 5], [9, 9]], [[10, 5], [14, 9]]]
    for group, touch in ((1, False), (None, True)):
        source = labelme(tmp_path / f"in{group}", [shape("cat", each, "rectangle", group_id=group) for each in halves])
        mask = mask_in(imported(source, tmp_path / f"out{group}", boundary="edge") / "masks/0.png")
        assert np.array_equal(mask == 2, box(5, 10, 9, 11) if touch else box(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([shape("cat", [[5, 5], [9, 1e9], [9, 9]])], r"0\.json: shape 0: its outline reaches to x=9, y=1e\+09"),
        ([shape("cat", [[5, 5]], "circle")], "shape 0: is a circle of 1 points; expected 2"),
        (
            [shape("cat", [[5, 5], [9, 9]], "spline")],
            "its shape_type is 'spline'; expected polygon, rectangle, oriented_rectangle, rotation, circle, mask",
        ),
        ([shape("", [[5, 5], [9, 9], [9, 5]])], "its label is ''"),
        ([shape("cat", [[5, 5], [9, 9]], "mask", mask="AAAA")], "its mask is no PNG in base64"),
        ([shape("cat", [[0, 0], [99, 5]], "mask", mask="")], "mask whose corners do not lie within the image"),
        (
            [shape("cat", [[5, 5], [9, 9]], "mask", mask=png(box(0, 3, 0, 3, (4, 4))))],
            "mask of 4 x 4 in a box of 5 x 5",
        ),
        (["no shape"], "shape 0: its label is None"),
        ([shape("cat", [], "circle")], "shape 0: is a circle of 0 points; expected 2"),
        ([shape("cat", None)], "its outline is no list of x and y by turns"),
    ],
)
def test_a_shape_is_refused_by_its_place(tmp_path: Path, wrong: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        imported(labelme(tmp_path / "in", wrong), tmp_path / "out")  # type: ignore[arg-type]


def test_a_label_that_labels_txt_does_not_list_is_a_fault_of_its_shape(tmp_path: Path) -> None:
    triangle, background = [[5, 5], [9, 5], [9, 9]], [[1, 1], [2, 1], [2, 2]]
    shapes = [shape("cat", triangle), shape("__ignore__", background), shape("_background_", background)]
    source = labelme(tmp_path / "in", shapes)
    (source / "labels.txt").write_text("cat\ndog\n")
    assert mask_in(imported(source, tmp_path / "out") / "masks/0.png").any()
    labelme(source, [shape("cta", triangle), shape("bird", triangle)])
    with pytest.raises(UserError) as refusal:
        imported(source, tmp_path / "out2")
    words = r"is none of labels.txt (cat, dog); add it there, or mend the shape"
    assert f"0.json: shape 0: its label 'cta' {words}; did you mean cat?\n" in str(refusal.value)
    assert f"0.json: shape 1: its label 'bird' {words}" in str(refusal.value)


def test_shapes_of_labelme_across_the_edge_and_outside_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [
        shape("cat", [[40, 5], [60, 5], [60, 8], [40, 8]]),
        shape("cat", [[-30, 20], [5, 25]], "rectangle"),
        shape("cat", [[20, 45], [20, 36]], "circle"),
        shape("far", [[50, 5], [60, 5], [60, 8]]),
        shape("far", [[5, 45], [9, 60]], "rectangle"),
        shape("far", [[-30, 5], [-30, 9]], "circle"),
        shape("cat", [[5, 5], [9, 9]]),
        shape("cat", []),
    ]
    mask = mask_in(imported(labelme(tmp_path / "in", shapes), tmp_path / "out") / "masks/0.png")
    assert np.array_equal(mask[:30], (box(5, 9, 40, 48) | box(20, 26, 0, 6))[:30])
    assert mask[39, 20]
    said = capsys.readouterr().out
    assert "3 outlines reach beyond their image, and are cut off at its edge" in said
    assert "3 outlines lie outside of their image, and are left out" in said
    assert "2 outlines of fewer than three points are left out" in said


def test_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    good = [shape("cat", [[5, 5], [9, 5], [9, 9]])]
    source = labelme(tmp_path / "in", good)
    picture(tmp_path / "secret.png")
    for number, (keys, message) in enumerate(
        (
            ({"imagePath": "../secret.png"}, "leads out of"),
            ({"imagePath": "other.png"}, r"other\.png is missing in"),
            ({"imageHeight": 41}, r"1\.png: is 40 x 48 \(height x width\), but its annotation is 41 x 48"),
            ({"imagePath": "0.png"}, r"is about 0\.png, as 0\.json is; unite both"),
            ({"imagePath": 3}, "its imagePath is 3; expected a text"),
        )
    ):
        labelme(source, good, "1", **keys)
        with pytest.raises(UserError, match=message):
            imported(source, tmp_path / f"out{number}")


def test_without_their_images_files_have_no_other_fault(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in", [shape("cat", [[5, 5], [9, 5], [9, 9]])], imagePath="../images/0.png")
    (source / "0.png").unlink()
    with pytest.raises(UserError, match=r"^[^\n]*0\.json: [^\n]*; give the folder of the images as --images FOLDER$"):
        imported(source, tmp_path / "out")


def test_paths_of_an_output_folder_beside_the_images_are_followed(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in/json", [shape("cat", [[5, 5], [9, 5], [9, 9]])], imagePath="..\\images\\0.png")
    (source / "0.png").rename(picture(tmp_path / "in/images/0.png"))
    assert mask_in(imported(tmp_path / "in", tmp_path / "out") / "masks/0.png").any()


# -- CVAT -------------------------------------------------------------------------------------------------------------

RLE = '<mask label="car" occluded="0" rle="1, 2, 3, 4" left="30" top="30" width="5" height="2" z_order="0"/>'
POLYGON = '<polygon label="car" occluded="0" points="5.00,5.00;20.00,5.00;20.00,15.00;5.00,15.00" z_order="{}"/>'
BOX = '<box label="road" source="manual" occluded="0" xtl="10.00" ytl="0.00" xbr="30.00" ybr="10.00" z_order="0"/>'


@pytest.mark.parametrize("above", [1, -1])
def test_shapes_are_drawn_by_their_order_in_depth(tmp_path: Path, above: int) -> None:
    out = imported(cvat(tmp_path / "in", POLYGON.format(above) + BOX + RLE), tmp_path / "out")
    expected = np.zeros(SIZE, np.uint8)
    for number, mask in [(2, box(0, 10, 10, 30)), (1, box(5, 15, 5, 20))][::above]:
        expected[mask] = number
    expected[30, 31:33], expected[31, 31:35] = 1, 1  # runs 1 2 3 4 over two rows of five: .##.. .####
    assert np.array_equal(mask_in(out / "masks/0.png"), expected)
    keys = yaml.safe_load((out / "dataset.yaml").read_text())
    assert keys == {"classes": ["background", "car", "road"], "palette": ["#000000", "#fa3253", "#00ff00"]}


def test_shapes_of_cvat_across_the_edge_and_outside_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    across = '<polygon label="car" points="40,5;60,5;60,9;40,9" z_order="0"/>'
    box_across = '<box label="car" xtl="-30" ytl="20" xbr="5" ybr="25" z_order="0"/>'
    outside = '<ellipse label="road" cx="-20" cy="20" rx="12" ry="5" z_order="0"/>'
    two_points = '<polygon label="road" points="5,5;9,9" z_order="0"/>'
    out = imported(cvat(tmp_path / "in", across + box_across + outside + two_points), tmp_path / "out")
    assert np.array_equal(mask_in(out / "masks/0.png"), box(5, 9, 40, 48) | box(20, 25, 0, 5))
    said = capsys.readouterr().out
    assert "2 outlines reach beyond their image, and are cut off at its edge" in said
    assert "1 outlines lie outside of their image, and are left out" in said
    assert "1 outlines of fewer than three points are left out" in said
    assert "classes of which no mask holds a pixel are left out: road" in said


def test_an_ellipse_is_turned(tmp_path: Path) -> None:
    source = cvat(
        tmp_path / "in", '<ellipse label="road" cx="24" cy="20" rx="12" ry="5" rotation="90.00" z_order="0"/>'
    )
    mask = mask_in(imported(source, tmp_path / "out") / "masks/0.png")
    inside = ((COLUMN + 0.5 - 24) / 5) ** 2 + ((ROW + 0.5 - 20) / 12) ** 2
    assert mask[inside < 0.8].all()
    assert not mask[inside > 1.2].any()


def test_tracks_and_lines_are_skipped_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = '<polyline label="car" points="1,1;5,5" z_order="0"/>'
    imported(cvat(tmp_path / "in", POLYGON.format(0) + line, '<track id="0" label="car"></track>'), tmp_path / "out")
    said = capsys.readouterr().out
    assert "1 lines, points and tags have no area, and are left out" in said
    assert "1 tracks are of a video, and are skipped" in said


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("find", "put", "message"),
    [
        ("<annotations>", f"{LAUGHS}<annotations>", r"annotations\.xml: defines a document type"),
        ("</annotations>", "", r"annotations\.xml: cannot be read as XML"),
        ('label="car"', 'label="bus"', r"image 0\.png: shape 0 \(polygon\): its label 'bus' is none of the head"),
        ("5.00,5.00", "5.00;x,y", r"shape 0 \(polygon\): its points are not written x,y;x,y"),
        ('rle="1, 2', 'rle="1, 3', r"shape 1 \(mask\): its rle is of 11 pixels, but its box of 2 x 5 has 10"),
        ('left="30"', 'left="44"', r"its box of 2 x 5 at row 30, column 44 reaches out of the image"),
        ('name="0.png"', 'name="../0.png"', r"leads out of"),
        ('name="0.png"', 'name="1.png"', r"image 1\.png: 1\.png is missing in"),
        ('height="40"', 'height="41"', r"0\.png: is 40 x 48 \(height x width\), but its annotation is 41 x 48"),
        ('height="40"', 'height="many"', "its height and width are None and 48"),
    ],
)
def test_what_cvat_would_not_write_is_refused(tmp_path: Path, find: str, put: str, message: str) -> None:
    source = cvat(tmp_path / "in", POLYGON.format(0) + RLE)
    file = source / "annotations.xml"
    file.write_text(file.read_text().replace(find, put))
    with pytest.raises(UserError, match=message):
        imported(source, tmp_path / "out")


def test_a_second_file_that_is_empty_is_a_fault(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", POLYGON.format(0))
    (source / "more.xml").touch()
    with pytest.raises(UserError, match=r"more\.xml: cannot be read as XML"):
        imported(source, tmp_path / "out")


def test_a_video_is_refused_with_the_form_to_export(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", "", '<track id="0" label="car"></track>')
    text = (source / "annotations.xml").read_text()
    (source / "annotations.xml").write_text(text.replace("<image", "<picture").replace("</image", "</picture"))
    with pytest.raises(UserError, match=r"holds tracks of a video, .* export the task as CVAT for images 1\.1"):
        imported(source, tmp_path / "out")


# -- what newer and other programs write ------------------------------------------------------------------------------


def test_turned_rectangles_are_polygons_and_rectangles_may_have_all_corners(tmp_path: Path) -> None:
    turned = [[20, 5], [30, 15], [20, 25], [10, 15]]
    drawn = {}
    for name, corners, kind in (
        ("labelme", turned, "oriented_rectangle"),
        ("anylabeling", turned, "rotation"),
        ("polygon", turned, "polygon"),
        ("corners", [[5, 5], [20, 5], [20, 15], [5, 15]], "rectangle"),
        ("two", [[5, 5], [20, 15]], "rectangle"),
    ):
        source = labelme(tmp_path / name, [shape("cat", corners, kind)])
        drawn[name] = mask_in(imported(source, tmp_path / f"out {name}") / "masks/0.png")
    assert np.array_equal(drawn["labelme"], drawn["polygon"])
    assert np.array_equal(drawn["anylabeling"], drawn["polygon"])
    assert np.array_equal(drawn["corners"], box(5, 16, 5, 21))
    assert np.array_equal(drawn["two"], drawn["corners"])


def test_a_mask_that_was_moved_by_parts_of_pixels_lies_where_labelme_draws_it(tmp_path: Path) -> None:
    part = np.ones((5, 6), bool)
    source = labelme(tmp_path / "in", [shape("cat", [[10.7, 20.6], [15.7, 24.6]], "mask", mask=png(part))])
    assert np.array_equal(mask_in(imported(source, tmp_path / "out") / "masks/0.png"), box(20, 25, 10, 16))


def test_files_of_cvat_for_train_and_val_give_the_split(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", '<box label="car" xtl="5" ytl="5" xbr="9" ybr="9"/>')
    picture(source / "images/1.png", 1)
    text = (source / "annotations.xml").read_text()
    (source / "annotations.xml").unlink()
    (source / "val.xml").write_text(text)
    (source / "train.xml").write_text(text.replace('label="car"', 'label="road"').replace("0.png", "1.png"))
    out = imported(source, tmp_path / "out")
    assert np.array_equal(mask_in(out / "val/masks/0.png"), box(5, 9, 5, 9))
    assert np.array_equal(mask_in(out / "train/masks/1.png"), 2 * box(5, 9, 5, 9))
    (source / "train.xml").write_text(text.replace("0.png", "1.png").replace('label="car"', 'label="cat"'))
    with pytest.raises(UserError, match=r"train\.xml: image 1\.png: shape 0 \(box\): its label 'cat' is none of"):
        imported(source, tmp_path / "out2")
    (source / "train.xml").rename(source / "more.xml")
    with pytest.raises(UserError, match=r"holds 2 files of annotations \(more\.xml, val\.xml\), which are not train"):
        imported(source, tmp_path / "out2")


def test_a_project_of_cvat_has_a_folder_of_images_for_each_subset(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", '<box label="car" xtl="5" ytl="5" xbr="9" ybr="9"/>')
    (source / "images/0.png").unlink()
    head, image, tail = re.split("(<image.*</image>)", (source / "annotations.xml").read_text(), flags=re.DOTALL)
    images = ""
    for number, subset in enumerate(("Train", "Validation")):
        picture(source / f"images/{subset}/0.png", number)
        images += image.replace("<image", f'<image subset="{subset}" task_id="{number}"')
    (source / "annotations.xml").write_text(head + images + tail)
    out = imported(source, tmp_path / "out")
    for split, subset in (("train", "Train"), ("val", "Validation")):
        assert (out / f"{split}/images/0.png").resolve() == source / f"images/{subset}/0.png"
        assert (out / f"{split}/masks/0.png").is_file()
