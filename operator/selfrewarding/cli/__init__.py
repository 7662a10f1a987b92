"""The command `srr`."""
