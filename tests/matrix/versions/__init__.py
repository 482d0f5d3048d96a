"""Two versions of one service, which run at once during a rolling deploy."""
