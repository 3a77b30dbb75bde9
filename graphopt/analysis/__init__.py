"""Facts about a graph, computed on demand: shapes, channel coupling, cost, liveness."""
