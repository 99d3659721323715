"""`detect` on many scans: which are found, what their results are called, and the table."""

import csv
import json
from pathlib import Path

import pytest
from engine.dicom_examples import small_series
from service.small_site import run, tree
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.batch.places import ScanRequest, Work, do
from SpatialARAnomalyLib.service.detection import detect_many
from SpatialARAnomalyLib.service.detection.detect_many import find_batch, find_named, name_scans
from SpatialARAnomalyLib.service.jobs import Job
from SpatialARAnomalyLib.service.scan_search import search_scans


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(*paths: Path) -> list[str]:
    return name_scans(find_batch(paths, SilentReporter()), paths)


def test_names_repeat_the_tree_of_the_input(tmp_path):
    touch(tmp_path, "a/x.nii.gz", "a/b/x.nii", "a/b/y.nrrd", "c/z.mha", "c/z.nrrd", "c/notes.txt")
    a, c = tmp_path / "a", tmp_path / "c"
    assert names(a) == ["x", "b/x", "b/y"]
    assert names(a, c) == ["a/x", "a/b/x", "a/b/y", "c/z.mha", "c/z.nrrd"]
    assert names(a / "x.nii.gz", a / "b" / "x.nii") == ["x", "b/x"]
    assert names(a / "b" / "y.nrrd", c) == ["c/z.mha", "c/z.nrrd", "a/b/y"]


def test_a_table_names_scans_from_its_own_folder(tmp_path):
    touch(tmp_path, "scans/x.nii.gz", "scans/deep/y.nii.gz", "other/z.nii.gz")
    table = tmp_path / "scans" / "cases.csv"
    table.write_text("scan,truth\nx.nii.gz,\ndeep/y.nii.gz,t.nii.gz\n")
    assert names(table) == ["x", "deep/y"]
    table.write_text("scan\nx.nii.gz\n../other/z.nii.gz\n")
    assert names(table) == ["scans/x", "other/z"]


def test_a_scan_that_is_given_twice_is_refused(tmp_path):
    touch(tmp_path, "a/x.nii.gz", "a/X.nii.gz")
    for paths in ((tmp_path / "a", tmp_path / "a" / "x.nii.gz"), (tmp_path / "a",)):
        with pytest.raises(InputError) as caught:
            names(*paths)
        assert caught.value.code == "batch-names"


def test_folders_of_the_results_have_names_that_every_system_can_hold(tmp_path):
    touch(tmp_path, "a/COM1.nii.gz", "a/nul.x/t:1 .nii", "a/b./x?.nrrd")
    assert names(tmp_path / "a") == ["COM1_", "b/x_", "nul_.x/t_1"]
    touch(tmp_path, "b/x:.nii.gz", "b/X?.nii.gz")
    touch(tmp_path, "c/status.csv.nii.gz", "c/b.nii")
    for folder in ("b", "c"):
        with pytest.raises(InputError) as caught:
            names(tmp_path / folder)
        assert caught.value.code == "batch-names"


def test_series_of_a_tree_are_scans_and_those_of_one_folder_are_chosen_from(tmp_path):
    first = small_series(slices=4)
    second = small_series(slices=3, uid="1.2.3", attributes={"SeriesNumber": 12})
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    report = small_series(slices=1, uid="1.2.4", attributes={"ImageType": localizer})
    first.write(tmp_path / "study" / "a")
    report.write(tmp_path / "study" / "b")
    assert find_batch([tmp_path / "study"], SilentReporter()) is None  # one scan, as ever
    second.write(tmp_path / "study" / "a" / "deep")
    assert names(tmp_path / "study") == ["a", "a/deep", "b"]
    for file in first.write(tmp_path / "flat").iterdir():
        file.rename(file.with_suffix(".first"))
    second.write(tmp_path / "flat")
    assert find_batch([tmp_path / "flat"], SilentReporter()) is None
    assert names(tmp_path / "flat", tmp_path / "study" / "b") == [
        "flat/series 1", "flat/series 12", "study/b",
    ]  # fmt: skip
    for file in small_series(slices=2, uid="1.2.5").write(tmp_path / "other").iterdir():
        file.rename(tmp_path / "flat" / f"{file.stem} third.dcm")
    assert names(tmp_path / "flat", tmp_path / "study" / "b") == [
        "flat/series 1.2.5", f"flat/series {first.uid}", "flat/series 12", "study/b",
    ]  # fmt: skip


