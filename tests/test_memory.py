"""The memory of a process."""

from command_line import raising

from pysft.measure import memory


def test_the_peak_memory_is_known_where_the_system_has_no_proc(monkeypatch):
    peak = memory.peak_memory()
    monkeypatch.setattr(memory, "open", raising(FileNotFoundError("/proc")), raising=False)
    assert memory._proc_status("VmHWM") is None
    assert peak / 4 < memory.peak_memory() < 4 * peak
