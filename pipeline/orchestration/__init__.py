"""Hydra, DVC and MLflow: composing, running in workspaces, tracking."""
