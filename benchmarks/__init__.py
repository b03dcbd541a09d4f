"""The benchmarks behind `cnnops bench`: cnnops and torch timed side by side in one process.

`cases` names the layers, `networks` whole models, `peers` who computes them; `devices` is where
they run, `machine` measures what it could do at best and `memory` what a call takes; `measure`
checks agreement and takes times, `results` stores and compares rows, `summary` sums them up, and
`report`, `charts` and `page` show them. In the source tree this package lies at the top, and
`cnnops/benchmarks` is a symbolic link to it: so it is `cnnops.benchmarks` wherever cnnops can be
imported, installed or not.
"""

from . import devices
from .cases import NAMED, Layer, by_hand, default_input, of_model
from .measure import PASSES, Settings
from .networks import DEFAULT as NETWORKS
from .networks import Network
from .peers import LAYOUTS
from .report import Files, run

__all__ = [
    "LAYOUTS",
    "NAMED",
    "NETWORKS",
    "PASSES",
    "Files",
    "Layer",
    "Network",
    "Settings",
    "by_hand",
    "default_input",
    "devices",
    "of_model",
    "run",
]
