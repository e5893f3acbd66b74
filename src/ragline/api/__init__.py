"""HTTP: routes only. They check who asks, call one path, and put the result into words."""
