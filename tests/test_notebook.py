"""The notebook of the docs runs from top to bottom, and stands in the repository without outputs."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import PHANTOM
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count is not None]


def test_it_trains_shows_predicts_and_exports(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of the smallest run in place of its own."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (train,) = [cell for cell in notebook.cells if cell.source.startswith('words = "')]
    train.source = re.sub(
        '".*"', f'"{" ".join(PHANTOM)} engine.num_overlays=1 method=uamt tag=notebook"', train.source, count=1
    )
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "finished; results and curves in" in text
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 3
    assert (tmp_path / "outputs/phantom/uamt/unet-0.1-s0-notebook/export/model.onnx").is_file()
    (difference,) = re.findall(r"left_ventricle'\]; ONNX and network differ by at most (\S+)", text)
    assert float(difference) < 1e-4
