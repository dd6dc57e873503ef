"""How exactly the network is run: what torch's settings allow its kernels to do with float32."""

import os

import torch
from torch import nn

from robustkit.certification.graph import Unsupported
from robustkit.certification.roundoff import Roundoff

CUT = {"tf32": 2.0**-10, "bf16": 2.0**-7}
"""relative error of a factor that is cut to so many bits"""
TENSOR_CORE = 2.0**-22
"""in place of float32's unit: their sums drop bits instead of rounding"""
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def roundoff_of(model: nn.Module, device: torch.device) -> Roundoff:
    """How the model rounds, run on this device as things stand.

    Raises:
        Unsupported: weights of another type than float32, or kernels whose error nothing bounds.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise Unsupported(f"computes in {tensor.dtype}, whose rounding no bound covers: {name}")
    if torch.is_autocast_enabled(device.type):
        raise Unsupported("autocast is on, and nothing bounds what it rounds")
    backends = torch.backends
    if device.type == "cuda":
        products, convolutions = backends.cuda.matmul, backends.cudnn.conv  # type: ignore[attr-defined]
    else:
        _check_cpu(model)
        products, convolutions = backends.mkldnn.matmul, backends.mkldnn.conv  # type: ignore[attr-defined]
    inputs = max(CUT.get(kind.fp32_precision, 0.0) for kind in (products, convolutions))
    return Roundoff(TENSOR_CORE, inputs) if inputs else Roundoff()


def _check_cpu(model: nn.Module) -> None:
    for name in FAST_MATH:
        if os.environ.get(name, "STRICT").upper() != "STRICT":
            raise Unsupported(f"{name} lets float32 products be cut; unset it")
    transforming = not torch.backends.mkldnn.enabled and torch._C._get_nnpack_enabled()
    if transforming and any(isinstance(part, nn.Conv2d) for part in model.modules()):
        raise Unsupported(
            "NNPACK may transform convolutions, and nothing bounds what that rounds; "
            "call torch.backends.nnpack.set_flags(False), or leave torch.backends.mkldnn on"
        )
