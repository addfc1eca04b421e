"""Every causal language model of transformers that a tiny form builds: exact, or refused."""
