"""The wheel, installed away from the checkout, is the whole program; wheel and sdist can be published."""

import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import PHANTOM, results, shell
from twine.commands import check

CHECKOUT = Path(__file__).parents[1]
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    code, output = shell(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, CHECKOUT, cwd=folder)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (file,) = dist.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("elsewhere") / "site"
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    code, output = shell(sys.executable, *install, cwd=target.parent)
    assert code == 0, output
    return target


def test_both_files_are_what_pypi_takes(dist: Path) -> None:
    files = sorted(map(str, dist.iterdir()))
    assert [Path(file).name for file in files] == [f"ssl4seg-{VERSION}-py3-none-any.whl", f"ssl4seg-{VERSION}.tar.gz"]
    assert not check.check(files, strict=True)


def test_the_sdist_holds_what_tests_and_pages_need(dist: Path) -> None:
    with tarfile.open(dist / f"ssl4seg-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"tests/test_wheel.py", "conf/run.yaml", "docs/python.md", "CONTRIBUTING.md", "constraints.txt"}
    assert not {name for name in names if name.startswith((".venv", "outputs/"))}


def test_the_wheel_holds_package_and_configurations_and_no_tests(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"ssl4seg"}
    shipped = {name.removeprefix("ssl4seg/conf/") for name in names if name.endswith(".yaml")}
    assert shipped == {str(path.relative_to(CHECKOUT / "conf")) for path in (CHECKOUT / "conf").rglob("*.yaml")}
    lists = {name for name in names if name.startswith("ssl4seg/conf/splits/")}
    assert {"ssl4seg/conf/splits/voc2012/92.txt", "ssl4seg/conf/splits/cityscapes/1_16.txt"} <= lists


def test_it_finds_itself_and_its_conf_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    code, output = shell(
        *(sys.executable, "-c", "import ssl4seg, ssl4seg.commands.cli as cli; print(ssl4seg.__file__, cli.conf_dir())"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
    )
    assert code == 0, output
    assert output.split() == [str(installed / "ssl4seg/__init__.py"), str(installed / "ssl4seg/conf")]


def test_it_trains_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    command = (sys.executable, installed / "bin/ssl4seg-train", *PHANTOM, "method=uamt")
    code, output = shell(*command, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert code == 0, output
    assert results(tmp_path / "outputs/phantom/uamt/unet-0.1-s0")["status"] == "finished"
