"""Placeholder while the package is being written."""

import torch
from cnnops import _C
