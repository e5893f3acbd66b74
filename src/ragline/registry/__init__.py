"""The registry: one row per document, namespaces, epochs, keys; never one row per chunk. SQL that both databases speak."""
