"""Several apps in one process."""

from tidings import App, Event
from tidings.runtime import Runtime


class Posted(Event, name="post.posted"):
    body: str


async def test_apps_that_share_a_connection_each_keep_their_own_limit_of_a_body() -> None:
    small, large = App("small", body_limit=100), App("large", body_limit=1000)
    runtime = Runtime([small, large])
    await runtime.open()
    try:
        await large.publish(Posted(body="x" * 500))
    finally:
        await runtime.close()
