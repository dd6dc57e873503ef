"""The calls from Python, and what each does with what it is given; the command line makes the same.

- given: a network, images and progress in whatever form a call takes them
- evaluate, certify, audit, train, describe: of one network
- compare: what `compare`, `power` and `rank` name; report: of a study

What decides anything stands here or below, so that the command line only parses, calls and shows.
"""
