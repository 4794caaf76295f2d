"""Low-rank adapters: extracted from two networks, or trained on factors and merged."""
