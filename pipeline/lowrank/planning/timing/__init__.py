"""Time as a cost: measured on this device, layer by layer, and kept for later plans."""
