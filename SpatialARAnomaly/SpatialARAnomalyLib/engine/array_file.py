"""Arrays in `.npy` files."""

from pathlib import Path

import numpy as np


def map_array(path: Path) -> np.ndarray:
    """Map the array of a `.npy` file, read-only; raises `OSError`, or else `ValueError`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # also `SyntaxError` and `tokenize.TokenError`, of a damaged header
        raise ValueError("not an array in a .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("not an array in a .npy file")
    return array
