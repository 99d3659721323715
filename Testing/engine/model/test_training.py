import dataclasses
import errno
import os

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    OutputError,
    SpatialARError,
)
from SpatialARAnomalyLib.engine.model.autoregressive import CORNERS
from SpatialARAnomalyLib.engine.model.checkpoint import check_checkpoint
from SpatialARAnomalyLib.engine.model.gaussian import variance_at, whitener
from SpatialARAnomalyLib.engine.model.training import (
    add_feature_noise,
    fit,
    split_held_out,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.slices.slice_stack import IN_BODY, SLICE, image_places
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, TrainingSpec, Variance

CHANNELS, SIDE = 6, 7
SPEC = AutoregressiveSpec(hidden_channels=12, dilations=(1, 1, 1))
TRAINING = TrainingSpec(epochs=4, batch_size=4, noise_probability=0.5)


def smooth_tokens(seed: int, images: int = 6) -> np.ndarray:
    """Tokens that can be predicted: smooth waves with a little noise."""
    random = np.random.RandomState(seed)
    row, column = np.mgrid[:SIDE, :SIDE]
    phase = random.uniform(0, 6, size=(images, CHANNELS, 1, 1))
    waves = np.sin(0.5 * row + 0.3 * column * np.arange(1, CHANNELS + 1)[:, None, None] + phase)
    return (waves + 0.05 * random.normal(size=waves.shape)).astype(np.float16)


TRAIN = [smooth_tokens(seed) for seed in range(3)]
HELD_OUT = [smooth_tokens(seed, images) for seed, images in ((10, 4), (11, 9))]


class CancelAfterEpochs(SilentReporter):
    """Cancels when so many epochs are done, or in the middle of the next one."""

    def __init__(self, epochs: int, batches: int = 0) -> None:
        self.epochs_left, self.batches_left = epochs, batches

    def epoch(self, figures) -> None:
        self.epochs_left -= 1

    def check_cancelled(self) -> None:
        if self.epochs_left <= 0:
            if self.batches_left <= 0:
                raise Cancelled
            self.batches_left -= 1


def train(tmp_path=None, report=None, training=TRAINING, spec=SPEC, held_out=None):
    checkpoint = None if tmp_path is None else tmp_path / "checkpoint.safetensors"
    return fit(
        TRAIN,
        held_out or HELD_OUT,
        spec,
        training,
        report=report or SilentReporter(),
        checkpoint=checkpoint,
        fingerprint="this one",
    )


def assert_same(one, other) -> None:
    assert one.curve == other.curve
    assert one.best_epoch == other.best_epoch
    for (name, value), (other_name, other_value) in zip(
        one.model.state_dict().items(), other.model.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(value, other_value), name


def test_it_learns():
    run = train(training=TrainingSpec(epochs=30, batch_size=4))
    first, best = run.curve[0], run.curve[run.best_epoch - 1]
    assert best.held_out_nll < first.held_out_nll - 0.3
    assert best.train_mse < 0.5 * first.train_mse


def test_the_same_seed_gives_the_same_model():
    assert_same(train(), train())


def test_another_seed_gives_another_model():
    other = train(training=TrainingSpec(epochs=4, batch_size=4, seed=7))
    assert other.curve != train().curve


def test_the_largest_seed_trains():
    largest = TrainingSpec(epochs=2, batch_size=4, seed=2**32 - 1)
    assert train(training=largest).curve != train(training=TrainingSpec(epochs=2)).curve


def test_every_epoch_of_every_seed_draws_its_own_order(monkeypatch):
    orders = []
    randperm = torch.randperm

    def note(count, *, generator):
        orders.append(tuple(randperm(count, generator=generator).tolist()))
        return torch.tensor(orders[-1])

    monkeypatch.setattr(torch, "randperm", note)
    for seed in (0, 1, 2**32 - 1):
        train(training=TrainingSpec(epochs=3, batch_size=4, seed=seed))
    assert len(set(orders)) == 9


def test_the_generators_of_gpus_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("not ours"))
    assert train(training=TrainingSpec(epochs=1)).curve


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_resuming_equals_not_interrupting(tmp_path, epochs, batches):
    with pytest.raises(Cancelled):
        train(tmp_path, CancelAfterEpochs(epochs, batches))
    assert_same(train(tmp_path), train())


def test_a_finished_training_is_not_repeated(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, CancelAfterEpochs(0))
    assert_same(first, again)


def test_the_epoch_with_the_lowest_held_out_nll_is_kept():
    """Held-out tokens unlike the training's: the longer it learns, the worse they are told."""
    random = np.random.RandomState(0)
    unlike = [random.normal(size=(4, CHANNELS, SIDE, SIDE)).astype(np.float16) for _ in range(2)]
    training = TrainingSpec(epochs=12, batch_size=4, learning_rate=0.01)
    run = train(training=training, held_out=unlike)
    values = [figures.held_out_nll for figures in run.curve]
    assert run.best_epoch == int(np.argmin(values)) + 1
    assert run.best_epoch < len(values)
    # The NLL as the kept model gives it, every volume weighing the same.
    by_volume = [
        run.model.nll(torch.from_numpy(one.astype(np.float32))).mean().item() for one in unlike
    ]
    assert np.mean(by_volume) == pytest.approx(min(values), abs=1e-5)


def test_held_out_nll_weighs_volumes_not_slices():
    """A volume given three times over is still one volume."""
    thrice = [np.concatenate([HELD_OUT[0]] * 3), HELD_OUT[1]]
    one, other = train(), train(held_out=thrice)
    assert [f.held_out_nll for f in one.curve] == pytest.approx(
        [f.held_out_nll for f in other.curve], abs=1e-6
    )


@pytest.mark.parametrize("variance", [Variance.FIXED, Variance.CHANNEL])
def test_variance_is_the_held_out_squared_error(variance):
    spec = AutoregressiveSpec(hidden_channels=12, dilations=(1, 1, 1), variance=variance)
    run = train(spec=spec)
    products = []
    for one in HELD_OUT:
        tokens = torch.from_numpy(one.astype(np.float32))
        errors = (run.model(tokens) - tokens).movedim(1, -1).reshape(-1, CHANNELS).double()
        products.append(errors.T @ errors / len(errors))
    covariance = torch.stack(products).mean(dim=0)
    expected = covariance.diagonal().float()
    if variance is Variance.FIXED:
        expected = expected.mean().expand_as(expected)
    torch.testing.assert_close(run.model.variance, expected, rtol=1e-4, atol=1e-7)


EVERYTHING = AutoregressiveSpec(
    hidden_channels=8,
    dilations=(1, 1),
    variance=Variance.FULL,
    whitened=True,
    position=True,
    position_variance=True,
    directions=4,
)


def places_of(seed: int, images: int) -> np.ndarray:
    """A body that fills part of each image, at any depth."""
    random = np.random.RandomState(seed)
    places = image_places(images, SIDE, SIDE)
    places[:, SLICE] = random.uniform(-1, 1, size=images)[:, None, None]
    places[:, IN_BODY] = random.rand(images, SIDE, SIDE) < 0.6
    return places


TRAIN_PLACES = [places_of(seed, len(one)) for seed, one in enumerate(TRAIN)]
HELD_OUT_PLACES = [places_of(50 + seed, len(one)) for seed, one in enumerate(HELD_OUT)]


def train_everything(tmp_path=None, report=None, spec=EVERYTHING, tokens=None, places=None):
    return fit(
        tokens or TRAIN,
        HELD_OUT,
        spec,
        TRAINING,
        report=report or SilentReporter(),
        checkpoint=None if tmp_path is None else tmp_path / "checkpoint.safetensors",
        fingerprint="this one",
        training_places=places or TRAIN_PLACES,
        held_out_places=HELD_OUT_PLACES,
    )


@pytest.fixture(scope="module")
def everything():
    return train_everything()


def rows(tokens: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """The tokens in the body, in float64."""
    inside = [
        tokens[image, :, row, column]
        for image, row, column in np.argwhere(places[:, IN_BODY] > 0).tolist()
    ]
    return torch.stack(inside).double()


def as_tensors(tokens: np.ndarray, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(tokens.astype(np.float32)), torch.from_numpy(places)


def test_whitening_is_that_of_the_body_s_training_tokens(everything):
    inside = torch.cat(
        [
            rows(torch.from_numpy(one.astype(np.float32)), where)
            for one, where in zip(TRAIN, TRAIN_PLACES, strict=True)
        ]
    )
    model = everything.model
    torch.testing.assert_close(model.token_mean, inside.mean(dim=0).float())
    covariance = torch.cov(inside.T, correction=0)
    torch.testing.assert_close(model.token_whitener, whitener(covariance).float())
    scaled = (inside - model.token_mean) @ model.token_whitener.double().T
    found = torch.cov(scaled.T, correction=0)
    torch.testing.assert_close(found, torch.eye(CHANNELS).double(), rtol=0, atol=0.02)


def test_the_covariance_is_that_of_the_training_bodies_in_all_directions(everything):
    """Up to its level, which held-out scans set: they must stay fresh for thresholds."""
    model, by_volume = everything.model, []
    for one, where in zip(TRAIN, TRAIN_PLACES, strict=True):
        tokens, places = as_tensors(one, where)
        scaled = model.scaled(tokens)
        errors = torch.cat(
            [rows(scaled - model.predict(scaled, places, corner), where) for corner in CORNERS]
        )
        by_volume.append(sum(torch.outer(error, error) for error in errors) / len(errors))
    expected = whitener(torch.stack(by_volume).mean(dim=0)).float()
    found = model.residual_whitener
    torch.testing.assert_close(found / found[0, 0], expected / expected[0, 0], rtol=1e-3, atol=1e-3)


def test_the_variance_map_keeps_the_held_out_level(everything):
    """Squares by its variance are 1 on average over the held-out body, as they are without it."""
    model, total, count = everything.model, 0.0, 0.0
    for one, where in zip(HELD_OUT, HELD_OUT_PLACES, strict=True):
        tokens, places = as_tensors(one, where)
        scaled, factor = model.scaled(tokens), variance_at(model.variance_map, places)
        for corner in CORNERS:
            squares = model.squares(scaled - model.predict(scaled, places, corner)) / factor
            total += float((squares.detach() * places[:, IN_BODY]).sum())
            count += float(places[:, IN_BODY].sum())
    assert total / count == pytest.approx(1.0, abs=1e-4)
    assert model.variance_map.std() > 0.001


def test_what_lies_outside_the_body_decides_nothing_that_is_fitted_to_it():
    """With the first layer blind to it, too: then it enters nowhere."""
    outside = [one.copy() for one in TRAIN]
    for one, where in zip(outside, TRAIN_PLACES, strict=True):
        one.transpose(0, 2, 3, 1)[where[:, IN_BODY] == 0] = 9.0
    spec = dataclasses.replace(EVERYTHING, position_variance=False, directions=1)
    first, other = train_everything(spec=spec), train_everything(spec=spec, tokens=outside)
    for name in ("token_mean", "token_whitener"):
        assert torch.equal(first.model.state_dict()[name], other.model.state_dict()[name])
    everywhere = [image_places(len(one), SIDE, SIDE) for one in TRAIN]
    counted = train_everything(spec=spec, tokens=outside, places=everywhere)
    assert not torch.allclose(counted.model.token_mean, first.model.token_mean)


def test_the_held_out_nll_is_the_least_that_a_covariance_can_give():
    """Of its body, each volume weighing the same; the kept one is of the training scans."""
    run = train_everything(spec=dataclasses.replace(EVERYTHING, position_variance=False))
    by_volume = []
    for one, where in zip(HELD_OUT, HELD_OUT_PLACES, strict=True):
        tokens, places = as_tensors(one, where)
        inside = places[:, IN_BODY] > 0
        nll = run.model.nll(tokens, places).detach()
        by_volume.append(float(nll[inside].double().mean()))
    told = run.curve[run.best_epoch - 1].held_out_nll
    assert told < np.mean(by_volume) < told + 0.1


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_resuming_with_everything_switched_on_equals_not_interrupting(tmp_path, epochs, everything):
    with pytest.raises(Cancelled):
        train_everything(tmp_path, CancelAfterEpochs(epochs, 9))
    assert_same(train_everything(tmp_path), everything)


@pytest.mark.parametrize("preset", list(Preset))
def test_every_preset_trains_without_places(preset):
    """Images stand for themselves."""
    spec = dataclasses.replace(AutoregressiveSpec.from_preset(preset), hidden_channels=8)
    run = train(spec=spec, training=TrainingSpec(epochs=12, batch_size=4))
    assert run.curve[-1].held_out_nll < run.curve[0].held_out_nll
    tokens = torch.from_numpy(HELD_OUT[0].astype(np.float32))
    assert torch.isfinite(run.model.nll(tokens)).all()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    check_checkpoint(path, "nothing there yet")
    train(tmp_path)
    check_checkpoint(path, "this one")
    with pytest.raises(SpatialARError, match="other volumes or settings") as error:
        check_checkpoint(path, "another one")
    assert error.value.code == "checkpoint-other"


@pytest.mark.parametrize("keep", [0, 7, 400])
def test_a_torn_checkpoint_is_told(tmp_path, keep):
    train(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpatialARError, match="cannot be read") as error:
        train(tmp_path)
    assert error.value.code == "checkpoint-damaged"


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """Told in words; with space again, the training goes on as if nothing had been."""
    replaced = []

    def full_after_two(file: int) -> None:
        replaced.append(file)
        if len(replaced) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(os, "fsync", full_after_two)
    with pytest.raises(OutputError) as caught:
        train(tmp_path)
    monkeypatch.undo()
    assert caught.value.code == "training-unwritable"
    assert caught.value.message == (
        "The checkpoint of the training cannot be written (No space left on device)."
    )
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]
    recorder, saved = CancelAfterEpochs(TRAINING.epochs + 1), []
    monkeypatch.setattr(os, "fsync", saved.append)
    assert_same(train(tmp_path, recorder), train())
    assert len(saved) == TRAINING.epochs - 2  # the first two are not done again,
    assert recorder.epochs_left == 1  # but told


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    train(tmp_path, training=TrainingSpec(epochs=2, batch_size=4))
    assert steps == ["fsync", "replace"] * 2


@pytest.mark.parametrize(
    "spec", [SPEC, dataclasses.replace(SPEC, variance=Variance.FULL), EVERYTHING]
)
def test_a_loss_that_is_not_finite_stops_the_training(spec):
    wild = dataclasses.replace(TRAINING, learning_rate=1e30)
    with pytest.raises(SpatialARError, match="must stay finite") as error:
        fit(TRAIN, HELD_OUT, spec, wild, report=SilentReporter())
    assert error.value.code == "training-diverged"


def test_tokens_that_are_not_finite_are_told():
    bad = [TRAIN[0], np.full_like(TRAIN[0], np.nan)]
    with pytest.raises(SpatialARError, match="must stay finite"):
        fit(bad, HELD_OUT, SPEC, TRAINING, report=SilentReporter())
    with pytest.raises(SpatialARError, match="not finite") as error:
        fit(bad, HELD_OUT, EVERYTHING, TRAINING, report=SilentReporter())
    assert error.value.code == "tokens-not-finite"


def test_feature_noise_is_scaled_by_each_slice_and_channel():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.0, 1.0, 10.0])[None, :, None, None]
    tokens = torch.randn(2, 3, 60, 60, generator=generator) * scale + 5.0
    noise = add_feature_noise(tokens, 0.03, generator) - tokens
    assert torch.count_nonzero(noise[:, 0]) == 0
    torch.testing.assert_close(
        noise[:, 1:].std(dim=(2, 3)), 0.03 * tokens[:, 1:].std(dim=(2, 3)), rtol=0.05, atol=0
    )


