"""MLflow: where runs are tracked, and what is logged."""
