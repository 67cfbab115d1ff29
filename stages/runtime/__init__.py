"""How stages run: processes, files, errors, environment, tracking. Imports nothing of the other rooms."""
