"""Tiny wheels, an index of them, and a throw-away Python to install them into."""

import base64
import hashlib
import os
import stat
import sys
import zipfile
from pathlib import Path

from SpatialARAnomalyLib.service.setup.packages import REQUIREMENTS, names

BROUGHT = {"numpy": "2.4.6", "simpleitk": "2.5.5", "setuptools": "82.0.1", "requests": "2.34.2"}
"""Stand-ins for the packages that Slicer brings."""

GOOD = {
    "torch": "2.11.0", "transformers": "5.23.0", "filelock": "3.20",
    "huggingface-hub": "2.4", "truststore": "0.10.5",
    "jaxtyping": "0.3.3", "matplotlib": "3.11.2", "nibabel": "5.4.2", "rich": "15.0",
    "safetensors": "0.8", "scikit-image": "0.26", "scikit-learn": "1.9.1",
    "slicerio": "1.4", "typer": "0.29",
}  # fmt: skip
"""A sufficient version of every required package."""


def make_wheel(folder: Path, name: str, version: str, *requires: str, tag="py3-none-any") -> Path:
    """A wheel with one empty module."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{plain}/__init__.py": "",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/top_level.txt": f"{plain}\n",
    }
    record = [f"{info}/RECORD,,"]
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        record.append(f"{path},sha256={digest.rstrip('=')},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join(record) + "\n"
    wheel = folder / f"{plain}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def make_index(folder: Path, **requires: tuple[str, ...]) -> Path:
    """A folder with a wheel of every package that is needed; `requires` by module name."""
    assert set(GOOD) == set(names(REQUIREMENTS))
    for name, version in GOOD.items():
        make_wheel(folder, name, version, *requires.get(name.replace("-", "_"), ()))
    return folder


class ThrowAwayPython:
    """A Python of its own, without pip: this one's pip installs into it."""

    def __init__(self, folder: Path, brought: dict[str, str] = BROUGHT) -> None:
        import venv

        venv.create(folder / "python", symlinks=True, with_pip=False)
        self.program = folder / "python" / "bin" / "python"
        (self.site_packages,) = (folder / "python" / "lib").glob("python*/site-packages")
        for name, version in brought.items():
            self.put(make_wheel(folder / "brought", name, version))

    def put(self, wheel: Path) -> None:
        """Install a wheel that is there from the beginning."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site_packages)

    @property
    def pip(self) -> tuple[str, ...]:
        """The command of its pip."""
        return (sys.executable, "-m", "pip", "--python", str(self.program))

    def put_python_slicer_on_path(self, folder: Path, monkeypatch) -> None:
        """Make `PythonSlicer -m pip …` the pip of this Python."""
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "PythonSlicer"
        pip = " ".join(f'"{word}"' for word in self.pip)
        script.write_text(
            f'#!/bin/sh\nif [ "$1 $2" = "-m pip" ]; then shift 2; exec {pip} "$@"; fi\n'
            f'exec "{self.program}" "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def use_index(folder: Path, monkeypatch) -> None:
    """Let pip find packages in a folder and nowhere else."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    # pip splits the variable at spaces.
    monkeypatch.setenv("PIP_FIND_LINKS", folder.absolute().as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
