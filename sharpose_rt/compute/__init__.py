"""How any network is run: precision, threads, OpenVINO graphs, CUDA graphs and streams."""
