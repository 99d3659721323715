"""The diagnosis names what is wrong, with a remedy, and what is ok."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from service.small_site import run
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service.models.library import rename_model
from SpatialARAnomalyLib.service.setup import doctor
from SpatialARAnomalyLib.service.setup.doctor import diagnose, no_torch_reason, probe_in_child
from SpatialARAnomalyLib.service.setup.packages import estimate
from SpatialARAnomalyLib.service.setup.report import write_report

MAIN = "from SpatialARAnomalyLib.service.cli.main import main; main()"
CPU = {"device": "cpu", "name": "x", "memory_bytes": 16 * 10**9, "free_bytes": 8 * 10**9}


def probed(**more):
    return {"packages": {}, "import_errors": {}, "devices": [CPU]} | more


def of(diagnosis, name):
    (finding,) = (one for one in diagnosis.findings if one.name == name)
    return finding


@pytest.mark.slow
def test_this_machine_is_ok():
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["ok"] is True
    assert {"torch", "transformers", "device cpu", "disk"} <= {
        one["name"] for one in said["findings"]
    }


@pytest.mark.slow
def test_a_broken_torch_is_found(tmp_path):
    """As after an interrupted installation: the metadata are there, the module is not whole."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so is missing')")
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "doctor"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if " torch " in line)
    assert line.startswith(" PROBLEM")
    assert "cannot be loaded: ImportError: libtorch.so is missing" in line
    assert "pip uninstall torch" in done.stdout
    assert str(tmp_path) not in done.stdout


def test_missing_packages_are_named_with_a_remedy(monkeypatch):
    installed = doctor.installed_versions()
    for name in ("torch", "transformers", "truststore"):
        del installed[name]
    monkeypatch.setattr(doctor, "installed_versions", lambda: installed)
    diagnosis = diagnose(probed())
    assert not diagnosis.ok
    wrong = {one.name: one for one in diagnosis.findings if not one.ok}
    assert set(wrong) == {"torch", "transformers", "truststore"}
    assert wrong["torch"].found == "not installed (needed: >=2.4,!=2.12.*)"
    assert 'pip install "spatial-ar-anomaly[torch]"' in wrong["torch"].remedy
    monkeypatch.setattr(doctor, "no_torch_reason", lambda: "No torch for this platform.")
    assert of(diagnose(probed()), "torch").remedy == "No torch for this platform."
    assert of(diagnose(probed()), "transformers").remedy.startswith("Install it")


def test_too_little_memory_or_disk_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: 10**8)
    small = CPU | {"memory_bytes": 2 * 10**9}
    gpu = CPU | {"device": "cuda", "memory_bytes": None, "free_bytes": None}
    diagnosis = diagnose(probed(devices=[small, gpu]))
    assert "4 GB or more" in of(diagnosis, "device cpu").remedy
    assert of(diagnosis, "device cuda").ok
    assert of(diagnosis, "disk").found == "100 MB free"
    assert "2 GB are needed" in of(diagnosis, "disk").remedy
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "file" / "below"))
    assert not of(diagnose(probed()), "settings folder").ok
    assert str(tmp_path) not in json.dumps(diagnose(probed()).to_dict())


def test_network_settings_are_described_without_secrets(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = of(diagnose(probed()), "network").found
    assert "a proxy is set" in found
    assert "HF_HUB_OFFLINE" in found
    assert "secret" not in found


def test_the_report_has_what_helps_and_nothing_of_patients(tmp_path, monkeypatch, site):
    """Marked: the home, a model's name and file, a broken model, variables, the report's folder."""
    mark = "MARKED^PATIENT"
    home = tmp_path / mark
    models = home / "models"
    models.mkdir(parents=True)
    shutil.copy(site.model, models / f"{mark}.safetensors")
    rename_model(models / f"{mark}.safetensors", f"{mark} again")
    (models / f"{mark} broken.safetensors").write_bytes(b"x" * 99)
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{mark}:secret@proxy.example")
    monkeypatch.setenv("HF_TOKEN", f"hf_{mark}")
    file = home / f"{mark}.md"
    write_report(file, diagnose(probed(import_errors={"torch": "ImportError: x"})), overwrite=False)
    text = file.read_text(encoding="utf-8")
    for secret in (mark, "secret", "proxy.example", str(tmp_path), str(Path.home())):
        assert secret not in text, secret
    for words in (
        "PROBLEM torch", "- HTTPS_PROXY", "- HF_TOKEN", "cannot be used: model-file", "MR, axial",
        "scans trained on", f"numpy {np.__version__}", "device cpu",
    ):  # fmt: skip
        assert words in text, words
    with pytest.raises(OutputError, match="exists already"):
        write_report(file, diagnose(probed()), overwrite=False)
    assert file.read_text(encoding="utf-8") == text
    write_report(file, diagnose(probed()), overwrite=True)
    assert sorted(path.name for path in home.iterdir()) == [f"{mark}.md", "models"]


def test_the_report_is_an_option_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "probe_in_child", probed)
    file = tmp_path / "report.md"
    assert f"Written: {file}" in run("doctor", "--report", file).stderr
    refused = run("doctor", "--report", file)
    assert (refused.exit_code, "[output-exists]" in refused.stderr) == (2, True)
    assert "Written" in run("doctor", "--report", file, "--overwrite").stderr


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("#!/bin/sh\nkill -SEGV $$", "exit code -11"),
        ("#!/bin/sh\necho hello", "without an answer"),
        ("#!/bin/sh\necho 3", "not a JSON object"),
        ("#!/bin/sh\nexec sleep 60", "no answer within 0.5 s"),
    ],
)
def test_a_probe_that_crashes_or_hangs_is_reported(tmp_path, program, words):
    script = tmp_path / "python"
    script.write_text(program)
    script.chmod(0o755)
    failed = probe_in_child(str(script), timeout_s=0.5 if "sleep" in program else 60)
    assert words in failed["failed"]
    diagnosis = diagnose(failed)
    assert not of(diagnosis, "packages").ok
    assert "could not be started" in probe_in_child(str(tmp_path / "none"))["failed"]


def test_only_macos_on_x86_has_no_torch():
    assert "macOS on x86-64" in no_torch_reason("Darwin", "x86_64")
    for system, machine in (("Darwin", "arm64"), ("Linux", "x86_64"), ("Windows", "AMD64")):
        assert no_torch_reason(system, machine) == ""


def test_torch_for_a_gpu_is_much_larger():
    cpu, cuda = (estimate(["torch", "typer"], cuda=cuda) for cuda in (False, True))
    assert cuda.download_bytes > 5 * cpu.download_bytes
    assert cpu.disk_bytes > cpu.download_bytes > estimate(["typer"], cuda=True).download_bytes
    assert estimate([], cuda=True).disk_bytes == 0
