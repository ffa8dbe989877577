"""What several systems share: settings and `build` of players, autoencoders, codes."""
