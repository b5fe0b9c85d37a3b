"""Small programs that use logcluster as anybody would; scripts/demo runs `flights_demo`."""
