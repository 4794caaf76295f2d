"""From candidates to one choice for each target, and the plan that records it."""
