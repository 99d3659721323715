"""A model as one file: the same bytes everywhere, and no stranger's archive gets in."""

import dataclasses
import errno
import json
import os
import random
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from Engine.model_examples import CARD
from Service.model_folders import Stopper, add_model
from Service.small_site import tree
from SpatialARAnomalyLib.engine import model_store
from SpatialARAnomalyLib.engine.errors import Cancelled, ModelError, OutputError
from SpatialARAnomalyLib.engine.model_store import card_text, load_model, read_card, verify_model
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service import model_archive
from SpatialARAnomalyLib.service.model_library import Arrival, export_model, import_model

QUIET = SilentReporter()
NAME = "Größe 脳 т1"


@pytest.fixture
def here(tmp_path):
    """A machine's folder of models, with one in it."""
    folder = tmp_path / "Modelle für Köpfe"
    add_model(folder, NAME)
    return folder


@pytest.fixture
def there(tmp_path):
    """Another machine's, with another one in it."""
    folder = tmp_path / "别的 машина"
    add_model(folder, "other", seed=1)
    return folder


@pytest.fixture
def file(here, tmp_path):
    """The model as one file."""
    return export_model(here / NAME, tmp_path / "exporté" / "модель", QUIET, overwrite=False)


def test_a_model_travels_and_stays_the_same(here, there, file):
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name, found.folder) == (Arrival.ADDED, NAME, there / NAME)
    assert tree(found.folder) == tree(here / NAME)
    assert load_model(found.folder)[0] == read_card(here / NAME)
    assert sorted(os.listdir(there)) == sorted(["other", NAME])


def test_the_file_is_a_plain_zip_of_two_stored_entries(here, file):
    assert file.name == "модель.spatialar"
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["model.json", "model.safetensors"]
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert archive.read(entry) == (here / NAME / entry.filename).read_bytes()


def test_the_same_model_is_the_same_bytes(here, file, tmp_path):
    for name in ("model.json", "model.safetensors"):
        os.utime(here / NAME / name, (1, 2))
        (here / NAME / name).chmod(0o600)
    again = export_model(here / NAME, tmp_path / "again.spatialar", QUIET, overwrite=False)
    assert again.read_bytes() == file.read_bytes()


def test_an_imported_model_is_exported_as_it_came(there, file, tmp_path):
    found = import_model(file, there, QUIET)
    again = export_model(found.folder, tmp_path / "again", QUIET, overwrite=False)
    assert again.read_bytes() == file.read_bytes()


def test_a_model_that_is_there_is_told_and_not_doubled(there, file):
    first = import_model(file, there, QUIET)
    before = tree(there)
    second = import_model(file, there, QUIET)
    assert (second.arrival, second.folder) == (Arrival.PRESENT, first.folder)
    assert tree(there) == before


def test_a_model_that_is_there_under_another_name_is_told(there, file):
    add_model(there, "called otherwise")
    before = tree(there)
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.PRESENT, "called otherwise")
    assert found.original_name == NAME
    assert tree(there) == before


def test_a_damaged_model_of_the_library_does_not_count_as_there(there, file):
    first = import_model(file, there, QUIET)
    weights = first.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, f"{NAME} (2)")
    verify_model(found.folder)


@pytest.mark.parametrize("taken_by", ["model", "model in capitals", "folder", "file"])
def test_a_name_that_is_taken_gets_a_free_one(there, file, taken_by):
    if taken_by == "folder":
        (there / NAME).mkdir()
    elif taken_by == "file":
        (there / NAME).write_text("years of work", encoding="utf-8")
    else:
        capital = taken_by == "model in capitals"
        add_model(there, NAME.upper() if capital else NAME, seed=5, folder="elsewhere")
    before = tree(there)
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, f"{NAME} (2)")
    assert found.folder == there / f"{NAME} (2)"
    assert verify_model(found.folder).name == f"{NAME} (2)"
    after = tree(there)
    assert {name: after[name] for name in before} == before


