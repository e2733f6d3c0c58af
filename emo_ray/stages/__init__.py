"""The verbs of a job, one file each, in the order of the data flow; what several verbs share lies in the folders.

Reading order: result, chat, decoding, encoding, serving, transcripts, corpus, fitting, sweeps, segment, prepare,
transcribe, annotate, features, check, export, train, prediction_rows, cards, scorecard_links, compare, noise, evaluate,
timelines, predictor, prediction_files, predict, serve, teachers, leaks, borderline, pseudo_label, self_train, tune,
crossvalidate, crosscorpus, store_files, verify, report, job_records, status, machine, doctor, submit.
"""
