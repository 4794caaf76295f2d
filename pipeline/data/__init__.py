"""Data sets: sources, splits, and what the stage prepare writes."""
