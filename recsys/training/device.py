"""Where a fit runs, and in which type its large products are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recsys._learning_config import DEVICES
from recsys.errors import TrainingError

# Below this temperature logits are so large that bfloat16 rounds them by more than 0.1.
_LOWEST_TAU_BF16 = 0.05


@dataclass(frozen=True, slots=True)
class Device:
    """One processor.

    Attributes:
        where: What tensors are created on.
        bfloat16: Whether it has units that multiply bfloat16.
    """

    where: torch.device
    bfloat16: bool

    def products(self, tau: float) -> torch.dtype:
        """Return the type of the (B, S) products under a temperature."""
        low = tau < _LOWEST_TAU_BF16
        return torch.bfloat16 if self.bfloat16 and not low else torch.float32

    def generator(self, seed: int) -> torch.Generator:
        """Return a source of random numbers that live on the device."""
        return torch.Generator(self.where).manual_seed(seed)


def resolve(name: str = "cpu") -> Device:
    """Return a device by name: "cpu", "cuda", or "auto" for the faster that is there.

    Raises:
        TrainingError: There is no such device here.
    """
    if name not in DEVICES:
        raise TrainingError(
            f"unknown device {name!r}", hint=f"Devices: {', '.join(DEVICES)}."
        )
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise TrainingError(
            "torch finds no CUDA device",
            hint="Use --device cpu, or install a torch built for your driver.",
        )
    if present and name != "cpu":
        return Device(torch.device("cuda"), torch.cuda.is_bf16_supported())
    # Emulated bfloat16 is slower than float32: AVX-512 BF16 or AMX must be there.
    fast = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage] # no public way to ask
    return Device(torch.device("cpu"), bool(fast))
