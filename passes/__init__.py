"""The passes: one rewrite, or one tight family, per file. README.md says how to write one."""

if __name__ != "zofx.passes":  # from the repository root this folder also answers to "passes"
    raise ImportError("import zofx.passes, not passes")
