"""The few requests of the registry protocol that compose images from others without moving their layers.

Speaks to one registry on loopback, in plain HTTP. Knows nothing of where the images come from.
"""

import copy
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Repository:
    """One repository of a registry on loopback."""

    address: str
    name: str

    def tags(self) -> list[str]:
        try:
            return list(json.loads(self._request("GET", "tags/list")[0])["tags"] or ())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise

    def graft(self, base: str, top: str, tag: str) -> None:
        """Make the image `tag` of the layers of `base` and those of `top`, with the configuration of `base`.

        It is what a last stage `FROM base`, `COPY --from=top / /` would build.
        """
        below, above = self._manifest(base), self._manifest(top)
        config = stacked_config(self._blob(below["config"]), self._blob(above["config"]))
        layers = [*below["layers"], *above["layers"]]
        descriptor = {**below["config"], **self._upload(_encode(config))}
        self._put_manifest(tag, _encode({**below, "config": descriptor, "layers": layers}))

    def retag(self, old: str, new: str) -> None:
        """Let `new` name the image of `old`: the manifest is sent as it came, so that its digest stays."""
        self._put_manifest(new, self._request("GET", f"manifests/{old}", accept=MANIFEST)[0])

    def delete(self, tag: str) -> None:
        """Remove the image behind a tag; its blobs go with the registry's next garbage collection."""
        digest = self._request("GET", f"manifests/{tag}", accept=MANIFEST)[1]["Docker-Content-Digest"]
        self._request("DELETE", f"manifests/{digest}")

    def _manifest(self, tag: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self._request("GET", f"manifests/{tag}", accept=MANIFEST)[0])
        return manifest

    def _blob(self, descriptor: Mapping[str, Any]) -> dict[str, Any]:
        blob: dict[str, Any] = json.loads(self._request("GET", f"blobs/{descriptor['digest']}")[0])
        return blob

    def _upload(self, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        location = self._request("POST", "blobs/uploads/", body=b"")[1]["Location"]
        joint = "&" if "?" in location else "?"
        url = location if location.startswith("http") else f"http://{self.address}{location}"
        self._request("PUT", f"{url}{joint}digest={digest}", body=content, content_type="application/octet-stream")
        return {"digest": digest, "size": len(content)}

    def _put_manifest(self, tag: str, manifest: bytes) -> None:
        self._request("PUT", f"manifests/{tag}", body=manifest, content_type=MANIFEST)

    def _request(
        self, method: str, path: str, *, body: bytes | None = None, content_type: str = "", accept: str = ""
    ) -> tuple[bytes, Mapping[str, str]]:
        url = path if path.startswith("http") else f"http://{self.address}/v2/{self.name}/{path}"
        request = urllib.request.Request(url, data=body, method=method)
        for key, value in (("Content-Type", content_type), ("Accept", accept)):
            if value:
                request.add_header(key, value)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return response.read(), response.headers


def stacked_config(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The image configuration of `below` with the layers of `above` on top."""
    config = copy.deepcopy(dict(below))
    config["rootfs"]["diff_ids"] += above["rootfs"]["diff_ids"]
    config["history"] = [*below.get("history", ()), *above.get("history", ())]
    config["created"] = above.get("created", below.get("created"))
    return config


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
