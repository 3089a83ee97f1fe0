"""A type's structural schema: msgspec's view of a struct, turned into what a CRD may contain, with every type inlined.

Knows nothing of particular kinds. A type that has no counterpart in a structural schema is an error, never a guess.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec.inspect as types

from kube.api.schema import Rule
from kube.meta import Condition

Schema = dict[str, Any]

# metav1.Condition as upstream's CRDs have it, less the minimum lengths that KAITO's own objects do not keep.
CONDITION: Schema = {
    "type": "object",
    "description": "One aspect of the object's state.",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "type": {"type": "string", "maxLength": 316, "description": "Aspect, in CamelCase."},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
        "reason": {
            "type": "string",
            "maxLength": 1024,
            "pattern": "^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?|)$",
            "description": "Why, in one word of a closed list.",
        },
        "message": {"type": "string", "maxLength": 32768, "description": "Why, and what to do, in a sentence."},
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When `status` last changed."},
        "observedGeneration": {
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "description": "Generation of the object that this was said of.",
        },
    },
}

SCALARS: Mapping[type, Schema] = {
    types.StrType: {"type": "string"},
    types.IntType: {"type": "integer"},
    types.FloatType: {"type": "number"},
    types.BoolType: {"type": "boolean"},
}


class Generator:
    """Turns types into schemas; `rules` resolves the names in `x_rule` to the rules that they stand for."""

    def __init__(self, rules: Mapping[str, tuple[Rule, ...]]) -> None:
        self._rules = rules
        self._kinds: Mapping[type, Callable[[Any], Schema]] = {
            types.Metadata: self._annotated,
            types.UnionType: self._union,
            types.StructType: self._struct,
            types.DictType: self._map,
            types.VarTupleType: self._list,
            types.EnumType: lambda kind: {"type": "string", "enum": [member.value for member in kind.cls]},
        }

    def schema(self, kind: types.Type) -> Schema:
        """Return the schema of one type. Raises TypeError where a structural schema has nothing for it."""
        if type(kind) in SCALARS:
            return dict(SCALARS[type(kind)])
        if type(kind) not in self._kinds:
            raise TypeError(f"no structural schema for {kind}")
        return self._kinds[type(kind)](kind)

    def struct_of(self, struct: type) -> Schema:
        return self.schema(types.type_info(struct))

    def _annotated(self, kind: types.Metadata) -> Schema:
        extra = dict(kind.extra_json_schema or {})
        extra.pop("x-required", None)
        opaque = extra.pop("x-opaque", False)
        named = self._rules[extra.pop("x-rule")] if "x-rule" in extra else ()
        schema = _opaque() if opaque else self.schema(kind.type)
        validations = [rule.document() for rule in named] + extra.pop("x-kubernetes-validations", [])
        if not extra.get("description"):
            extra.pop("description", None)
        return schema | extra | ({"x-kubernetes-validations": validations} if validations else {})

    def _union(self, kind: types.UnionType) -> Schema:
        """`T | None` is an optional field; numbers beside strings are a quantity."""
        members = [member for member in kind.types if not isinstance(member, types.NoneType)]
        if len(members) == 1:
            return self.schema(members[0])
        if {type(member) for member in members} <= {types.StrType, types.IntType, types.FloatType}:
            return {"x-kubernetes-int-or-string": True}
        raise TypeError(f"no structural schema for {kind}")

    def _struct(self, kind: types.StructType) -> Schema:
        if kind.cls is Condition:
            return CONDITION
        schema: Schema = {"type": "object"}
        if document := kind.cls.__dict__.get("__doc__"):
            schema["description"] = document.split("\n\n")[0].replace("\n    ", " ").strip()
        schema["properties"] = {field.encode_name: self.schema(field.type) for field in kind.fields}
        required = [field.encode_name for field in kind.fields if _required(field.type)]
        return schema | ({"required": required} if required else {})

    def _map(self, kind: types.DictType) -> Schema:
        if isinstance(kind.value_type, types.AnyType):
            return _opaque()
        return {"type": "object", "additionalProperties": self.schema(kind.value_type)}

    def _list(self, kind: types.VarTupleType) -> Schema:
        items = self.schema(kind.item_type)
        if items is CONDITION:
            return {
                "type": "array",
                "items": items,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
        return {"type": "array", "items": items, "x-kubernetes-list-type": "atomic"}


def _required(kind: types.Type) -> bool:
    return isinstance(kind, types.Metadata) and bool((kind.extra_json_schema or {}).get("x-required"))


def _opaque() -> Schema:
    """Return the schema of an object of any fields, kept as they are written."""
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
