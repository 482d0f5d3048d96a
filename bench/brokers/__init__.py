"""tidings on servers, beside their plain clients: `<broker>.py` is what one would write by hand, the rest is shared."""
