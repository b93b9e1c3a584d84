"""From a COCO file to a trained model and its masks, by the commands that each step prints."""

from pathlib import Path

from helpers import MACHINE, SHORT, SMALL, results, succeed
from sources import some_coco


def test_an_imported_folder_is_checked_trained_on_and_predicted(tmp_path: Path) -> None:
    source = some_coco(tmp_path / "in", images=12)
    said = succeed("prepare", "import", source, "cells", cwd=tmp_path)
    assert "12 images, 10 with a mask, 2 unlabelled" in said
    assert "next: ssl4seg-prepare check cells" in said
    assert "no fault found" in succeed("prepare", "check", "cells", cwd=tmp_path)
    words = (
        *MACHINE,
        *SMALL,
        *SHORT,
        "dataset=folder",
        "dataset.root=cells",
        "method=mean_teacher",
        "labeled_ratio=0.5",
    )
    succeed("train", *words, cwd=tmp_path)
    run = tmp_path / "outputs/cells/mean_teacher/unet-0.5-s0"
    assert results(run)["status"] == "finished"
    assert {*results(run)["test"]["iou"]} >= {"cell", "dog"}
    succeed("predict", f"run={run}", "input=cells/images", "output=masks", "device=cpu", cwd=tmp_path)
    assert len(list((tmp_path / "masks").iterdir())) == 12
