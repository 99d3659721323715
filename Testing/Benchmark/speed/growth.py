"""Growth of a cost with the work: fitted powers, and pictures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Fit:
    """The fit cost = factor · work^exponent, by least squares of the logarithms."""

    exponent: float
    error: float
    """Standard error of the exponent; 0 for two points."""
    factor: float


def exponent(work: Sequence[float], cost: Sequence[float]) -> Fit:
    """Fit the power of `work` in `cost`; both positive, at least two points."""
    assert len(work) == len(cost) >= 2, (len(work), len(cost))
    x, y = np.log(work), np.log(cost)
    away = x - x.mean()
    slope = float(away @ (y - y.mean()) / (away @ away))
    offset = float(y.mean() - slope * x.mean())
    rest = y - offset - slope * x
    error = float(np.sqrt(rest @ rest / max(1, len(x) - 2) / (away @ away)))
    return Fit(slope, error if len(x) > 2 else 0.0, float(np.exp(offset)))


def draw_growth(
    path: Path,
    work_label: str,
    cost_label: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    """Draw every series (work, cost) with its fit on logarithmic axes, 600 px wide."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, (work, cost) in series.items():
        fit = exponent(work, cost)
        (line,) = axes.plot(work, cost, "o", label=f"{name}: exponent {fit.exponent:.2f}")
        ends = np.array([min(work), max(work)], float)
        axes.plot(ends, fit.factor * ends**fit.exponent, "-", lw=1, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel=work_label, ylabel=cost_label)
    ticks = sorted({one for work, _ in series.values() for one in work})
    axes.set_xticks(ticks, [f"{one:,.0f}" if one >= 10 else f"{one:.2g}" for one in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", lw=0.4)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
