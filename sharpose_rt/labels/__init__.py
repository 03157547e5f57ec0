"""Reads labelled people: COCO's form, to which MPII's and YOLO's are converted, and MOTChallenge's boxes."""
