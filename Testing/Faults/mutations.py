"""Mutates valid files and messages with a seed, and reads them: hostile and broken input.

    PYTHONPATH=Testing:SpatialARAnomaly python -m Faults.mutations --readers 5000 --parsers 20000

prints for every kind how the readings ended. Each kind runs in a child process with a limit of
memory and of time for an input; a crash, a hang, an unexpected exception or too much memory names
the seed. With `--coverage KIND --seconds N`, atheris (pip install atheris) searches inputs by
coverage.
"""

import argparse
import contextlib
import gc
import gzip
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from engine import header_fuzz, odd_examples
from engine.dicom_examples import small_series
from engine.model_examples import CARD
from SpatialARAnomalyLib.engine import errors
from SpatialARAnomalyLib.engine.errors import SpatialARError

HUGE = (b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"99999999999999999999", b"1e999", b"NaN")
NESTED = b"[" * 100_000
OURS = str(Path(errors.__file__).parents[1])
"""Folder of the code whose coverage counts."""

SLOWEST_S = 20
"""Far more than an input takes on a loaded machine, and less than a hang."""

MEMORY_BYTES = 2 << 30
"""Address space that a child may take beyond what it has after its imports."""


def mutate(data: bytes, random: np.random.RandomState) -> bytes:
    """Change a few bytes, numbers or parts of valid data."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 5)):
        at = int(random.randint(len(changed) + 1))
        # Headers matter most, and lie at the beginning.
        at = at if random.rand() < 0.4 else min(at, int(random.randint(400)))
        draw = random.randint(8)
        if draw == 0:
            del changed[at:]
        elif draw == 1:
            del changed[at : at + int(random.randint(1, 64))]
        elif draw == 2:
            changed[at:at] = random.bytes(int(random.randint(1, 64)))
        elif draw == 3:
            huge = HUGE[random.randint(len(HUGE))]
            changed[at : at + len(huge)] = huge
        elif draw == 4:
            changed[at:at] = changed[at : at + int(random.randint(1, 200))]
        elif draw == 5 and random.rand() < 0.05:
            changed[at:at] = NESTED
        else:
            for _ in range(random.randint(1, 6)):
                if changed:
                    place = min(at + int(random.randint(16)), len(changed) - 1)
                    changed[place] = int(random.randint(256))
    return bytes(changed)


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, -0.5, 2**63, 10**30, "", "x" * 999, "\0", "../../x", "NaN", "é"),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, float("nan"), float("inf")),
)


def mutate_json(value: Any, random: np.random.RandomState) -> Any:
    """Change a value, key or length somewhere in a JSON value."""
    if isinstance(value, dict) and value and random.rand() < 0.9:
        key = sorted(value)[random.randint(len(value))]
        draw = random.rand()
        changed = {name: one for name, one in value.items() if name != key}
        if draw < 0.1:
            return changed
        if draw < 0.2:
            return changed | {key + "x": value[key]}
        return changed | {key: mutate_json(value[key], random)}
    if isinstance(value, list) and value and random.rand() < 0.8:
        at = random.randint(len(value))
        draw = random.rand()
        if draw < 0.1:
            return value[:at] + value[at + 1 :]
        if draw < 0.15:
            return value * 1000
        return [*value[:at], mutate_json(value[at], random), *value[at + 1 :]]
    return ODD_VALUES[random.randint(len(ODD_VALUES))]


def mutated_text(value: Any, random: np.random.RandomState) -> bytes:
    """Return JSON of a changed value, or changed bytes of JSON."""
    if random.rand() < 0.6:
        return json.dumps(mutate_json(value, random)).encode()
    return mutate(json.dumps(value).encode(), random)


# Kinds: each reads the mutated bytes of a seed; a `SpatialARError` is a good end.


def _volume(make: Callable[[Path, np.random.RandomState], Path]) -> Callable[..., None]:
    def read(folder: Path, random: np.random.RandomState) -> None:
        from SpatialARAnomalyLib.service.scans import read_volume

        path = make(folder / "file", random)
        if random.rand() < 0.5:  # else the header's own damage
            for file in [path] if path.is_file() else sorted(path.iterdir())[:1]:
                file.write_bytes(mutate(file.read_bytes(), random))
        read_volume(path)

    return read


def _compressed_dicom(path: Path, random: np.random.RandomState) -> Path:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

    image = small_series(1, "u2").with_(stored=np.arange(1024, dtype="u2").reshape(1, 32, 32))
    one = image.image(0, Modality="MR", SliceThickness="2")
    if random.rand() < 0.5:
        one.compress(RLELossless, generate_instance_uid=False)
    else:
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = path.with_name("compressed")
    with warnings.catch_warnings(action="ignore"):
        one.save_as(file, enforce_file_format=True)
    if random.rand() < 0.3:
        file.write_bytes(gzip.compress(file.read_bytes(), 1))
    return file


def _other_shape(path: Path, random: np.random.RandomState) -> Path:
    """A file of two to five dimensions, of gray values, colors or vectors."""
    import nibabel as nib
    import SimpleITK as sitk

    shape = ((5, 4), (6, 5, 4), (1, 5, 4), (2, 6, 5, 4), (2, 1, 6, 5, 4))[random.randint(5)]
    channels = int(random.choice([1, 1, 2, 3, 4]))
    suffix = str(random.choice([".nii", ".nrrd", ".mha"]))
    file = path.with_name(f"shape{suffix}")
    voxels = np.arange(np.prod(shape) * channels).reshape(*shape, channels).astype("u1")
    if suffix == ".nii" and channels == 3:
        colors = voxels.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        nib.save(nib.Nifti1Image(colors.T, np.eye(4)), file)
    elif len(shape) < 4:
        image = sitk.GetImageFromArray(voxels[..., 0] if channels == 1 else voxels, channels > 1)
        sitk.WriteImage(image, str(file))
    elif suffix == ".nrrd":
        odd_examples.nrrd(file, voxels[..., 0])
    else:
        nib.save(nib.Nifti1Image(voxels.T, np.eye(4)), file.with_suffix(".nii"))
        file.with_suffix(".nii").replace(file)  # MetaImage in name only
    if random.rand() < 0.5:
        file.write_bytes(mutate(file.read_bytes(), random))
    return file


READERS: dict[str, Callable[[Path, np.random.RandomState], None]] = {
    **{name: _volume(make) for name, make in header_fuzz.KINDS.items()},
    "compressed DICOM": _volume(_compressed_dicom),
    "2-D, 3-D, color, vectors": _volume(_other_shape),
}


def _model(folder: Path, random: np.random.RandomState) -> None:
    from SpatialARAnomalyLib.engine.model.model_file import _digest, is_model, verify_model

    source = folder / "whole.safetensors"
    if not source.exists():
        _save_model(source)
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    if random.rand() < 0.3:
        data = mutate(data, random)
    else:  # as an attacker does, with a right digest
        content = json.loads(header)
        card = json.loads(content["__metadata__"]["card"])
        content["__metadata__"]["card"] = json.dumps(mutate_json(card, random))
        header = json.dumps(content, separators=(",", ":")).encode()
        header = header if random.rand() < 0.7 else mutate(header, random)
        head = len(header).to_bytes(8, "little") + header
        start = 8 + header.find(b'"digest":"') + 10
        data = head[:start] + _digest(head) + head[start + 64 :] + tensors
    path = folder / "mutated.safetensors"
    path.write_bytes(data)
    is_model(path)
    verify_model(path)


def _save_model(path: Path) -> None:
    from engine.model_examples import small_model
    from SpatialARAnomalyLib.engine.model.model_file import save_model

    save_model(path, CARD, small_model())


def _json(valid: Any, read: Callable[[Path], Any]) -> Callable[..., None]:
    def run(folder: Path, random: np.random.RandomState) -> None:
        path = folder / "mutated.json"
        path.write_bytes(mutated_text(valid, random))
        read(path)

    return run


def _read_card(path: Path) -> None:
    from SpatialARAnomalyLib.engine.cards.calibration import Calibration
    from SpatialARAnomalyLib.engine.cards.encoder_card import read_json

    Calibration.from_dict(read_json(path))


def _read_request(path: Path) -> None:
    from SpatialARAnomalyLib.service.training.folder import TrainingFolder

    path.replace(path.with_name("request.json"))
    folder = TrainingFolder(path.parent)
    folder.request = path.with_name("request.json")
    folder.read_record()


def _read_kit(path: Path) -> None:
    from SpatialARAnomalyLib.service.setup.kit_manifest import MANIFEST, read_manifest

    path.replace(path.with_name(MANIFEST))
    read_manifest(path.parent)


def _table(folder: Path, random: np.random.RandomState) -> None:
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.service.evaluation.cases import find_cases
    from SpatialARAnomalyLib.service.scan_search import search_scans

    text = 'scan;truth;patient;mask;volume\r\na.nii;b.nii;p1;;2\r\n"c.nii";;p2;m.nii;\r\n'
    path = folder / "cases.csv"
    path.write_bytes(mutate(text.encode(random.choice(["utf-8-sig", "utf-16", "cp1252"])), random))
    with contextlib.suppress(SpatialARError):
        find_cases(path)
    search_scans([path], [], SilentReporter())


def _message(folder: Path, random: np.random.RandomState) -> None:
    from SpatialARAnomalyLib.service.jobs import JOBS
    from SpatialARAnomalyLib.service.worker.protocol import Request, read_message

    identity = np.eye(4).tolist()
    message = {
        "protocol": 1, "id": 7, "job": "find",
        "inputs": {"nll": "x.npy", "ras_from_voxel": identity,
                   "calibration": CARD.calibration.to_dict()},
        "spec": {"false_positive_rate": 0.001, "min_volume_ml": 0.5}, "output": "x",
    }  # fmt: skip
    found = read_message(mutated_text(message, random))
    if isinstance(found, Request):
        _, inputs, spec = JOBS[found.job].load()
        inputs.from_dict(found.inputs)
        spec.from_dict(found.spec)


def _array(folder: Path, random: np.random.RandomState) -> None:
    from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
    from SpatialARAnomalyLib.service.array_files import read_voxels

    path = folder / "key.npy"
    kind = ("<f2", ">i2", "u1", "<f8", "?", [("R", "u1"), ("G", "u1")], "<U3")[random.randint(7)]
    np.save(path, np.zeros((2, 3, 4, 5)[: random.randint(5)], kind))
    path.write_bytes(mutate(path.read_bytes(), random))
    _ = "key" in FeatureStore(folder)
    read_voxels(path)


_KIT = {
    "schema": 1, "created": "2026-01-01", "python_version": "3.12", "platforms": ["win_amd64"],
    "requirements": ["numpy"], "wheels": ["a==1"], "held": [], "encoders": [],
    "files": [{"path": "a.whl", "sha256": "0" * 64, "size_bytes": 5}],
}  # fmt: skip
_REQUEST = {"spec": {"epochs": 3, "size_px": 224}, "sources": [{"voxels": "a.npy"}]}

PARSERS: dict[str, Callable[[Path, np.random.RandomState], None]] = {
    "model file": _model,
    "calibration": _json(CARD.calibration.to_dict(), _read_card),
    "request of a training": _json(_REQUEST, _read_request),
    "kit manifest": _json(_KIT, _read_kit),
    "table": _table,
    "worker message": _message,
    "array and feature store": _array,
}

KINDS = READERS | PARSERS


class Hang(BaseException):
    """An input took longer than `SLOWEST_S`."""


def read_seed(kind: str, seed: int, folder: Path) -> str:
    """Read one mutated input; return the code of its error, or "read"; defects are raised."""
    before = set(os.listdir(folder.parent))
    try:
        KINDS[kind](folder, np.random.RandomState(seed))
        ended = "read"
    except SpatialARError as error:
        ended = error.code
    assert set(os.listdir(folder.parent)) == before, "a file outside the folder"
    return ended


def run_seeds(kind: str, seeds: range, *, memory_bytes: int = MEMORY_BYTES) -> Counter[str]:
    """Read mutated inputs in this process, whose memory is limited; raises at the first defect."""
    logging.disable()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "inputs")
        folder.mkdir()
        with contextlib.suppress(SpatialARError):  # imports are no part of the limit
            KINDS[kind](folder, np.random.RandomState(seeds.start))
        if memory_bytes:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes, most))
        signal.signal(signal.SIGALRM, _raise_hang)
        for seed in seeds:
            signal.alarm(SLOWEST_S)
            try:
                ends[read_seed(kind, seed, folder)] += 1
            except BaseException:
                print(f"{kind}: seed {seed}", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
    return ends


def _raise_hang(*_: object) -> None:
    raise Hang(f"more than {SLOWEST_S} s")


def run_child(kinds: Iterable[str], seeds: range) -> dict[str, dict[str, int]]:
    """Read mutated inputs in a child process; return how those of each kind ended.

    Raises `RuntimeError` that names the kind and seed of a defect.
    """
    done = subprocess.run(
        [sys.executable, "-m", "Faults.mutations", "--child", str(seeds.start), str(seeds.stop),
         *kinds],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}\n{done.stderr[-3000:]}")
    ends: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return ends


def search_by_coverage(kind: str, seconds: int) -> None:
    """Let atheris make bytes that reach new code, from valid ones; it exits at a defect."""
    import atheris

    global mutate, mutated_text
    top = Path(tempfile.mkdtemp())
    folder, corpus = top / "inputs", top / "corpus"
    folder.mkdir()
    corpus.mkdir()
    given: list[bytes] = []

    def note(valid: bytes, _: object) -> bytes:
        given.append(valid)
        return valid

    mutate, mutated_text = note, lambda value, _: note(json.dumps(value).encode(), _)
    seeds = []  # those of inputs whose bytes are changed as a whole
    for seed in range(60):
        given.clear()
        read_seed(kind, seed, folder)
        if given:
            seeds.append(seed)
            (corpus / str(seed)).write_bytes(given[-1])
    for function in gc.get_objects():
        is_ours = type(function) is FunctionType and str(function.__module__).startswith(
            "SpatialARAnomalyLib"
        )
        if is_ours and function.__code__.co_filename.startswith(OURS):  # no generated code
            atheris.instrument_func(function)

    def one(data: bytes) -> None:
        global mutate, mutated_text
        mutate = mutated_text = lambda *_: data
        read_seed(kind, seeds[len(data) % len(seeds)], folder)

    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", "-rss_limit_mb=4096"]
    options += ["-max_len=65536", f"-artifact_prefix={top}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """Run all kinds; return 1 after a defect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--parsers", type=int, default=700)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--coverage", choices=KINDS)
    parser.add_argument("--seconds", type=int, default=0, help="of --coverage; 0 for no end")
    parser.add_argument("--child", nargs="+", metavar="FIRST END KIND")
    options = parser.parse_args()
    if options.child:
        first, end, *kinds = options.child
        seeds = range(int(first), int(end))
        print(json.dumps({kind: run_seeds(kind, seeds) for kind in kinds}))
        return 0
    if options.coverage:
        search_by_coverage(options.coverage, options.seconds)
    defects = 0
    for kinds, total in ((READERS, options.readers), (PARSERS, options.parsers)):
        for kind in kinds:
            seeds = range(options.first, options.first + -(-total // len(kinds)))
            try:
                ends = Counter(run_child([kind], seeds)[kind])
            except RuntimeError as error:
                defects += 1
                print(error, flush=True)
                continue
            named = ", ".join(f"{code} {count}" for code, count in ends.most_common())
            print(f"{kind}: {len(seeds)} inputs: {named}", flush=True)
    return int(defects > 0)


if __name__ == "__main__":
    sys.exit(main())
