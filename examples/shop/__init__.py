"""The shop: services that know each other only by events."""
