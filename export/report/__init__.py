"""Reports of exports, and the measurement of latency and memory."""
