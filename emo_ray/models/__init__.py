"""Plain nn.Modules: no Ray, no MLflow.

Reading order: clip, prompts, temporal, emovclip, reference, pooling, audio, text, fusion, state, checkpoint.
"""
