"""Fits the compared methods, all on the same tokens of normal images."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from Benchmark.bmad.choices import Peer
from Benchmark.peers.brightness import brightness
from Benchmark.peers.coreset import PROJECTED_CHANNELS, coreset_size
from Benchmark.peers.memory_bank import (
    CORESET_RATIO,
    Distance,
    MemoryBank,
    NormalTokens,
    bank_bytes,
)
from Benchmark.peers.position_gaussian import TOKENS_PER_CHANNEL, PositionGaussian
from jaxtyping import Float, Float32
from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.model.training import (
    fit,
    split_held_out,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.text import size_text
from torch import Tensor

Score = Callable[[Float[Tensor, "b c h w"]], Float32[Tensor, "b h w"]]
"""Scores tokens (or images); higher is more anomalous."""

MEMORY_SHARE = 0.5
"""Share of the machine's memory that a memory bank may use."""

CORESET_DISTANCES_CPU, CORESET_DISTANCES_GPU = 2e10, 5e12
"""Maximum number of distances for a coreset selection, about ten minutes of work."""


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """A method cannot run on this machine; the message says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Normals:
    """The normal training images."""

    tokens: Sequence[NormalTokens]
    """One array [image, c, h, w] per patient, memory-mapped."""
    sha256: Sequence[str]
    """Hash of each patient's images, in the order of `tokens`."""

    @property
    def token_count(self) -> int:
        """Number of all tokens."""
        return sum(one[:, 0].size for one in self.tokens)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted method."""

    score: Score
    size_bytes: int
    """Memory needed to score, in bytes, without the encoder."""
    on_images: bool = False
    """True if it scores the encoder's images instead of tokens."""


def fit_autoregressive(
    preset: Preset,
    training: TrainingSpec,
    normals: Normals,
    encoder_sha256: str,
    work: Path,
    device: torch.device,
    report: Reporter,
) -> Fitted:
    """Train the network of a preset; the NLL of held-out normal patients selects the epoch.

    The checkpoint stays in `work`, so that an interrupted training resumes and a finished
    one is not repeated.
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
    """Fit a peer on all normal images; it selects nothing and needs no held-out ones.

    Raises `NotRun` if it would take too much memory or time on this machine.
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
    """Memory of the machine, or free memory of a GPU, in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
