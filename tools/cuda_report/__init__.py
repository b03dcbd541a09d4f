"""What nvcc made of each CUDA kernel, held against a committed budget and stated promises.

`cubin` reads a library with cuobjdump; `sass` counts instructions and finds the main loop;
`machine` has the figures of GPUs: occupancy, and what each pipe of an H100 does in a cycle;
`families` states what each kernel promises; `budget` is the committed file; `report` joins them.
Run it with `make cuda-report`. Nothing here needs a GPU.
"""
