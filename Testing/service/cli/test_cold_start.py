"""A cold detection reads the scan while torch and transformers are imported."""

import sys
import threading

import pytest
from service.small_site import run
from SpatialARAnomalyLib.engine import device
from SpatialARAnomalyLib.engine.errors import DeviceError
from SpatialARAnomalyLib.service.detection import result_files


def test_the_scan_is_read_and_masked_while_torch_is_imported(site, tmp_path, monkeypatch):
    masked = threading.Event()
    in_time: list[bool] = []
    prepare_scan = result_files.prepare_scan

    def prepare_and_signal(*arguments):
        scan = prepare_scan(*arguments)
        masked.set()
        return scan

    # Imports that end only when the scan is masked: waiting for them first would never end.
    monkeypatch.setattr(device, "_import_all", lambda: in_time.append(masked.wait(60)))
    monkeypatch.setattr(result_files, "prepare_scan", prepare_and_signal)
    options = ("--model", site.model, "--out", tmp_path / "out", "--device", "cpu")
    result = run("detect", site.normals[0], *options)
    assert result.exit_code == 0, result.stderr
    assert in_time == [True]


def test_a_failed_import_is_reported_when_the_package_is_needed(monkeypatch):
    monkeypatch.setattr(device, "_imports", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match="not installed"):
        device.require_torch()
    device.start_imports()
    with pytest.raises(DeviceError) as caught:
        device.resolve_device(device.Device.CPU)
    assert caught.value.code == "torch-missing"


def test_torch_that_finds_no_memory_is_not_called_missing(monkeypatch):
    class Full:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise ImportError("libtorch.so: failed to map segment from shared object")

    monkeypatch.setattr(device, "_imports", None)
    monkeypatch.setattr(device, "_no_memory", None)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Full(), *sys.meta_path])
    device.start_imports()
    for _ in range(2):  # later imports may fail for other reasons
        with pytest.raises(ImportError) as caught:
            device.resolve_device(device.Device.CPU)
        assert device.is_out_of_memory(caught.value)
        monkeypatch.setitem(sys.modules, "torch", None)
