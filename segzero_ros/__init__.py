"""Language to masks: Seg-Zero's reasoning segmentation for ROS 2 and for plain Python."""

__version__ = "0.1.0"
