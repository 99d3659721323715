"""The device asked for, or an error that says what to do."""

import sys

import pytest
import torch
from SpatialARAnomalyLib.engine.device import Device, require_torch, resolve_device
from SpatialARAnomalyLib.engine.errors import DeviceError


@pytest.fixture
def has(monkeypatch):
    """Sets which devices torch says it has."""

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


@pytest.mark.parametrize("asked", [Device.CPU, Device.CUDA, Device.MPS])
def test_what_is_there_is_given_as_asked(has, asked):
    has(cuda=True, mps=True)
    assert resolve_device(asked) == torch.device(asked.value)


@pytest.mark.parametrize("asked", [Device.CUDA, Device.MPS])
def test_what_is_not_there_is_an_error_and_never_the_cpu(has, asked):
    has(cuda=asked is not Device.CUDA, mps=asked is not Device.MPS)
    with pytest.raises(DeviceError) as caught:
        resolve_device(asked)
    assert caught.value.code == "device-missing"
    assert caught.value.message == (
        f"Device {asked.value} was asked for; torch {torch.__version__} finds none here."
    )


@pytest.mark.parametrize("function", [require_torch, lambda: resolve_device(Device.CPU)])
def test_without_torch_the_error_says_so(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError) as caught:
        function()
    assert caught.value.code == "torch-missing"
    assert "need torch and transformers; they are not installed" in caught.value.message
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_with_torch_nothing_is_said():
    assert require_torch() is None
