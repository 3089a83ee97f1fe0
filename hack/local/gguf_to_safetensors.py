"""Turns a GGUF file into a folder that transformers and vLLM load: bfloat16 safetensors, tokenizer, chat template.

A script for the runtime environment: `.venv-runtime/bin/python hack/local/gguf_to_safetensors.py FILE FOLDER`, with the
`gguf` package on its path.
"""

import sys
from pathlib import Path


def convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),  # a model that stays quantised cannot be saved
        dtype=torch.bfloat16,
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
