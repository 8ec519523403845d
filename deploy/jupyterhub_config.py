"""A JupyterHub on one machine whose users share samovar's models. It works as it stands:

    pip install -c constraints.txt ".[hub,local]"
    npm install -g configurable-http-proxy
    jupyterhub -f deploy/jupyterhub_config.py        # then http://127.0.0.1:8000

State is kept in the working folder: the Hub's database, its secrets, users' homes, two passwords. Settings
of the models are in samovar_hub_config.py (docs/hub.md).
"""

import json
import os
import secrets
import sys
from pathlib import Path

c = get_config()  # noqa: F821  # JupyterHub defines it

# Who the users are -----------------------------------------------------------------------------------
# One password for all users and one for the administrators, made up at the first start. That is for a class
# whose members trust each other: whoever knows it is any user, and all servers run as the account that
# starts the Hub. Where the users have accounts on this machine, start the Hub as root and take these lines
# out: JupyterHub then asks for the accounts' passwords and starts each server as its user.
ADMINISTRATORS = {"admin"}
passwords = Path("hub-passwords.json")
if not passwords.exists():
    passwords.touch(mode=0o600)
    passwords.write_text(
        json.dumps({"users": secrets.token_urlsafe(9), "administrators": secrets.token_urlsafe(24)})
    )
known = json.loads(passwords.read_text())
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = known["users"]
c.SharedPasswordAuthenticator.admin_password = known["administrators"]
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.SimpleLocalProcessSpawner.home_dir_template = str(Path("homes").absolute() / "{username}")

c.Authenticator.admin_users = ADMINISTRATORS

# The service that runs the models --------------------------------------------------------------------
ADDRESS = os.environ.get("SAMOVAR_SERVICE_ADDRESS", "http://127.0.0.1:8095")
PASSED_ON = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_TOKEN", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
c.JupyterHub.services = [
    {
        "name": "samovar",
        "url": ADDRESS,
        "command": [sys.executable, "-m", "samovar_server.hub"],
        "environment": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }
]
# By this variable a user's server knows that it is not to run models itself.
c.Spawner.environment = {"SAMOVAR_SERVICE_URL": f"{ADDRESS}/services/samovar/v1"}

# What tokens may do ----------------------------------------------------------------------------------
USE = "access:services!service=samovar"
MANAGE = "custom:samovar:manage"
MANAGERS = "samovar-managers"
c.JupyterHub.custom_scopes = {MANAGE: {"description": "Manage samovar's models, downloads and metrics"}}
c.JupyterHub.load_groups = {MANAGERS: {"users": sorted(ADMINISTRATORS)}}
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", USE]},
    {"name": "samovar-manager", "scopes": [MANAGE], "groups": [MANAGERS]},
    # The token of each user's server: what JupyterHub gives it by itself, and the service. A token never has
    # a scope that its owner has not.
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", USE, MANAGE]},
]
