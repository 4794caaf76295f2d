"""From candidates to one choice a target, and the plan that says it."""
