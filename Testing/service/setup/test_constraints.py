"""An installation keeps the versions of all other packages."""

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from SpatialARAnomalyLib.engine.errors import OutputError, SetupError
from SpatialARAnomalyLib.service.setup.kit import SLICER_5_12
from SpatialARAnomalyLib.service.setup.packages import (
    REQUIREMENTS,
    PackageState,
    cause_of_failure,
    changed_versions,
    check_packages,
    constraint_lines,
    held_versions,
    installed_versions,
    names,
    read_constraints,
    write_constraints,
)

ROOT = Path(__file__).parents[3]


def test_all_other_packages_are_held():
    installed = {
        "numpy": "2.4.6", "setuptools": "82.0.1", "some-thing": "1", "transformers": "4.0",
        "tokenizers": "0.1", "torch": "2.0", "nvidia-cublas-cu12": "12.1", "torchvision": "0.15",
        "nvidiafoo": "1",
    }  # fmt: skip
    held = held_versions(installed, ["torch", "Transformers"])
    assert held == {"numpy": "2.4.6", "setuptools": "82.0.1", "some-thing": "1", "nvidiafoo": "1"}
    assert held_versions(installed, []) == installed


def test_constraints_survive_the_file(tmp_path):
    held = {"numpy": "2.4.6", "torch": "2.11+cpu", "old": "not a version!"}
    file = tmp_path / "c é.txt"
    write_constraints(file, held)
    assert read_constraints(file) == {"numpy": "2.4.6", "torch": "2.11+cpu"}
    with pytest.raises(OutputError, match="cannot be written"):
        write_constraints(tmp_path / "none" / "c.txt", held)


def test_constraints_of_this_python_are_all_readable_by_pip():
    for line in constraint_lines(installed_versions()):
        (specifier,) = Requirement(line).specifier
        assert Version(specifier.version)


def test_a_pip_freeze_is_read(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text(
        "Numpy==2.4.6  # why\n-e /some/where\nsome_thing==1 ; python_version > '3'\nx @ file:///y"
    )
    assert read_constraints(file) == {"numpy": "2.4.6", "some-thing": "1"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_as_systems_write_it(encoding, tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("numpy==2.4.6\r\nours @ file:///tmp/x.whl\r\n", encoding=encoding)
    assert read_constraints(file) == {"numpy": "2.4.6"}


@pytest.mark.parametrize("content", [b"", b"numpy\n", b"\xff\xfe\x00", b"\xff", b"\0" * 9])
def test_a_list_without_versions_is_refused(content, tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises(SetupError, match="numpy==2"):
        read_constraints(file)


def test_changes_of_held_packages_are_found():
    held = {"numpy": "2", "scipy": "1", "vtk": "9"}
    assert changed_versions(held, held | {"torch": "2"}) == {}
    assert changed_versions(held, {"numpy": "1.26", "vtk": "9"}) == {
        "numpy": ("2", "1.26"),
        "scipy": ("1", ""),
    }


def test_states_of_packages():
    checks = {
        one.package: one
        for one in check_packages(
            {"torch": "2.12.1", "transformers": "5.0", "rich": "15.0", "scikit-image": "0.26rc1"},
            {"transformers": "ImportError: no"},
        )
    }
    assert checks["torch"].state is PackageState.OTHER_VERSION
    assert (checks["transformers"].state, checks["transformers"].error) == (
        PackageState.BROKEN, "ImportError: no",
    )  # fmt: skip
    assert checks["rich"].state is checks["scikit-image"].state is PackageState.READY
    assert checks["typer"].state is PackageState.MISSING
    assert [one.requirement for one in checks.values()] == list(REQUIREMENTS)


def test_leftovers_of_an_interrupted_pip_are_not_installed(tmp_path):
    (tmp_path / "numpy-2.0.dist-info").mkdir()
    (tmp_path / "~cipy-1.0.dist-info").mkdir()
    old = tmp_path / "Old_Thing-1.5-py3.12.egg-info"
    old.mkdir()
    (old / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: Old_Thing\nVersion: 1.5\n")
    folders = [str(tmp_path), str(tmp_path / "none")]
    assert installed_versions(folders) == {"old-thing": "1.5"}
    assert installed_versions(folders, ["numpy", "old.thing"]) == {"old-thing": "1.5"}
    assert installed_versions(folders, ["numpy"]) == {}


def test_versions_are_found_by_any_spelling_of_the_name():
    expected = importlib.metadata.version("scikit-image")
    assert installed_versions()["scikit-image"] == expected
    assert installed_versions(packages=["Scikit_Image"]) == {"scikit-image": expected}


def test_slicer_brings_nothing_that_we_install_and_nothing_too_old_for_us():
    assert not set(SLICER_5_12) & set(names(REQUIREMENTS))
    for line in constraint_lines(SLICER_5_12):
        Requirement(line)
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("numpy", "packaging", "pydicom", "scipy", "SimpleITK"):
        (line,) = (one for one in project.splitlines() if one.strip().startswith(f'"{name}>='))
        assert Requirement(line.strip(' ",')).specifier.contains(SLICER_5_12[name.lower()])


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("ERROR: ResolutionImpossible: for help visit", "pip-conflict"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space", "pip-disk"),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]",
            "pip-certificate",
        ),
        ("Failed to establish a new connection: NewConnectionError", "pip-network"),
        ("ERROR: No matching distribution found for x", "pip-no-version"),
        ("[WinError 5] Access is denied: 'torch.dll'", "pip-permission"),
        ("Segmentation fault", "pip-failed"),
        # The index was not reached first; that no version was found follows from it.
        ("ProxyError('Cannot connect')\nERROR: No matching distribution found", "pip-network"),
    ],
)
def test_the_cause_of_a_failure(said, code):
    found, text = cause_of_failure(said.splitlines())
    assert found == code
    assert text.splitlines()[0].endswith(".")
    assert (said in text) == (code == "pip-failed")