def test_a_name_that_cannot_be_a_folders_is_made_to_fit(there, tmp_path):
    odd = add_model(tmp_path / "odd", "../../T1\u202e", folder="x")
    found = import_model(
        export_model(odd, tmp_path / "odd.spatialar", QUIET, overwrite=False), there, QUIET
    )
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, "_.._T1_")
    assert found.folder == there / "_.._T1_"
    assert verify_model(found.folder).name == "_.._T1_"


def refused(file: Path, models: Path) -> ModelError:
    """The error of an import that must change nothing."""
    before = tree(models)
    with pytest.raises(ModelError) as caught:
        import_model(file, models, QUIET)
    assert tree(models) == before
    assert str(models) not in str(caught.value)
    assert caught.value.hint
    return caught.value


def spans(file: Path) -> dict[str, tuple[int, int]]:
    """Where the two entries' bytes lie."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            start = entry.header_offset + 30 + len(entry.filename)
            found[entry.filename] = (start, start + entry.file_size)
    return found


@pytest.mark.parametrize("region", ["model.json", "model.safetensors", "both"])
def test_a_byte_changed_anywhere_is_noticed(there, file, tmp_path, region):
    """With the zip's check sum made to fit, as one who tampers would."""
    intact, places = file.read_bytes(), spans(file)
    dice = random.Random(region)
    changed = tmp_path / "changed.spatialar"
    for _ in range(8):
        content = bytearray(intact)
        contents = {}
        for name, (start, end) in places.items():
            if region in (name, "both"):
                at = dice.randrange(start, end)
                content[at] ^= 1 << dice.randrange(8)
            contents[name] = bytes(content[start:end])
        changed.write_bytes(content)
        assert refused(changed, there).code == "model-file-damaged"
        write_zip(changed, contents)
        assert refused(changed, there).code in ("model-tampered", "model-damaged", "model-newer")


