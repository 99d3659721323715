"""The chosen device or an error, never another device."""

import sys

import pytest
import torch
from SpatialARAnomalyLib.engine.device import Device, require_torch, resolve_device
from SpatialARAnomalyLib.engine.errors import DeviceError


@pytest.fixture
def has(monkeypatch):
    """Set which devices torch reports as available."""

    def devices(*, cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return devices


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest(has, cuda, mps, expected):
    has(cuda=cuda, mps=mps)
    assert resolve_device(Device.AUTO) == torch.device(expected)


@pytest.mark.parametrize("device", [Device.CPU, Device.CUDA, Device.MPS])
def test_an_available_device_is_used(has, device):
    has(cuda=True, mps=True)
    assert resolve_device(device) == torch.device(device.value)


@pytest.mark.parametrize("device", [Device.CUDA, Device.MPS])
def test_a_missing_device_is_an_error_instead_of_the_cpu(has, device):
    has(cuda=device is not Device.CUDA, mps=device is not Device.MPS)
    with pytest.raises(DeviceError) as caught:
        resolve_device(device)
    assert caught.value.code == "device-missing"
    assert caught.value.message == (
        f"Device {device.value} is not available; torch {torch.__version__} does not find it."
    )


@pytest.mark.parametrize("function", [require_torch, lambda: resolve_device(Device.CPU)])
def test_without_torch_the_error_says_so(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError) as caught:
        function()
    assert caught.value.code == "torch-missing"
    assert "need torch and transformers; they are not installed" in caught.value.message
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_with_torch_there_is_no_error():
    assert require_torch() is None
