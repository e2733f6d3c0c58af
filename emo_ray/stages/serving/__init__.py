"""The live page and its API: what a request holds, how it is answered, who may ask, and what a browser shows.

Reading order: answers, guard, app, drawings, page, deployments.
"""
