"""Files of a stranger that promise or unpack to far more than they hold, and their readers.

`python -m Faults.hostile FOLDER` reads them with little memory and prints how each ended.
"""

import gzip
import json
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from engine.dicom_examples import small_series
from engine.model_examples import CARD, small_model
from SpatialARAnomalyLib.engine.cards.encoder_card import read_json
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.model.model_file import _digest, read_card, save_model
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes import dicom_headers, formats
from SpatialARAnomalyLib.service.array_files import read_voxels
from SpatialARAnomalyLib.service.scan_search import search_scans
from SpatialARAnomalyLib.service.scans import read_volume
from SpatialARAnomalyLib.service.training.folder import TrainingFolder

ROOM_BYTES = 800 << 20
"""Memory that a reading may take: less than what the files below promise."""

PETABYTE = (4000, 4000, 31250)


def nifti(path: Path) -> None:
    header = bytearray(352)
    struct.pack_into("<i8h", header, 0, 348, *[0] * 8)
    struct.pack_into("<8h", header, 40, 4, 32767, 32767, 32767, 32767, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 16, 32)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header) + bytes(999), mtime=0))


def nrrd(path: Path) -> None:
    sizes = " ".join(map(str, PETABYTE))
    path.write_text(
        f"NRRD0004\ntype: double\ndimension: 3\nspace: LPS\nsizes: {sizes}\nspace directions: "
        "(1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: gzip\nendian: little\n\nx"
    )


def metaimage(path: Path) -> None:
    sizes = " ".join(map(str, PETABYTE))
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_DOUBLE\n"
        "ElementDataFile = LOCAL\nx"
    )


def array(path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": PETABYTE}
        np.lib.format.write_array_header_1_0(file, header)


def sparse(start: bytes) -> Callable[[Path], None]:
    """The maker of a file of 4 GB that takes no room on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, 4 << 30)

    return make


def nested(path: Path) -> None:
    path.write_bytes(b'{"a":' * 100_000)


def surplus(path: Path) -> None:
    """A good scan, followed by zeros without end in the same gzip stream."""
    import nibabel as nib

    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    member = gzip.compress(bytes(16 << 20), 1, mtime=0)
    count = formats.SURPLUS_BYTES // (16 << 20) + 2
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0) + member * count)


def gzip_dicom(path: Path) -> None:
    """Headless, so that the whole must be unpacked; its private attribute is a gigabyte."""
    start = b"\0" * 4 + b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\x09\0\x10\0OB\0\0\0\0\0\x40"
    member = gzip.compress(bytes(16 << 20), 1, mtime=0)
    path.write_bytes(gzip.compress(start, mtime=0) + member * 64)


def deflated_dicom(path: Path) -> None:
    image = small_series(1).image(0)
    image.file_meta.TransferSyntaxUID = dicom_headers.DEFLATED
    image.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    at = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    data = b"".join(packer.compress(bytes(16 << 20)) for _ in range(64)) + packer.flush()
    path.write_bytes(whole[:at] + data)


def endless_model(path: Path) -> None:
    """The card states a network of 10⁹ layers, with a right digest."""
    save_model(path, CARD, small_model())
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + length])
    card = json.loads(content["__metadata__"]["card"])
    card["autoregressive"]["layers"] = 10**9
    content["__metadata__"]["card"] = json.dumps(card)
    header = json.dumps(content, separators=(",", ":")).encode()
    head = len(header).to_bytes(8, "little") + header
    path.write_bytes(head[:35] + _digest(head) + head[99:] + data[8 + length :])


def read_table(path: Path) -> None:
    search_scans([path], [], SilentReporter())


def read_request(path: Path) -> None:
    folder = TrainingFolder(path)
    folder.request = path
    assert folder.read_record() is None
    raise SpatialARError("none", "It is no request.")


def read_features(path: Path) -> None:
    assert path.stem not in FeatureStore(path.parent)
    read_voxels(path)


MODEL_START = (3 << 30).to_bytes(8, "little") + b'{"__metadata__":{"digest":"'

FILES: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object], str]] = {
    "NIfTI of a petabyte": ("a.nii.gz", nifti, read_volume, "volume-4d"),
    "NRRD of a petabyte": ("a.nrrd", nrrd, read_volume, "input-damaged"),
    "MetaImage of a petabyte": ("a.mha", metaimage, read_volume, "input-damaged"),
    "array of a petabyte": ("a.npy", array, read_features, "array-format"),
    "gzip bomb, NIfTI": ("a.nii.gz", surplus, read_volume, "input-damaged"),
    "gzip bomb, DICOM": ("a.dcm", gzip_dicom, read_volume, "input-format"),
    "deflate bomb, DICOM": ("a.dcm", deflated_dicom, read_volume, "input-format"),
    "model header of gigabytes": (
        "a.safetensors", sparse(MODEL_START), read_card, "model-damaged",
    ),
    "model of 10⁹ layers": ("a.safetensors", endless_model, read_card, "model-damaged"),
    "configuration of gigabytes": ("a.json", sparse(b'{"'), read_json, "encoder-damaged"),
    "nested configuration": ("a.json", nested, read_json, "encoder-damaged"),
    "request of gigabytes": ("a.json", sparse(b"{"), read_request, "none"),
    "nested request": ("a.json", nested, read_request, "none"),
    "table of gigabytes": ("a.csv", sparse(b"scan\n"), read_table, "scan-table"),
}  # fmt: skip


def read_limited(name: str, top: Path) -> str:
    """Read a file with little memory; return the code of its error, or what else happened."""
    file, make, read, _ = FILES[name]
    folder = top / str(list(FILES).index(name))
    folder.mkdir()
    make(folder / file)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, most))
    try:
        read(folder / file)
        ended = "read"
    except SpatialARError as error:
        ended = error.code
    except BaseException as error:
        ended = repr(error)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return ended if os.listdir(folder) == [file] else f"{ended}, and other files"


if __name__ == "__main__":
    print(json.dumps({name: read_limited(name, Path(sys.argv[1])) for name in FILES}))
