"""Contract suites: what every adapter of a protocol is held to, ours and yours. They need pytest and pytest-asyncio.

Subclass a suite in a test file and give it one fixture; see `ragline.testing.keywords` and `ragline.testing.vectors`.
"""
