"""Programs that show tidings at work."""
