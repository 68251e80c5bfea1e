"""smear-detect: find the cells of a blood smear, type them, and count a differential.

Importing this package loads none of the heavy frameworks; each lives in the one file named for it.
"""

__version__ = "0.1.0"
