"""From the outputs of the stages to tables, figures and pages."""
