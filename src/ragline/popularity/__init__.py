"""What is asked for often: counters that outlive every cache, one file a vendor."""
