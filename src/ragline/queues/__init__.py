"""Job queues: they wake workers up, and no more. One vendor a file, each a `protocols.JobQueue`."""
