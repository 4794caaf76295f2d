"""What damaged and hostile files get: one line."""
