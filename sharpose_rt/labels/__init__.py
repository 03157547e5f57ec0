"""Labelled people as files have them: COCO's form, into which MPII's and YOLO's are brought; MOTChallenge's boxes."""
