"""scripts/tools_round_trip.py where the library of a tool is missing."""

import importlib
import importlib.util
from pathlib import Path

import pytest


def test_a_missing_library_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    script = importlib.import_module("tools_round_trip")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script.main(["--only", "rt-utils", "datumaro"]) == 0
    said = capsys.readouterr().out
    assert (
        "\ndatumaro is not installed: pip install datumaro\nrt-utils is not installed: pip install rt-utils\n" in said
    )
    with pytest.raises(SystemExit):
        script.main(["--only", "paint"])
    assert "invalid choice: 'paint'" in capsys.readouterr().err
