"""RDKit's state: threads do not disturb each other's log, and all is given back as it was."""

import subprocess
import sys

import pytest
from rdkit import Chem, rdBase

from deepchem_mmsa import rdkit_state
from deepchem_mmsa.rdkit_state import errors, quiet_legacy


def is_on():
    return "rdApp.error:enabled" in rdBase.LogStatus()


def test_the_last_that_leaves_gives_the_log_back():
    before = is_on()
    first, second = quiet_legacy(), quiet_legacy()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not is_on()
    second.__exit__(None, None, None)
    assert is_on() == before


@pytest.mark.parametrize("legacy", [True, False])
def test_the_last_that_leaves_gives_the_perception_of_stereo_back(legacy):
    before = Chem.GetUseLegacyStereoPerception()
    Chem.SetUseLegacyStereoPerception(legacy)
    try:
        first, second = quiet_legacy(), quiet_legacy()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert Chem.GetUseLegacyStereoPerception()
        second.__exit__(None, None, None)
        assert Chem.GetUseLegacyStereoPerception() == legacy
    finally:
        Chem.SetUseLegacyStereoPerception(before)


@pytest.mark.skipif(not hasattr(rdBase, "CaptureErrorLog"), reason="this RDKit cannot be asked")
def test_errors_are_read_where_the_log_is_quiet():
    with quiet_legacy(), errors() as lines:
        Chem.MolFromSmiles("C1CC")
    assert any("unclosed ring" in line for line in lines)


@pytest.mark.skipif(not hasattr(rdBase, "CaptureErrorLog"), reason="this RDKit cannot be asked")
def test_no_line_of_reading_lets_a_quiet_threads_errors_out(capfd):
    def as_another_thread(frame, event, arg):
        if frame.f_code.co_filename == rdkit_state.__file__:
            Chem.MolFromSmiles("C1CC")
            return as_another_thread
        return None

    before = sys.gettrace()
    with quiet_legacy():
        reading = errors()
        sys.settrace(as_another_thread)
        try:
            with reading as lines:
                Chem.MolFromSmiles("C1CCC")
        finally:
            sys.settrace(before)
    assert {"'C1CC'", "'C1CCC'"} <= {line.split()[-1] for line in lines}
    assert capfd.readouterr().err == ""


THREADS = """
import sys, threading
sys.setswitchinterval(1e-5)
from rdkit import rdBase
from deepchem_mmsa.views import ViewSettings, molecule_views

settings, wrong = ViewSettings(("graph",)), []

def work(k):
    for i in range(300):
        text = "C" * k + "1CC" + "N" * (i % 5)
        reason = molecule_views(text, settings).reasons["graph"]
        if repr(text) not in reason:
            wrong.append((text, reason))
        assert molecule_views("CC[C@H](N)C", settings).available

threads = [threading.Thread(target=work, args=(k + 1,)) for k in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong, wrong[:3]
assert "rdApp.error:enabled" in rdBase.LogStatus()
"""


def test_many_threads_read_what_cannot_be_read():
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
