"""Which arithmetic the frozen weights use.

Frozen matrix weights are *stored* in the compute dtype. Autocast would cast them again at every call:
on two CPU cores bf16 weights encode several times as many pictures a second as fp32, autocast none.
"""

from __future__ import annotations

import torch

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["PRECISIONS", "has_bf16_units", "resolve_precision"]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_bf16_units(device: str | torch.device = "cpu") -> bool:
    """Whether the device multiplies bf16 matrices in hardware (else bf16 is slower than fp32).

    Args:
        device: `"cpu"` (AMX or AVX-512 BF16 instructions) or a CUDA device (Ampere and later).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    # Both probes are private names of torch and absent from some builds (macOS, ARM): absent means no.
    cpu = getattr(torch, "cpu", None)
    probes = (getattr(cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(bool(probe()) for probe in probes if callable(probe))


def resolve_precision(precision: str, device: str | torch.device = "cpu") -> str:
    """Turn `"auto"` into bf16 where the hardware has it, else fp32; check the other names.

    Raises:
        UnknownNameError: no such precision.
        SettingsError: the device is CUDA and there is none.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device {str(device)!r} was asked for, but torch finds no CUDA device; use 'cpu'")
    if precision == "auto":
        return "bf16" if has_bf16_units(device) else "fp32"
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, ("auto", *PRECISIONS))
    return precision
