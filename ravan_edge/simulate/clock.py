"""The virtual clock: how long a round would take on modelled devices. Never wall time.

A device's round is

    download / bandwidth + FLOPs of its steps / its rate + upload / bandwidth

    FLOPs of a token = 4 P + 6 K sum over layers of r (m + n + r)

P is the number of the model's parameters: 2 P for the forward pass and 2 P for the gradients that
travel back through frozen weights (there are none of the weights themselves). A pass over an
adapter of K heads costs 2 K r (m + n + r), and training makes three. For ``fedit`` one head and
r (m + n) take the adapter's place; ``head-only`` has none.

Devices differ: a device's rate is the nominal one times spread^(2 u - 1) with u uniform in [0, 1),
so log-uniform between 1/spread and spread; its bandwidth likewise with a spread and u of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Manifest
from ravan_edge.generator import Purpose
from ravan_edge.simulate.cohort import device_uniforms

__all__ = ["Clock", "DeviceTime", "flops_per_token"]


def flops_per_token(manifest: Manifest, heads: int) -> float:
    """FLOPs of training one token with ``heads`` heads a layer (ignored where a method has none)."""
    total = 4.0 * manifest.model.parameters
    for layer in manifest.layers:
        if manifest.method.name == "ravan":
            total += 6.0 * heads * layer.rank * (layer.outputs + layer.inputs + layer.rank)
        else:
            total += 6.0 * layer.rank * (layer.outputs + layer.inputs)
    return total


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Simulated seconds of one device in one round."""

    download: float
    compute: float
    upload: float

    @property
    def total(self) -> float:
        """From the start of the round to the arrival of the update."""
        return self.download + self.compute + self.upload


@dataclass(frozen=True)
class Clock:
    """Rates of all devices.

    Args:
        flops: FLOP a second, float64 [devices].
        download: Bytes a second, float64 [devices].
        upload: Bytes a second, float64 [devices].
        flops_per_token: By the number of heads a device trains.
    """

    flops: NDArray[np.float64]
    download: NDArray[np.float64]
    upload: NDArray[np.float64]
    flops_per_token: dict[int, float]

    @classmethod
    def draw(
        cls,
        devices: int,
        flops_per_token: dict[int, float],
        *,
        seed: int,
        gflops: float,
        speed_spread: float,
        download_mbps: float,
        upload_mbps: float,
        bandwidth_spread: float,
    ) -> Clock:
        """Rates from the generator, purpose 6: u[0] of a device is its speed's, u[1] its bandwidth's.

        Args:
            devices: How many.
            flops_per_token: By the number of heads.
            seed: The run's seed.
            gflops: Nominal rate of a device, 10^9 FLOP a second.
            speed_spread, bandwidth_spread: At least 1; 1 makes all devices equal.
            download_mbps, upload_mbps: Nominal bandwidths, 10^6 bits a second.
        """
        uniform = device_uniforms(seed, Purpose.DEVICE_SPEED, 0, np.arange(devices, dtype=np.int64))
        speed = speed_spread ** (2 * uniform[:, 0] - 1)
        bandwidth = bandwidth_spread ** (2 * uniform[:, 1] - 1)
        return cls(
            flops=gflops * 1e9 * speed,
            download=download_mbps * 1e6 / 8 * bandwidth,
            upload=upload_mbps * 1e6 / 8 * bandwidth,
            flops_per_token=flops_per_token,
        )

    def device_time(
        self, device: int, *, heads: int, tokens: float, download_bytes: int, upload_bytes: int
    ) -> DeviceTime:
        """Seconds of one device's round that trains on ``tokens`` tokens (repeats included)."""
        return DeviceTime(
            download=download_bytes / float(self.download[device]),
            compute=tokens * self.flops_per_token[heads] / float(self.flops[device]),
            upload=upload_bytes / float(self.upload[device]),
        )
