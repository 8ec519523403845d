# shellcheck shell=bash
# Sourced by the other scripts, from the repository's root: the virtual environment in .venv.
# Kept to bash 3.2, which is what macOS has.

venv=.venv

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the interpreter to build .venv with: $PYTHON if that is set, else the first one that is new enough.
find_python() {
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer; set PYTHON to one that is"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer found; install one, or set PYTHON to its path"
}

# prepare EXTRAS: after it, .venv holds an editable samovar[EXTRAS] at the pinned versions.
# A stamp remembers what was installed from, so that a second call costs milliseconds. The extensions of server
# and Lab belong to it because even an editable install copies them, the path because it links to it.
prepare() {
  local extras=$1 origin stamp python
  origin="$PWD $(cat pyproject.toml constraints.txt extension/jupyter-config/*/*.json extension/labextension/*.json extension/labextension/static/* | cksum)"
  stamp="$venv/samovar[$extras]"
  if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$origin" ]; then
    return
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --upgrade pip
  fi
  echo "Installing samovar[$extras] into $venv (the first time this fetches PyTorch: minutes)"
  "$venv/bin/python" -m pip install ${CI:+--quiet} -c constraints.txt -e ".[$extras]"
  echo "$origin" > "$stamp"
  if [ "$extras" = "local,test" ]; then
    echo "$origin" > "$venv/samovar[local]"
  fi
}
