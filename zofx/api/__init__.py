"""The Python API, which the command line is written on; `import zofx` offers its names.

build      compile(model, …) → Artifact
artifact   Artifact: tune, evaluate, generate, export      load(path) → Artifact
run        Run: metrics, evaluations, theta, resume, export      load_run(path) → Run
callbacks  Callback: follows a run, and may stop it
sources    what a task may be: a name, a file, rows
"""
