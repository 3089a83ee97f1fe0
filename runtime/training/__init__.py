"""Fine-tuning: configuration, defaults, model, trainer, checkpoints, export. `options` and `config` need no torch."""
