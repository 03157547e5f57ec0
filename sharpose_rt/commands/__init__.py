"""The commands of `sharpose-rt`, one a module.

Each has `HELP` (one line), `add_arguments(parser)` and `run(args)`, which returns the exit status and raises
SharposeError for what a user can cure. The module's docstring is the description that `--help` prints. What is heavy
is imported in `run`, so that `--help` answers at once.
"""
