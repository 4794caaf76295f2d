"""What networks predict: losses, divergences and measures of quality, one file a task."""
