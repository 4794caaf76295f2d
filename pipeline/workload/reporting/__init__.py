"""From the outputs of the stages to rows, pictures and a summary."""
