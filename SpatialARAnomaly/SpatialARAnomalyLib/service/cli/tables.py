"""Results as tables on stdout."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.volumes.geometry import lengths_text
from SpatialARAnomalyLib.service.batch.batch import BatchOutcome
from SpatialARAnomalyLib.service.batch.table import DONE, Row
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID, EncoderState
from SpatialARAnomalyLib.service.encoders.library import EncoderEntry
from SpatialARAnomalyLib.service.evaluation.evaluate import Evaluated
from SpatialARAnomalyLib.service.evaluation.files import case_rows, figure_text
from SpatialARAnomalyLib.service.evaluation.wording import METRIC_WORDS, SCORE_WORDS
from SpatialARAnomalyLib.service.models.card_text import card_sections
from SpatialARAnomalyLib.service.models.listing import ModelRow
from SpatialARAnomalyLib.service.models.wording import case_text, expected_text, findings_basis
from SpatialARAnomalyLib.service.text import count_findings, counted, rate_text, size_text

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.demo.demo import DemoOutcome
    from SpatialARAnomalyLib.service.detection.detect import Detection
    from SpatialARAnomalyLib.service.encoders.library import EncoderCheck
    from SpatialARAnomalyLib.service.setup.doctor import Diagnosis
    from SpatialARAnomalyLib.service.training.request import SurveyResult


def _print_pairs(pairs: list[tuple[str, str]], title: str) -> None:
    # As `Text`, so that brackets in names are not taken for rich's markup.
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")  # hashes are shown completely
    for name, value in pairs:
        table.add_row(Text(name), Text(value))
    Console().print(table)


def _print_files(files: dict[str, Path]) -> None:
    for kind, path in files.items():
        print(f"{kind:13}{path}")


def print_card(card: ModelCard) -> None:
    """Print a model's card."""
    print(f"Model {card.name}")
    for title, texts in card_sections(card).items():
        _print_pairs(list(texts.items()), title)


ROWS_SHOWN = 20
"""Scans of a batch that are printed; the table of the batch holds all."""


def print_batch(batch: BatchOutcome) -> None:
    """Print the numbers of scans by state, those with the strongest findings, and the problems."""
    found = [row for row in batch.rows if row["state"] == DONE and int(row["findings"] or 0)]
    found.sort(key=lambda row: -float(row["strongest"]))
    problems = [row for row in batch.rows if row["state"] != DONE]
    _print_scans("Strongest findings", ("scan", "findings", "strongest", "case_p_value"), found)
    _print_scans("Not done", ("scan", "state", "reason"), problems)
    counts = ", ".join(f"{count} {state}" for state, count in batch.counts.items() if count)
    print(f"{counted(len(batch.rows), 'scan')}: {counts}; {len(found)} with findings")
    _print_files({"status": batch.table})


def _print_scans(title: str, columns: Sequence[str], rows: list[Row]) -> None:
    """Print the first rows of a table of scans, if there are any."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*(Text(str(row.get(column) or "")) for column in columns))
    Console().print(table)
    if len(rows) > ROWS_SHOWN:
        print(f"… and {len(rows) - ROWS_SHOWN} more")


def print_detection(detection: "Detection", files: dict[str, Path]) -> None:
    """Print the cautions, the findings and the files."""
    spec = detection.spec
    for caution in detection.cautions:
        Console().print(Text(f"CAUTION: {caution.text}", style="bold"), soft_wrap=True)
    table = Table(
        title=f"{count_findings(detection.findings)} (voxels as rare as "
        f"{rate_text(spec.false_positive_rate)} in normal scans; at least "
        f"{spec.min_volume_ml:g} mL)",
        title_justify="left",
    )
    for heading in ("rank", "per normal scan", "volume mL", "R mm", "A mm", "S mm"):
        table.add_column(heading, justify="right")
    for finding in detection.findings:
        table.add_row(
            str(finding.rank),
            expected_text(finding, detection.calibration),
            f"{finding.volume_ml:.2f}",
            *(f"{value:.1f}" for value in finding.centroid_ras),
        )
    Console().print(table)
    if detection.findings:
        basis = findings_basis(detection.calibration)
        print(f"Per normal scan: findings like this or stronger in a normal scan ({basis}).")
    print(case_text(detection.calibration, detection.case_p_value))
    _print_files(files)


def print_encoder_check(check: "EncoderCheck") -> None:
    """Print an encoder's card and speed."""
    card = check.card
    _print_pairs(
        [
            ("architecture", card.architecture),
            ("tokens", f"{card.channels} channels, one per {card.patch_px} × {card.patch_px} px"),
            ("parameters", f"{card.parameters:,}"),
            ("weights SHA-256", card.weights_sha256),
            ("device", check.device),
            ("speed", f"{check.seconds_per_slice:.3f} s per slice of {check.size_px} px"),
            ("notice", card.notice),
        ],
        f"Encoder {card.name}",
    )


