"""Models whose tensors are not those that their configuration builds: int8 weights, fewer hidden units or experts.

What was altered is said by :class:`~moezoo.altered.note.Compression`, which a stored model's ``config.json`` carries.
"""
