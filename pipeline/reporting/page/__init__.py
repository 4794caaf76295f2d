"""What the pages share: templates, tables, plots, words for numbers."""
