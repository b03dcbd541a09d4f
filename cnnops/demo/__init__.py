"""The demonstration behind `cnnops demo`: LeNet-5 on real handwritten digits, twice.

One network is trained with the layers of cnnops and its twin with torch's, from the same initial
weights and the same batches; their losses, accuracies and times are printed side by side.
"""

from cnnops.demo.side_by_side import run

__all__ = ["run"]
