"""The embedding room: one file a vendor."""