def test_a_name_leads_back_to_its_scan(tmp_path, monkeypatch):
    """In folders and DICOM trees by a search of its own folder, where the name tells it."""
    touch(tmp_path, "a/x.nii.gz", "a/b/x.nii", "a/b/x.nrrd", "a/nul.x/t:1.nii", "a/'=1.nii")
    for number, place in enumerate(("d", "d", "d/deep", "e")):
        series = small_series(slices=2, uid=f"1.2.{number}", attributes={"SeriesNumber": number})
        for file in series.write(tmp_path / "written").iterdir():
            (tmp_path / "a" / place).mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "a" / place / f"{number} {file.name}")
    table = tmp_path / "a" / "cases.csv"
    table.write_text("scan\nx.nii.gz\nb/x.nii\n")
    searched = []

    def search(paths, *more):
        searched.append(list(paths))
        return search_scans(paths, *more)

    for paths in ([tmp_path / "a"], [table], [tmp_path / "a" / "b", tmp_path / "a" / "d"]):
        found = find_batch(paths, SilentReporter())
        monkeypatch.setattr(detect_many, "search_scans", search)
        for one, name in zip(found, name_scans(found, paths), strict=True):
            searched.clear()
            assert find_named(paths, name, SilentReporter()) == (name, one.source)
            if paths == [tmp_path / "a"] and name in ("b/x.nii", "d/series 1", "d/deep", "e"):
                assert len(searched) == 1
                assert searched[0] != [paths[0]]
        monkeypatch.undo()
        with pytest.raises(InputError) as caught:
            find_named(paths, "b/gone", SilentReporter())
        assert caught.value.code == "input-missing"


def test_the_traceback_of_a_scan_hides_its_place(tmp_path, monkeypatch, capsys):
    path = tmp_path / "Müller Anna" / "scan.nii.gz"

    def fail(*_unused):
        raise RuntimeError(f"cannot open {path}, {str(path)!r}")

    monkeypatch.setattr(Job, "run", fail)
    request = ScanRequest(name="scan", inputs={"path": str(path)}, output=tmp_path / "out")
    outcome = do(Work(job="detect_scan", spec={}), request)
    assert outcome.error is not None
    assert outcome.error.code == "internal"
    told = capsys.readouterr().err
    assert "RuntimeError: cannot open <path>" in told
    assert "Anna" not in told


def test_one_scan_is_detected_as_ever(tmp_path):
    touch(tmp_path, "one/x.nii.gz", "empty/notes.txt", "other/x.nii.gz", "other/y.nii.gz")
    for path in ("one", "one/x.nii.gz", "empty", "nothing.nii"):
        assert find_batch([tmp_path / path], SilentReporter()) is None
    with pytest.raises(InputError) as caught:
        find_batch([tmp_path / "one", tmp_path / "nothing"], SilentReporter())
    assert caught.value.code == "input-missing"


@pytest.fixture
def archive(site, tmp_path):
    """Two scans of a site and a damaged one, in folders."""
    for number, folder in enumerate(("a", "b")):
        place = tmp_path / "archive" / folder / "scan.nii.gz"
        place.parent.mkdir(parents=True)
        place.write_bytes(site.normals[number].read_bytes())
    (tmp_path / "archive" / "b" / "bad.nii.gz").write_bytes(b"no scan")
    return tmp_path / "archive"


def test_detect_writes_a_folder_for_each_scan_and_a_table(site, archive, tmp_path):
    out = tmp_path / "out"
    arguments = ("detect", archive, "--model", site.model, "--device", "cpu", "--json")
    done = run(*arguments, "--out", out)
    assert done.exit_code == 3, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["scans"], last["done"], last["refused"], last["failed"]) == (3, 2, 1, 0)
    with (out / "status.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scan"], row["state"], row["code"]) for row in rows] == [
        ("a/scan", "done", ""),
        ("b/bad", "refused", "input-damaged"),
        ("b/scan", "done", ""),
    ]
    alone = tmp_path / "alone"
    single = run("detect", archive / "a" / "scan.nii.gz", *arguments[2:], "--out", alone)
    assert single.exit_code == 0, single.stderr
    expected, found = tree(alone), tree(out / "a" / "scan")
    manifests = [json.loads(one.pop("run.json")) for one in (expected, found)]
    assert found == expected
    for manifest in manifests:
        del manifest["finished"], manifest["seconds"]
    assert manifests[0] == manifests[1]
    with (alone / "scan_findings.csv").open(encoding="utf-8") as file:
        findings = list(csv.DictReader(file))
    assert int(rows[0]["findings"]) == len(findings)
    assert rows[0]["strongest"] == (findings[0]["strength"] if findings else "")
    # Again, for a person: nothing is computed, and the rest is said.
    (archive / "b" / "bad.nii.gz").unlink()
    again = run(*arguments[:-1], "--out", out)
    assert again.exit_code == 0, again.stderr
    assert "2 scans: 2 done" in again.stdout
    assert "2/2 scans" in again.stderr


def test_what_belongs_to_one_scan_or_lies_among_the_scans_is_refused(site, archive, tmp_path):
    arguments = ("--model", site.model, "--out", tmp_path / "out")
    named = run("detect", archive / "a", archive / "b", *arguments, "--name", "x")
    assert named.exit_code == 2
    assert "are for one scan" in named.stderr
    within = run("detect", archive, "--model", site.model, "--out", archive / "out")
    assert within.exit_code == 2
    assert "must lie outside" in within.stderr
    assert not (archive / "out").exists()
