"""What people look at: tables, pictures and self-contained pages.

Reading order: page, contact_sheet, evaluation, pseudo_labels, rounds, sweep_axes, sweep_plots, sweep, claims_plots,
claims.
"""