def print_demo(outcome: "DemoOutcome") -> None:
    """Print the demo's findings and files, and the overlap with the true lesion."""
    print_detection(outcome.detection, outcome.files)
    _print_files(outcome.more_files)
    print(
        f"Finding of the lesion: {outcome.lesion_rank or 'none'}, Dice {outcome.dice:.2f} with "
        f"the true lesion ({outcome.lesion_ml:.1f} mL)."
    )
    print(outcome.detection.card.notice)


def print_diagnosis(diagnosis: "Diagnosis") -> None:
    """Print the state of each part of the machine, with a remedy if it is not ok."""
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for one in diagnosis.findings:
        found = f"{one.found}\n{one.remedy}" if one.remedy else one.found
        table.add_row("ok" if one.ok else "PROBLEM", Text(one.name), Text(found))
    Console().print(table)
    wrong = sum(not one.ok for one in diagnosis.findings)
    print("All is ok." if diagnosis.ok else counted(wrong, "problem"))


def print_survey(found: "SurveyResult") -> None:
    """Print every scan of a survey, and the estimate of a training on the usable ones."""
    title = f"{len(found.sources)} of {len(found.rows)} scans can be used"
    if found.sources:
        title += f", of {counted(found.patients, 'patient')}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("scan", overflow="fold")
    for heading in ("modality", "voxels", "spacing mm", "slices", "patient"):
        table.add_column(heading, no_wrap=True)
    for row in found.rows:
        table.add_row(
            Text(row.name),
            row.modality or "",
            " × ".join(str(size) for size in reversed(row.shape_kji or ())),
            lengths_text(row.spacing_mm or ()),
            "" if row.slices is None else str(row.slices),
            row.patient or "excluded",
        )
    if found.rows:
        console = Console(width=max(100, Console().width))  # leaves room for names
        console.print(table)
        for row in found.rows:
            if row.reason:
                told = "is used" if row.used else "is excluded"
                console.print(Text(f"{row.name} {told}: {row.reason}"), soft_wrap=True)
            for note in row.notes:
                console.print(Text(f"{row.name}: {note}"), soft_wrap=True)
    else:
        print("No scan was found.")
    estimate = found.estimate
    if estimate is None:
        problem = found.problem
        print("No estimate." if problem is None else f"No estimate: {problem} {hint(problem)}")
        return
    _print_pairs(
        [
            ("modality", found.modality or "none"),
            ("field of view", f"{found.fov_mm:g} mm"),
            ("embedding", str(timedelta(seconds=round(estimate.embed_s)))),
            ("training", str(timedelta(seconds=round(estimate.fit_s)))),
            ("memory", size_text(estimate.memory_bytes)),
            ("temporary disk space", size_text(estimate.disk_bytes)),
            ("model", size_text(estimate.model_bytes)),
            ("free disk space", size_text(estimate.free_disk_bytes)),
        ],
        "Estimate of a training",
    )


