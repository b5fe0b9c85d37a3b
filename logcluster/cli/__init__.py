"""The command line: typer commands over the client and over local processes.

May import everything below it; nothing imports it but `logcluster.__main__`. Modules here import only typer and the
standard library at the top, and the client or rich inside functions, so that `--help` is quick. Start reading at
`app.py`; what every command shares (global options, errors, exit codes) is in `command.py`, printing in `output.py`.
"""
