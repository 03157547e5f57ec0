"""How networks are run, whichever they are: precision, OpenVINO graphs, CUDA graphs and streams."""
