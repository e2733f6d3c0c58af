"""Plain nn.Modules: no Ray, no MLflow.

Reading order: prompts, temporal, emovclip, pooling, audio, text, fusion, state, checkpoint.
"""
