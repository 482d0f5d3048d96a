"""The promises of the broker port, one file a subject; `tidings.testing.contract` runs them.

Every check is an async function that is given a `Server` of its own. Its docstring is the promise.
"""
