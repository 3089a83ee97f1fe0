"""`make model-image`: packs a folder of weights as an OCI image and pushes it, for presets that come as images.

The files lie under /workspace/weights, where KAITO's model images have them, in uncompressed deterministic layers: the
same folder gives the same digest anywhere, and a new tokenizer does not move the weights again.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.contract import IMAGE_WEIGHTS_DIR
from runtime.oci import layout

ARTIFACT_TYPE = "application/vnd.kaito.model.v1"
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")


class UnusableFolder(ValueError):
    """The folder is not one that vLLM and transformers can load."""


def check(folder: Path) -> None:
    """Raise UnusableFolder with what is missing."""
    if not folder.is_dir():
        raise UnusableFolder(f"{folder} is not a folder")
    if not (folder / CONFIG).is_file():
        raise UnusableFolder(f"{folder} has no {CONFIG}: give the folder that transformers loads the model from")
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise UnusableFolder(f"{folder} has no weights ({', '.join(WEIGHTS)})")


def pack(folder: Path, target: Path) -> str:
    """Write the image as an OCI layout into `target`, which must not exist. Returns its digest."""
    check(folder)
    return layout.write(folder, target, root=IMAGE_WEIGHTS_DIR, annotations={}, artifact_type=ARTIFACT_TYPE)


def push(target: Path, image: str, options: list[str]) -> None:
    """Copy the layout to a registry. Options are skopeo's own; raises CalledProcessError with its words on stderr."""
    source = f"oci:{target}:image"
    subprocess.run(["skopeo", "copy", "--preserve-digests", *options, source, f"docker://{image}"], check=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hack.model_image", description="Pack weights as an image; push it."
    )
    parser.add_argument("folder", type=Path, help="what `save_pretrained` wrote: config, tokenizer, weights")
    parser.add_argument("image", help="REGISTRY/REPOSITORY:TAG")
    parser.add_argument("--authfile", help="logins, as `skopeo login` and `docker login` write them")
    parser.add_argument("--cert-dir", help="folder with the registry's CA as ca.crt")
    parser.add_argument(
        "--plain-http", action="store_true", help="the registry speaks HTTP, or its certificate is not checked"
    )
    given = parser.parse_args(arguments)
    options = ["--dest-authfile", given.authfile] if given.authfile else []
    options += ["--dest-cert-dir", given.cert_dir] if given.cert_dir else []
    options += ["--dest-tls-verify=false"] if given.plain_http else []
    # Beside the weights: a disk that holds them once is likely to hold them twice, and /tmp often is not a disk.
    with tempfile.TemporaryDirectory(prefix=".model-image-", dir=given.folder.resolve().parent) as scratch:
        try:
            digest = pack(given.folder, Path(scratch) / "layout")
            push(Path(scratch) / "layout", given.image, options)
        except UnusableFolder as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            return error.returncode
    print(f"{given.image.rpartition(':')[0]}@{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
