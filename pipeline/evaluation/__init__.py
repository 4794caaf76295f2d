"""Quality, sizes and latency of networks, measured."""
