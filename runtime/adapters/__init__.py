"""LoRA adapters before they reach the engine: checked offline, named and scaled. Nothing here needs torch or a server."""
