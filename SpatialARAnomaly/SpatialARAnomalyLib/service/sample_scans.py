"""Seeded scans to try the program on: what the demonstration model learns, and what it never saw.

Of every seed there are a thousand heads: the first has a lesion, the next ten
train the demonstration model, and one in the middle is normal and unseen.
"""

import numpy as np
from jaxtyping import Bool

from ..engine.phantom import PhantomHead, add_lesion, normal_head

NORMALS = 10
"""Enough that two can be held out, few enough for a demo."""

CONTRAST = 0.6
"""Of the lesion, in units of white matter: a strongly enhancing mass."""

_UNSEEN = 500


def training_head(seed: int, number: int) -> PhantomHead:
    """A normal head that the demonstration model of this seed learns from (from 1)."""
    return normal_head(1000 * seed + number)


def unseen_head(seed: int) -> PhantomHead:
    """A normal head that no demonstration model learns from."""
    return normal_head(1000 * seed + _UNSEEN)


def head_with_lesion(seed: int) -> tuple[PhantomHead, Bool[np.ndarray, "k j i"]]:
    """A head that no demonstration model learns from, with a lesion, and the lesion's voxels."""
    return add_lesion(normal_head(1000 * seed), seed, contrast=CONTRAST)
