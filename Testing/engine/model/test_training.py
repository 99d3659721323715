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
from SpatialARAnomalyLib.engine.model import training as training_module
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.checkpoint import check_checkpoint
from SpatialARAnomalyLib.engine.model.training import (
    add_feature_noise,
    fit,
    split_held_out,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, TrainingSpec

CHANNELS, SIDE = 6, 7
SPEC = AutoregressiveSpec(hidden_channels=12, layers=3, dilations=(1, 2))
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


@pytest.mark.parametrize("dilations", [(1,), (1, 2)])
def test_a_branch_s_variance_is_its_held_out_squared_error(dilations):
    """Each volume weighs the same."""
    run = train(spec=dataclasses.replace(SPEC, dilations=dilations))
    by_volume = []
    for one in HELD_OUT:
        tokens = torch.from_numpy(one.astype(np.float32))
        by_volume.append((run.model(tokens) - tokens).double().square().mean(dim=(1, 2, 3, 4)))
    expected = torch.stack(by_volume).mean(dim=0).float()
    torch.testing.assert_close(run.model.variance, expected, rtol=1e-4, atol=1e-7)


def test_the_covariance_of_held_out_errors_is_shrunk():
    """The NLL is a Gaussian's of that covariance; training does not depend on shrinkage."""
    model = train(spec=dataclasses.replace(SPEC, dilations=(1,), shrinkage=0.4)).model
    equal = train(spec=dataclasses.replace(SPEC, dilations=(1,))).model
    for name, value in equal.branches.state_dict().items():
        assert torch.equal(model.branches.state_dict()[name], value), name
    found = []
    for one in HELD_OUT:
        tokens = torch.from_numpy(one.astype(np.float32))
        errors = (model(tokens)[0] - tokens).double().movedim(1, -1).flatten(0, 2)
        found.append(errors.mT @ errors / len(errors))
    covariance = torch.stack(found).mean(dim=0)
    sigma = 0.4 * covariance.diagonal().mean() * torch.eye(len(covariance)) + 0.6 * covariance
    tokens = torch.randn(1, len(covariance), 3, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(len(covariance), dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(zero, sigma)
    errors = (model(tokens)[0] - tokens).double().movedim(1, -1)
    expected = (-gaussian.log_prob(errors) / len(covariance)).float()
    torch.testing.assert_close(model.nll(tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_a_branch_trains_as_if_it_were_alone(monkeypatch, which):
    """With the same first weights, order and noise."""
    training = dataclasses.replace(TRAINING, epochs=2)
    together = train(training=training)

    def as_the_branch(spec, channels):
        first = AutoregressiveModel(SPEC, channels).branches[which].state_dict()
        model = AutoregressiveModel(spec, channels)
        model.branches[0].load_state_dict(first)
        return model

    monkeypatch.setattr(training_module, "AutoregressiveModel", as_the_branch)
    one = (SPEC.dilations[which],)
    alone = train(training=training, spec=dataclasses.replace(SPEC, dilations=one))
    assert together.best_epoch == alone.best_epoch == 2
    torch.testing.assert_close(together.model.variance[[which]], alone.model.variance)
    branch = together.model.branches[which].state_dict()
    for name, value in alone.model.branches[0].state_dict().items():
        torch.testing.assert_close(branch[name], value, msg=name)


@pytest.mark.parametrize("preset", list(Preset))
def test_every_preset_trains(preset):
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
        if len(replaced) > 4:  # twice the file, twice its folder
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
    assert len(saved) == 2 * (TRAINING.epochs - 2)  # the first two are not done again,
    assert recorder.epochs_left == 1  # but told


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    train(tmp_path, training=TrainingSpec(epochs=2, batch_size=4))
    assert steps == ["fsync", "replace", "fsync"] * 2


def test_a_loss_that_is_not_finite_stops_the_training():
    wild = dataclasses.replace(TRAINING, learning_rate=1e30)
    with pytest.raises(SpatialARError, match="must stay finite") as error:
        fit(TRAIN, HELD_OUT, SPEC, wild, report=SilentReporter())
    assert error.value.code == "training-diverged"


def test_tokens_that_are_not_finite_are_told():
    bad = [TRAIN[0], np.full_like(TRAIN[0], np.nan)]
    with pytest.raises(SpatialARError, match="must stay finite"):
        fit(bad, HELD_OUT, SPEC, TRAINING, report=SilentReporter())


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
