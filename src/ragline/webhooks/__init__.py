"""Webhooks of jobs: where they may go, what they are signed with, and the loop that sends them. See docs/webhooks.md."""
