"""A trained model on decoded clips, in one process and without Ray.

Reading order: encoders, recognition, encoding, classifier, sources, model, pyfunc.
"""
