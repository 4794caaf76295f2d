"""What a compressed layer is: its modules, how factors go in and out, surgery, files."""
