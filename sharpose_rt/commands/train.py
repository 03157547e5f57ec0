"""`sharpose-rt train`: trains a variant from a preset; see `configs/train`."""

from sharpose_rt.training.cli import add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train a variant; stops, resumes and reports by itself"
