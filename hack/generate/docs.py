"""Reference pages: the fields of each kind from its schema, and the reasons of conditions from their closed list."""

from collections.abc import Iterator
from typing import Any

from hack.generate.openapi import Schema
from kube.api import reasons

SKIPPED = ("apiVersion", "kind", "metadata")
LIMITS = ("maxLength", "maxItems", "maxProperties", "minimum", "maximum", "pattern")


def fields_page(crd: dict[str, Any]) -> str:
    """Return the page of one kind: a table of fields, then what is refused and why."""
    version = next(version for version in crd["spec"]["versions"] if version["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
    lines = [f"# {kind}", "", f"`{group}/{version['name']}`. {schema.get('description', '')}", ""]
    lines += ["| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{path}` | {_type(field)} | {_meaning(field, required)} |" for path, field, required in _walk(schema)]
    refused = list(_rules("", schema))
    if refused:
        lines += ["", "## Refused by the API server", "", "| where | message |", "|---|---|"]
        lines += [f"| {f'`{path}`' if path else 'the object'} | {message} |" for path, message in refused]
    return "\n".join(lines) + "\n"


def reasons_page() -> str:
    """Return the page of reasons: what the REASON column of `kubectl get workspace` says, and what to do then."""
    lines = [
        "# Reasons",
        "",
        "What stands in the REASON column of `kubectl get workspace` and in `status.conditions`, and the next step.",
        "A NodeClaim's reasons are shown as its provisioner wrote them; those of ours stand at the end.",
        "",
        "| reason | next step |",
        "|---|---|",
    ]
    lines += [f"| `{reason}` | {reason.next_step} |" for reason in reasons.Reason]
    lines += ["", "## Why a NodeClaim is not ready, or not gone", ""]
    lines += ["Numbers stand in the condition's message.", "", "| reason | meaning and next step |", "|---|---|"]
    lines += [f"| `{reason}` | {reason.meaning} |" for reason in reasons.ClaimReason]
    lines += ["", "## Why a machine was given up", ""]
    lines += ["Its NodeClaim is deleted, and another one is made in its place.", ""]
    lines += ["| reason of `DisruptionReason` | meaning |", "|---|---|"]
    lines += [f"| `{reason}` | {reason.meaning} |" for reason in reasons.Disruption]
    return "\n".join(lines) + "\n"


def _walk(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema, bool]]:
    for name, field in schema.get("properties", {}).items():
        if not prefix and name in SKIPPED:
            continue
        path = f"{prefix}{name}"
        yield path, field, name in schema.get("required", ())
        if not field.get("x-kubernetes-preserve-unknown-fields"):
            yield from _walk(field, f"{path}.")
            yield from _walk(field.get("items", {}), f"{path}[].")
            yield from _walk(_values(field), f"{path}.*.")


def _values(field: Schema) -> Schema:
    values = field.get("additionalProperties", {})
    return values if isinstance(values, dict) else {}


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if values := _values(field):
        return f"map to {_type(values)}"
    return str(field.get("type", "any"))


def _meaning(field: Schema, required: bool) -> str:
    parts = [field.get("description", "").replace("|", "\\|").replace("\n", " ")]
    parts += ["**Required.**"] if required else []
    if "enum" in field:
        parts.append("One of " + ", ".join(f"`{value}`" for value in field["enum"]) + ".")
    if "default" in field:
        parts.append(f"Default: `{field['default']}`.")
    parts += [f"{limit}: {field[limit]}." for limit in LIMITS if limit in field and limit != "pattern"]
    return " ".join(part for part in parts if part)


def _rules(path: str, schema: Schema) -> Iterator[tuple[str, str]]:
    yield from ((path, rule["message"]) for rule in schema.get("x-kubernetes-validations", ()))
    for name, field in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}".lstrip("."), field)
    if "items" in schema:
        yield from _rules(f"{path}[]", schema["items"])
