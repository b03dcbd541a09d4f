"""The benchmarks behind `cnnops bench`: cnnops and torch timed side by side in one process.

`cases` names the layers, `peers` who computes them, `measure` checks agreement and takes times,
`machine` measures what the processor could do at best, `results` stores and compares rows, `report`
prints them. In the source tree this package lies at the top, and `cnnops/benchmarks` is a symbolic
link to it: so it is `cnnops.benchmarks` wherever cnnops can be imported, installed or not.
"""

from .cases import NAMED, Layer, by_hand, of_model
from .measure import PASSES, Settings
from .peers import LAYOUTS
from .report import run

__all__ = ["LAYOUTS", "NAMED", "PASSES", "Layer", "Settings", "by_hand", "of_model", "run"]
