"""The room of keyword indexes: one vendor per file, all held to `ragline.testing.keywords`."""
