"""Studies as a package, so that an installed `study` command finds them by name."""
