"""One color per rank, the same in the segmentation and in pictures."""

# Okabe & Ito's palette (told apart with color-blind eyes and on gray), without black.
_PALETTE = (
    (0.835, 0.369, 0.000),
    (0.337, 0.706, 0.914),
    (0.000, 0.620, 0.451),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.902, 0.624, 0.000),
    (0.000, 0.447, 0.698),
)


def rank_color(rank: int) -> tuple[float, float, float]:
    """RGB in [0, 1] of the finding of that rank (from 1)."""
    return _PALETTE[(rank - 1) % len(_PALETTE)]
