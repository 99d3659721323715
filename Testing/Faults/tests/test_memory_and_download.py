"""Too little memory, and a disk that is full while weights arrive: one message, nothing torn."""

import sys

import numpy as np
import pytest
import torch
from engine import dinov3_examples as examples
from Faults.campaign import can_mount, resize_disk, small_disk
from Faults.whole import torn_files
from service.loopback_hub import HUB_ID, only_hub
from SpatialARAnomalyLib.engine.errors import DeviceError, EncoderError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.encoders import dinov3_license
from SpatialARAnomalyLib.service.encoders.hub import cached_folder, download
from SpatialARAnomalyLib.service.events import as_user_error

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="mounts of Linux"),
    pytest.mark.slow,
]


def test_a_full_disk_stops_a_download(tmp_path, monkeypatch):
    if not can_mount(tmp_path):
        pytest.skip("no small disk can be mounted here (needs root)")
    saved = examples.save_transformers(examples.vit(), tmp_path / "vit")
    size = (saved / "model.safetensors").stat().st_size
    dinov3_license.accept()
    random = np.random.RandomState(3)
    with only_hub(saved, monkeypatch), small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("HF_HOME", str(disk))
        for _ in range(2):
            resize_disk(disk, 16384 + int(size * random.uniform(0.05, 0.9)))
            with pytest.raises(EncoderError) as caught:
                download(HUB_ID, SilentReporter())
            assert caught.value.code == "encoder-disk-full"
            assert cached_folder(HUB_ID) is None
            assert not list(disk.rglob("*.incomplete"))
        resize_disk(disk, 1 << 28)
        download(HUB_ID, SilentReporter())
        assert cached_folder(HUB_ID) is not None
        assert torn_files(disk) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch.so: failed to map segment: Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
    ids=["cuda", "python", "system", "library", "thread"],
)
def test_too_little_memory_has_one_message(error):
    known = as_user_error(error)
    assert isinstance(known, DeviceError)
    assert known.code == "out-of-memory"
