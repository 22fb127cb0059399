"""The node: translates between ROS 2 and the core. The only room that imports rclpy and messages."""
