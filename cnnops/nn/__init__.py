"""Drop-in modules: subclasses of torch.nn's convolution and pooling modules.

Each has the constructor, repr, state_dict and initialization of the torch.nn class of its name;
only the forward pass runs cnnops' kernels. Input that these do not take (a device or dtype
without kernels) goes to torch's own, with one FallbackWarning per reason. Modules pickle, copy and
torch.compile like torch's. TorchScript (torch.jit.script and trace) does not take them:
`cnnops.revert` the model first.
"""

from cnnops.nn import conv, pooling
from cnnops.nn.conv import *  # noqa: F403
from cnnops.nn.pooling import *  # noqa: F403

__all__ = [*conv.__all__, *pooling.__all__]
