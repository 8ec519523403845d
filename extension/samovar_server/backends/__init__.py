"""One file per engine: how its worker is started and which options it honours."""
