"""The convolution kernels, one file each: jit function, config space, grid, arguments and work.

A new kernel is one new file that defines a `Kernel` and binds it to `KERNEL`; `registry` finds it.
"""
