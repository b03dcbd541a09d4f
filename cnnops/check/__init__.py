"""`cnnops check`: every operator compared with torch on the machine at hand.

`cases` is the grid of cases, `reference` makes tensors of a case and measures the errors, `report`
runs them all and prints the table. The test suite uses the same grid.
"""

from cnnops.check.report import run

__all__ = ["run"]
