"""How a model runs on this machine: the layers of each processor and number format, and the choice among them."""
