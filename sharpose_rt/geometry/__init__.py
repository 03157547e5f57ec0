"""Pure functions of boxes, crops, heatmaps and poses."""
