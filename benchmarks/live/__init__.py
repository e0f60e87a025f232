"""Live versions, measured: a roll under load, freshness, capture, drain, switches."""
