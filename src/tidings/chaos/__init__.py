"""Broken on purpose, with real processes: publishers and workers that are killed and frozen, and a ledger of the rest.

`plan` says what happens, `driver` makes it happen, `ledger` judges what is left behind. `site` is all that has to be
known of a broker: another one is one more file beside `embedded`.
"""
