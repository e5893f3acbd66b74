"""Job stores, one file a vendor."""
