"""One short file a DVC stage: read, call, write."""
