"""How the engine is run: jobs, events, files and the command line."""
