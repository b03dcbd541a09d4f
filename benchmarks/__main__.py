"""`python -m benchmarks` in the source tree: the same as `cnnops bench`."""

from cnnops.cli import bench

bench(prog_name="python -m benchmarks")
