"""Measures the speed of the networks (`model`), whole runs (`pipeline`) and more, and reports it (`report`).

Nothing here judges: a figure is what this machine did, stored with a description of the machine and its other load.
"""
