"""The one training loop, what it minimises, and what starts and resumes it."""
