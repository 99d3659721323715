"""Progress is shown on stderr as text, or printed to stdout as JSON."""

import json
import re
from itertools import pairwise

import pytest
from SpatialARAnomalyLib.service.cli import progress
from SpatialARAnomalyLib.service.cli.common import run_job
from SpatialARAnomalyLib.service.cli.progress import TerminalProgress
from SpatialARAnomalyLib.service.detection.findings_table import rank_color
from SpatialARAnomalyLib.service.events import EpochEvent, NoticeEvent, ProgressEvent, StageEvent


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def slices(done, eta_s):
    return ProgressEvent(done=done, total=155, unit="slice", eta_s=eta_s)


def lines(capsys) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_log_has_lines_with_stage_count_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with TerminalProgress() as view:
        view(StageEvent(name="embed", index=2, of=4))
        view(slices(0, None))
        view(slices(120, 80.0))
        view(slices(155, 0.0))
    assert lines(capsys) == [
        "[2/4] Embedding slices",
        "[2/4] Embedding slices: 0/155 slices",
        "[2/4] Embedding slices: 120/155 slices, 0:01:20 left",
        "[2/4] Embedding slices: 155/155 slices",
    ]


def test_a_log_of_a_training_has_its_figures(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with TerminalProgress() as view:
        view(StageEvent(name="fit", index=3, of=4))
        view(EpochEvent(epoch=2, train_mse=0.5, held_out_nll=1.23456))
        view(ProgressEvent(done=3, total=9, unit="batch", eta_s=3.0))
        view(StageEvent(name="calibrate", index=4, of=4))
        view(ProgressEvent(done=1, total=2, unit="volume", eta_s=None))
    assert lines(capsys) == [
        "[3/4] Training",
        "[3/4] Training: 3/9 batches, 0:00:03 left, epoch 2: held-out NLL 1.2346",
        "[4/4] Calibrating",
        "[4/4] Calibrating: 1/2 volumes",
    ]


def test_a_log_gets_few_lines_and_the_last_one(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with TerminalProgress() as view:
        view(StageEvent(name="read", index=1, of=4))
        for done in range(1, 156):
            now[0] += 0.1
            view(slices(done, 1.0))
    told = [line.split(": ")[1].split("/")[0] for line in lines(capsys)[1:]]
    assert len(told) == 4
    assert told[-1] == "155"
    assert [abs(int(done) - 50 * step) <= step for step, done in enumerate(told[:-1], 1)] == [
        True,
        True,
        True,
    ]


def test_a_notice_is_one_literal_line(capsys):
    text = "Model '[bold]brain[/bold]' " + "was trained with other spacings " * 9
    with TerminalProgress() as view:
        view(NoticeEvent(code="model-geometry", text=text.strip()))
    assert lines(capsys) == [f"Note: {text.strip()}"]


def test_an_unknown_stage_is_shown_by_its_name(capsys):
    with TerminalProgress() as view:
        view(StageEvent(name="[red]", index=1, of=1))
    assert lines(capsys) == ["[1/1] [red]"]


def test_a_terminal_gets_a_bar_with_amount_and_figures(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with TerminalProgress() as view:
        view(StageEvent(name="fit", index=3, of=4))
        view(EpochEvent(epoch=2, train_mse=0.5, held_out_nll=1.5))
        view(slices(120, 80.0))
        view(StageEvent(name="download", index=4, of=4))
        view(ProgressEvent(done=5 * 10**6, total=86 * 10**6, unit="byte", eta_s=None))
        view(StageEvent(name="[red]", index=1, of=1))
        view(slices(1, None))
    out, err = capsys.readouterr()
    assert out == ""
    plain = re.sub(r"\x1b\[[0-9;?]*\w", "", err)
    for words in (
        "[3/4] Training",
        "120/155 slices",
        "-:--:--",
        "epoch 2: held-out NLL 1.5000",
        "[4/4] Downloading",
        "5.0/86.0 MB",
        "[1/1] [red]",
    ):
        assert words in plain


def test_json_goes_to_stdout_one_object_a_line(capsys):
    def job(report):
        report.progress(3, 3, "slice")
        return {"text": "über\nzwei Zeilen"}, lambda: print("for people")

    run_job(job, as_json=True)
    out, err = capsys.readouterr()
    assert err == ""
    hello, progress, result = (json.loads(line) for line in out.splitlines())
    assert hello["event"] == "hello"
    assert progress == {
        "id": 1, "event": "progress", "done": 3, "total": 3, "unit": "slice", "eta_s": 0.0
    }  # fmt: skip
    assert result == {"id": 1, "event": "result", "text": "über\nzwei Zeilen"}
    assert out.isascii()
    run_job(job, as_json=False)
    assert capsys.readouterr().out == "for people\n"


def test_neighboring_ranks_have_different_colors():
    colors = [rank_color(rank) for rank in range(1, 21)]
    assert all(0 <= value <= 1 for color in colors for value in color)
    assert len(set(colors)) == 20
    for one, other in pairwise(colors):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 0.05
    assert rank_color(1) == rank_color(21)
