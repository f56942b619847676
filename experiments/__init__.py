"""Scripts that read top to bottom: the only place that knows the names of things."""
