"""Draw the loss curve of a training of the demonstration encoder.

python Testing/Data/encoder_curve.py CURVE.jsonl OUT.png
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from Data.encoder_objective import SHARES


def main() -> None:
    """Draw the curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description="Draw a loss curve.")
    parser.add_argument("curve", type=Path, help="what the training wrote with --log")
    parser.add_argument("picture", type=Path)
    chosen = parser.parse_args()
    curve = [json.loads(line) for line in chosen.curve.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name in ("loss", *SHARES):
        axes.plot([one["step"] for one in curve], [one[name] for one in curve], label=name)
    axes.set(xlabel="step", ylabel="unexplained share of the variance", yscale="log")
    axes.legend(ncols=2)
    figure.savefig(chosen.picture, dpi=120)


if __name__ == "__main__":
    main()
