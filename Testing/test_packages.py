"""The wheel and the source distribution hold the whole package, and its command runs installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import SpatialARAnomalyLib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "SpatialARAnomaly/SpatialARAnomalyLib"

slow = pytest.mark.slow


def pip(*words: str | Path, folder: Path) -> None:
    """Run pip without network and without an environment of its own for the build."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        cwd=folder,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def make_wheel(source: Path, folder: Path) -> Path:
    pip("wheel", source, "--no-deps", "--no-build-isolation", "-w", folder, "-q", folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel and a source distribution, from a copy: a build leaves files in its folder."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "SpatialARAnomaly", source / "SpatialARAnomaly", ignore=ignored)
    for file in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, source)
    build = f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=200
    )
    (archive,) = folder.glob("*.tar.gz")
    return make_wheel(source, folder), archive


def held(wheel: Path) -> set[str]:
    """Return the files of a wheel without its metadata."""
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_the_version_is_the_same_everywhere():
    version = SpatialARAnomalyLib.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "Resources/Docs/changelog.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == version
    assert re.search(r"^## ([\d.]+)", changelog, re.MULTILINE)[1] == version


def test_the_container_is_made_of_files_and_versions_that_exist():
    steps = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    sources = [one for line in re.findall(r"^COPY (.+) \S+$", steps, re.M) for one in line.split()]
    assert {"SpatialARAnomaly", "Testing/constraints.txt"} <= set(sources)
    carried = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in carried, source
    pins = (ROOT / "Testing/constraints.txt").read_text(encoding="utf-8").splitlines()
    (torch,) = re.findall(r"torch==[\d.]+", steps)
    assert torch in pins
    assert f" {torch} " in (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")


@slow
def test_the_wheel_holds_the_package_and_no_more(distributions):
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "SpatialARAnomalyLib/py.typed" in expected
    assert held(distributions[0]) == expected


@slow
def test_the_wheel_states_version_and_license(distributions):
    wheel, _ = distributions
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        text = file.read(metadata).decode()
        assert metadata.replace("METADATA", "licenses/LICENSE") in file.namelist()
    assert f"\nVersion: {SpatialARAnomalyLib.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert wheel.name.endswith("-py3-none-any.whl")


@slow
def test_the_source_distribution_makes_the_same_wheel(distributions, tmp_path):
    wheel, archive = distributions
    with tarfile.open(archive) as file:
        assert any(name.endswith("/LICENSE") for name in file.getnames())
    assert held(make_wheel(archive, tmp_path)) == held(wheel)


@slow
def test_the_installed_command_runs(distributions, tmp_path):
    """In a fresh environment, beside the packages of this one."""
    environment = tmp_path / "environment é"
    venv.create(environment, symlinks=os.name != "nt", with_pip=False)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    pip(
        "--python", programs / "python", "install", "--no-deps", "-q", distributions[0],
        folder=tmp_path,
    )  # fmt: skip
    (site,) = environment.rglob("site-packages")
    others = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
    (site / "others.pth").write_text("\n".join(others), encoding="utf-8")
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [programs / "spatial-ar-anomaly", *words],
            cwd=tmp_path,
            env=quiet,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert SpatialARAnomalyLib.__version__ in run("--version")
    assert json.loads(run("doctor", "--json"))["ok"] is True
    where = [programs / "python", "-c", "import SpatialARAnomalyLib as s; print(s.__file__)"]
    found = subprocess.run(where, env=quiet, capture_output=True, text=True, check=True, timeout=60)
    assert Path(found.stdout.strip()).is_relative_to(site)
