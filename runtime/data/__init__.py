"""Training data: files, shapes, examples, masks. `files`, `shapes` and `check` run before torch is imported."""
