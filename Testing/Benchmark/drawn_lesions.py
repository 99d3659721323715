"""Measure methods on lesions drawn into normal scans, and false alarms on fresh normal persons.

    .venv/bin/python Testing/Benchmark/drawn_lesions.py normals --every 4 --out tables

Cross-validated over persons. Measures and results: Resources/Docs/real_images.md.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the package `Benchmark`
    from Benchmark.real.command import drawn, main

    main(drawn)
