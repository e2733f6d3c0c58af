"""The verbs, and the only place where Ray is used. Reading order: prepare, answers, ask, annotate, encode, imports,
features, epochs, fit, save, plan, train, evaluate, predict, teachers, pseudo_label, self_train, sweep_records,
sweep_bulk, sweep_trial, sweep_tune, tune, trials, teaching, crossvalidate, comparisons, claims, bench_data, bench_jobs,
bench_sweep, bench_plan, bench."""
