"""Networks to compress: ours, and those of transformers."""
