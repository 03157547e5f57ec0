"""Measures speed: of the networks (`model`), of whole runs (`pipeline`), and writes both up (`report`).

Nothing here judges: a figure is what this machine did, stored beside what the machine is and what else it had to do.
"""
