"""How exactly the network is run: what torch's settings allow its kernels to do with float32."""

import torch
from torch import nn

from robustkit.attacks.draws import generator
from robustkit.certification.graph import Affine, BoundGraph, Unsupported
from robustkit.certification.roundoff import Roundoff
from robustkit.device import fast_math

CUT = {"tf32": 2.0**-10, "bf16": 2.0**-7}
"""relative error of a factor that is cut to so many bits"""
TENSOR_CORE = 2.0**-22
"""in place of float32's unit: their sums drop bits instead of rounding"""
HUGE = 2.0**40
"""a weight whose rounding is larger than all others together"""
MANY = 16
"""images from which on NNPACK takes over"""
TRANSFORMED = (
    "a convolution is done by Winograd's or a Fourier transform, and nothing bounds what that "
    "rounds; torch.backends.nnpack.set_flags(False) or torch.backends.cudnn.enabled = False "
    "forbids it"
)


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


def check_convolutions(graph: BoundGraph) -> None:
    """Each convolution in float32 where it runs, with one huge weight in each kernel.

    What is summed directly does not meet that weight where the pixel under it is 0. Winograd's and
    Fourier transforms mix all weights of a kernel, and their rounding with them. Few and many
    images are tried, since libraries choose by sizes, not by values.

    Raises:
        Unsupported: a convolution errs by more than its sums could.
    """
    for step in graph.steps:
        if not isinstance(step, Affine) or step.weight is None or step.weight.dim() != 4:
            continue
        weight, inner = torch.ones_like(step.weight), graph.steps[step.source].shape
        weight[..., 0, 0] = HUGE
        for images in (1, MANY):
            pixels = torch.rand(images, 1, *inner[1:], generator=generator("pixels", 0)) < 0.5
            x = pixels.to(weight.device, torch.float32).expand(images, *inner).contiguous()
            sizes = step.linear(x.double(), weight)
            error = (step.linear(x, weight.float()).double() - sizes).abs()
            if not bool((error <= graph.roundoff.of_sum(step.terms, sizes, sizes)).all()):
                raise Unsupported(TRANSFORMED)


def _check_cpu(model: nn.Module) -> None:
    if name := fast_math():
        raise Unsupported(f"{name} lets float32 products be cut; unset it")
    transforming = not torch.backends.mkldnn.enabled and torch._C._get_nnpack_enabled()
    if transforming and any(isinstance(part, nn.Conv2d) for part in model.modules()):
        raise Unsupported(
            "NNPACK may transform convolutions, and nothing bounds what that rounds; "
            "call torch.backends.nnpack.set_flags(False), or leave torch.backends.mkldnn on"
        )
