"""The comparison of a sweep's jobs: one page to open in a browser."""
