"""The simulated tabletop: scenes (PyBullet), their storage, and the instructions written over them."""
