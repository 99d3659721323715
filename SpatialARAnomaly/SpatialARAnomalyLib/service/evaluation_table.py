"""An evaluation as a table on stdout."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from .evaluation_curves import Evaluated
from .evaluation_files import figure_text
from .evaluation_words import METRIC_WORDS, SCORE_WORDS, counted


def print_evaluation(evaluated: Evaluated, files: dict[str, Path]) -> None:
    """Print the metrics, a column for every kind of scores, and name the files."""
    counts, evaluations = evaluated.counts, evaluated.evaluations
    table = Table(
        title=f"{counted(counts['scans'], 'scan')} of {counted(counts['patients'], 'patient')}, "
        f"{counts['normal_scans']} normal; {counted(counts['lesions'], 'lesion')}, "
        f"{evaluated.lesion_share:.2g} of the voxels. Threshold: NLL "
        f"{evaluated.threshold_nll:.4f} ({evaluated.spec.false_positive_rate:g} of normal voxels); "
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
    for name, (words, _) in METRIC_WORDS.items():
        metric = evaluations["nll"].metrics[name]
        if metric.reason:
            print(f"{words}: {metric.reason}")
    for kind, path in files.items():
        print(f"{kind:13}{path}")
