"""The hot cache, measured: a hit beside a miss over HTTP, what a look costs, and a day of traffic on a simulated clock."""
