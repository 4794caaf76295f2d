"""The page of one run: report.html."""
