"""vLLM as a child process: its options as data, its configuration, its life, its answers. Nothing here imports vLLM."""
