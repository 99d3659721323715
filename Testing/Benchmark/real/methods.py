"""The compared methods, all fitted on the same tokens of normal images.

`METHODS` names them. Another network of ours is one line, `METHODS["name"] =
AutoregressiveSpec(...)`; an entry that is deleted is compared no longer.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from Benchmark.peers.coreset import PROJECTED_CHANNELS, coreset_size
from Benchmark.peers.memory_bank import CORESET_RATIO, Distance, MemoryBank, bank_bytes
from Benchmark.peers.position_gaussian import TOKENS_PER_CHANNEL, PositionGaussian
from Benchmark.real.png import code_sha256
from Benchmark.real.tokens import TokenArray
from jaxtyping import Bool, Float, Float32
from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.model.training import fit, split_held_out
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, TrainingSpec
from SpatialARAnomalyLib.service.text import size_text
from SpatialARAnomalyLib.service.training.request import TrainSpec
from torch import Tensor

SCORED_AT_ONCE = 16
"""Images whose tokens are scored together."""

MEMORY_SHARE = 0.5
"""Share of the machine's memory that a memory bank may use."""

CORESET_DISTANCES_CPU, CORESET_DISTANCES_GPU = 2e10, 5e12
"""Maximum number of distances for a coreset selection, about ten minutes of work."""


class Peer(StrEnum):
    """Methods of others, on the same tokens."""

    BANK = "bank"
    """Cosine distance to the nearest of all normal tokens (AnomalyDINO)."""
    CORESET = "coreset"
    """Euclidean distance to the nearest of a tenth of them (PatchCore)."""
    GAUSSIAN = "gaussian"
    """Mahalanobis distance to a Gaussian per position (PaDiM)."""
    BRIGHT = "bright"
    """The gray value."""
    DARK = "dark"
    """1 − the gray value."""


@dataclass(frozen=True)
class Together:
    """The sum of the scores of several methods, each standardized on the training tokens."""

    parts: tuple[str, ...]


Method = AutoregressiveSpec | Together | Peer

SEEDLESS = (Peer.BANK, Peer.BRIGHT, Peer.DARK)
"""Peers that draw no random numbers, run once."""

PAPER = ("standard", "dilated")
"""The presets that are the paper's."""


PRESETS: dict[str, Method] = {
    preset.value: AutoregressiveSpec.from_preset(preset) for preset in Preset
}


def branches(default: AutoregressiveSpec) -> dict[str, Method]:
    """Name the branches of a network, each alone."""
    return {
        f"dilation{one}": dataclasses.replace(default, dilations=(one,))
        for one in default.dilations
    }


BRANCHES = branches(AutoregressiveSpec.from_preset(TrainSpec.preset))
PEERS: dict[str, Method] = {peer.value: peer for peer in Peer}

SQUARED_ERROR: dict[str, Method] = {
    "squared-error": dataclasses.replace(
        AutoregressiveSpec.from_preset(TrainSpec.preset), shrinkage=1.0
    )
}
"""The default network with equal variances, which rank as its squared error."""

METHODS: dict[str, Method] = (
    PRESETS | {"standard&dilated": Together(PAPER)} | PEERS | BRANCHES | SQUARED_ERROR
)
"""Methods by name, in the order of the tables."""

GROUPS = {"presets": PRESETS, "branches": BRANCHES, "peers": PEERS, "all": METHODS}
"""Names that stand for several methods."""


def identity_of(method: Method) -> object:
    """Return what identifies a method, whatever its name."""
    if isinstance(method, Peer):
        return method.value
    if isinstance(method, Together):
        return [identity_of(METHODS[part]) for part in method.parts]
    return method.to_dict()


def parse_methods(names: str) -> list[str]:
    """Parse a comma-separated list of methods and groups; duplicates are dropped.

    Raises `SpecError` `method-unknown` for an unknown name or an empty list.
    """
    chosen = _split(names)
    unknown = [name for name in chosen if name not in METHODS and name not in GROUPS]
    if unknown or not chosen:
        raise SpecError(
            "method-unknown",
            f"Methods must be among {', '.join([*GROUPS, *METHODS])}, separated by commas; "
            f"found {unknown[0] if unknown else 'none'!r}.",
        )
    return list(dict.fromkeys(chain(*(GROUPS.get(name, [name]) for name in chosen))))


def parse_seeds(seeds: str) -> list[int]:
    """Parse a comma-separated list of seeds; duplicates are dropped.

    Raises `SpecError` `seed-unreadable` for anything but whole numbers from 0.
    """
    parts = _split(seeds)
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong or not parts:
        raise SpecError(
            "seed-unreadable",
            f"Seeds must be whole numbers from 0; found {wrong[0] if wrong else 'none'!r}. "
            "Separate them by commas, as in 42,43,44.",
        )
    return list(dict.fromkeys(int(part) for part in parts))


