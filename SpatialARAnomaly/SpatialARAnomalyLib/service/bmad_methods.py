"""The methods that a BMAD table compares, all on the same tokens, fitted on normal images."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..engine.brightness import brightness
from ..engine.coreset import PROJECTED_CHANNELS, coreset_size
from ..engine.device import exact_float32
from ..engine.memory_bank import (
    CORESET_RATIO,
    Distance,
    MemoryBank,
    NormalTokens,
    bank_bytes,
)
from ..engine.position_gaussian import TOKENS_PER_CHANNEL, PositionGaussian
from ..engine.progress import Reporter
from ..engine.specs import AutoregressiveSpec, Preset, TrainingSpec
from ..engine.training import fit, split_held_out
from .bmad_names import Peer
from .quantities import size_text

Score = Callable[[Float[Tensor, "b c h w"]], Float32[Tensor, "b h w"]]

MEMORY_SHARE = 0.5
"""Of a machine's memory that a bank may take; the rest is for what else runs there."""

CORESET_DISTANCES_CPU, CORESET_DISTANCES_GPU = 2e10, 5e12
"""Distances that the choice of a coreset may take: about ten minutes."""


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """A method cannot be run here; the message says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Normals:
    """The normal training images."""

    tokens: Sequence[NormalTokens]
    """One array [image, c, h, w] per patient, mapped from disk."""
    sha256: Sequence[str]
    """Of every patient's images."""

    @property
    def token_count(self) -> int:
        """All their tokens."""
        return sum(one[:, 0].size for one in self.tokens)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A method ready to score."""

    score: Score
    size_bytes: int
    """What it must keep in memory to score, beside the encoder."""
    on_images: bool = False
    """Whether it scores the encoder's images rather than their tokens."""


def fit_autoregressive(
    preset: Preset,
    training: TrainingSpec,
    normals: Normals,
    encoder_sha256: str,
    work: Path,
    device: torch.device,
    report: Reporter,
) -> Fitted:
    """The network of a preset; its epoch is chosen by the NLL of held-out normal patients.

    Its checkpoint stays in `work`, so that an interrupted or repeated command
    does not train again.
    """
    spec = AutoregressiveSpec.from_preset(preset)
    decisive = {
        "normals": sorted(normals.sha256),
        "encoder": encoder_sha256,
        "autoregressive": spec.to_dict(),
        "training": training.to_dict(),
    }
    fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    chosen, held_out = split_held_out(normals.sha256, training)
    run = fit(
        [normals.tokens[index] for index in chosen],
        [normals.tokens[index] for index in held_out],
        spec,
        training,
        report=report,
        device=device,
        checkpoint=work / f"{fingerprint}.checkpoint",
        fingerprint=fingerprint,
    )
    model = run.model.eval()

    @torch.inference_mode()
    def score(tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
        with exact_float32():
            return model.nll(tokens.to(device))

    size = sum(one.numel() * one.element_size() for one in model.state_dict().values())
    return Fitted(score=score, size_bytes=size)


def fit_peer(
    peer: Peer, seed: int, normals: Normals, device: torch.device, report: Reporter
) -> Fitted:
    """A peer, fitted on all normal images: it chooses nothing that would need held-out ones.

    Raises `NotRun` where it would take too much memory or time here.
    """
    if peer is Peer.BRIGHT:
        return Fitted(score=lambda images: brightness(images, 1), size_bytes=0, on_images=True)
    if peer is Peer.DARK:
        return Fitted(score=lambda images: 1 - brightness(images, 1), size_bytes=0, on_images=True)
    if peer is Peer.GAUSSIAN:
        images = sum(len(one) for one in normals.tokens)
        if images < TOKENS_PER_CHANNEL:
            raise NotRun(f"needs {TOKENS_PER_CHANNEL} normal images; there are {images}")
        gaussian = PositionGaussian.fit(normals.tokens, seed=seed, device=device)
        return Fitted(score=gaussian.score, size_bytes=gaussian.size_bytes)
    count, channels = normals.token_count, normals.tokens[0].shape[1]
    needed = bank_bytes(count, channels, normals.tokens[0].itemsize)
    if peer is Peer.CORESET:
        needed += 4 * count * (min(channels, PROJECTED_CHANNELS) + 2)
        distances = count * coreset_size(count, CORESET_RATIO)
        limit = CORESET_DISTANCES_GPU if device.type == "cuda" else CORESET_DISTANCES_CPU
        if distances > limit:
            raise NotRun(f"needs {distances:.1e} distances; {limit:.0e} are allowed on {device}")
    room = _memory_bytes(device)
    if room is not None and needed > MEMORY_SHARE * room:
        raise NotRun(
            f"needs {size_text(needed)} of memory; {size_text(MEMORY_SHARE * room)} may be used"
        )
    bank = MemoryBank.fit(
        normals.tokens,
        distance=Distance.COSINE if peer is Peer.BANK else Distance.EUCLIDEAN,
        coreset_ratio=None if peer is Peer.BANK else CORESET_RATIO,
        seed=seed,
        device=device,
        report=report,
    )
    return Fitted(score=bank.score, size_bytes=bank.tokens.numel() * bank.tokens.element_size())


def _memory_bytes(device: torch.device) -> int | None:
    """All memory of the device (free memory of a GPU); none where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
