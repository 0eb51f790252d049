"""How stacked MLP experts are computed: every path gives the same rows, each is fastest somewhere.

A path is a function ``run(x_ND, plan, mlp) -> y_ND`` over rows sorted by expert, so that a kernel for new hardware is
one more file and one more line here:

* ``loop``: one expert after the other by plain autograd; the reference.
* ``sorted``: the same with shared buffers and a backward pass of its own.
* ``batched``: all experts in one product, padded to the fullest, for few and even rows.
* ``packed``: inference on a CPU with reordered weights.
* ``native``: a C++ kernel for CPUs, once :func:`moezoo.moe.build_native` has compiled it.
* ``grouped``: one product over all experts with fixed shapes, for compiling, exporting and GPUs.
* ``triton``: ``grouped`` with kernels around its products, for GPUs.
* ``static``: one expert after the other in a way that tracing can follow, for ONNX.
"""

from moezoo.moe.paths import batched, grouped, loop, native, packed, sorted, static, triton
from moezoo.moe.paths.choose import choose_path
from moezoo.moe.paths.stack import MLPStack

RUN = {
    "loop": loop.run,
    "sorted": sorted.run,
    "batched": batched.run,
    "packed": packed.run,
    "native": native.run,
    "grouped": grouped.run,
    "triton": triton.run,
    "static": static.run,
}

__all__ = ["RUN", "MLPStack", "choose_path"]
