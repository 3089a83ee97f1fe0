"""Adapters and base models as files, small enough to write by hand. Bytes, not torch: the format is the test's subject."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.adapters.preflight import CONFIG, WEIGHTS

WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1}
Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes | None]]  # type, shape, data (None: ones bytes)


def write_safetensors(path: Path, tensors: Tensors) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        size = WIDTH[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + size]}
        body += b"\x01" * size if data is None else data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def lora(
    module: str, rank: int = 4, wide: int = 8, high: int = 6, dtype: str = "BF16", data: bytes | None = None
) -> dict[str, Any]:
    """The two matrices of one module that is `high` x `wide` in the base model."""
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": (dtype, (rank, wide), None),
        f"{prefix}.lora_B.weight": (dtype, (high, rank), data),
    }


Q_PROJ = "model.layers.0.self_attn.q_proj"
BASE = {f"{Q_PROJ}.weight": ("BF16", (6, 8), None), "model.embed_tokens.weight": ("BF16", (16, 8), None)}


def write_adapter(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
    (folder / CONFIG).write_text(json.dumps(document))
    write_safetensors(folder / WEIGHTS, lora(Q_PROJ) if tensors is None else tensors)
    return folder
