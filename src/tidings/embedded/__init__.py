"""The database file that the embedded broker and store share: opening it, writing to it, waking its readers.

Read `database.py` for what a connection is, `writer.py` for how a commit happens, `wakeup.py` for how readers hear of
it, `membership.py` for who owns what, `group.py` with `feed.py` for how records are lent and settled, `backlog.py` and
`catalog.py` for what can be seen of it.
"""
