"""Experts on a CPU by a C++ kernel that reads every weight once: optional, compiled when asked for.

Everything works without it. :func:`build_native` compiles it with torch's own tooling (a C++ compiler and ninja must
be there) or loads what was compiled before.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moezoo.errors import ConfigError, MissingPackageError
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths import loop
from moezoo.moe.paths.stack import MLPStack, compute_dtype

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno"]
_NUMBER = {name: number for number, name in enumerate(("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"))}
"""As ``enum Activation`` in the kernel."""
_built = False


def build_native(verbose: bool = False) -> None:
    """Compile the C++ kernel for experts on a CPU, or load the one compiled before, for this process.

    It is cached in torch's folder of extensions (``TORCH_EXTENSIONS_DIR``). From then on ``path="native"`` is allowed,
    and layers take it by themselves on a CPU in float32 and, where the processor multiplies it, bfloat16.

    Args:
        verbose: Whether the compiler's output is printed.

    Raises:
        MissingPackageError: There is no C++ compiler or no ninja, or the compiler failed.
    """
    global _built
    if _built:
        return
    try:
        from torch.utils import cpp_extension

        cpp_extension.load(
            _name(),
            [str(_SOURCE)],
            extra_cflags=_FLAGS,
            extra_ldflags=["-fopenmp"],
            is_python_module=False,
            verbose=verbose,
        )
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise MissingPackageError(
            "build_native() needs a C++ compiler (g++ or clang++; $CXX names another) and ninja "
            f'(pip install "moezoo[native]"): {error}'
        ) from error
    from moezoo.moe.flops import count_native  # here: it knows the operators of all paths

    count_native()
    _built = True


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is built and computes ``dtype`` here."""
    if not _built or device.type != "cpu":
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.moezoo_native.has_bf16())


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D). With dropout, and under function transforms, it is the reference."""
    if not _built:
        raise ConfigError("path='native' needs the C++ kernel: call moezoo.moe.build_native() first.")
    x_ND = x_ND.to(compute_dtype(x_ND))
    if not supports(x_ND.device, x_ND.dtype):
        bf16 = " and bfloat16" if torch.ops.moezoo_native.has_bf16() else ""
        raise ConfigError(
            f"path='native' computes float32{bf16} on a CPU, not {str(x_ND.dtype)[6:]} on {x_ND.device.type}: "
            "use path='auto'."
        )
    if mlp.dropout or plan.plain:
        return loop.run(x_ND, plan, mlp)
    return _NativeMLP.apply(x_ND, *mlp.cast(x_ND.dtype).weights, plan.sizes, mlp.activation, mlp.gated)


class _NativeMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        sizes: list[int],
        activation: str,
        gated: bool,
    ) -> Tensor:
        inputs = [t.contiguous() for t in (x_ND, w_in, b_in, w_out, b_out)]
        save = any(ctx.needs_input_grad)
        limit = torch.ops.moezoo_native.limit(sizes, save)
        y_ND, h = torch.ops.moezoo_native.forward(inputs[0], sizes, *inputs[1:], _NUMBER[activation], limit, save)
        if save:
            ctx.save_for_backward(x_ND, w_in, b_in, w_out, b_out, h)
            ctx.sizes, ctx.activation, ctx.gated, ctx.limit = sizes, activation, gated, limit
        return y_ND

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, w_in, b_in, w_out, b_out, h = ctx.saved_tensors
        inputs = x_ND, w_in, b_in, w_out, b_out
        if torch.is_grad_enabled():  # to be differentiated again
            wanted = ctx.needs_input_grad[:5]
            return *loop.gradients(inputs, wanted, dy_ND, ctx.sizes, ctx.activation, ctx.gated), None, None, None
        for_x, *for_weights = ctx.needs_input_grad[:5]
        x_ND, *weights = (t.contiguous() for t in inputs)
        dx, *dw = torch.ops.moezoo_native.backward(
            dy_ND.contiguous(),
            x_ND,
            ctx.sizes,
            *weights,
            h,
            _NUMBER[ctx.activation],
            ctx.limit,
            for_x,
            any(for_weights),
        )
        return dx if for_x else None, *(dw if any(for_weights) else (None,) * 4), None, None, None


def _name() -> str:
    """One build for each source, torch and processor: folders of extensions are shared between machines."""
    sources = [path.read_text() for path in (_SOURCE, *sorted(_SOURCE.with_name("kernel").glob("*.h")))]
    parts = [*sources, *_FLAGS, torch.__version__, platform.machine(), _processor()]
    return "moezoo_native_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _processor() -> str:
    try:
        return next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.processor()
