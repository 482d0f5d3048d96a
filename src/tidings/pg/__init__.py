"""The PostgreSQL database that broker and store share: connecting to it, committing, who owns what, lending.

Read `database.py` for what a connection is and what its errors mean, `schema.py` for the tables, `writer.py` for how a
commit happens, `log.py` for how records get their positions, `reader.py` for how it is read without blocking,
`membership.py` for who owns which keys, `group.py` with `lending.py` for how records are lent and settled, `keeper.py`
for the housekeeping, `lent.py` for what a handler may do with its connection.
"""
