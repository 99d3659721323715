"""The parts of the phantom suite, in data order.

heads (the cohort) → scans (slices and tokens, embedded once) → methods (fit, score) →
measures (one head's figures) → summary (means, intervals, differences) → tables and pictures.
"""
