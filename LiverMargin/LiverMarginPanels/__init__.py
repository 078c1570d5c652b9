"""The panels of the LiverMargin module, one file each, and the logic behind them that needs no window."""
