"""The verbs, and the only place where Ray is used. Reading order: prepare, answers, ask, annotate, encode, features,
fit, train, evaluate, predict, trials, comparisons, claims, bench_data, bench_jobs, bench_plan, bench."""
