"""Measuring networks on labelled pictures."""
