"""Published methods that score the same tokens, to compare the autoregressive model with."""
