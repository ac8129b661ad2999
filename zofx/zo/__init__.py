"""The zeroth-order driver: numpy only, knows no graph."""
