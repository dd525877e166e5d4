from dkey.trace.jsonl import Layer, read_records
from dkey.trace.pcapng import read_packets
from dkey.trace.tracer import Tracer, records_of

EVENT = bytes.fromhex("02000003000100")


def test_ble_messages_stand_in_both_files_with_the_same_times(tmp_path):
    times = iter(range(1_000, 9_000, 1_000))
    with Tracer(tmp_path / "talk", clock_ns=lambda: next(times)) as tracer:
        tracer.message(from_reader=False, data=EVENT)
        tracer.message(from_reader=True, data=EVENT + EVENT)
    with (tmp_path / "talk.jsonl").open("rb") as file:
        told = [each for each in read_records(file) if each.layer is Layer.MESSAGE]
    with (tmp_path / "talk.pcapng").open("rb") as file:
        captured = list(records_of(read_packets(file)))
    assert captured == told
    assert [each.from_reader for each in told] == [False, True]
