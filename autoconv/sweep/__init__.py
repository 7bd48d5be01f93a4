"""The offline sweep: candidates, pruning, compiling, checking, timing, recording, all in worker processes."""
