"""How fast the program is, beside what it could be: prints tables, appends a JSON line.

    PYTHONPATH=Testing python Testing/Benchmark/speed.py --markdown tables.md --pictures OUT

Parts (`--list`) live in `speed/`; every comparison is of things run in turn in one
process. What is measured and the figures: Resources/Docs/benchmarks.md.
"""

from Benchmark.speed.command import app

if __name__ == "__main__":
    app()
