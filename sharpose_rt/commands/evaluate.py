"""`sharpose-rt eval`: COCO AP or MPII's PCKh of a model, and what its gate saves and costs."""

from sharpose_rt.evaluation.cli import add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure AP, exit rate and GMACs on a set of labelled pictures"
