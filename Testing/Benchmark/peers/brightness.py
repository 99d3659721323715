"""The simplest baseline: the mean intensity of each patch.

Where lesions are bright, an intensity threshold outperforms many methods (Meissen et al.,
2021, arXiv 2109.06023), so that every comparison needs it.
"""

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F


def brightness(images: Float[Tensor, "b 1 s t"], patch_px: int) -> Float32[Tensor, "b h w"]:
    """Average each patch of gray images in [0, 1].

    Both sides must be multiples of `patch_px`; with `patch_px` 1 the result is the image
    itself. The score of darkness is 1 − brightness.
    """
    assert not images.shape[2] % patch_px, f"{images.shape[2]} rows in patches of {patch_px}"
    assert not images.shape[3] % patch_px, f"{images.shape[3]} columns in patches of {patch_px}"
    return F.avg_pool2d(images.float(), patch_px)[:, 0]
