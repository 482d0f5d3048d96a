"""Load on real handlers: events arrive when they are due, whatever the system makes of it, and all is measured.

A guided tour. `load.py` says when events arrive, `stream.py` what they are. `run.py` starts the worker processes
(`crew.py`, `worker.py`), publishes (`publisher.py`) and waits until all is settled. In each worker process the broker
is wrapped (`measured.py`), so that every commit leaves a note (`notes.py`) of what it settled and when; the app, its
handlers and the engine are those of `tidings run`. `ledger.py` adds the notes up, `figures.py` makes latencies, rates
and lag of them, `growth.py` finds where lag begins to grow. `chart.py` and `page.py` draw the report.
"""
