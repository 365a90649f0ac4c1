"""Evaluation: data sets, run through a server, measured, compared and reported.

A suite (`palaver.evaluation.suites`) names rows of data; each becomes an example. `running` sends
the examples through a server of this process, whose replies complete them to cases; `metrics`
scores cases, `comparison` those of two runs, and `reports` writes the page about either.
"""
