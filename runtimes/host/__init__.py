"""What the runtimes share: trainable values on the host, batching, caches. numpy only."""
