"""The same rewards and rows on verl (Ray, FSDP) for clusters, written for verl 0.9.1; README.md says how."""
