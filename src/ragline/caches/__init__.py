"""One file a vendor, each a `Cache`: where the hot tier keeps what was asked last."""
