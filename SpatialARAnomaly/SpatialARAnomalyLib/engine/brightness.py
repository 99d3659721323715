"""The plainest peer: how bright or dark a patch is.

Where lesions are bright, a threshold of intensity beats many methods (Meissen
et al., 2021, arXiv 2109.06023): a method must be shown beside it.
"""

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F


def brightness(images: Float[Tensor, "b 1 s t"], patch_px: int) -> Float32[Tensor, "b h w"]:
    """The mean of every patch of gray images in [0, 1]; 1 − it is the score of darkness.

    Sides must be multiples of `patch_px`. With `patch_px` 1 it is the image itself.
    """
    assert not images.shape[2] % patch_px, f"{images.shape[2]} rows in patches of {patch_px}"
    assert not images.shape[3] % patch_px, f"{images.shape[3]} columns in patches of {patch_px}"
    return F.avg_pool2d(images.float(), patch_px)[:, 0]
