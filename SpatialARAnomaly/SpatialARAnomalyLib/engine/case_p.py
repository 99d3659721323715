"""How unusual a whole scan is among normal scans, from few of them."""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

MIN_NORMALS = 3
"""With fewer held-out normal scans there is no case p-value: their spread is unknown."""

PRIOR_SCANS = 20
"""Normal scans that what is assumed weighs as much as: below it the t leads, above it the ranks."""

BEYOND = 10
"""p is never less than this part of what counting could show: further out no normal scan
has been seen, and what a curve says there is only the curve's."""

_LEAST_TAIL = 1e-9


def case_p_value(score: float, normal_scores: Sequence[float], lowest: float) -> float | None:
    """How likely a new normal scan's case score reaches this one; uniform on normal scans.

    None with fewer than `MIN_NORMALS`. A mean of two answers, weighted
    `PRIOR_SCANS` to n + 1 (the posterior mean of a Dirichlet process, Ferguson
    1973):

    - Student's t for one more observation, n − 1 degrees of freedom and scale
      s·√(1 + 1/n), of log(score − `lowest`), where `lowest` is the least NLL
      there is: smooth, exact for log-normal scores, wide with few scans.
    - The rank, (1 + r)/(1 + n) where r scores reach this one, exact for
      whatever scores; between ranks it goes as the t does, and so beyond the last.

    It falls with the score, and does not depend on the NLL's unit and zero.
    """
    count = len(normal_scores)
    if count < MIN_NORMALS:
        return None
    if score <= lowest:
        return 1.0
    scores = sorted(normal_scores)
    reaching = count - bisect_left(scores, score)
    if scores[0] == scores[-1] or scores[0] <= lowest:
        return (1 + reaching) / (1 + count)  # no spread to go by: counting alone
    # Here, so that the panel opens quickly; Slicer bundles scipy.
    from scipy.special import stdtr

    logs = [math.log(one - lowest) for one in scores]
    middle = statistics.fmean(logs)
    scale = statistics.stdev(logs, middle) * math.sqrt(1 + 1 / count)

    def tail(log: float) -> float:
        return max(_LEAST_TAIL, float(stdtr(count - 1, (middle - log) / scale)))

    student = tail(math.log(score - lowest))
    above = count - bisect_right(scores, score)
    if reaching > above:
        rank = reaching / (1 + count)
    else:
        low = tail(logs[count - above]) if above else 0.0
        high = tail(logs[count - above - 1]) if above < count else 1.0
        part = min(1.0, (student - low) / (high - low)) if high > low else 1.0
        rank = (above + part) / (1 + count)
    p = (PRIOR_SCANS * student + (1 + count) * rank) / (PRIOR_SCANS + 1 + count)
    return max(p, least_case_p(count))


def least_case_p(normals: int) -> float:
    """The least p-value that so many normal scans are allowed to give."""
    return 1 / (BEYOND * (1 + normals))
