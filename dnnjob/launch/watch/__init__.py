"""Looking after runs: what they do, what they say, ending them, waiting for them, going on."""
