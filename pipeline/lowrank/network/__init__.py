"""A network as it stands: its targets, what they cost, how it is called, its blocks."""
