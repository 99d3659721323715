"""Compare methods on real images with known lesions: tables, CSV, JSON and a picture.

    .venv/bin/python Testing/Benchmark/real_images.py BMAD/Brain --out tables
    .venv/bin/python Testing/Benchmark/real_images.py cases.csv --normals normals --out tables

Data, measures and results: Resources/Docs/real_images.md.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the package `Benchmark`
    from Benchmark.real.command import main

    main()
