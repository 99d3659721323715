"""Compare methods on BMAD's public data sets: prints a table, writes CSV, JSON and a picture.

    .venv/bin/python Testing/Benchmark/bmad.py BMAD/Brain --set brats2021 --out tables

Data, protocols and results: Resources/Docs/bmad.md.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the package `Benchmark`
    from Benchmark.bmad.command import main

    main()
