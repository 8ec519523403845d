"""The JupyterHub service: one workbench for all users of a Hub."""
