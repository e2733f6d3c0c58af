"""The only training loop, its loss and its metrics; no Ray, no MLflow. Reading order: loss, metrics, calibration,
selection, loop, in_memory, bulk, search, mini_clip, measure, step_speed."""
