"""Too little memory, and a disk that is full while weights arrive: one message, nothing torn."""

import errno
import sys

import numpy as np
import pytest
import torch
from engine import dinov3_examples as examples
from Faults.campaign import can_mount, resize_disk, small_disk
from Faults.whole import temporary_files, torn_files
from service.loopback_hub import HUB_ID, only_hub
from service.small_site import TRAIN_OPTIONS, run
from SpatialARAnomalyLib.engine import device
from SpatialARAnomalyLib.engine.encoder.batching import prefetch
from SpatialARAnomalyLib.engine.encoder.encoder import DINOv3Encoder
from SpatialARAnomalyLib.engine.errors import DeviceError, EncoderError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error
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
        ImportError("libtorch.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["cuda", "python", "system", "library", "segment", "thread", "product"],
)
def test_too_little_memory_has_one_message(error):
    known = as_user_error(error)
    assert isinstance(known, DeviceError)
    assert known.code == "out-of-memory"


def test_a_library_that_may_not_be_run_is_no_lack_of_memory():
    text = "libtorch.so: failed to map segment from shared object: Operation not permitted"
    assert as_user_error(ImportError(text)) is None


@pytest.mark.parametrize(
    ("command", "place"),
    [("detect", (DINOv3Encoder, "embed")), ("train", (AutoregressiveModel, "forward"))],
    ids=["detect", "train"],
)
def test_a_gpu_without_free_memory_is_told_and_the_next_run_succeeds(
    command, place, site, tmp_path, monkeypatch
):
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "settings"))
    arguments = ["train", *site.normals, "--out", tmp_path / "brain", *TRAIN_OPTIONS]
    if command == "detect":
        arguments = [
            "detect",
            site.normals[0],
            "--model",
            site.model,
            "--out",
            tmp_path / "results",
        ]
        arguments += ["--device", "cpu", "--allow-mismatch"]
    with monkeypatch.context() as patch:
        patch.setattr(*place, refuse)
        failed = run(*arguments)
    assert failed.exit_code == 2
    assert "too little free memory for this job. [out-of-memory]" in failed.stderr
    assert "Close other programs" in failed.stderr
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "brain.safetensors").exists()
    assert run(*arguments).exit_code == 0
    assert temporary_files(tmp_path) == []


def test_a_file_that_finds_no_memory_is_no_bad_file():
    full = OSError(errno.ENOMEM, "Cannot allocate memory")
    for make in (unreadable_error, lambda error: unwritable("It cannot be written", error)):
        with pytest.raises(MemoryError):
            make(full)


def test_a_thread_that_would_wait_for_memory_for_ever_is_not_started(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(device.mmap, "mmap", refuse)
    for start in (device.start_imports, lambda: next(prefetch(range(3)))):
        with pytest.raises(OSError, match="allocate") as caught:
            start()
        assert device.is_out_of_memory(caught.value)
