"""The table of findings and the reviews keep any text."""

import numpy as np
import pytest
from slicerapp.results import add_result

ODD = [
    "", "1", "=1+1", 'say "so"', "a\tb", "line\nline", "Größe µ 腫瘍", "</Table>&amp;", ";:|\\",
    "true",
]  # fmt: skip


def test_rows_come_back_as_they_were_written(scene):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
        COLUMNS,
        addTable,
        readRows,
        writeFindings,
    )

    rows = readRows(add_result().table)
    node = addTable("again")
    writeFindings(node, rows, [])
    assert readRows(node) == rows
    assert [node.GetColumnName(index) for index in range(node.GetNumberOfColumns())] == list(
        COLUMNS
    )
    assert node.GetColumnUnitLabel("peak_nll") == "nats/channel"


@pytest.mark.parametrize("text", ODD)
def test_any_comment_is_kept(text, scene):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
        changeReview,
        readReviews,
        readRows,
        writeFindings,
    )

    table = add_result().table
    rows = readRows(table)
    writeFindings(table, rows, changeReview([], rows[1], comment=text))
    assert [row["comment"] for row in readRows(table)] == ["", text, ""]
    assert [review.comment for review in readReviews(table)] == ([text] if text else [])


@pytest.mark.parametrize(
    "text", ["", "{", "null", "3", "[3]", "{}", '[{"place": 1}]', "[{}]", '"a"']
)
def test_reviews_somebody_changed_are_none(text, scene):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import REVIEWS, readReviews

    table = add_result().table
    table.SetAttribute(REVIEWS, text)
    assert readReviews(table) == []


@pytest.mark.parametrize("text", ["", "nan", "inf", "many"])
def test_a_table_with_what_is_no_number_has_no_rows(text, scene):
    import vtk
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows

    node = add_result().table
    table = node.GetTable()
    column = vtk.vtkStringArray()
    column.SetName("rank")
    for _ in range(table.GetNumberOfRows()):
        column.InsertNextValue(text)
    table.RemoveColumnByName("rank")
    table.AddColumn(column)
    assert readRows(node) == []


def test_reviews_follow_the_voxel_of_the_peak_on_any_grid(scene):
    from slicerapp.panels.test_detection import placed
    from slicerapp.results import AFFINE
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import Review, moveReviews

    affine = placed("oblique left-handed", AFFINE)
    labels = np.zeros((3, 4, 5), np.uint16)
    labels[1, 2, 3] = 7
    for kji, rank in (((11, 22, 33), 7), ((11, 22, 32), 0), ((0, 0, 0), 0), ((99, 99, 99), 0)):
        right, anterior, superior = (affine @ [*kji[::-1], 1.0])[:3].tolist()
        review = Review(place=(right, anterior, superior), status="accepted", comment="", rank=1)
        (moved,) = moveReviews([review], labels, (10, 20, 30), affine)
        assert moved.rank == rank
    (moved,) = moveReviews([review], None, (0, 0, 0), affine)
    assert moved.rank == 0


def test_undone_marks_and_empty_comments_leave_no_review(scene):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
        ACCEPTED,
        OPEN,
        changeReview,
        readRows,
    )

    rows = readRows(add_result().table)
    reviews = changeReview([], rows[0], status=ACCEPTED)
    reviews = changeReview(reviews, rows[1], comment="x")
    assert len(reviews) == 2
    assert changeReview(reviews, rows[0], status=OPEN) == reviews[1:]
    assert changeReview(reviews, rows[1] | {"comment": "x"}, comment="") == reviews[:1]
