"""Training: labelled people, varied crops, losses, the loop."""
