"""Compare our peers with anomalib's own classes on the same tokens: prints a table.

    pip install ".[torch,benchmark]"
    PYTHONPATH=Testing python Testing/Benchmark/anomalib_peers.py  # a minute, 2 GB of memory

Tokens of the demonstration encoder: 16 normal heads for fitting, 2 heads with a lesion are scored
(seeded; 10 slices each at 224 px). anomalib's models embed images themselves; here they get
tokens, and everything after the encoder is theirs: the nearest neighbor of AnomalyDINO and of
PatchCore, PatchCore's coreset, PaDiM's Gaussians and distance. Columns: the largest difference of
two scores, the mean score, and seconds to fit and score. The coresets begin with the same token
and the same projection, so they must hold the same tokens. With different projections they are
compared by their radius, the largest distance of a normal token to its nearest in the coreset.
"""

import importlib.metadata
import time

import numpy as np
import torch
from anomalib.models.components import KCenterGreedy, MultiVariateGaussian
from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from Benchmark.peers.coreset import k_center_greedy, sparse_projection
from Benchmark.peers.memory_bank import Distance, MemoryBank
from Benchmark.peers.position_gaussian import PositionGaussian
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.demo.phantom import (
    add_lesion,
    normal_head,
)
from torch.nn import functional as F

HEADS, SIZE_PX, CORESET_RATIO, CHANNELS = 16, 224, 0.02, 40
ANOMALIB_RIDGE = 0.01 + 1e-5
"""Variance that anomalib adds to each channel, a little more than in the paper."""


def tokens_of(encoder, head):
    """Embed the slices of a head as float32 [slice, c, h, w]."""
    voxels = torch.from_numpy(head.voxels[7:17].astype(np.float32))[:, None]
    images = F.interpolate(voxels / voxels.max(), (SIZE_PX, SIZE_PX), mode="bilinear")
    return encoder.embed(images).numpy()


class GivenTokens(AnomalyDINOModel):
    """AnomalyDINO without its encoder: its "images" are given tokens."""

    def __init__(self, bank):
        torch.nn.Module.__init__(self)
        self.masking, self.num_neighbours, self.patch_size = False, 1, 1
        self.register_buffer("memory_bank", bank)
        self.anomaly_map_generator = lambda scores, _size: scores

    def extract_features(self, image_tensor):
        return image_tensor.flatten(2).transpose(1, 2)


class OurProjection:
    """Replaces anomalib's projection, whose width depends on the tokens' channels."""

    def __init__(self, matrix):
        self.matrix = matrix

    def fit(self, _embedding):
        return self

    def transform(self, embedding):
        return embedding @ self.matrix


def rows(tokens):
    return torch.from_numpy(np.moveaxis(tokens, 1, -1).reshape(-1, tokens.shape[1]).copy())


def timed(function):
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


def print_row(name, ours, theirs, seconds):
    difference = float((ours - theirs).abs().max())
    print(
        f"| {name} | {difference:.1e} | {float(theirs.mean()):.4f} | {seconds[0]:.2f} | "
        f"{seconds[1]:.2f} |"
    )


def patchcore(bank, queries):
    model = PatchcoreModel.__new__(PatchcoreModel)
    torch.nn.Module.__init__(model)
    model.register_buffer("memory_bank", bank)
    batch, _, height, width = queries.shape
    scores, _ = model.nearest_neighbors(rows(queries), 1)
    return scores.reshape(batch, height, width)


def padim(normals, queries):
    statistics = MultiVariateGaussian().fit(normals)
    return AnomalyMapGenerator.compute_distance(queries, statistics)[:, 0]


def main():
    encoder = load_encoder(DEMONSTRATION)
    normals = [tokens_of(encoder, normal_head(seed)) for seed in range(HEADS)]
    heads = [add_lesion(normal_head(seed), seed)[0] for seed in (100, 101)]
    queries = np.concatenate([tokens_of(encoder, head) for head in heads])
    given, bank = torch.from_numpy(queries), rows(np.concatenate(normals))
    print(
        f"anomalib {importlib.metadata.version('anomalib')}, torch {torch.__version__}: "
        f"{len(bank)} normal tokens of {bank.shape[1]} channels, {len(rows(queries))} scored\n"
    )
    print("| peer | largest difference | mean score | ours, s | anomalib, s |")
    print("| --- | --- | --- | --- | --- |")

    ours, first = timed(lambda: MemoryBank.fit(normals).score(given))
    with torch.inference_mode():
        theirs, second = timed(
            lambda: GivenTokens(F.normalize(bank)).eval()(given).anomaly_map[:, 0]
        )
    print_row("nearest, cosine (AnomalyDINO)", ours, theirs, (first, second))

    ours, first = timed(lambda: MemoryBank.fit(normals, distance=Distance.EUCLIDEAN).score(given))
    theirs, second = timed(lambda: patchcore(bank, queries))
    print_row("nearest, Euclidean (PatchCore)", ours, theirs, (first, second))

    ours, first = timed(
        lambda: PositionGaussian.fit(normals, channels=CHANNELS, ridge=ANOMALIB_RIDGE)
    )
    reduced = [
        torch.einsum("bchw,cd->bdhw", one, ours.basis)
        for one in (torch.from_numpy(np.concatenate(normals)), given)
    ]
    theirs, second = timed(lambda: padim(*reduced))
    scored, more = timed(lambda: ours.score(given))
    print_row(f"Gaussian, {ours.channels} channels (PaDiM)", scored, theirs, (first + more, second))

    matrix = sparse_projection(bank.shape[1], 64, torch.Generator().manual_seed(0))
    sampler = KCenterGreedy(bank, CORESET_RATIO)
    sampler.model = OurProjection(matrix)
    torch.manual_seed(0)
    theirs, second = timed(sampler.select_coreset_idxs)
    ours, first = timed(
        lambda: k_center_greedy(
            bank @ matrix, len(theirs), first=theirs[0], report=SilentReporter()
        )
    )
    shared = len(set(ours.tolist()) & set(theirs))
    print(f"\nCoreset of {len(theirs)}: {shared} the same ({first:.1f} s and {second:.1f} s).")
    torch.manual_seed(0)
    own = KCenterGreedy(bank, CORESET_RATIO).sample_coreset()
    kept = MemoryBank.fit(normals, distance=Distance.EUCLIDEAN, coreset_ratio=CORESET_RATIO).tokens
    drawn = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[: len(own)]]
    radii = [
        float(MemoryBank(one, Distance.EUCLIDEAN).score(bank.T[None, :, None]).max())
        for one in (kept, own, drawn)
    ]
    print("Radius: ours {:.2f}, anomalib's {:.2f}, drawn at random {:.2f}.".format(*radii))


if __name__ == "__main__":
    main()
