"""The subcommands of `glimmer`: each parses its options, calls one job and shows the result."""