def _split(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


Score = Callable[[Float[Tensor, "b c h w"]], Float32[Tensor, "b h w"]]
"""Scores tokens; higher is more anomalous."""


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """A method cannot run on this machine; the message says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Normals:
    """The normal training images, by patient."""

    tokens: Sequence[TokenArray]
    inside: Sequence[Bool[np.ndarray, "_ h w"]]
    """Masks of the tokens that count."""
    sha256: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted method."""

    score: Score
    size_bytes: int
    """Memory needed to score, in bytes, without the encoder."""

    def score_all(self, tokens: TokenArray) -> Float32[np.ndarray, "n h w"]:
        """Score all images of a patient."""
        parts = []
        for start in range(0, len(tokens), SCORED_AT_ONCE):
            some = np.array(tokens[start : start + SCORED_AT_ONCE], np.float32)
            parts.append(self.score(torch.from_numpy(some)).cpu().numpy())
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Fitter:
    """Fits methods on normal images."""

    normals: Normals
    preparation: str
    """Values that decide the tokens, beside the images (`Patients.preparation`) and the encoder."""
    encoder_sha256: str
    training: TrainingSpec
    work: Path
    """Folder of checkpoints: an interrupted training resumes, a finished one is not repeated."""
    device: torch.device
    report: Reporter

    def fit(self, method: Method, seed: int) -> Fitted:
        """Fit a method of tokens. Raises `NotRun` if this machine cannot."""
        if isinstance(method, Together):
            return self._together(method, seed)
        if isinstance(method, Peer):
            return self._peer(method, seed)
        return self._network(method, dataclasses.replace(self.training, seed=seed))

    def decisive(self, method: Method) -> dict[str, object]:
        """Return what decides on a fitted method, beside its seed."""
        found: dict[str, object] = {
            "normals": sorted(self.normals.sha256),
            "preparation": self.preparation,
            "encoder": self.encoder_sha256,
            "device": self.device.type,
            "method": identity_of(method),
        }
        if not isinstance(method, Peer):
            # The seed is that of the method.
            training = self.training.to_dict() | {"seed": 0}
            found |= {"code": code_sha256("model"), "training": training}
        return found

    def split(self, seed: int) -> tuple[list[int], list[int]]:
        """Return the indices of the patients that are trained on, and of those held out."""
        return split_held_out(self.normals.sha256, dataclasses.replace(self.training, seed=seed))

    def _network(self, spec: AutoregressiveSpec, training: TrainingSpec) -> Fitted:
        """Train a network; the NLL of held-out normal patients selects the epoch."""
        decisive = self.decisive(spec) | {"seed": training.seed}
        fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        tokens, held_tokens = (
            [self.normals.tokens[index] for index in part] for part in self.split(training.seed)
        )
        run = fit(
            tokens,
            held_tokens,
            spec,
            training,
            report=self.report,
            device=self.device,
            checkpoint=self.work / f"{fingerprint}.checkpoint",
            fingerprint=fingerprint,
        )
        model = run.model.eval()

        @torch.inference_mode()
        def score(tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
            with exact_float32():
                return model.nll(tokens.to(self.device))

        size = sum(one.numel() * one.element_size() for one in model.state_dict().values())
        return Fitted(score=score, size_bytes=size)

    def _together(self, method: Together, seed: int) -> Fitted:
        fitted = [self.fit(METHODS[name], seed) for name in method.parts]
        chosen, _ = self.split(seed)
        scales = []
        for one in fitted:
            seen = np.concatenate(
                [one.score_all(self.normals.tokens[index]).ravel() for index in chosen]
            )
            scales.append((float(seen.mean()), float(seen.std())))

        def score(tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
            parts = [
                (one.score(tokens) - mean) / std
                for one, (mean, std) in zip(fitted, scales, strict=True)
            ]
            return torch.stack(parts).sum(dim=0)

        return Fitted(score=score, size_bytes=sum(one.size_bytes for one in fitted))

    def _peer(self, peer: Peer, seed: int) -> Fitted:
        """Fit a peer on all normal images; it selects nothing and needs no held-out ones."""
        tokens, inside = self.normals.tokens, self.normals.inside
        if peer is Peer.GAUSSIAN:
            images = sum(len(one) for one in tokens)
            if images < TOKENS_PER_CHANNEL:
                raise NotRun(f"needs {TOKENS_PER_CHANNEL} normal images; there are {images}")
            gaussian = PositionGaussian.fit(tokens, inside, seed=seed, device=self.device)
            return Fitted(score=gaussian.score, size_bytes=gaussian.size_bytes)
        count, channels = sum(one.sum().item() for one in inside), tokens[0].shape[1]
        needed = bank_bytes(count, channels, tokens[0].itemsize)
        if peer is Peer.CORESET:
            needed += 4 * count * (min(channels, PROJECTED_CHANNELS) + 2)
            distances = count * coreset_size(count, CORESET_RATIO)
            limit = CORESET_DISTANCES_GPU if self.device.type == "cuda" else CORESET_DISTANCES_CPU
            if distances > limit:
                raise NotRun(
                    f"needs {distances:.1e} distances; {limit:.0e} are allowed on {self.device}"
                )
        room = _memory_bytes(self.device)
        if room is not None and needed > MEMORY_SHARE * room:
            raise NotRun(
                f"needs {size_text(needed)} of memory; {size_text(MEMORY_SHARE * room)} may be used"
            )
        bank = MemoryBank.fit(
            tokens,
            inside,
            distance=Distance.COSINE if peer is Peer.BANK else Distance.EUCLIDEAN,
            coreset_ratio=None if peer is Peer.BANK else CORESET_RATIO,
            seed=seed,
            device=self.device,
            report=self.report,
        )
        size = bank.tokens.numel() * bank.tokens.element_size()
        return Fitted(score=bank.score, size_bytes=size)


def _memory_bytes(device: torch.device) -> int | None:
    """Memory of the machine, or free memory of a GPU, in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
