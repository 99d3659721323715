"""The speed benchmark: its measures on known values, and its parts at tiny sizes."""

import json
import math

import pytest
import torch
from Benchmark.speed import autoregressive, memory_bank, precision, scaling, timing
from Benchmark.speed import encoder as encoder_part
from Benchmark.speed.autoregressive import (
    FullConv2d,
    largest_difference,
    random_model,
    random_tokens,
    score,
    scoring_flop,
    with_full_kernels,
)
from Benchmark.speed.command import app
from Benchmark.speed.encoder import encoder_flop, threads_set
from Benchmark.speed.encoders import (
    QUICK_SIZE,
    SIZES,
    encoder_folder,
    random_encoder,
    random_images,
)
from Benchmark.speed.growth import draw_growth, exponent
from Benchmark.speed.machine import machine_facts
from Benchmark.speed.parts import PARTS, part
from Benchmark.speed.tables import Options, Table, Target, cell_text, cells_of, number
from Benchmark.speed.timing import Ratio, Spread, in_turn, ratio, spread
from SpatialARAnomalyLib.engine.encoder.batching import images_at_once
from SpatialARAnomalyLib.engine.model.autoregressive import CausalConv2d
from SpatialARAnomalyLib.engine.specs import Preset
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from typer.testing import CliRunner

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def options(work, tmp_path):
    return Options(torch.device("cpu"), True, 2, tmp_path / "pictures", work)


def medians(cells):
    return [cell.median if isinstance(cell, Spread) else cell for cell in cells]


def assert_measured(*cells):
    """Assert that every figure is finite and above zero."""
    values = medians(cells)
    assert values
    assert all(math.isfinite(value) and value > 0 for value in values), cells


@pytest.mark.parametrize(("size", "side_px"), [(QUICK_SIZE, 96), (SIZES["S"], 64)])
def test_the_encoders_operations_are_those_that_torch_counts(work, size, side_px):
    encoder = random_encoder(work, size)

    def attention(query, key, value, *_, **__):
        return sdpa_flop_count(query, key, value)

    # PyTorch counts the attention of GPUs only.
    added = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        encoder.embed(random_images(2, side_px))
    assert counter.get_total_flops() == 2 * encoder_flop(size, side_px)


def test_the_encoders_operations_by_hand():
    # 784 patches and 5 further tokens; 384 channels; 12 layers.
    layer = 2 * 789 * (4 * 384**2 + 2 * 384 * 1536) + 2 * 2 * 789**2 * 384
    assert encoder_flop(SIZES["S"], 448) == 2 * 784 * 768 * 384 + 12 * layer


