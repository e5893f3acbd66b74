"""The stores side by side: what each holds, how quick it is, how much it finds, for the table in docs/stores.md."""
