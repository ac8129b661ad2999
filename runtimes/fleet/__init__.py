"""A runtime made of sessions on many workers: only keys, coefficients and scores cross, never θ.

    spec     "4", "ort=2,torch=1@ray://HEAD:10001"   →   which engines, how many, on which cluster
    cells    the grid of probes × rows               →   a rectangle per worker, by its speed
    worker   a process: one session, and the moves it has made so far
    crew     the workers as the head sees them: coming up, catching up, at work, hung, lost
    session  the Session that the driver has: θ of its own, and forwards by the crew

Processes, placement and failure detection are Ray's (`pip install 'zofx[fleet]'`).
"""
