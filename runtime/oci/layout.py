"""Packs a folder as an OCI image that kubelets can pull, umoci can unpack and the same bytes always give the same digest.

Two uncompressed layers: the small files, then the weights, so that a changed config does not move the weights again.
Uncompressed, a layer's diff_id is its digest, and nothing is spent on compressing noise. Pure but for the files that it
reads and writes; knows no registry.
"""

import dataclasses
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CREATED = "1970-01-01T00:00:00Z"  # of every image: the time of packing would change the digest
WEIGHTS = (".safetensors", ".pt", ".bin")
CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Descriptor:
    media_type: str
    digest: str
    size: int

    def encoded(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def write(folder: Path, layout: Path, *, root: str, annotations: Mapping[str, str], artifact_type: str) -> str:
    """Write `folder` as the image `image` of a new layout, its files under /`root`. Returns the manifest's digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [path for path in files if path.suffix not in WEIGHTS]
    big = [path for path in files if path.suffix in WEIGHTS]
    (layout / "blobs" / "sha256").mkdir(parents=True)
    layers = [_layer(layout, folder, root, group) for group in (small, big) if group]
    config = _json(layout, CONFIG_TYPE, _config(layers, annotations))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": config.encoded(),
        "layers": [layer.encoded() for layer in layers],
        "annotations": {"org.opencontainers.image.created": CREATED, **annotations},
    }
    descriptor = _json(layout, MANIFEST_TYPE, manifest)
    _index(layout, descriptor)
    return descriptor.digest


def _config(layers: Sequence[Descriptor], annotations: Mapping[str, str]) -> dict[str, Any]:
    return {
        "created": CREATED,
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Labels": dict(annotations)},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created": CREATED, "created_by": "runtime.push"} for _ in layers],
    }


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _index(layout: Path, manifest: Descriptor) -> None:
    named = {**manifest.encoded(), "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _json(layout: Path, media_type: str, document: Mapping[str, Any]) -> Descriptor:
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(body)
    return Descriptor(media_type, f"sha256:{digest}", len(body))


class _Hashing(io.RawIOBase):
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)


def _layer(layout: Path, folder: Path, root: str, files: Sequence[Path]) -> Descriptor:
    """Stream files into a tar, hashing on the way: no layer is read twice, none is held in memory."""
    blobs = layout / "blobs" / "sha256"
    temporary = blobs / "layer.tmp"
    with temporary.open("wb") as file:
        output = _Hashing(file)
        with tarfile.open(
            fileobj=cast("IO[bytes]", output), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK
        ) as tar:
            for name in _folders(root, folder, files):
                tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755, 0))
            for path in files:
                with path.open("rb") as source:
                    entry = _entry(f"{root}/{path.relative_to(folder)}", tarfile.REGTYPE, 0o644, path.stat().st_size)
                    tar.addfile(entry, source)
    digest = output.hash.hexdigest()
    temporary.rename(blobs / digest)
    return Descriptor(LAYER_TYPE, f"sha256:{digest}", output.size)


def _folders(root: str, folder: Path, files: Sequence[Path]) -> list[str]:
    """Every folder above the files, parents first."""
    names = {root}
    for path in files:
        names |= {f"{root}/{parent}" for parent in path.relative_to(folder).parents if str(parent) != "."}
    names |= {str(parent) for parent in Path(root).parents if str(parent) != "."}
    return sorted(names)


def _entry(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry  # mtime, uid and gid are 0 and the names of owners empty: the same bytes everywhere
