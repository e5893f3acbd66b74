"""CDNs and reverse caches in front of the API: one file a vendor."""
