import pandas as pd

from tasks.report.sections.detection import detections

NEVER = pd.NaT


def table(*rows: tuple[str, object, object, float | None, bool]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["case_id", "true_time", "detected_time", "error_s", "detected"])
    for name in ("true_time", "detected_time"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame.assign(fault="cpu")


def test_outcomes_and_their_sentence() -> None:
    begin, later = "2026-01-01T00:00:00Z", "2026-01-01T00:00:04Z"
    found = detections(
        table(
            ("late", begin, later, 4.0, True),
            ("early", later, begin, -4.0, True),
            ("close", begin, begin, 0.0, True),
            ("missed", begin, NEVER, None, False),
            ("alarm", NEVER, later, None, True),
            ("quiet", NEVER, NEVER, None, False),
        )
    )
    assert found is not None
    assert {case.case_id: case.outcome for case in found.cases} == {
        "late": "detected",
        "early": "detected",
        "close": "detected",
        "missed": "not detected",
        "alarm": "false alarm",
        "quiet": "rightly quiet",
    }
    assert [case.case_id for case in found.cases][3:] == ["early", "late", "close"]
    assert found.statement == (
        "3 of 4 faults were detected, half of them within 4 s, the worst within 4 s; "
        "false alarms: 1 in 2 cases without a fault."
    )


def test_methods_that_were_told_the_moment_have_no_detection() -> None:
    assert detections(None) is None
    assert detections(table()) is None
