"""The command line: the process, its commands (thin shells over jobs), what they print, and progress on a terminal."""
