"""What `make bench` measures: the numbers of the design, on this machine, with real packets. Not tests: nothing fails by being slow."""
