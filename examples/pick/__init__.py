"""A pick in simulation, in parts: world, camera, robot, grasp, answers, scores, page. `pick_in_sim.py` runs them."""
