"""The findings of a result as rows of a table node, and what a reviewer says of them.

A review belongs to a place, not to a row: when the threshold moves, findings
grow, merge, part and vanish, and the review follows the voxel that had the peak.
"""

import json
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
"""Of the table node and of the CSV file. Positions are RAS mm of the scan's own space."""

INTEGERS = ("rank", "voxels")

UNITS = {"volume_ml": "ml", "peak_nll": "nats/channel", "mean_nll": "nats/channel"} | {
    f"{point}_{axis}_mm": "mm" for point in ("centroid", "peak") for axis in "ras"
}

REVIEWS = "SpatialARAnomaly.Reviews"
"""Attribute that holds all reviews, also those of findings that are gone at this threshold.

The table's own columns only show them: Slicer saves tables without escaping their texts.
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """What a reviewer said of a place."""

    place: tuple[float, float, float]
    """The finding's peak, RAS mm of the scan's own space."""
    status: str
    comment: str
    rank: int
    """Of the finding that holds the place now; 0 if none does."""


def addTable(name: str) -> "slicer.vtkMRMLTableNode":
    """An empty table node."""
    return slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name)
    )


def _writeRows(node: "slicer.vtkMRMLTableNode", rows: Sequence[Row]) -> None:
    modified = node.StartModify()
    try:
        node.RemoveAllColumns()
        for column in COLUMNS:
            if column in REVIEW_COLUMNS:
                array = vtk.vtkStringArray()
            elif column in INTEGERS:
                array = vtk.vtkIntArray()
            else:
                array = vtk.vtkDoubleArray()
            array.SetName(column)
            for row in rows:
                value = row[column]
                array.InsertNextValue(_plain(value) if column in REVIEW_COLUMNS else value)
            node.AddColumn(array)
            if column in UNITS:
                node.SetColumnUnitLabel(column, UNITS[column])
    finally:
        node.EndModify(modified)


def _plain(text: str) -> str:
    """The text as a table keeps it when Slicer saves it: reviews keep all of it."""
    return " ".join(text.split()).replace('"', "'")


def readRows(node: "slicer.vtkMRMLTableNode | None") -> list[Row]:
    """The table's rows; none where it lacks a column of ours or holds what is no number."""
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
                # A table that was saved as text comes back as text.
                value = float(column.GetValue(index))
                row[name] = int(value) if name in INTEGERS else value
            rows.append(row)
    except (ValueError, TypeError, OverflowError):
        return []
    return addReviews(rows, readReviews(node))


def peakOf(row: Row) -> tuple[float, float, float]:
    """Where a finding's NLL is highest, RAS mm of the scan's own space."""
    return row["peak_r_mm"], row["peak_a_mm"], row["peak_s_mm"]


def _review(values: dict[str, Any]) -> Review:
    right, anterior, superior = (float(one) for one in values["place"])
    return Review(
        place=(right, anterior, superior),
        status=str(values["status"]),
        comment=str(values["comment"]),
        rank=int(values["rank"]),
    )


def readReviews(node: "slicer.vtkMRMLTableNode | None") -> list[Review]:
    """All reviews of a result."""
    try:
        listed = json.loads((node.GetAttribute(REVIEWS) if node is not None else None) or "[]")
        return [_review(one) for one in listed]
    except (ValueError, TypeError, KeyError):
        return []


def writeFindings(
    node: "slicer.vtkMRMLTableNode", rows: Sequence[Row], reviews: Sequence[Review]
) -> None:
    """Replace the table's rows, with what the reviews say of them; keep the reviews."""
    node.SetAttribute(REVIEWS, json.dumps([asdict(review) for review in reviews]))
    _writeRows(node, addReviews(rows, reviews))


def addReviews(rows: Sequence[Row], reviews: Sequence[Review]) -> list[Row]:
    """Rows with the status and comments of their reviews; where findings merged, of all."""
    reviewed = []
    for row in rows:
        own = [review for review in reviews if review.rank == row["rank"]]
        statuses = {review.status for review in own if review.status}
        comments = dict.fromkeys(review.comment for review in own if review.comment)
        # Reviewers of merged findings who disagree leave the whole open.
        status = statuses.pop() if len(statuses) == 1 else OPEN
        reviewed.append({**row, "status": status, "comment": "; ".join(comments)})
    return reviewed


def changeReview(
    reviews: Sequence[Review], row: Row, *, status: str | None = None, comment: str | None = None
) -> list[Review]:
    """The reviews after somebody changed that of a row.

    Of a finding that merged, the status is that of all its places, and each keeps
    its comment; a comment that is written anew belongs to the peak.
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
    """The reviews with the ranks of a new label map that begins at `startKji`."""
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
