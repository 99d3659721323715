"""Student's t distribution with a whole number of degrees of freedom, without scipy.

Slicer shows what these say before any package is installed.
"""

import math
from functools import cache


def t_above(t: float, freedom: int) -> float:
    """How likely Student's t lies above `t`, to 1e-14 absolute.

    The finite series of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4.
    """
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (step - 1) / step
    inside = 2.0 / math.pi * (angle + sine * total) if odd else sine * total
    return (1.0 - inside) / 2.0


@cache
def t_two_sided(level: float, freedom: int) -> float:
    """The t that |t| exceeds with probability 1 − `level`."""
    low, high = 0.0, 1.0
    while t_above(high, freedom) > (1.0 - level) / 2.0:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        if t_above(middle, freedom) > (1.0 - level) / 2.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
