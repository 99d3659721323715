"""What goes to the log or to a bug report tells nothing of where things lie."""

import pytest
from SpatialARAnomalyLib.service.redaction import (
    redact_folders,
    redact_paths,
)
from SpatialARAnomalyLib.service.worker.protocol import Request

PLACE = "/archive/Müller, Anna/t1 gadolinium.npy"
REQUEST = Request(
    id=1,
    job="detect",
    inputs={"voxels": PLACE, "model": "/models/normal", "modality": "MR", "rows": ["/a/b"]},
    output="C:\\Users\\Anna\\out",
)


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open {PLACE}",
        f"cannot open {PLACE!r}",
        "in folder /archive/Müller, Anna and t1 gadolinium.npy in it",
        "cannot write C:\\Users\\Anna\\out\\nll.npy",
        "cannot write 'C:\\\\Users\\\\Anna\\\\out\\\\nll.npy'",
    ],
)
def test_the_places_of_a_request_are_left_out(text):
    told = redact_paths(text, REQUEST)
    assert told != text
    for word in ("ller", "Anna", "archive", "gadolinium"):
        assert word not in told


def test_places_are_known_however_deep_they_stand():
    inputs = {"normals": [{"path": PLACE, "series": "1.2.3"}, {"voxels": "/x/Anna/1.npy"}]}
    request = Request(id=1, job="train", inputs=inputs, output="/models/brain")
    told = redact_paths(f"cannot open {PLACE!r}, /x/Anna/1.npy", request)
    assert told == "cannot open '<path>', <path>"


def test_code_is_left_readable():
    text = "File worker_detect.py, line 7, in detect: normal_head(seed) failed for normal MR"
    told = redact_paths(text, REQUEST)
    assert told == text.replace("for normal ", "for <path> ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("OSError: /opt/conda/lib/libcudart.so: no such file", "OSError: …/libcudart.so: no such"),
        ("cannot load 'C:\\Program\\torch\\c10.dll'", "cannot load '…/c10.dll'"),
        ("ratio 3/4 of a/b", "ratio 3/4 of a/b"),
        ("/home/Anna Müller/venv/lib/libtorch.so", "…/libtorch.so"),
    ],
)
def test_folders_are_left_out(monkeypatch, text, told):
    monkeypatch.setenv("HOME", "/home/Anna Müller")
    monkeypatch.setenv("USERPROFILE", "/home/Anna Müller")
    assert told in redact_folders(text)
    for word in ("ller", "Anna", "conda", "Program"):
        assert word not in redact_folders(text)
