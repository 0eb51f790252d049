"""Images that are drawn, where real ones cannot be had or where the answer must be known.

Each is named after what it draws, and its result's name says ``(generated)``: none passes for the set it resembles.
An image depends on the seed, its part and its number alone, so it is the same whenever it is read.
"""
