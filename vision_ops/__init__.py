"""Pictures as tensors: decoding, networks, learners, metrics, operators. No Ray, no command line.

One legend for every shape in this package:

    B batch   C channels   H height   W width   D depth   T frames   L samples
    E embedding   K classes   P probes   G gallery

Height before width. Tensors are (B, C, H, W) float; arrays between processes (B, H, W, 3) uint8.
"""
