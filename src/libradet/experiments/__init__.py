"""The paper's tables, figures and claims on other data: ``tables/`` lists what is compared, ``presets/`` at what scale.

A row is a few settings of ``libradet train``. Each row and seed is trained by that command in its own process, and
finished runs are not repeated.
"""
