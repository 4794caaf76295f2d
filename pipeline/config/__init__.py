"""Hydra's configuration, typed, checked and pinned."""
