"""The planner: model x instance type x configuration → nodes, parallelism, context, disk, and the runtime's plan; or why not.

Pure: no I/O beyond the catalogue's own tables, no Kubernetes types. Used by the controller and by people:
`python -m controller.plan phi-4 Standard_NV36ads_A10_v5`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from controller import catalogue
from controller.catalogue import Model, Sku
from controller.fit import Configuration, Plan, Refusal, fit
from kube.api import labels
from kube.api.reasons import Reason
from runtime.contract import Accelerator, encode

__all__ = ["Configuration", "Plan", "Refusal", "choose", "find_model", "find_sku", "plan", "sku_of_labels"]

CLOUD = "azure"  # whose instance types are chosen from


def find_model(name: str) -> Model | Refusal:
    """Look a model up in the catalogue. A hub id outside it is MODEL_UNRESOLVED: nobody knows its sizes."""
    if found := catalogue.model(name):
        return found
    by_hub_id = {old.hub_id.lower(): old for old in catalogue.retired().values()}
    if old := catalogue.retired().get(name.lower()) or by_hub_id.get(name.lower()):
        return Refusal(Reason.PRESET_RETIRED, f"preset {name} is retired: use {old.successor}")
    near = _did_you_mean(catalogue.nearest_models(name))
    if "/" in name:
        message = f"{name} is not in the catalogue; ids outside it are not supported yet"
        return Refusal(Reason.MODEL_UNRESOLVED, message + (near or "; choose one of its presets"))
    return Refusal(Reason.PRESET_UNKNOWN, f"preset {name} is unknown{near}")


def find_sku(instance_type: str) -> Sku | Refusal:
    """Look an instance type up in the catalogue."""
    found = catalogue.sku(instance_type)
    near = _did_you_mean(catalogue.nearest_skus(instance_type))
    return found or Refusal(Reason.INSTANCE_TYPE_UNKNOWN, f"instance type {instance_type} is unknown{near}")


def sku_of_labels(marks: Mapping[str, str]) -> Sku | None:
    """Return the GPUs of a node that exists already, by the labels of NVIDIA's GPU feature discovery; None without them."""
    try:
        gpus, mebibytes = int(marks[labels.GPU_COUNT]), int(marks[labels.GPU_MEMORY])
        capability = (int(marks[labels.GPU_COMPUTE_MAJOR]), int(marks[labels.GPU_COMPUTE_MINOR]))
    except (KeyError, ValueError):
        return None
    product = marks.get(labels.GPU_PRODUCT, "").replace("-", " ")
    if gpus < 1 or mebibytes < 1:
        return None
    name = marks.get(labels.INSTANCE_TYPE, "") or product
    return Sku(instance_type=name, gpu=product, gpus=gpus, usable=mebibytes << 20, capability=capability)


def plan(model: Model, sku: Sku, configuration: Configuration) -> Plan | Refusal:
    """Decide how to serve, to tune, or to tune and then serve a model on nodes of one instance type."""
    decided = fit(model, sku, configuration)
    if isinstance(decided, Plan) or decided.reason is Reason.CONFIG_INVALID:
        return decided
    fitting = [found.sku.instance_type for found in _fitting(model, configuration, sku.cloud or CLOUD)]
    way_out = f"use {_any_of(fitting[:3])}" if fitting else "no instance type of the catalogue fits"
    return replace(decided, message=f"{decided.message}; {way_out}")


def choose(model: Model, configuration: Configuration) -> Plan | Refusal:
    """Plan on the instance type that costs least, counted in GPUs x memory."""
    fitting = _fitting(model, configuration, CLOUD)
    largest = max(catalogue.skus(CLOUD), key=lambda sku: sku.gpus * sku.usable)
    return fitting[0] if fitting else plan(model, largest, configuration)


def _fitting(model: Model, configuration: Configuration, cloud: str) -> list[Plan]:
    """Return the plans on all current instance types that fit, cheapest first."""
    decided = (fit(model, sku, configuration) for sku in catalogue.skus(cloud) if not sku.retired)
    fitting = [found for found in decided if isinstance(found, Plan) and not found.warnings]
    return sorted(fitting, key=lambda found: (found.cost, found.nodes, _natural(found.sku.instance_type)))


def _natural(name: str) -> list[str | int]:
    """Order names as people do: NC4as before NC16as."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _did_you_mean(names: Sequence[str]) -> str:
    return f"; did you mean {_any_of(names)}?" if names else ""


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan for a model on an instance type, or on the cheapest that fits."""
    parser = argparse.ArgumentParser(prog="python -m controller.plan", description=main.__doc__)
    parser.add_argument("model", help="preset or hub id of the catalogue")
    parser.add_argument("sku", nargs="?", default="", help="instance type; none: the cheapest that fits")
    parser.add_argument("--accelerator", choices=list(Accelerator), default=Accelerator.CUDA.value)
    parser.add_argument("--context", type=int, default=0, help="tokens that must fit; none: as many as fit")
    parser.add_argument("--tune", choices=("lora", "qlora"), default="", help="tune the model, then serve it")
    parser.add_argument("--release", action="store_true", help="do not serve what was tuned")
    given = parser.parse_args(arguments)
    configuration = Configuration(given.accelerator, not given.release, given.tune, given.context)
    decided = _from_names(given.model, given.sku, configuration)
    print(json.dumps(_document(decided), indent=2))
    return 1 if isinstance(decided, Refusal) else 0


def _from_names(name: str, instance_type: str, configuration: Configuration) -> Plan | Refusal:
    model = find_model(name)
    if isinstance(model, Refusal):
        return model
    if not instance_type:
        return choose(model, configuration)
    sku = find_sku(instance_type)
    return sku if isinstance(sku, Refusal) else plan(model, sku, configuration)


def _document(decided: Plan | Refusal) -> Mapping[str, Any]:
    if isinstance(decided, Refusal):
        return {"reason": decided.reason.value, "message": decided.message}
    parts = {"serve": decided.serve, "tune": decided.tune}
    return {
        "model": decided.model.hub_id,
        "instanceType": decided.sku.instance_type,
        "nodes": decided.nodes,
        "gpusPerNode": decided.gpus_per_node,
        "contextTokens": decided.context,
        "sequences": decided.sequences,
        "diskGiB": decided.disk_gib,
        "startupMinutes": decided.startup_seconds // 60,
        "breakdown": decided.breakdown,
        "warnings": list(decided.warnings),
        **{name: json.loads(encode(part)) for name, part in parts.items() if part},
    }


if __name__ == "__main__":
    sys.exit(main())
