"""The embedded broker on a disk that loses power, fails or is slow.

`vfs.py` puts itself between SQLite and its files, in a process of its own. `journey.py` lets the real broker and store
work there; `tape.py` is what they wrote, `disk.py` every disk that a crash could have left of it, `judge.py` opens each
with the real code and says what is wrong with it. `python -m tests.storage` does it all. `damage.py` changes bits of a
file that is at rest, as a disk may later.
"""
