"""The CEL rules of a Workspace: everything that can be refused by looking at the object alone, each with its remedy.

What needs more (a ConfigMap, the catalogue of instance types, the nodes) is the controller's to say, in conditions. Rules
stand on the smallest part that they need, so that the API server's ratcheting lets old objects with an unchanged fault be
updated and deleted. Names of presets are a rule of their own, generated from the catalogue.
"""

from kube.api import labels
from kube.api.schema import Rule

NAME_LIMIT = 52  # a StatefulSet's controller-revision-hash label is the name, a dash and ten characters, of 63
RECREATE = "delete the Workspace and create it anew to change it"

_RESERVED = ", ".join(f"'{key}'" for key in labels.RESERVED)


def _one_of(*names: str) -> str:
    """CEL for: exactly one of these optional fields is set, where an empty list or string counts as absent."""
    return " + ".join(f"({_set(name)} ? 1 : 0)" for name in names) + " == 1"


def _set(name: str) -> str:
    return f"has(self.{name})" if name == "volumeSource" else f"(has(self.{name}) && size(self.{name}) > 0)"


def _same(name: str) -> str:
    """CEL for: an optional field keeps its value and its presence."""
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"


WORKSPACE = (
    Rule("has(self.inference) || has(self.tuning)", "neither inference nor tuning is set: set exactly one of them"),
    Rule("!(has(self.inference) && has(self.tuning))", "both inference and tuning are set: set exactly one of them"),
    Rule("has(self.inference) == has(oldSelf.inference)", f"inference cannot be added or removed: {RECREATE}"),
    Rule("has(self.tuning) == has(oldSelf.tuning)", f"tuning cannot be added or removed: {RECREATE}"),
    Rule(
        f"oldSelf.hasValue() || size(self.metadata.name) <= {NAME_LIMIT}",
        f"metadata.name is too long: use at most {NAME_LIMIT} characters, since labels of its pods are made from it",
        optional_old_self=True,
    ),
    Rule(
        "oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must start with a letter and hold only lower-case letters, digits and dashes, since a Service has the same name",
        optional_old_self=True,
    ),
    Rule(
        "!has(self.tuning) || !has(self.resource.count) || self.resource.count == 1",
        "tuning runs on one node: set resource.count to 1 or leave it out; for more GPUs choose a larger instance type",
    ),
    Rule(
        "!has(self.tuning) || !has(self.resource.partition)",
        "tuning needs whole GPUs: remove resource.partition",
    ),
)

RESOURCE = (
    Rule(_same("count"), f"resource.count is immutable: {RECREATE}"),
    Rule(_same("partition"), f"resource.partition is immutable: {RECREATE}"),
    Rule(_same("labelSelector"), f"resource.labelSelector is immutable: {RECREATE}"),
    Rule(
        "!has(self.instanceType) || size(self.instanceType) == 0 || (has(oldSelf.instanceType) && self.instanceType == oldSelf.instanceType)",
        f"resource.instanceType is immutable (it may only be removed): {RECREATE}, or add alternatives to resource.instanceTypes",
    ),
)

LABEL_SELECTOR = (
    Rule(
        "!has(self.matchLabels) || size(self.matchLabels) == 0 || (has(self.matchExpressions) && size(self.matchExpressions) > 0)"
        f" || self.matchLabels.exists(key, !(key in [{_RESERVED}]))",
        "labelSelector has only labels that KAITO sets itself: add a label of your own",
    ),
)

PARTITION = (
    Rule(
        "self.mode != 'mig' || (has(self.profile) && size(self.profile) > 0 && !has(self.count))",
        "partition mode mig takes a profile such as 1g.10gb and no count",
    ),
    Rule(
        "self.mode != 'accelerator' || (has(self.count) && !(has(self.profile) && size(self.profile) > 0))",
        "partition mode accelerator takes a count and no profile",
    ),
)

VOLUME_SOURCE = (
    Rule(
        "!has(self.hostPath)", "hostPath is refused, since it would open the node's files: use a persistentVolumeClaim"
    ),
)

URL = (
    Rule(
        "isURL(self) && url(self).getScheme() in ['http', 'https'] && size(url(self).getHostname()) > 0",
        "must be an absolute http or https URL",
    ),
)

STRENGTH = (
    Rule(r"self.matches('^(0|1|0?[.][0-9]+|0[.]|1[.]0*)$')", 'strength must be a number from 0 to 1, such as "0.5"'),
)

ADAPTER = (
    Rule(
        "!has(self.source) || (has(self.source.name) && self.source.name.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$'))",
        "source.name is required: it names the adapter, in lower-case letters, digits, dashes and dots",
    ),
    Rule(
        "!has(self.source) || !has(self.source.urls) || size(self.source.urls) == 0",
        "an adapter cannot come from URLs: use source.image or source.volumeSource",
    ),
    Rule(
        "!has(self.source) || (has(self.source.image) && size(self.source.image) > 0) != has(self.source.volumeSource)",
        "exactly one of source.image and source.volumeSource must be set",
    ),
)

ADAPTERS = (
    Rule(
        "self.all(a, !has(a.source) || !has(a.source.name) || self.exists_one(b, has(b.source) && has(b.source.name) && b.source.name == a.source.name))",
        "two adapters have the same source.name: rename one",
    ),
)

INFERENCE = (
    Rule("has(self.preset) || has(self.template)", "neither preset nor template is set: set exactly one of them"),
    Rule("!(has(self.preset) && has(self.template))", "both preset and template are set: set exactly one of them"),
    Rule("has(self.preset) == has(oldSelf.preset)", f"preset and template cannot be exchanged: {RECREATE}"),
    Rule(
        "!has(self.preset) || !has(oldSelf.preset) || self.preset.name == oldSelf.preset.name",
        f"preset.name is immutable: {RECREATE}; its revision, secrets and image may change",
    ),
)

METHOD = (Rule("self.lowerAscii() in ['lora', 'qlora']", "method must be lora or qlora"),)

TUNING = (
    Rule(
        "self.preset.name == oldSelf.preset.name",
        f"preset.name is immutable: {RECREATE}; its revision, secrets and image may change",
    ),
    Rule("self.method.lowerAscii() == oldSelf.method.lowerAscii()", f"method is immutable: {RECREATE}"),
)

TUNING_INPUT = (
    Rule(_one_of("urls", "volumeSource", "image"), "exactly one of urls, volumeSource and image must be set"),
    Rule(_same("name"), f"input.name is immutable: {RECREATE}"),
)

TUNING_OUTPUT = (
    Rule(_one_of("volumeSource", "image"), "exactly one of volumeSource and image must be set"),
    Rule(
        "!has(self.image) || size(self.image) == 0 || (has(self.imagePushSecret) && size(self.imagePushSecret) > 0)",
        "imagePushSecret is required with image: name a Secret of type kubernetes.io/dockerconfigjson",
    ),
    Rule("!has(self.image) || !self.image.contains('@')", "image is pushed to, so it takes a tag and no digest"),
)
