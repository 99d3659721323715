"""The review picture and the report: slices once, colors of the scan, one file without names."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from service.small_site import SHAPE_KJI, SPACING_MM
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts
from SpatialARAnomalyLib.engine.scoring.findings import find_in_box
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.detection.findings_table import finding_row
from SpatialARAnomalyLib.service.detection.report import (
    ReportFacts,
    case_from_facts,
    write_report,
)
from SpatialARAnomalyLib.service.detection.review_picture import (
    overlay_range,
    rows_of,
    write_review,
)

NLL = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)

CALIBRATION = Calibration(
    levels=(0.0, 0.9, 0.99, 0.999, 0.9999, 1.0),
    nll=NLL, token_nll=NLL, tokens=10_000, volumes=3,
    rates=(0.1, 0.01, 0.001),
    volume_shares=((0.1, 0.02, 0.002), (0.1, 0.005, 0.0005), (0.1, 0.005, 0.0005)),
    case_scores=(1.0, 1.2, 1.5),
    findings=FindingCounts.of((0.1, 0.001), [[[0.2, 0.1], [0.05]], [[0.4], []], [[], []]]),
)  # fmt: skip


def make_case(plane: Plane = Plane.AXIAL, blobs: int = 3, **facts):
    """Two findings in slice 2 and one in slice 4 of a small head, on the scan's own grid."""
    head = normal_head(3, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    nll = np.full(head.voxels.shape, 0.5, np.float32)
    boxes = ((2, 12, 12), (4, 30, 20), (2, 30, 30))[:blobs]
    for place, (k, j, i) in enumerate(boxes):
        nll[k, j : j + 4, i : i + 4] = 4.5 - 0.5 * place
    findings, box = find_in_box(nll, head.ras_from_voxel, CALIBRATION, 2.0, 0.0)
    labels = np.zeros(nll.shape, np.uint16) if box is None else box.on_grid(nll.shape)
    rows = [finding_row(one) | {"status": "", "comment": ""} for one in findings]
    return case_from_facts(
        head,
        nll,
        labels,
        rows,
        ReportFacts(
            plane=plane, modality=Modality.MR, calibration=CALIBRATION, false_positive_rate=0.01,
            min_volume_ml=0.0, case_score=2.0, model={"name": "small <heads>"}, **facts,
        ),
    )  # fmt: skip


def picture_of(case) -> np.ndarray:
    file = io.BytesIO()
    write_review(file, case)
    file.seek(0)
    return matplotlib.image.imread(file)[..., :3]


def test_every_finding_has_its_row_and_no_slice_is_drawn_twice():
    rows = rows_of(make_case())
    assert [(index, [one["rank"] for one in found]) for index, found in rows.items()] == [
        (2, [1, 3]),
        (4, [2]),
    ]
    assert [len(found) for found in rows_of(make_case(blobs=0)).values()] == [0]


def test_colors_go_from_the_threshold_to_the_scans_highest():
    assert overlay_range(make_case()) == pytest.approx((2.0, 4.5))
    low, high = overlay_range(make_case(blobs=0))
    assert low < high


@pytest.mark.parametrize("plane", Plane)
def test_the_picture_is_colored_above_the_threshold_only(plane):
    found, none = (picture_of(make_case(plane, blobs)) for blobs in (3, 0))
    for picture in (found, none):
        assert min(picture.shape[:2]) > 250

    def colored(picture) -> int:
        middle = picture[:, : int(0.8 * picture.shape[1])]
        return int(np.count_nonzero(middle.max(axis=-1) - middle.min(axis=-1) > 0.3))

    assert colored(found) > colored(none)


def test_notices_are_in_the_picture():
    plain = picture_of(make_case())
    warned = picture_of(make_case(notices=("The scan is unlike the model's.",)))
    orange = np.abs(warned - np.array([1.0, 0.647, 0.0])).max(axis=-1) < 0.1
    assert np.count_nonzero(orange) > 50
    assert np.count_nonzero(np.abs(plain - np.array([1.0, 0.647, 0.0])).max(axis=-1) < 0.05) < 50


class Page(HTMLParser):
    """Collects the texts, tags and addresses of a page."""

    def __init__(self, text: str):
        HTMLParser.__init__(self)
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path):
    case = make_case(notices=("Check <this> & that.",))
    case.findings[0]["comment"] = "<script>alert(1)</script>"
    case.findings[1]["status"] = "rejected"
    write_report(tmp_path / "report.html", case, space="scene")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    (picture,) = page.addresses
    image = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    assert matplotlib.image.imread(io.BytesIO(image)).ndim == 3
    assert "script" not in page.tags
    shown = " ".join(page.texts)
    for part in (
        "For research use only. Not a medical device.",
        "Check <this> & that.",
        "3 findings above the threshold of 1 in 100 voxels of normal scans.",
        "small <heads>",
        "<script>alert(1)</script>",
        "rejected",
        "space of the scene",
        "rough: 3 held-out normal scans",
    ):
        assert re.sub(r"\s+", " ", part).lower() in re.sub(r"\s+", " ", shown).lower(), part
    assert page.tags.count("tr") == 1 + 3 + 1 + 7


def test_a_report_names_nobody_unless_told(tmp_path):
    for title in ("", "Müller, 7"):
        write_report(tmp_path / "Müller 7_report.html", make_case(), title)
        text = (tmp_path / "Müller 7_report.html").read_text(encoding="utf-8")
        assert ("Müller" in text) == bool(title)


def test_a_report_without_findings_says_so(tmp_path):
    write_report(tmp_path / "r.html", make_case(blobs=0))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No findings above the threshold" in text
    assert "<p>None.</p>" in text
