"""Brokers, one file each; `tidings.connect` imports them when a URL asks for one."""
