"""The paper's tables, figures and claims as commands: ``tables/`` say what is compared, ``presets/`` how large.

A row is a few settings of ``libradet train``; it is trained by that very command, one process for each seed, and
what is finished is not done again.
"""
