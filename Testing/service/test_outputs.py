"""Results appear all together or not at all, and nothing else is touched."""

import errno
import os
import tempfile
import time
from pathlib import Path

import pytest
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service import outputs
from SpatialARAnomalyLib.service.outputs import (
    is_marked,
    make_folder,
    write_atomically,
    write_marker,
)

NAMES = ["scan_nll.nrrd", "scan_findings.csv", "run.json"]
EARLIER = {"scan_findings.csv": "earlier", "notes.txt": "mine"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an earlier result and something of the user's."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name, text in EARLIER.items():
        (folder / name).write_text(text)
    return folder


def listing(folder: Path) -> dict[str, str]:
    assert not [path for path in folder.rglob("*") if path.is_dir()]
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_all(partial: Path, names=NAMES) -> None:
    for name in names:
        (partial / name).write_text(f"new {name}")


NEW = {name: f"new {name}" for name in NAMES}


def appear(folder: Path, fill=write_all, *, names=NAMES, overwrite=True) -> None:
    with write_atomically(folder, names, overwrite=overwrite) as partial:
        fill(partial)


def never(_: Path) -> None:
    pytest.fail("not reached")


def test_nothing_is_there_before_the_end_and_all_of_it_after(tmp_path):
    folder = tmp_path / "a" / "b"
    with write_atomically(folder, NAMES, overwrite=False) as partial:
        write_all(partial)
        (partial / "scratch").write_text("not a result")
        assert not any((folder / name).exists() for name in NAMES)
        assert partial.parent.parent == folder  # the same file system: moving is atomic
    assert listing(folder) == NEW


def test_with_overwrite_only_the_results_are_replaced(folder):
    with write_atomically(folder, NAMES, overwrite=True) as partial:
        write_all(partial)
        assert (folder / "scan_findings.csv").read_text() == "earlier"
    assert listing(folder) == NEW | {"notes.txt": "mine"}


def test_without_overwrite_existing_results_are_named(folder):
    with pytest.raises(OutputError) as caught:
        appear(folder, never, overwrite=False)
    assert caught.value.code == "output-exists"
    assert caught.value.message == (
        "The output folder must not hold these files yet: scan_findings.csv."
    )
    assert listing(folder) == EARLIER


def test_a_result_that_came_meanwhile_is_not_replaced(folder):
    def fill(partial: Path) -> None:
        (partial / "run.json").write_text("mine")
        (folder / "run.json").write_text("of another run")

    with pytest.raises(OutputError, match=r"must not hold these files yet: run\.json"):
        appear(folder, fill, names=["run.json"], overwrite=False)
    assert listing(folder) == EARLIER | {"run.json": "of another run"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "run.json").mkdir()
    (tmp_path / "run.json" / "work").write_text("mine")
    with pytest.raises(OutputError, match=r"run\.json") as caught:
        appear(tmp_path, never, overwrite=overwrite)
    assert caught.value.code == ("output-folder" if overwrite else "output-exists")
    assert (tmp_path / "run.json" / "work").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["../run.json", "a/run.json", "/run.json", "..", "", "C:run.json", "a:b", "aux.nrrd", "a\\b"],
)
def test_a_name_that_leaves_the_folder_on_some_system_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"name of a result must .*; found") as caught:
        appear(tmp_path / "new", never, names=[*NAMES, name])
    assert caught.value.code == "output-name"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_leaves_the_folder_as_it_was(folder, error):
    def fill(partial: Path) -> None:
        write_all(partial)
        raise error

    with pytest.raises(type(error)):
        appear(folder, fill)
    assert listing(folder) == EARLIER


def test_an_error_removes_the_folders_that_were_made(tmp_path):
    def fill(partial: Path) -> None:
        write_all(partial)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        appear(tmp_path / "a" / "b" / "c", fill)
    assert os.listdir(tmp_path) == []


def test_an_error_keeps_what_others_put_into_a_new_folder(tmp_path):
    def fill(_: Path) -> None:
        (tmp_path / "a" / "other.txt").write_text("of another program")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        appear(tmp_path / "a" / "b", fill)
    assert listing(tmp_path / "a") == {"other.txt": "of another program"}


