"""The speed benchmark: its measures on known values, and its parts on tiny sizes."""

import json
import math

import pytest
from Benchmark.speed import timing
from Benchmark.speed.command import app
from Benchmark.speed.growth import draw_growth, exponent
from Benchmark.speed.machine import machine_facts
from Benchmark.speed.parts import PARTS
from Benchmark.speed.tables import Table, Target, cell_text, cells_of, number
from Benchmark.speed.timing import Ratio, Spread, in_turn, ratio, spread
from typer.testing import CliRunner


def test_things_run_in_turn_after_one_of_each(monkeypatch):
    now, calls = 0.0, []

    def thing(name, seconds):
        def run():
            nonlocal now
            now += seconds
            calls.append(name)

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    seconds = in_turn({"a": thing("a", 1.0), "b": thing("b", 0.25)}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert seconds == {"a": [1.0] * 3, "b": [0.25] * 3}


def test_ratios_are_of_the_same_turn():
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == Ratio(3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


def test_spread_is_median_and_range():
    assert spread([3.0, 1.0, 2.0, 9.0]) == Spread(2.5, 1.0, 9.0)
    assert spread([3.0, 1.0, 2.0, 9.0]).per(2) == Spread(1.25, 0.5, 4.5)


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 1.5])
def test_exponents_of_exact_powers(power):
    work = [3.0, 10.0, 70.0, 400.0]
    fit = exponent(work, [0.2 * one**power for one in work])
    assert fit.exponent == pytest.approx(power, abs=1e-12)
    assert fit.error == pytest.approx(0, abs=1e-8)
    assert fit.factor == pytest.approx(0.2)


def test_the_error_of_an_exponent_is_that_of_least_squares():
    # y = 0, 1, 1 at x = 0, 1, 2 (logarithms to base e): slope ½, residuals −1/6, 1/3, −1/6;
    # error² = (1/36 + 1/9 + 1/36) / (3 − 2) / 2.
    fit = exponent([1, math.e, math.e**2], [1, math.e, math.e])
    assert fit.exponent == pytest.approx(0.5)
    assert fit.error == pytest.approx(math.sqrt(1 / 12))


def test_growth_is_drawn_600_pixels_wide(tmp_path):
    import matplotlib.image

    file = tmp_path / "pictures" / "growth.png"
    draw_growth(file, "slices", "seconds", {"ours": ([8, 16, 32], [1.0, 2.1, 3.9])})
    image = matplotlib.image.imread(file)
    assert image.shape[1] == 600
    assert image.std() > 0.05


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.9996, "1.000"),
        (12.34, "12.3"),
        (147.0, "147"),
        (906_123.4, "906,123"),
        (3.2e-7, "3.20e-07"),
        (math.nan, "nan"),
    ],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


def test_a_table_says_the_same_in_all_forms():
    met = Target(what="share", reached=Ratio(0.8, 0.7, 0.9), at_least=0.75)
    missed = Target(what="time", reached=1.2, at_most=1.15)
    table = Table(
        "one", "A table", ("what", "s"), (("a", Spread(1.0, 0.5, 2.0)), ("b", None)), ("A note.",),
        (met, missed),
    )  # fmt: skip
    assert cells_of("what", table) == ["a", "b"]
    text = table.markdown()
    assert "| a | 1.00 (0.500 to 2.00) |\n| b | – |\n" in text
    assert "Target: share at least 0.75; reached: 0.800 (0.700 to 0.900)." in text
    assert "Target: time at most 1.15; NOT reached: 1.20." in text
    found = json.loads(json.dumps(table.to_json()))
    assert found["rows"][0] == {"what": "a", "s": {"median": 1.0, "low": 0.5, "high": 2.0}}
    assert [one["holds"] for one in found["targets"]] == [True, False]
    assert table.rich().row_count == 2
    assert cell_text(exponent([1, 2], [1, 2])) == "1.00 ± 0.00"


def test_the_machine_is_told_without_names_and_paths():
    import platform

    import torch

    facts = machine_facts(torch.device("cpu"))
    assert set(facts) == {
        "commit", "date", "device", "gpu", "cpu", "cores", "threads", "memory_gb",
        "instructions", "torch_instructions", "versions",
    }  # fmt: skip
    assert facts["threads"] == torch.get_num_threads()
    assert facts["versions"]["torch"] == torch.__version__
    text = json.dumps(facts)
    assert platform.node() not in text
    assert "/home" not in text


def test_parts_that_are_not_there_are_named():
    result = CliRunner().invoke(app, ["--only", "encoder,warp"])
    assert result.exit_code == 2
    assert "warp not known" in result.output


def test_parts_are_listed():
    result = CliRunner().invoke(app, ["--list"])
    assert [line.split()[0] for line in result.output.splitlines()] == list(PARTS)


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch):
    table = Table("one", "A table", ("what", "s"), (("a", 1.0),))

    def broken(options):
        raise RuntimeError("no luck")

    runs = {"encoder": lambda options: [table], "scaling": broken}
    monkeypatch.setattr("Benchmark.speed.command.part", runs.__getitem__)
    files = tmp_path / "results.jsonl", tmp_path / "tables.md"
    options = ["--only", "encoder,scaling", "--device", "cpu", "--quick"]
    options += ["--results", str(files[0]), "--markdown", str(files[1])]
    for _ in range(2):
        assert isinstance(CliRunner().invoke(app, options).exception, RuntimeError)
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert [line["complete"] for line in lines] == [False, False]
    assert lines[0]["tables"] == [table.to_json()]
    assert files[1].read_text() == table.markdown()