def test_random_encoders_are_those_of_dinov3(work):
    encoder = random_encoder(work, SIZES["S"])
    # Patches, class token and registers; 12 layers (attention without bias of the key, MLP,
    # two norms, two scales); a norm.
    layer = 4 * 384**2 + 3 * 384 + 2 * 384 * 1536 + 1536 + 384 + 4 * 384 + 2 * 384
    assert encoder.card.parameters == (768 + 1) * 384 + 5 * 384 + 12 * layer + 2 * 384
    assert (encoder.card.channels, encoder.card.patch_px) == (384, 16)
    written = (encoder_folder(work, SIZES["S"]) / "model.safetensors").stat().st_mtime_ns
    random_encoder(work, SIZES["S"])
    assert (encoder_folder(work, SIZES["S"]) / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("preset", Preset)
def test_full_kernels_give_the_same_and_cost_what_torch_counts(preset):
    side, channels, device = 6, 24, torch.device("cpu")
    causal = random_model(preset, channels, device)
    full = with_full_kernels(causal)
    tokens = random_tokens(2, channels, side, device)
    assert any(isinstance(one, CausalConv2d) for one in causal.modules())
    assert not any(isinstance(one, CausalConv2d) for one in full.modules())
    torch.testing.assert_close(score(full, tokens), score(causal, tokens))
    assert largest_difference(causal, full, tokens) <= autoregressive.EQUAL
    with FlopCounterMode(display=False) as counter:
        score(full, tokens)
    assert counter.get_total_flops() == 2 * scoring_flop(causal.spec, channels, side**2, taps=9)
    assert scoring_flop(causal.spec, channels, side**2) < counter.get_total_flops() / 2


def test_a_network_that_sees_one_token_more_is_told_apart():
    device = torch.device("cpu")
    causal = random_model(Preset.STANDARD, 24, device)
    other = with_full_kernels(causal)
    changed = next(one for one in other.modules() if isinstance(one, FullConv2d))
    changed.weight.data[:, :, 1, 1] += 1e-3
    tokens = random_tokens(1, 24, 6, device)
    assert largest_difference(causal, other, tokens) > autoregressive.EQUAL


def test_the_encoder_is_held_against_the_best_product(options, monkeypatch):
    monkeypatch.setattr(encoder_part.os, "cpu_count", lambda: 3)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    products, encoder, threads = encoder_part.run(options)
    assert len(products.rows) >= 3
    assert_measured(*cells_of("GFLOP/s", products))
    asked_for = images_at_once(random_encoder(options.work, QUICK_SIZE), 64)
    assert cells_of("batch", encoder) == sorted({1, 2, 4, 8, asked_for})
    assert f"batches of {asked_for}" in encoder.notes[0]
    assert_measured(*cells_of("s a slice", encoder), *cells_of("share of the best rate", encoder))
    best = max(products.rows, key=lambda row: row[1].median)[0]
    assert f"compared with the best, {best}." in products.notes[0]
    for _, _, rate, product, share in encoder.rows:
        assert rate.low / product.high <= share.low <= share.median
        assert share.median <= share.high <= rate.high / product.low
    assert encoder.targets[0].at_least == 0.75
    assert [row[:2] for row in threads.rows] == [
        (count, batch) for count in (1, 2, 3) for batch in (1, 4)
    ]
    assert set(asked) == {1, 2, 3}
    assert_measured(*cells_of("s a slice", threads))


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with threads_set(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_every_preset_is_scored_beside_full_kernels_and_encoder(options):
    tables = autoregressive.run(options)
    assert [table.name for table in tables] == ["scoring_batch_1", "scoring_batch_8"]
    for table in tables:
        assert cells_of("preset", table) == list(Preset)
        assert max(cells_of("largest difference", table)) <= 1e-5
        for column in table.columns[1:-1]:
            assert_measured(*cells_of(column, table))
        assert [one.at_most for one in table.targets] == [0.07, 0.07]


def test_bf16_is_timed_where_new_models_take_it(options, monkeypatch):
    seconds, ranks = precision.run(options)
    assert seconds.rows == (("cpu", "float32"),)
    assert cells_of("preset", ranks) == ["standard", "composite"]
    assert min(cells_of("tokens in the body", ranks)) > 50
    lost = cells_of("1 − Spearman", ranks)
    assert all(0 < one < 0.1 for one in lost), lost
    monkeypatch.setattr(precision, "best_precision", lambda device: precision.Precision.BFLOAT16)
    monkeypatch.setattr(precision, "ranks", lambda options: ranks)
    seconds, _ = precision.run(options)
    assert cells_of("batch", seconds) == [1, 8]
    for row in seconds.rows:
        assert_measured(*row[1:])
    assert seconds.targets[0].at_least == 1.3


def test_banks_are_scored_beside_ours(options):
    seconds, sizes = memory_bank.run(options)
    assert cells_of("tokens in the bank", seconds) == ["100", "300", "1,000", "exponent"]
    for row in seconds.rows[:-1]:
        assert_measured(*row[1:])
    assert all(math.isfinite(fit.exponent) for fit in seconds.rows[-1][1:4])
    assert cells_of("bank, float32", sizes) == pytest.approx([0.0064, 0.0192, 0.064])
    assert cells_of("bank, float16", sizes) == pytest.approx([0.0032, 0.0096, 0.032])
    # Five kernels of 3×3: 16 channels in and out, 256 between; the rest is biases and names.
    weights = 4 * 9 * 256 * (16 + 256 + 256 + 256 + 16)
    assert cells_of("ours, float32", sizes)[0] * 1e6 == pytest.approx(weights, rel=0.01)
    assert (options.pictures / "speed_memory_bank.png").exists()


def test_the_bare_product_finds_what_the_bank_finds(monkeypatch):
    monkeypatch.setattr(memory_bank, "CHUNK", 7)
    tokens = random_tokens(1, 16, 4, torch.device("cpu"))
    rows = tokens.permute(0, 2, 3, 1).reshape(-1, 16)
    bank = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize(bank), torch.nn.functional.normalize(rows)
    distance = memory_bank.MemoryBank(bank).score(tokens).flatten()
    torch.testing.assert_close(1 - memory_bank.highest_products(*unit), distance)


def test_time_is_fitted_against_work(options):
    by_slices, by_resolution, by_size = scaling.run(options)
    assert cells_of("slices", by_slices) == [2, 4, 8, "exponent"]
    assert cells_of("pixels", by_resolution)[:3] == ["32²", "48²", "64²"]
    assert cells_of("tokens", by_resolution)[:3] == [4, 9, 16]
    assert cells_of("encoder", by_size)[:2] == ["ViT-S", "ViT-B"]
    for table in (by_slices, by_resolution, by_size):
        measured = [row for row in table.rows if not str(row[0]).startswith("exponent")]
        assert_measured(*(row[-1] for row in measured))
        assert len(measured) < len(table.rows)
    for name in ("slices", "resolution", "encoder"):
        assert (options.pictures / f"speed_{name}.png").exists()


def test_the_command_runs_a_part(work, tmp_path):
    files = tmp_path / "results.jsonl", tmp_path / "tables.md"
    asked = ["--only", "memory_bank", "--quick", "--device", "cpu", "--work", work]
    asked += ["--results", files[0], "--markdown", files[1], "--pictures", tmp_path]
    result = CliRunner().invoke(app, [str(one) for one in asked])
    assert result.exit_code == 0, result.output
    (line,) = files[0].read_text().splitlines()
    found = json.loads(line)
    assert found["complete"]
    assert [one["name"] for one in found["tables"]] == ["memory_bank_seconds", "memory_bank_bytes"]
    for table in found["tables"]:
        assert table["title"] in result.output
        assert f"**{table['title']}**" in files[1].read_text()
    assert (tmp_path / "speed_memory_bank.png").exists()


def test_every_part_is_found():
    for name in PARTS:
        assert callable(part(name))
