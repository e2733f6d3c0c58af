"""The verbs of a job, in the order of the data flow; what several verbs share lies in folders among them.

Reading order: chat, prepare, annotate, encoding, features, fitting, train, evaluate, predict, teachers, pseudo_label,
self_train, sweeps, tune, crossvalidate.
"""
