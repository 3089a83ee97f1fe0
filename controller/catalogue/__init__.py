"""The tables of models and GPU instance types, as facts: read once from the CSV files beside this module, never computed.

A model has either a short name, KAITO's, or just its hub id. Memory is what the driver reports, which is less than what
is on the label. Nothing here decides anything: that is `controller.plan`.
"""

import csv
import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TypeVar

from kube.api import labels

GIB = 1 << 30


@dataclass(frozen=True)
class Model:
    """What the planner knows of a model. `weights` is the sum of its tensor files in bytes."""

    hub_id: str
    weights: int
    context: int  # tokens
    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    kv_bytes_per_token: int  # of all layers, at two bytes per value
    name: str = ""  # KAITO's short name
    image_tag: str = ""  # of kaito-<name> in a weights registry
    revision: str = ""
    quantization: str = ""
    latent: bool = False  # multi-head latent attention: the cache is not split by heads
    gated: bool = False
    tool_parser: str = ""
    reasoning_parser: str = ""
    tokenizer_mode: str = ""
    load_format: str = ""
    config_format: str = ""

    @property
    def label(self) -> str:
        return self.name or self.hub_id

    def image(self, registry: str) -> str:
        """Where its weights are in a registry of preset images; "" where there is no such image."""
        return f"{registry}/kaito-{self.name}:{self.image_tag}" if registry and self.image_tag else ""


@dataclass(frozen=True)
class Sku:
    """An instance type with GPUs, or a group of equal nodes that exist already."""

    instance_type: str
    gpu: str
    gpus: int
    usable: int  # bytes per GPU, as the driver reports
    cloud: str = ""
    capability: tuple[int, int] | None = None  # CUDA compute capability; None where it is not CUDA
    resource: str = labels.NVIDIA_GPU
    rdma: bool = False  # fast network between nodes
    retired: str = ""  # date on which the cloud withdrew it


@dataclass(frozen=True)
class Retired:
    """A preset of earlier releases that is not served any more."""

    name: str
    hub_id: str
    successor: str


def model(name: str) -> Model | None:
    """Look a model up by short name or hub id, in any case."""
    return _models().get(name.lower())


def models() -> tuple[Model, ...]:
    return tuple(dict.fromkeys(_models().values()))


def aliases() -> tuple[str, ...]:
    """Return the short names of all models that have one."""
    return tuple(known.name for known in models() if known.name)


def retired() -> Mapping[str, Retired]:
    return _retired()


def sku(instance_type: str) -> Sku | None:
    """Look an instance type up, in any case."""
    return _skus().get(instance_type.lower())


def skus(cloud: str = "") -> tuple[Sku, ...]:
    return tuple(known for known in _skus().values() if not cloud or known.cloud == cloud)


def nearest_models(name: str) -> tuple[str, ...]:
    return _nearest(name, [*aliases(), *(known.hub_id for known in models())])


def nearest_skus(instance_type: str) -> tuple[str, ...]:
    return _nearest(instance_type, [known.instance_type for known in skus()])


def _nearest(word: str, known: list[str]) -> tuple[str, ...]:
    """Return the names most like `word`, best first; compared without case, as people type them."""
    folded = {name.lower(): name for name in known}
    return tuple(folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=3, cutoff=0.5))


@functools.cache
def _models() -> Mapping[str, Model]:
    found: dict[str, Model] = {}
    for known in _rows("models.csv", _model):
        found |= {key.lower(): known for key in (known.hub_id, known.name) if key}
    return found


@functools.cache
def _skus() -> Mapping[str, Sku]:
    return {known.instance_type.lower(): known for known in _rows("gpu_skus.csv", _sku)}


@functools.cache
def _retired() -> Mapping[str, Retired]:
    return {row["name"]: Retired(**row) for row in _rows("retired.csv", dict)}


Row = TypeVar("Row")


def _rows(file: str, build: Callable[[dict[str, str]], Row]) -> Iterator[Row]:
    text = resources.files(__name__).joinpath(file).read_text(encoding="utf-8")
    return map(build, csv.DictReader(text.splitlines()))


def _model(row: dict[str, str]) -> Model:
    return Model(
        hub_id=row["hub_id"],
        weights=round(float(row["weights_gib"]) * GIB),
        context=int(row["context_tokens"]),
        layers=int(row["layers"]),
        heads=int(row["heads"]),
        kv_heads=int(row["kv_heads"]),
        hidden_size=int(row["hidden_size"]),
        kv_bytes_per_token=int(row["kv_bytes_per_token"]),
        latent=row["attention"] == "MLA",
        gated=row["gated"] == "yes",
        **{key: row[key] for key in _TEXTS},
    )


_TEXTS = (
    "name",
    "image_tag",
    "quantization",
    "tool_parser",
    "reasoning_parser",
    "tokenizer_mode",
    "load_format",
    "config_format",
)


def _sku(row: dict[str, str]) -> Sku:
    major, _, minor = row["capability"].partition(".")
    return Sku(
        instance_type=row["instance_type"],
        gpu=row["gpu"],
        gpus=int(row["gpus"]),
        usable=round(float(row["usable_gib"]) * GIB),
        cloud=row["cloud"],
        capability=(int(major), int(minor)) if major else None,
        resource=row["resource"],
        rdma=row["rdma"] == "yes",
        retired=row["retired"],
    )
