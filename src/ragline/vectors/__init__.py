"""Vector stores: one file a vendor, all held to `ragline.testing.vectors`."""