def print_models(rows: Sequence[ModelRow]) -> None:
    """Print models as a table, and below it their problems with hints."""
    if not rows:
        print("No models.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "modality", "plane"):
        table.add_column(heading)
    table.add_column("field of view", justify="right")
    table.add_column("encoder", overflow="fold")
    for heading in ("normals", "date", "size"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*map(Text, _cells(row)))
    console = Console()
    console.print(table)
    for row in rows:
        if problem := _problem(row):
            console.print(Text(f"{row.name}: {problem}"), soft_wrap=True)


def _cells(row: ModelRow) -> tuple[str, ...]:
    size = f"{row.bytes / 1e6:.1f} MB"
    if row.problem is not None:
        return (row.name, "cannot be used", "", "", "", "", "", size)
    here = row.presence is not None and row.presence.here
    return (
        row.name,
        row.modality or "",
        row.plane or "",
        f"{row.fov_mm:g} mm",
        f"{row.encoder}{'' if here else ' (not here)'}",
        str(row.normals),
        row.created or "",
        size,
    )


def _problem(row: ModelRow) -> str:
    if row.problem is not None:
        return f"{row.problem} {row.hint or ''}".strip()
    missing = "its encoder is not on this machine; "
    if row.encoder_state is EncoderState.OBTAINABLE:
        return f"{missing}get it with: spatial-ar-anomaly encoders get {row.encoder_hub_id}"
    if row.encoder_state is EncoderState.MISSING:
        return (
            f"{missing}copy it from the machine of the training, and add it with: "
            "spatial-ar-anomaly encoders add FOLDER_OR_FILE"
        )
    return ""


def print_encoders(entries: Sequence[EncoderEntry]) -> None:
    """Print the known encoders and those on this machine, with their needs."""
    table = Table(box=None)
    # Ids are never cut, so that they can be copied.
    for heading in ("encoder", "download", "memory", "gated", "here"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        known, size = entry.known, size_text(entry.disk_bytes)
        table.add_row(
            Text(entry.source),
            size_text(known.download_bytes, known.approximate) if known else "",
            size_text(known.memory_bytes, True) if known else "",
            ("yes" if known.gated else "no") if known else "",
            f"{size}, your own" if entry.own else size if entry.here else "",
        )
    # Wide enough for whole lines in a pipe, too.
    Console(width=max(80, Console().width, *(len(one.source) + 60 for one in entries))).print(table)
    print(
        f"{DEFAULT_ID} is the default. Gated: only for accounts that were granted access on its "
        "page.\nMemory: about what loading and embedding one slice at a time take."
    )


def _cases_table(evaluated: Evaluated) -> Table:
    table = Table()
    for heading in ("case", "scan"):
        table.add_column(heading, overflow="fold")
    for heading in ("lesion mL", "AUROC", "Dice", "lesions found", "false findings"):
        table.add_column(heading, justify="right")
    for row in case_rows(evaluated):
        auroc, dice = (
            "–" if row[name] is None else f"{row[name]:.3f}" for name in ("voxel_auroc", "dice")
        )
        table.add_row(
            str(row["case"]),
            Text(row["scan"]),
            f"{row['lesion_ml']:.2f}",
            auroc,
            dice,
            f"{row['lesions_found']} of {row['lesions']}",
            str(row["false_findings"]),
        )
    return table


def print_evaluation(evaluated: Evaluated, files: dict[str, Path]) -> None:
    """Print the metrics, with one column per kind of scores, and the files."""
    counts, evaluations = evaluated.counts, evaluated.evaluations
    table = Table(
        title=f"{counted(counts['scans'], 'scan')} of {counted(counts['patients'], 'patient')}, "
        f"{counts['normal_scans']} normal; {counted(counts['lesions'], 'lesion')}, "
        f"{evaluated.lesion_share:.2g} of the voxels. Threshold: "
        f"{rate_text(evaluated.spec.false_positive_rate)} voxels of normal scans; "
        f"findings of at least {evaluated.spec.min_volume_ml:g} mL.",
        title_justify="left",
    )
    table.add_column("metric [95 % interval]")
    for score in evaluations:
        table.add_column(SCORE_WORDS[score])
    for name, (words, _) in METRIC_WORDS.items():
        metrics = [evaluation.metrics[name] for evaluation in evaluations.values()]
        table.add_row(words, *(figure_text(metric) for metric in metrics))
    console = Console()
    console.print(table)
    console.print(_cases_table(evaluated))
    lacking: dict[str, list[str]] = {}
    for name, (words, _) in METRIC_WORDS.items():
        if reason := evaluations["nll"].metrics[name].reason:
            lacking.setdefault(reason, []).append(words)
    for reason, metrics_without in lacking.items():
        print(f"{'; '.join(metrics_without)}: {reason}")
    _print_files(files)
