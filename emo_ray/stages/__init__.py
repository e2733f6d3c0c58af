"""The verbs, and the only place where Ray is used. Reading order: prepare, features, fit, train, evaluate."""
