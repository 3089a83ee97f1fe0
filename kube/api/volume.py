"""The kinds of volume that a Workspace's data most often is on, as far as the API server must look into them.

Any other kind is kept as it was written. But the API server compares an old object with a new one only through what a
schema names: a volume that it cannot see into counts as changed, and then an old object with a fault beside it could not
even be released. `hostPath` is here in order to be refused.
"""

from collections.abc import Mapping
from typing import Any

TEXT = {"type": "string", "maxLength": 1024}
FLAG = {"type": "boolean"}
REFERENCE = {"type": "object", "properties": {"name": TEXT}}
MODE = {"type": "integer", "format": "int32"}
KEYS = {
    "type": "array",
    "maxItems": 100,
    "x-kubernetes-list-type": "atomic",
    "items": {"type": "object", "properties": {"key": TEXT, "path": TEXT, "mode": MODE}},
}


def _kind(**fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "object", "properties": fields}


PROPERTIES: Mapping[str, Any] = {
    "persistentVolumeClaim": _kind(claimName=TEXT, readOnly=FLAG),
    "emptyDir": _kind(medium=TEXT, sizeLimit={"x-kubernetes-int-or-string": True}),
    "configMap": _kind(name=TEXT, optional=FLAG, defaultMode=MODE, items=KEYS),
    "secret": _kind(secretName=TEXT, optional=FLAG, defaultMode=MODE, items=KEYS),
    "nfs": _kind(server=TEXT, path=TEXT, readOnly=FLAG),
    "azureFile": _kind(secretName=TEXT, shareName=TEXT, readOnly=FLAG),
    "csi": _kind(
        driver=TEXT,
        fsType=TEXT,
        readOnly=FLAG,
        nodePublishSecretRef=REFERENCE,
        volumeAttributes={"type": "object", "maxProperties": 64, "additionalProperties": TEXT},
    ),
    "hostPath": _kind(path=TEXT, type=TEXT),
}
