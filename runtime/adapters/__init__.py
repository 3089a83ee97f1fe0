"""LoRA adapters before they reach the engine: checked offline, scaled. Nothing here needs torch or a running server."""
