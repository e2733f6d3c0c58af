"""Plain nn.Modules: no Ray, no MLflow.

Reading order: prompts, emovclip, pooling, audio, text, fusion, state, checkpoint.
"""
