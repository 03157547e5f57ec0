"""The commands of `sharpose-rt`, one per module.

Each has `HELP` (one line), `add_arguments(parser)` and `run(args)`, which returns the exit status and raises
SharposeError for what a user can fix. `--help` prints the module's docstring as the description. Slow imports are made
in `run`, so that `--help` answers at once.
"""