def test_a_file_cut_anywhere_is_refused(there, file, tmp_path):
    intact = file.read_bytes()
    cut = tmp_path / "cut.spatialar"
    for length in [0, 1, 21, 22, 100, len(intact) // 2, len(intact) - 23, len(intact) - 1]:
        cut.write_bytes(intact[:length])
        assert refused(cut, there).code in ("model-file", "model-file-damaged")
    cut.write_bytes(intact + b"more")
    assert refused(cut, there).code == "model-file"


def test_one_whose_end_was_kept_and_whose_middle_was_cut_is_refused(there, file, tmp_path):
    intact = file.read_bytes()
    changed = tmp_path / "changed.spatialar"
    changed.write_bytes(intact[:200] + intact[700:])
    assert refused(changed, there).code == "model-file"


def write_zip(path: Path, contents: dict[str, bytes], **attributes: object) -> Path:
    """A zip of these entries, as anyone may write it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.writestr(entry, content)
    return path


@pytest.fixture
def contents(here) -> dict[str, bytes]:
    """The files of the model."""
    return {name: (here / NAME / name).read_bytes() for name in ("model.json", "model.safetensors")}


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "../../model.json", "/etc/passwd", "C:\\evil", "..\\evil", "notes.txt", "model/",
        "MODEL.JSON", "model.json/", "./model.json", "sub/model.json", "é",
    ],
)  # fmt: skip
def test_an_entry_that_is_none_of_the_two_is_refused(there, contents, tmp_path, name):
    bad = write_zip(tmp_path / "bad.spatialar", contents | {name: b"evil"})
    assert "model.json and model.safetensors" in refused(bad, there).message
    moved = {name: contents["model.json"], "model.safetensors": contents["model.safetensors"]}
    refused(write_zip(bad, moved), there)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_name_that_ends_within_is_refused(there, contents, tmp_path):
    """C programs stop reading a name where a zero is."""
    hidden = {"model.jsonX": contents["model.json"]} | {
        "model.safetensors": contents["model.safetensors"]
    }
    bad = write_zip(tmp_path / "bad", hidden)
    bad.write_bytes(bad.read_bytes().replace(b"model.jsonX", b"model.json\0"))
    assert refused(bad, there).code == "model-file"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_an_entry_that_comes_twice_is_refused(there, contents, tmp_path, name):
    bad = write_zip(tmp_path / "bad.spatialar", contents)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(name, contents[name])
    assert "each once; found 3" in refused(bad, there).message


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_an_entry_that_is_missing_is_refused(there, contents, tmp_path, missing):
    del contents[missing]
    assert refused(write_zip(tmp_path / "bad", contents), there).code == "model-file"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_a_link_or_device_is_refused(there, contents, tmp_path, kind):
    bad = write_zip(tmp_path / "bad", contents, external_attr=(kind | 0o777) << 16)
    assert "must be a plain file" in refused(bad, there).message


def test_what_unfolds_is_refused(there, contents, tmp_path):
    """A bomb is compressed: here nothing may be."""
    for name in contents:
        bad = tmp_path / "bomb"
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
            for one, content in contents.items():
                archive.writestr(one, b"\0" * 50_000_000 if one == name else content)
        assert "stored uncompressed" in refused(bad, there).message


def patched(path: Path, offset: int, layout: str, value: int, *, after: bytes) -> Path:
    """The zip with a number changed in every record that begins with `after`."""
    content = bytearray(path.read_bytes())
    at = content.find(after)
    while at >= 0:
        struct.pack_into(layout, content, at + offset, value)
        at = content.find(after, at + 4)
    path.write_bytes(content)
    return path


def test_sizes_that_are_not_true_are_refused(there, contents, tmp_path):
    for size in (1, 1 << 29, (1 << 32) - 2):
        bad = write_zip(tmp_path / "bad", contents)
        for offset in (20, 24):
            patched(bad, offset, "<L", size, after=b"PK\1\2")
        assert refused(bad, there).code in ("model-file", "model-file-damaged")


def test_an_encrypted_file_is_refused(there, contents, tmp_path):
    bad = patched(write_zip(tmp_path / "bad", contents), 8, "<H", 1, after=b"PK\1\2")
    assert "is encrypted" in refused(bad, there).message


def test_a_list_of_endless_length_is_not_read(there, tmp_path, monkeypatch):
    bad = tmp_path / "bad"
    with zipfile.ZipFile(bad, "w") as archive:
        for number in range(3000):
            archive.writestr(f"{number:020d}", b"")
    monkeypatch.setattr(model_archive.zipfile, "ZipFile", None)
    assert "list of entries" in refused(bad, there).message


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all" * 10, b"PK\5\6" + b"\0" * 18])
def test_what_is_no_zip_is_refused(there, tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    assert refused(tmp_path / "bad", there).code == "model-file"


def test_no_file_or_a_folder_is_refused(there, tmp_path):
    for path in (tmp_path / "none", there):
        assert refused(path, there).code == "model-file-unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(there, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", there).code == "model-file-unreadable"


def test_a_newer_model_is_refused_as_such(there, contents, tmp_path):
    card = json.loads(contents["model.json"])
    newer = contents | {"model.json": json.dumps(card | {"schema": 99}).encode()}
    error = refused(write_zip(tmp_path / "newer", newer), there)
    assert (error.code, error.hint) == ("model-newer", "Update SpatialARAnomaly.")


def test_tensors_that_do_not_fit_the_card_are_refused(there, contents, tmp_path):
    card = dataclasses.replace(read_card_of(contents), autoregressive=CARD.autoregressive)
    wider = dataclasses.replace(
        card, autoregressive=dataclasses.replace(card.autoregressive, hidden_channels=7)
    )
    bad = contents | {"model.json": card_text(wider).encode()}
    assert refused(write_zip(tmp_path / "bad", bad), there).code == "model-damaged"


def read_card_of(contents: dict[str, bytes]) -> model_store.ModelCard:
    card = json.loads(contents["model.json"])
    del card["digest"]
    return model_store.ModelCard.from_dict(card)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("moment", ["os.fsync", "os.rename", "tempfile.TemporaryFile"])
def test_a_full_disk_is_told_and_leaves_the_library_as_it_was(
    there, file, monkeypatch, number, moment
):
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(there))

    before = tree(there)
    with monkeypatch.context() as patch:
        patch.setattr(moment, full)
        with pytest.raises(OutputError) as caught:
            import_model(file, there, QUIET)
    assert os.strerror(number) in caught.value.message
    assert str(there) not in str(caught.value)
    assert tree(there) == before


def test_a_full_disk_leaves_no_half_of_an_export(here, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            export_model(here / NAME, tmp_path / "new" / "a", QUIET, overwrite=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(there, file):
    before = tree(there)
    there.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="must be writable"):
            import_model(file, there, QUIET)
    finally:
        there.chmod(0o700)
    assert tree(there) == before


def test_a_file_where_the_folder_must_be_is_told(file, tmp_path):
    (tmp_path / "in the way").write_text("years of work")
    with pytest.raises(OutputError, match="must be writable"):
        import_model(file, tmp_path / "in the way" / "models", QUIET)
    with pytest.raises(OutputError, match="must be writable"):
        import_model(file, tmp_path / "in the way", QUIET)


def test_a_cancelled_import_and_export_leave_nothing(here, there, file, tmp_path):
    before = tree(there)
    for moment in range(2):
        with pytest.raises(Cancelled):
            import_model(file, there, Stopper(moment))
        assert tree(there) == before
        with pytest.raises(Cancelled):
            export_model(here / NAME, tmp_path / "new" / "a", Stopper(moment), overwrite=False)
        assert not (tmp_path / "new").exists()
    with pytest.raises(Cancelled):
        import_model(file, tmp_path / "not yet", Stopper(0))
    assert not (tmp_path / "not yet").exists()


def test_a_damaged_model_is_not_exported(here, tmp_path):
    weights = here / NAME / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError) as caught:
        export_model(here / NAME, tmp_path / "new" / "a", QUIET, overwrite=False)
    assert caught.value.code == "model-tampered"
    assert not (tmp_path / "new").exists()


def test_a_model_is_not_exported_into_itself(here):
    before = tree(here)
    with pytest.raises(OutputError, match="outside"):
        export_model(here / NAME, here / NAME / "own.spatialar", QUIET, overwrite=False)
    assert tree(here) == before


def test_a_name_that_no_disk_takes_is_told(here, there, tmp_path):
    file = tmp_path / ("n" * 300 + ".spatialar")
    with pytest.raises(OutputError, match="cannot be written"):
        export_model(here / NAME, file, QUIET, overwrite=True)
    with pytest.raises(ModelError, match="cannot be read"):
        import_model(file, there, QUIET)


def test_an_export_replaces_a_file_only_when_asked(here, file):
    file.write_text("years of work")
    with pytest.raises(OutputError) as caught:
        export_model(here / NAME, file, QUIET, overwrite=False)
    assert caught.value.code == "output-exists"
    assert file.read_text() == "years of work"
    export_model(here / NAME, file, QUIET, overwrite=True)
    assert zipfile.is_zipfile(file)
    assert os.listdir(file.parent) == [file.name]


def test_a_structure_of_chance_is_refused_or_harmless(here, there, file, tmp_path):
    """Bytes around the contents: whatever gets in is the model, bit by bit."""
    intact, original, before = file.read_bytes(), tree(here / NAME), tree(there)
    (_, end), (start, last) = spans(file).values()
    around = [*range(40), *range(end, start), *range(last, len(intact))]
    dice = random.Random(1)
    bad = tmp_path / "bad"
    for _ in range(200):
        content = bytearray(intact)
        for _ in range(dice.choice([1, 2, 4, 8])):
            content[dice.choice(around)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        bad.write_bytes(content)
        try:
            found = import_model(bad, there, QUIET)
        except ModelError:
            assert tree(there) == before
        else:
            assert tree(found.folder) == original
            shutil.rmtree(found.folder)
