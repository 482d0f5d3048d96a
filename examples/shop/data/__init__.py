"""Real orders packaged with the shop."""
