"""The virtual machine sizes that the emulated region sells, as data.

Only what the service itself answers with or acts on: GPUs, vCPUs (quota), the quota family and the zones. What a size is good for is
the planner's business and is not known here. Sizes and counts are Azure's published ones; retired sizes are still for sale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NVIDIA = "nvidia.com/gpu"
AMD = "amd.com/gpu"


@dataclass(frozen=True)
class Sku:
    """One virtual machine size."""

    name: str
    vcpus: int
    gpus: int
    family: str
    zones: tuple[str, ...]  # empty: regional only, as many GPU sizes are
    resource: str = NVIDIA  # how a device plugin names the GPUs


_ZONAL = ("1", "2", "3")

_SKUS = (
    Sku("Standard_D2s_v3", 2, 0, "standardDSv3Family", _ZONAL),
    Sku("Standard_D4s_v3", 4, 0, "standardDSv3Family", _ZONAL),
    Sku("Standard_D2s_v5", 2, 0, "standardDSv5Family", _ZONAL),
    Sku("Standard_D4s_v5", 4, 0, "standardDSv5Family", _ZONAL),
    Sku("Standard_D8s_v5", 8, 0, "standardDSv5Family", _ZONAL),
    Sku("Standard_NC6s_v3", 6, 1, "standardNCSv3Family", ()),
    Sku("Standard_NC12s_v3", 12, 2, "standardNCSv3Family", ()),
    Sku("Standard_NC24s_v3", 24, 4, "standardNCSv3Family", ()),
    Sku("Standard_NC4as_T4_v3", 4, 1, "standardNCASv3_T4Family", _ZONAL),
    Sku("Standard_NC8as_T4_v3", 8, 1, "standardNCASv3_T4Family", _ZONAL),
    Sku("Standard_NC16as_T4_v3", 16, 1, "standardNCASv3_T4Family", _ZONAL),
    Sku("Standard_NC64as_T4_v3", 64, 4, "standardNCASv3_T4Family", _ZONAL),
    Sku("Standard_NV36ads_A10_v5", 36, 1, "standardNVADSA10v5Family", _ZONAL),
    Sku("Standard_NV72ads_A10_v5", 72, 2, "standardNVADSA10v5Family", _ZONAL),
    Sku("Standard_NC24ads_A100_v4", 24, 1, "standardNCADSA100v4Family", _ZONAL),
    Sku("Standard_NC48ads_A100_v4", 48, 2, "standardNCADSA100v4Family", _ZONAL),
    Sku("Standard_NC96ads_A100_v4", 96, 4, "standardNCADSA100v4Family", _ZONAL),
    Sku("Standard_ND96asr_v4", 96, 8, "standardNDASv4_A100Family", ()),
    Sku("Standard_ND96asr_A100_v4", 96, 8, "standardNDASv4_A100Family", ()),
    Sku("Standard_ND96amsr_A100_v4", 96, 8, "standardNDAMSv4_A100Family", ()),
    Sku("Standard_NC40ads_H100_v5", 40, 1, "standardNCadsH100v5Family", _ZONAL),
    Sku("Standard_NC80adis_H100_v5", 80, 2, "standardNCadsH100v5Family", _ZONAL),
    Sku("Standard_NCC40ads_H100_v5", 40, 1, "standardNCCads2023Family", ()),
    Sku("Standard_ND96isr_H100_v5", 96, 8, "standardNDSH100v5Family", ()),
    Sku("Standard_ND96isr_H200_v5", 96, 8, "standardNDSH200v5Family", ()),
    Sku("Standard_ND96isr_MI300X_v5", 96, 8, "standardNDISRMI300XV5Family", (), AMD),
    Sku("Standard_NG32ads_V620_v1", 32, 1, "standardNGADSV620v1Family", (), AMD),
    Sku("Standard_NG32adms_V620_v1", 32, 1, "standardNGADSV620v1Family", (), AMD),
)

SKUS: Mapping[str, Sku] = {sku.name.lower(): sku for sku in _SKUS}


def find(vm_size: str) -> Sku | None:
    """Return the size of that name, which Azure compares without case; None where it is not sold."""
    return SKUS.get(vm_size.lower())
