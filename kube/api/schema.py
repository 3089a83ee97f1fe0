"""How a field of an API type says what the API server shall enforce, for the generator of CRDs to read.

Everything here is inert while decoding: what is stored was validated by the API server of its time, and refusing to read an
old object would only make it undeletable. So limits travel in `extra_json_schema`, which msgspec never checks.
"""

from typing import Any, NamedTuple

import msgspec


class Rule(NamedTuple):
    """One CEL rule. The message says what to do.

    A rule that names `oldSelf` runs on updates alone; with `optional_old_self` it runs on creation too and `oldSelf` is an
    optional, which is how a rule is written that concerns creation alone.
    """

    rule: str
    message: str
    optional_old_self: bool = False

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"rule": self.rule, "message": self.message}
        return document | {"optionalOldSelf": True} if self.optional_old_self else document


def field(doc: str, *, rules: tuple[Rule, ...] = (), required: bool = False, **schema: Any) -> msgspec.Meta:
    """Say what a field, the items of a list or the values of a map hold.

    Keywords are OpenAPI's own (`maxLength`, `enum`, `default`, `x_kubernetes_list_type` …); `required` is the field's, in
    its parent. A Python default is never a schema default: absent must stay distinguishable where KAITO keeps it so.
    `x_opaque` is an object of any fields, of which only `properties` are looked into; `x_rule` names a rule that the generator knows how to make.
    """
    if rules:
        schema["x-kubernetes-validations"] = [rule.document() for rule in rules]
    if required:
        schema["x-required"] = True
    named = {key.replace("_", "-"): value for key, value in schema.items()}
    return msgspec.Meta(description=doc, extra_json_schema=named)
