"""To be seen in production: logs, metrics, health, a watchdog, traces. Each is one file; `lookout.py` runs them."""
