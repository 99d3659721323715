"""The section Many scans: a folder is searched by a real worker, its results are reviewed."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from Harness import run_events, wait_until
from service.small_site import SHAPE_KJI, SPACING_MM
from slicerapp.heads import head_with_lesion, near
from slicerapp.panels.test_layout import WIDTHS_PX, cut_texts, sections, shown_at
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.batch.table import COLUMNS
from SpatialARAnomalyLib.service.demo.phantom import normal_head


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with a head with a lesion, a normal one in a folder, and a damaged file."""
    folder = tmp_path / "Archiv é"
    (folder / "sub").mkdir(parents=True)
    head, _ = head_with_lesion()
    write_nifti(folder / "lesion.nii.gz", head)
    normal = normal_head(40, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    write_nifti(folder / "sub" / "normal.nii.gz", normal)
    (folder / "damaged.nii.gz").write_bytes(b"no scan")
    return folder


def choose(module, folder: Path) -> None:
    """Choose a folder with the button *Folder…*."""
    module.widget.panel.dialogs.path = folder
    module.ui.allowMismatchCheckBox.setChecked(True)
    module.widget.panel._parameters.falsePositiveRate = 0.05
    run_events()
    module.ui.folderButton.click()


def run_batch(module) -> str:
    """Detect in all scans and wait; return the status."""
    batch = module.widget.panel.batch
    assert module.ui.batchButton.isEnabled(), tip(module.ui.batchButton)
    module.ui.batchButton.click()
    wait_until(lambda: not batch.busy, 120, "the batch")
    wait_until(lambda: not batch.reading, 30, "the table")
    return module.ui.batchStatusLabel.text


def table_of(module) -> dict[str, list[str]]:
    table = module.ui.batchTable
    cells = [
        [table.item(row, column) for column in range(table.columnCount)]
        for row in range(table.rowCount)
    ]
    texts = [["" if item is None else item.text() for item in row] for row in cells]
    return {row[0]: row[1:] for row in texts}


def choose_row(module, name: str) -> None:
    table = module.ui.batchTable
    rows = {table.item(row, 0).text(): row for row in range(table.rowCount)}
    table.selectRow(rows[name])


def status_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "status.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_folder_is_searched_resumed_and_reviewed(opened, archive, scene):
    import slicer
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import peakOf
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    ui = opened.ui
    assert ui.batchSection.isHidden()
    choose(opened, archive)
    results = archive.with_name("Archiv é anomalies")
    assert Path(ui.batchResultsEdit.currentPath) == results
    assert not ui.batchSection.collapsed
    assert run_batch(opened) == "2 of 3 scans are done. 1 cannot be used."
    assert Settings.batchFolder("Scans") == str(archive)
    rows = table_of(opened)
    assert set(rows) == {"damaged", "lesion", "sub/normal"}
    assert rows["damaged"][:3] == ["✗ unusable", "", ""]
    written = {row["scan"]: row for row in status_rows(results)}
    assert rows["lesion"][0].startswith("done, ")
    assert rows["lesion"][1] == written["lesion"]["findings"]
    assert float(rows["lesion"][2]) == pytest.approx(
        float(written["lesion"]["strongest"]), rel=0.01
    )
    choose_row(opened, "damaged")
    assert ui.batchScanLabel.text.startswith("damaged: ")
    assert not ui.batchReviewButton.isEnabled()
    log = ui.logText.toPlainText()
    assert not any(name in log for name in ("lesion", "normal.nii", "damaged", "Archiv"))

    # What is done is not computed again.
    before = (results / "lesion" / "run.json").stat().st_mtime_ns
    (archive / "damaged.nii.gz").unlink()
    shutil.copy(archive / "sub" / "normal.nii.gz", archive / "new.nii.gz")
    assert run_batch(opened) == "3 of 3 scans are done."
    assert (results / "lesion" / "run.json").stat().st_mtime_ns == before

    choose_row(opened, "lesion")
    ui.batchReviewButton.click()
    wait_until(lambda: not opened.widget.logic.busy, 60, "the scan")
    (result,) = Result.all()
    head, lesion = head_with_lesion()
    assert np.array_equal(slicer.util.arrayFromVolume(result.scan), head.voxels)
    assert opened.widget.panel._parameters.inputVolume.GetID() == result.scan.GetID()
    assert len(result.findings) == int(written["lesion"]["findings"])
    assert ui.findingsTable.rowCount == len(result.findings)
    ijk = np.linalg.inv(head.ras_from_voxel) @ [*peakOf(result.findings[0]), 1.0]
    assert near(lesion, np.rint(ijk[2::-1]).astype(int))
    # The findings are those of a detection: another threshold updates them.
    saved = result.findings
    opened.widget.panel.review.updateFindings()
    wait_until(lambda: not opened.widget.logic.finding, 60, "the findings")
    assert [row["peak_nll"] for row in result.findings] == [row["peak_nll"] for row in saved]
    # Once in the scene, it is shown and not loaded again.
    ui.batchTable.cellDoubleClicked.emit(ui.batchTable.currentRow(), 0)
    run_events()
    assert not opened.widget.logic.busy
    assert len(Result.all()) == 1
    ui.batchOpenButton.click()
    assert opened.widget.panel.dialogs.opened == [results]

    # A scan that has changed since, and a model that is gone.
    shutil.copy(archive / "new.nii.gz", archive / "sub" / "normal.nii.gz")
    write_nifti(archive / "new.nii.gz", head)
    for name, spoil, words in (
        ("new", lambda: None, "its file has changed since"),
        ("sub/normal", lambda: Settings.setModelsFolder(archive), "among the models"),
    ):
        spoil()
        choose_row(opened, name)
        ui.batchReviewButton.click()
        wait_until(lambda: not opened.widget.logic.busy, 60, "the error")
        assert words in ui.batchStatusLabel.text
    assert len(Result.all()) == 1


@pytest.mark.slow
def test_a_cancelled_batch_keeps_what_is_done(opened, archive):
    for number in range(4):
        shutil.copy(archive / "sub" / "normal.nii.gz", archive / f"copy {number}.nii.gz")
    choose(opened, archive)
    batch, ui = opened.widget.panel.batch, opened.ui
    ui.batchButton.click()
    assert ui.batchButton.text == "Cancel"
    assert not ui.batchScansEdit.isEnabled()
    assert not opened.widget.logic.busy  # scans can be reviewed meanwhile
    wait_until(lambda: ui.batchTable.rowCount > 0, 60, "a scan")
    ui.batchButton.click()
    wait_until(lambda: not batch.busy, 60, "the end")
    assert "click again to resume" in ui.batchStatusLabel.text
    wait_until(lambda: not batch.reading, 30, "the table")
    results = Path(ui.batchResultsEdit.currentPath)
    done = {row["scan"] for row in status_rows(results) if row["state"] == "done"}
    assert {name for name, row in table_of(opened).items() if row[0].startswith("done")} == done
    assert run_batch(opened) == "6 of 7 scans are done. 1 cannot be used."


@pytest.mark.slow
def test_an_error_of_all_scans_is_told_with_what_to_do(opened, archive):
    choose(opened, archive)
    opened.ui.batchResultsEdit.setCurrentPath(str(archive / "inside"))
    assert "must lie outside the folder" in run_batch(opened)
    (archive.parent / "full").mkdir()
    (archive.parent / "full" / "file").write_text("mine")
    opened.ui.batchResultsEdit.setCurrentPath(str(archive.parent / "full"))
    assert "Choose another folder." in run_batch(opened)
    assert [one.name for one in (archive.parent / "full").iterdir()] == ["file"]
    choose(opened, archive / "sub")  # one scan is a batch, too
    assert run_batch(opened) == "1 of 1 scans are done."


def write_status(folder: Path, count: int) -> None:
    """Write the table of a batch as one that has ended, or been interrupted, leaves it."""
    folder.mkdir(exist_ok=True)
    with (folder / "status.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(count):
            row = [
                f"a/{number:05d}",
                "done",
                "",
                "",
                number % 7,
                f"{number % 100}.5",
                "",
                12,
                "",
                "x",
            ]
            if number % 5 == 0:
                row[1:7] = "refused", "volume-2d", "Expected a volume, found an image.", "", "", ""
            writer.writerow(row)


def test_earlier_results_are_shown_and_sorted(opened, tmp_path):
    ui, batch = opened.ui, opened.widget.panel.batch
    write_status(tmp_path / "results", 12)
    ui.batchSection.setVisible(True)
    ui.batchSection.setProperty("collapsed", False)
    ui.batchResultsEdit.setCurrentPath(str(tmp_path / "results"))
    wait_until(lambda: not batch.reading and ui.batchTable.rowCount == 12, 30, "the table")
    header = ui.batchTable.horizontalHeader()
    header.sectionClicked.emit(3)
    names = [ui.batchTable.item(row, 0).text() for row in range(12)]
    assert names == [f"a/{n:05d}" for n in (11, 9, 8, 7, 6, 4, 3, 2, 1, 0, 5, 10)]
    header.sectionClicked.emit(3)
    assert ui.batchTable.item(0, 0).text() == "a/00001"
    choose_row(opened, "a/00005")
    assert ui.batchScanLabel.text == (
        "a/00005: Expected a volume, found an image. "
        "Save it as a 3-D volume with its place in the patient."
    )
    ui.batchResultsEdit.setCurrentPath(str(tmp_path))
    assert ui.batchTable.rowCount == 0
    assert not ui.batchReviewButton.isVisibleTo(ui.batchSection)


def test_a_table_that_is_being_written_is_read_row_by_row(app, tmp_path):
    from SpatialARAnomalyLib.slicerapp.tasks.BatchRows import BatchRows

    def fresh() -> list[str]:
        return [row["scan"] for rows in reader.fresh() for row in rows]

    reader = BatchRows(tmp_path)
    assert fresh() == []
    write_status(tmp_path, 3)
    assert fresh() == ["a/00000", "a/00001", "a/00002"]
    with (tmp_path / "status.csv").open("a", encoding="utf-8", newline="") as file:
        file.write("b,done,,,1,2,,3,,f\r\nc,done")
        file.flush()
        assert fresh() == ["b"]
        file.write(",,,1,2,,3,,f\r\n")
    assert fresh() == ["c"]
    (tmp_path / "status.csv").rename(tmp_path / "old.csv")
    write_status(tmp_path, 4)  # anew, in another order: each scan is told once
    assert fresh() == ["a/00003"]
    (tmp_path / "status.csv").write_text("another,table\n1,2\n")
    assert fresh() == []


def test_the_section_fits_a_laptop(opened, tmp_path):
    write_status(tmp_path / "results", 30)
    ui, batch = opened.ui, opened.widget.panel.batch
    ui.batchSection.setVisible(True)
    ui.batchSection.setProperty("collapsed", False)
    ui.batchResultsEdit.setCurrentPath(str(tmp_path / "results"))
    wait_until(lambda: not batch.reading and ui.batchTable.rowCount == 30, 30, "the table")
    sections(opened, set())
    choose_row(opened, "a/00005")
    for width in WIDTHS_PX:
        shown_at(opened, width)
        assert opened.panel.minimumSizeHint.width() <= 420
        assert cut_texts(opened.panel) == []
    opened.panel.hide()


@pytest.mark.slow
def test_ten_thousand_scans_are_added_one_by_one(opened, tmp_path):
    """Every row is a step of its own, between which the event loop turns."""
    from SpatialARAnomalyLib.slicerapp.tasks.BatchRows import PIECE_BYTES, BatchRows

    write_status(tmp_path, 10_000)
    assert max(len(rows) for rows in BatchRows(tmp_path).fresh()) < PIECE_BYTES / 20
    ui, batch = opened.ui, opened.widget.panel.batch
    steps = sum(1 for _ in batch._addRows(BatchRows(tmp_path)))
    assert ui.batchTable.rowCount == 10_000 <= steps
    assert ui.batchTable.item(9999, 0).text() == "a/09999"
    seen = sum(1 for rows in BatchRows(tmp_path).fresh() for _ in rows)
    assert seen == 10_000
