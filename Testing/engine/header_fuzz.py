"""Seeded damage to headers, as broken converters and bit errors do it."""

import gzip
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
from engine import odd_examples
from engine.dicom_examples import Series

NUMBERS = (
    *("0", "-1", "1", "2", "3", "4", "5", "7", "1e-30", "1e30", "nan", "inf", "-2.5", "999999999"),
    *("2147483648", "99999999999999999999", "", "x", "none", "(1,0,0)", "(0,0,0)", "0x10"),
)
VALUES = (0, -1, 1, 2, 3, 7, 255, 1e-30, 1e30, -2.5, np.nan, np.inf, 32767, 2.0**31, -(2.0**31))


def nifti(path: Path, random: np.random.RandomState) -> Path:
    """A NIfTI file with some header fields of edge values, or random bytes."""
    maker = random.choice(["reference.nii.gz", "sform_only.nii.gz", "qform_only.nii.gz"])
    plain = bytearray(gzip.decompress(odd_examples.make(maker, path.parent).read_bytes()))
    layout = nib.Nifti1Header.template_dtype
    for name in random.choice(layout.names, random.randint(1, 4), replace=False):
        kind, offset = layout.fields[name][:2]
        base = kind.base
        count = kind.itemsize // base.itemsize
        at = offset + base.itemsize * random.randint(count)
        if base.kind in "iuf" and random.rand() < 0.7:
            value = np.array(random.choice(VALUES))
            with np.errstate(all="ignore"):
                plain[at : at + base.itemsize] = value.astype(base).tobytes()
        else:
            plain[at : at + base.itemsize] = random.bytes(base.itemsize)
    if random.rand() < 0.3:
        struct.pack_into("<hh", plain, 252, random.randint(0, 5), random.randint(0, 5))
    data = bytes(plain[: random.randint(len(plain))] if random.rand() < 0.05 else plain)
    suffix = random.choice([".nii", ".nii.gz"])
    file = path.with_name(f"fuzzed{suffix}")
    file.write_bytes(gzip.compress(data, 1) if random.rand() < 0.5 else data)
    return file


def _text(path: Path, random: np.random.RandomState, name: str, end: bytes) -> Path:
    """A file with a header of text lines: values, lines and letters replaced."""
    data = odd_examples.make(name, path.parent).read_bytes()
    head, mark, voxels = data.partition(end)
    lines = head.split(b"\n")
    lines[1:1] = b"# a comment\ncontent: a head\nkey:=value".split(b"\n") * (end == b"\n\n")
    for _ in range(random.randint(1, 3)):
        row = random.randint(1, len(lines))
        found = re.match(rb"(.*?[:=]=?\s*)(.*)", lines[row], re.DOTALL)
        draw = random.rand()
        if draw < 0.5 and found:
            words = found[2].split()
            if words:
                words[random.randint(len(words))] = random.choice(NUMBERS).encode()
            lines[row] = found[1] + b" ".join(words)
        elif draw < 0.6:
            del lines[row]
            if len(lines) < 3:
                break
        elif draw < 0.7:
            lines.insert(row, lines[random.randint(1, len(lines))])
        elif lines[row]:
            letters = bytearray(lines[row])
            letters[random.randint(len(letters))] = random.randint(256)
            lines[row] = bytes(letters)
    file = path.with_name("fuzzed" + Path(name).suffix)
    whole = b"\n".join(lines) + mark + voxels
    file.write_bytes(whole[: random.randint(len(whole))] if random.rand() < 0.05 else whole)
    return file


def nrrd(path: Path, random: np.random.RandomState) -> Path:
    """A damaged NRRD file."""
    names = ("lps.nrrd", "big_endian_raw.nrrd", "time_axis_last.nrrd", "list_axis_first.nrrd")
    return _text(path, random, str(random.choice(names)), b"\n\n")


def metaimage(path: Path, random: np.random.RandomState) -> Path:
    """A damaged MetaImage file."""
    names = ("compressed.mha", "no_orientation.mha", "4d_one_volume.mha")
    return _text(path, random, str(random.choice(names)), b"ElementDataFile = LOCAL\n")


def dicom(path: Path, random: np.random.RandomState) -> Path:
    """A DICOM series of which some bytes are replaced."""
    folder = path.with_name("fuzzed")
    if not folder.exists():
        Series(stored=odd_examples.VOXELS[:3]).write(folder)
    files = sorted(folder.iterdir())
    kept = {file: file.read_bytes() for file in files}
    damaged = path.with_name("damaged")
    damaged.mkdir(exist_ok=True)
    for file, data in kept.items():
        broken = bytearray(data)
        if random.rand() < 0.6:
            for at in random.randint(132, 1200, random.randint(1, 6)):
                broken[min(at, len(broken) - 1)] = random.choice(list(b"0123 -.\\\x00\xff"))
        (damaged / file.name).write_bytes(broken)
    return damaged


KINDS = {"NIfTI": nifti, "NRRD": nrrd, "MetaImage": metaimage, "DICOM": dicom}