@pytest.mark.parametrize("missing", NAMES)
def test_a_result_that_was_not_written_leaves_the_folder_as_it_was(folder, missing):
    def fill(partial: Path) -> None:
        write_all(partial, [name for name in NAMES if name != missing])

    with pytest.raises(OutputError) as caught:
        appear(folder, fill)
    assert caught.value.code == "output-incomplete"
    assert caught.value.message == f"All results must have been made; these were not: {missing}."
    assert listing(folder) == EARLIER


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_move_that_fails_takes_the_others_back(folder, monkeypatch, error, step):
    calls = []

    def failing_once(move):
        def fails_once(source: Path, goal: Path) -> None:
            calls.append(goal)
            if len(calls) == step:
                raise error
            move(source, goal)

        return fails_once

    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, failing_once(getattr(os, name)))
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        appear(folder)
    assert listing(folder) == EARLIER
    if expected is OutputError:
        assert caught.value.message == "The results cannot be written (Input/output error)."


def test_a_disk_without_hard_links_takes_results_too(folder, monkeypatch):
    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    appear(folder)
    assert listing(folder) == NEW | {"notes.txt": "mine"}
    with pytest.raises(OutputError, match="must not hold these files yet"):
        appear(folder, overwrite=False)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_programs_one_is_refused(tmp_path, monkeypatch, links):
    """The other one wrote after the last look."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
    sync = outputs.sync

    def other(path: Path) -> None:
        if path.name == NAMES[-1]:
            (tmp_path / NAMES[1]).write_text("of another program")
        sync(path)

    monkeypatch.setattr(outputs, "sync", other)
    with pytest.raises(OutputError) as caught:
        appear(tmp_path, overwrite=False)
    assert caught.value.code == "output-exists"
    assert listing(tmp_path) == {NAMES[1]: "of another program"}


def test_a_full_disk_is_an_error_the_user_can_act_on(folder):
    def fill(partial: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(partial / NAMES[0]))

    with pytest.raises(OutputError) as caught:
        appear(folder, fill)
    assert caught.value.code == "output-unwritable"
    assert caught.value.message == "The results cannot be written (No space left on device)."
    assert listing(folder) == EARLIER


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "results").write_text("a file")
    for folder in (tmp_path / "results", tmp_path / "results" / "deeper"):
        with pytest.raises(OutputError, match="'results' is a file") as caught:
            make_folder(folder)
        assert caught.value.code == "output-folder"
        assert str(tmp_path) not in str(caught.value)
    assert listing(tmp_path) == {"results": "a file"}


def test_a_read_only_place_is_told_and_left_as_it_was(tmp_path, monkeypatch):
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(OutputError) as caught:
        make_folder(tmp_path / "a" / "b")
    assert caught.value.message == (
        "The output folder must be writable; it is not (Read-only file system)."
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_place_that_may_not_be_entered_is_told(tmp_path):
    tmp_path.chmod(0)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            make_folder(tmp_path / "a" / "b")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_made_and_stays_empty(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert listing(tmp_path / "a" / "b") == {}


def leave(folder: Path, name: str, age_h: float, files: tuple[str, ...]) -> Path:
    """A partial folder as a process that was killed leaves it."""
    left = folder / name
    for file in files:
        (left / file).parent.mkdir(parents=True, exist_ok=True)
        (left / file).write_text("half")
    then = time.time() - 3600 * age_h
    for one in (*left.iterdir(), left):
        os.utime(one, (then, then))
    return left


def test_what_a_killed_run_left_goes_after_a_day(tmp_path):
    stale = leave(tmp_path, ".partial-a", 25, ("new/run.json",))
    fresh = leave(tmp_path, ".partial-b", 23, ("new/run.json",))
    # Killed while it replaced: this may be the only copy.
    only_copy = leave(tmp_path, ".partial-c", 25, ("new/run.json", "old/run.json"))
    not_ours = leave(tmp_path, ".partial-d", 25, ("thesis.txt",))
    link = tmp_path / ".partial-link"
    link.symlink_to(not_ours)
    with write_atomically(tmp_path, ["run.json"], overwrite=False) as partial:
        assert not stale.exists()
        (partial / "run.json").write_text("new")
    assert sorted(os.listdir(tmp_path)) == [
        *(one.name for one in (fresh, only_copy, not_ours, link)),
        "run.json",
    ]
    assert (not_ours / "thesis.txt").read_text() == "half"


def test_a_marker_is_known_again_and_nothing_else_is(tmp_path):
    marker = tmp_path / "demo.json"
    assert not is_marked(marker, "a demo")
    write_marker(marker, "a demo")
    assert is_marked(marker, "a demo")
    assert not is_marked(marker, "a training")
    for text in ("", "[]", '"a demo"', '{"what": 5}', "[" * 100_000):
        marker.write_text(text)
        assert not is_marked(marker, "a demo")
