"""The machine: threads, memory, number formats, devices, files from packages."""
