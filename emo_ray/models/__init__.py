"""Plain nn.Modules: no Ray, no MLflow. Reading order: prompts, emovclip, audio, text, encoders, fusion."""
