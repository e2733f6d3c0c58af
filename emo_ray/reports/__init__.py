"""What people look at: tables, pictures and self-contained pages.

A report module holds the type of its content (what the JSON file beside the page holds), `tables(content)` for the
terminal and `write(content, folder)` for the page and its pictures.

Reading order: wording, templating, table, figures, page, front_page, corpus_check, drawings, contact_sheet, cards,
cards_page, timeline, timeline_page, floors, scorecard, reliability, evaluation_plots, evaluation, comparison, noise,
crosscorpus, training, pseudo_labels, rounds, sweep_trials, sweep_plots, sweep, claims_plots, claims.
"""