def test_the_target_stays_clean():
    """Noise of 20 spreads in every batch: in the target it would cost 400 times its variance."""
    noisy = TrainingSpec(epochs=1, batch_size=4, noise_probability=1.0, noise_scale=20.0)
    clean = TrainingSpec(epochs=1, batch_size=4, noise_probability=0.0)
    first = fit(TRAIN, HELD_OUT, SPEC, clean, report=SilentReporter()).curve[0]
    other = fit(TRAIN, HELD_OUT, SPEC, noisy, report=SilentReporter()).curve[0]
    assert other.train_mse > 1.05 * first.train_mse
    assert other.train_mse < 60 * first.train_mse


@pytest.mark.parametrize("count", [2, 3, 5, 10, 28])
def test_the_split_is_a_partition_that_order_does_not_change(count):
    hashes = [f"{(7919 * n) % 1000:03d}" for n in range(count)]
    training, held_out = split_held_out(hashes, TRAINING)
    assert sorted(training + held_out) == list(range(count))
    assert len(held_out) == max(1, round(0.2 * count))
    reordered = hashes[::-1]
    training_again, held_out_again = split_held_out(reordered, TRAINING)
    assert [reordered[index] for index in held_out_again] == [hashes[index] for index in held_out]
    assert [reordered[index] for index in training_again] == [hashes[index] for index in training]


def test_another_seed_holds_out_other_volumes():
    hashes = [f"{n:03d}" for n in range(20)]
    splits = {tuple(split_held_out(hashes, TrainingSpec(seed=seed))[1]) for seed in range(6)}
    assert len(splits) == 6


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides_of_the_split(seed):
    random = np.random.RandomState(seed)
    hashes = [f"{value:04d}" for value in random.permutation(60)]
    patients = [f"p{number}" for number in random.randint(0, 20, 60)]
    training = TrainingSpec(seed=seed)
    split = split_held_out(hashes, training, patients)
    assert sorted(split[0] + split[1]) == list(range(60))
    sides = [{patients[index] for index in side} for side in split]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == round(0.2 * len({*patients}))
    # Neither the order of the scans nor the patients' names change it.
    renamed = [f"{int(name[1:]) * 7 % 20}" for name in patients[::-1]]
    again = split_held_out(hashes[::-1], training, renamed)
    assert [hashes[::-1][index] for index in again[1]] == [hashes[index] for index in split[1]]


def test_scans_of_as_many_patients_are_split_as_before():
    hashes = [f"{n:03d}" for n in range(20)]
    assert split_held_out(hashes, TRAINING, hashes) == split_held_out(hashes, TRAINING)
