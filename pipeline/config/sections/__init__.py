"""The sections of the configuration whose options belong to no room below this one."""
