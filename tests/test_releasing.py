"""The files that publish a version, as far as this machine can read them: citation, workflows, image."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in CHECKOUT.glob(".github/workflows/*.yml")}
CFF = {  # schema 1.2.0: the keys that this project may have, with their types; those of REQUIRED it must
    "cff-version": str,
    "message": str,
    "title": str,
    "authors": list,
    "type": str,
    "version": str,
    "license": str,
    "keywords": list,
    "repository-code": str,
    "url": str,
    "doi": str,
    "abstract": str,
    "date-released": date,
}
REQUIRED = {"cff-version", "message", "title", "authors"}


def test_a_citation_is_cff_and_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert REQUIRED <= {*citation} <= {*CFF}
    assert not {key: value for key, value in citation.items() if not isinstance(value, CFF[key])}
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"]
    for author in citation["authors"]:
        assert {*author} & {"name", "family-names", "given-names"}
        assert all(isinstance(value, str) and value for value in author.values())


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_a_workflow_has_jobs_of_steps_that_do_one_thing(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["name"]
    assert workflow[True]  # `on`, which is true in YAML 1.1
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert job["steps"]
    for step in steps_of(workflow):
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[\w./]+", step.get("uses", "a/b@v1"))


def test_workflows_call_targets_of_the_makefile_and_ci_all_of_check() -> None:
    rules = re.findall(r"^([a-z]+):([^#\n]*)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    needed = {target: needs.split() for target, needs in rules}
    runs = [step["run"] for step in steps_of(WORKFLOWS["ci.yml"]) if step.get("run", "").startswith("make ")]
    called = {word for run in runs for word in run.split()[1:] if re.fullmatch("[a-z]+", word)}
    assert called <= {*needed}
    assert called >= {*needed["check"], "docs"}


def test_the_image_installs_extras_that_there_are_and_starts_a_command_of_the_package() -> None:
    text = (CHECKOUT / "Dockerfile").read_text()
    (extras,) = re.findall(r'"/source\[(.*)\]"', text)
    assert {*extras.split(",")} == {"export", "import", "dicom"} <= {*PROJECT["optional-dependencies"]}
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]', text, re.MULTILINE)
    assert entry in PROJECT["scripts"]
    (python,) = re.findall(r"^FROM python:(\S+)-slim", text, re.MULTILINE)
    assert PROJECT["requires-python"] == f">={python}"
