"""Labelled people as files have them: COCO's form, and MPII's brought into it."""
