"""One number for a whole scan: how high the NLL (or another score) of its highest part is."""

import math

import numpy as np
from jaxtyping import Float

from .errors import InputError

TOP_SHARE = 0.01
"""Share of the body that the score is of: more than a few odd voxels at the skull, and
as small as a lesion can be that matters for the scan as a whole."""


def case_score(nll: Float[np.ndarray, " n"]) -> float:
    """The mean NLL of the highest hundredth of the body's voxels, nats per channel.

    A share and not a number of voxels, and the last of them counted in part: so
    it is the same at any voxel size and order (the expected shortfall of
    finance). It never falls when the NLL of any voxel rises, and moves with the
    NLL's unit and zero. Raises `InputError` without voxels, or where some are
    not finite.
    """
    if nll.size == 0 or not np.isfinite(nll).all():
        raise InputError(
            "case-score-input",
            "A case score needs the finite NLL of at least one voxel; found "
            f"{nll.size} voxels, {int(np.count_nonzero(np.isfinite(nll)))} of them finite.",
        )
    wanted = TOP_SHARE * nll.size
    kept = math.ceil(wanted)
    top = np.sort(np.partition(nll, nll.size - kept)[nll.size - kept :]).astype(np.float64)
    weights = np.ones(kept)
    weights[0] = wanted - (kept - 1)  # the lowest of them is the one counted in part
    return float(weights @ top / wanted)
