from types import SimpleNamespace
from typing import Any

from comm import DummyComm
from ipykernel.comm.comm import BaseComm

from samovar.widgets.comms import hear_in_subshells


def test_messages_go_where_the_front_end_sends_them() -> None:
    comm: Any = BaseComm(target_name="jupyter.widget")
    comm._reply_subshell_id = None  # as ipykernel notes it when a cell has written to the widget
    hear_in_subshells([SimpleNamespace(comm=comm)])
    assert comm._reply_subshell_for({}, "chosen") == "chosen"


def test_other_comms_are_left_alone() -> None:
    comm: Any = DummyComm(target_name="jupyter.widget")
    hear_in_subshells([SimpleNamespace(comm=comm)])
    assert not hasattr(comm, "_reply_subshell_for")
