"""Jobs of Hydra in DVC workspaces, one by one or in sweeps."""
