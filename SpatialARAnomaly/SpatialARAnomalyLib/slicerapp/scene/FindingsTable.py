"""The findings of a result as rows of a table node, and the user's reviews of them.

A review belongs to a place, not to a row: when the threshold changes, findings
grow, merge, split and vanish, and the review follows the voxel that had the peak.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk

from SpatialARAnomalyLib.service.detection.findings_table import FINDING_COLUMNS

OPEN, ACCEPTED, REJECTED = "", "accepted", "rejected"

REVIEW_COLUMNS = ("status", "comment")

COLUMNS = (*FINDING_COLUMNS, *REVIEW_COLUMNS)
"""Columns of the table node and of the CSV file; positions are RAS mm of the scan's own space."""

INTEGERS = ("rank", "voxels")

UNITS = {
    "strength": "nats/channel ml",
    "volume_ml": "ml",
    "peak_nll": "nats/channel",
    "mean_nll": "nats/channel",
} | {f"{point}_{axis}_mm": "mm" for point in ("centroid", "peak") for axis in "ras"}

OPTIONAL = ("per_normal_scan",)
"""Columns that may be unknown: None in a row, NaN in the table."""

REVIEWS = "SpatialARAnomaly.Reviews"
"""Attribute that holds all reviews, also of findings that vanished at the present threshold.

The table's columns only display them: Slicer saves tables without escaping their texts.
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """The user's review of a place."""

    place: tuple[float, float, float]
    """Peak of the finding, RAS mm of the scan's own space."""
    status: str
    comment: str
    rank: int
    """Rank of the finding that now holds the place; 0 if none does."""


def addTable(name: str) -> "slicer.vtkMRMLTableNode":
    """Add an empty table node to the scene."""
    return slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name)
    )


def readRows(node: "slicer.vtkMRMLTableNode | None") -> list[Row]:
    """Return the table's rows; empty if a column is missing or a value is not a number."""
    if node is None:
        return []
    table = node.GetTable()
    columns = {name: table.GetColumnByName(name) for name in FINDING_COLUMNS}
    if any(column is None for column in columns.values()):
        return []
    rows = []
    try:
        for index in range(table.GetNumberOfRows()):
            row: Row = {}
            for name, column in columns.items():
                # A table saved as text is loaded with columns of text.
                value = float(column.GetValue(index))
                row[name] = int(value) if name in INTEGERS else value
                if name in OPTIONAL and math.isnan(value):
                    row[name] = None
            rows.append(row)
    except (ValueError, TypeError, OverflowError):
        return []
    return addReviews(rows, readReviews(node))


def peakOf(row: Row) -> tuple[float, float, float]:
    """Return the place of a finding's peak NLL, RAS mm of the scan's own space."""
    return row["peak_r_mm"], row["peak_a_mm"], row["peak_s_mm"]


def readReviews(node: "slicer.vtkMRMLTableNode | None") -> list[Review]:
    """Return all reviews of a result."""
    try:
        reviews = []
        for one in json.loads((node.GetAttribute(REVIEWS) if node is not None else None) or "[]"):
            r, a, s = (float(value) for value in one["place"])
            status, comment = str(one["status"]), str(one["comment"])
            reviews.append(Review((r, a, s), status, comment, int(one["rank"])))
        return reviews
    except (ValueError, TypeError, KeyError):
        return []


def writeFindings(
    node: "slicer.vtkMRMLTableNode", rows: Sequence[Row], reviews: Sequence[Review]
) -> None:
    """Replace the table's rows and reviews."""
    node.SetAttribute(REVIEWS, json.dumps([asdict(review) for review in reviews]))
    modified = node.StartModify()
    try:
        node.RemoveAllColumns()
        for column in COLUMNS:
            values = [row[column] for row in addReviews(rows, reviews)]
            if column in REVIEW_COLUMNS:
                array = vtk.vtkStringArray()
                values = [_singleLine(text) for text in values]
            else:
                array = vtk.vtkIntArray() if column in INTEGERS else vtk.vtkDoubleArray()
            array.SetName(column)
            for value in values:
                array.InsertNextValue(math.nan if value is None else value)
            node.AddColumn(array)
            if column in UNITS:
                node.SetColumnUnitLabel(column, UNITS[column])
    finally:
        node.EndModify(modified)


def _singleLine(text: str) -> str:
    """Reduce a text to what a table keeps when Slicer saves it."""
    return " ".join(text.split()).replace('"', "'")


def addReviews(rows: Sequence[Row], reviews: Sequence[Review]) -> list[Row]:
    """Return rows with the status and comments of their reviews; a merged finding has several."""
    reviewed = []
    for row in rows:
        own = [review for review in reviews if review.rank == row["rank"]]
        statuses = {review.status for review in own if review.status}
        comments = dict.fromkeys(review.comment for review in own if review.comment)
        # A merged finding with contradictory reviews is open.
        status = statuses.pop() if len(statuses) == 1 else OPEN
        reviewed.append({**row, "status": status, "comment": "; ".join(comments)})
    return reviewed


def changeReview(
    reviews: Sequence[Review], row: Row, *, status: str | None = None, comment: str | None = None
) -> list[Review]:
    """Return the reviews after a change of one row.

    In a merged finding, a new status applies to all places, and a new comment
    replaces theirs and belongs to the peak.
    """
    others = [review for review in reviews if review.rank != row["rank"]]
    own = {review.place: review for review in reviews if review.rank == row["rank"]}
    peak = peakOf(row)
    own.setdefault(peak, Review(place=peak, status=row["status"], comment="", rank=row["rank"]))
    for place, review in own.items():
        if status is not None:
            own[place] = replace(review, status=status)
        if comment is not None:
            own[place] = replace(review, comment=comment if place == peak else "")
    return [*others, *(review for review in own.values() if review.status or review.comment)]


def moveReviews(
    reviews: Sequence[Review],
    labels: np.ndarray | None,
    startKji: Sequence[int],
    affine: np.ndarray,
) -> list[Review]:
    """Return the reviews with the ranks of a new label map, cropped from `startKji` on."""
    voxelFromRas = np.linalg.inv(affine)
    moved = []
    for review in reviews:
        rank = 0
        if labels is not None:
            ijk = np.rint((voxelFromRas @ [*review.place, 1.0])[:3]).astype(int)
            kji = ijk[::-1] - np.asarray(startKji, dtype=int)
            if (kji >= 0).all() and (kji < labels.shape).all():
                rank = int(labels[tuple(kji)])
        moved.append(replace(review, rank=rank))
    return moved
