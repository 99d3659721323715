"""The report that the panel exports: reviews, pictures, cautions, and nobody's name."""

from slicerapp.panels.test_export import export
from slicerapp.results import add_result
from slicerapp.tooltips import tip


def test_the_panel_writes_the_report_of_the_result_under_review(opened, tmp_path, scene):
    result = add_result(name="Müller", cautions=("unlike",))
    opened.widget.panel.review.review(result)
    ui = opened.ui
    ui.exportFormatSelector.setCurrentIndex(ui.exportFormatSelector.findData("REPORT"))
    ui.exportFolderEdit.setCurrentPath(str(tmp_path))
    assert tip(ui.exportButton) == "The report needs a result of this version: detect again."
    result.modelFacts = {
        "plane": "axial", "modality": "MR", "card": {"name": "blobs"},
        "notices": ["Demonstration encoder: for trying only."], "mismatches": [],
    }  # fmt: skip
    opened.widget.panel.export.refresh()
    opened.widget.panel.review.view.choose(2)
    ui.rejectButton.click()
    message = export(opened, tmp_path, "REPORT")
    assert message == "Written: Müller_report.html"
    text = (tmp_path / "Müller_report.html").read_text(encoding="utf-8")
    assert "Müller" not in text
    for part in ("Text of unlike.", "Demonstration encoder", "rejected", "blobs", "image/png"):
        assert part in text, part
    assert text.count('class="swatch"') == 3
    scene.RemoveNode(result.scan)
    opened.widget.panel.export.refresh()
    assert tip(ui.exportButton) == "The report needs the scan, which was deleted."
