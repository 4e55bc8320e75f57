"""The configurations of the models in tests/model, and the defects that have to be caught."""

from __future__ import annotations

from dataclasses import dataclass

# A piece of each assertion, and the property that it stands for. The first that fits is named.
PROPERTIES = [
    ("misplaced", "ranks that return rows of a call made it at the same place"),
    ("has_concluded", "every living rank is in the new epoch"),
    ("finished[", "nobody waits for ever"),
    ("refused", "a refusal ends the call of every member"),
    ("bad", "only rows of this very call are used"),
    ("concluded[", "one list for all on it"),
    ("told", "a rank that came too late is told so once"),
    ("closed[", "a list is used as its closer closed it"),
    ("mine_incarnation", "all on a list mean the same processes"),
    ("mine>>x", "where no time runs out the list has every living rank"),
    ("mine>>id", "only a list that names a rank begins its epoch"),
    ("!(", "no call is given up without a cause"),
]


@dataclass(frozen=True)
class Configuration:
    """A model with parameters. With a defect the model has to fail, without it has to hold."""

    name: str
    model: str
    defines: str = ""
    full: bool = False
    defect: str | None = None
    sampled: bool = False  # too many states: as many as fit into a bit table and a short time
    compact: bool = False  # many states: each is stored as a hash of 64 bits

    @staticmethod
    def property_of(result: str) -> str:
        for piece, name in PROPERTIES:
            if piece in result:
                return f'"{name}"'
        return result


def holds(model: str, name: str, defines: str = "", full: bool = False) -> Configuration:
    return Configuration(f"{model}: {name}", f"{model}.pml", defines, full)


def samples(model: str, name: str, defines: str) -> Configuration:
    return Configuration(f"{model}: {name}", f"{model}.pml", defines, True, None, True)


def compacts(model: str, name: str, defines: str) -> Configuration:
    return Configuration(f"{model}: {name}", f"{model}.pml", defines, True, None, False, True)


def catches(model: str, defect: str, defines: str = "", full: bool = False) -> Configuration:
    name = f"{model}: {defect}"
    return Configuration(name, f"{model}.pml", f"{defines} {defect}", full, defect)


WAKEUP = [
    holds("wakeup", "2 ranks", "CALLS=3"),
    holds("wakeup", "3 ranks", "N=3 CALLS=2"),
    holds("wakeup", "3 ranks, 3 calls", "N=3 CALLS=3", full=True),
    holds("wakeup", "2 ranks, same number in a new epoch", "RESTART=1 SLICES=1"),
    holds("wakeup", "3 ranks, same number in a new epoch", "N=3 RESTART=1 SLICES=1", full=True),
    catches("wakeup", "NO_FENCE_BEFORE_LOOK", full=True),
    catches("wakeup", "NO_FENCE_AFTER_STORE"),
    catches("wakeup", "SLEEP_WITHOUT_COMPARING", full=True),
    catches("wakeup", "WAKE_ONE", "N=3", full=True),
    catches("wakeup", "SLICES=0", "RESTART=1", full=True),
]

IN_PLACE_AND_LATE = "IN_PLACE=1 TIMEOUTS=1"
SPLIT = "SPLIT=1 IN_PLACE=1 TIMEOUTS=1 RESETS=1"
LEFT_OUT = "N=3 CALLS=3 ELASTIC=1 TIMEOUTS=1"
LEFT_OUT_OF_1_AND_2 = "N=3 CALLS=3 ELASTIC=6 TIMEOUTS=1"
LEFT_OUT_OF_2_AND_3 = "N=3 CALLS=3 ELASTIC=12 TIMEOUTS=1"
CALLS = [
    holds("calls", "2 ranks, in place, refusals", "IN_PLACE=1 REFUSALS=1"),
    holds("calls", "2 ranks, in place, late, reset", "IN_PLACE=1 TIMEOUTS=1 RESETS=1", full=True),
    holds("calls", "2 ranks, late, a death, reset", "CALLS=2 TIMEOUTS=1 DEATHS=1 RESETS=1"),
    holds("calls", "2 ranks, in place, a death, reset", "IN_PLACE=1 DEATHS=1 RESETS=1", full=True),
    holds("calls", "2 ranks, setup and teardown, late, reset", f"CALLS=2 {SPLIT}"),
    holds(
        "calls",
        "2 ranks, two groups, in place, reset",
        "TWO_GROUPS=1 IN_PLACE=1 RESETS=1",
        full=True,
    ),
    holds("calls", "3 ranks", "N=3"),
    holds("calls", "3 ranks, 2 calls, late", "N=3 CALLS=2 TIMEOUTS=1", full=True),
    holds(
        "calls",
        "2 ranks, in place, late, a death, reset",
        "IN_PLACE=1 TIMEOUTS=1 DEATHS=1 RESETS=1",
        full=True,
    ),
    holds("calls", "2 ranks, 5 calls, late, 2 resets", "CALLS=5 TIMEOUTS=1 RESETS=2", full=True),
    holds("calls", "2 ranks, 3 calls, setup and teardown", SPLIT, full=True),
    holds("calls", "3 ranks, refusals, 2 calls", "N=3 CALLS=2 REFUSALS=1", full=True),
    holds("calls", "3 ranks, a death, 2 calls", "N=3 CALLS=2 DEATHS=1", full=True),
    holds("calls", "3 ranks, one left out of calls", LEFT_OUT, full=True),
    holds("calls", "2 ranks, one fails alone, refusals", "LONE=1 IN_PLACE=1 REFUSALS=1"),
    holds("calls", "2 ranks, one fails alone, reset", "LONE=1 IN_PLACE=1 RESETS=1", full=True),
    holds(
        "calls", "2 ranks, one fails alone, late, reset", "LONE=1 TIMEOUTS=1 RESETS=1", full=True
    ),
    holds("calls", "3 ranks, one fails alone, 2 calls", "N=3 CALLS=2 LONE=1", full=True),
    catches("calls", "ALONE_GOES_ON", "LONE=1 CALLS=4"),
    catches("calls", "OUT_OF_STEP_GOES_ON", "LONE=1 CALLS=4 HISTORY_IS_FORGOTTEN"),
    catches("calls", "HISTORY_IS_FORGOTTEN", "LONE=1 REFUSALS=1", full=True),
    holds("calls", "2 ranks, two groups, refusals", "LONE=1 TWO_GROUPS=1 REFUSALS=1", full=True),
    catches("calls", "GIVES_UP_IN_SILENCE", "LONE=1 TWO_GROUPS=1 REFUSALS=1 CALLS=2", full=True),
    catches("calls", "LEFT_IS_NOT_SEEN", "LONE=1", full=True),
    catches("calls", "LEAVES_BEFORE_READERS", "LONE=1 IN_PLACE=1", full=True),
    catches("calls", "NO_LEFT_CHECK", IN_PLACE_AND_LATE),
    catches("calls", "WAIT_FOR_EQUAL", full=True),
    catches("calls", "NO_EPOCH_CHECK", "TIMEOUTS=1 RESETS=1", full=True),
    catches("calls", "REUSE_WITHOUT_LEFT", IN_PLACE_AND_LATE),
    catches("calls", "REFUSAL_DOES_NOT_WAIT", "REFUSALS=1", full=True),
    catches("calls", "WAIT_FOR_SENDERS_ONLY", "N=3 CALLS=1 REFUSALS=1", full=True),
    catches("calls", "HALF_NOT_AWAITED", "REFUSALS=1", full=True),
    catches("calls", "REFUSAL_WITHOUT_DONE", "REFUSALS=1", full=True),
    catches("calls", "SIGNAL_BEFORE_ROWS", full=True),
    catches("calls", "DONE_BEFORE_READING", "REFUSALS=1", full=True),
    catches("calls", "DONE_AFTER_READERS", "IN_PLACE=1", full=True),
    catches("calls", "READERS_NOT_AWAITED", "IN_PLACE=1", full=True),
    catches("calls", "FAILED_RESET_FREES_ROWS", SPLIT, full=True),
    catches("calls", "ROWS_GO_BEFORE_EPOCH", SPLIT, full=True),
    catches("calls", "SETUP_FAILS_AFTER_SIGNAL", "IN_PLACE=1", full=True),
    catches("calls", "HALF_FORGETS_MEMBERS", LEFT_OUT_OF_2_AND_3, full=True),
    catches("calls", "STAMP_IGNORED", LEFT_OUT_OF_1_AND_2, full=True),
    catches("calls", "STAMP_ONCE", LEFT_OUT_OF_1_AND_2, full=True),
]

REJOIN_LOW = "REJOIN=1 Q=0 DEATHS=1"
REJOIN_HIGH = "REJOIN=1 Q=N-1 DEATHS=1"
LEFT_BEHIND = "ATTEMPTS=2"
RESET = [
    holds("reset", "2 ranks, late", "TIMEOUTS=1"),
    holds("reset", "2 ranks, late, a death, giving up", "TIMEOUTS=1 GIVE_UPS=1 DEATHS=1"),
    holds("reset", "2 ranks, late, twice", "TIMEOUTS=1 RUNS=2", full=True),
    holds("reset", "2 ranks, one left behind", f"LATE=1 {LEFT_BEHIND}"),
    holds("reset", "2 ranks, one left behind, not told", f"LATE=2 {LEFT_BEHIND} UNTOLD=1"),
    holds("reset", "2 ranks, one left behind twice", "LATE=1 LATE_FOR=2 ATTEMPTS=3"),
    holds("reset", "2 ranks, one left behind, giving up", f"LATE=1 {LEFT_BEHIND} GIVE_UPS=1"),
    compacts("reset", "3 ranks, the lowest left behind", f"N=3 LATE=1 {LEFT_BEHIND}"),
    compacts("reset", "3 ranks, the middle one left behind", f"N=3 LATE=2 {LEFT_BEHIND}"),
    compacts("reset", "3 ranks, the highest left behind", f"N=3 LATE=4 {LEFT_BEHIND}"),
    compacts("reset", "3 ranks, two left behind", f"N=3 LATE=5 {LEFT_BEHIND}"),
    compacts("reset", "3 ranks, one left behind, not told", f"N=3 LATE=4 {LEFT_BEHIND} UNTOLD=1"),
    holds("reset", "3 ranks", "N=3"),
    holds("reset", "3 ranks, a death", "N=3 DEATHS=1", full=True),
    holds(
        "reset",
        "2 ranks, late, twice, giving up",
        "TIMEOUTS=1 RUNS=2 ATTEMPTS=3 GIVE_UPS=1",
        full=True,
    ),
    holds("reset", "2 ranks, the lower comes back", REJOIN_LOW),
    holds("reset", "2 ranks, the higher comes back", REJOIN_HIGH, full=True),
    holds("reset", "2 ranks, late, the lower comes back", f"{REJOIN_LOW} TIMEOUTS=1", full=True),
    holds("reset", "2 ranks, late, the higher comes back", f"{REJOIN_HIGH} TIMEOUTS=1", full=True),
    compacts("reset", "3 ranks, the lowest comes back", f"N=3 {REJOIN_LOW} TIMEOUTS=2"),
    compacts(
        "reset", "3 ranks, the highest comes back, 1 attempt", f"N=3 {REJOIN_HIGH} ATTEMPTS=1"
    ),
    compacts("reset", "3 ranks, late, a death, 1 attempt", "N=3 TIMEOUTS=1 DEATHS=1 ATTEMPTS=1"),
    holds("reset", "2 ranks, nobody hurries, twice", "TIMEOUTS=2 RUNS=2 DEATHS=1", full=True),
    samples("reset", "3 ranks, late, a death", "N=3 TIMEOUTS=1 DEATHS=1"),
    samples("reset", "3 ranks, late, the lowest comes back", f"N=3 {REJOIN_LOW} TIMEOUTS=1"),
    samples("reset", "3 ranks, late, the highest comes back", f"N=3 {REJOIN_HIGH} TIMEOUTS=1"),
    catches("reset", "CONCLUDED_SUFFICES", "TIMEOUTS=1"),
    catches("reset", "FAILURE_TELLS_NOTHING", f"LATE=1 {LEFT_BEHIND}"),
    catches("reset", "FAILURE_TELLS_NOTHING", f"N=3 LATE=4 {LEFT_BEHIND}", full=True),
    catches("reset", "LIST_READ_AGAIN", "TIMEOUTS=1", full=True),
    catches("reset", "NEWCOMER_CLOSES", f"N=3 {REJOIN_LOW} TIMEOUTS=2"),
    catches("reset", "LIST_MAY_BE_OLD", "TIMEOUTS=1", full=True),
    catches("reset", "COMES_BACK_TO_ATTEMPT", "TIMEOUTS=1 RUNS=2 GIVE_UPS=1", full=True),
    catches("reset", "TOLD_OF_EACH_ATTEMPT", "TIMEOUTS=1 RUNS=2", full=True),
    catches("reset", "CLOSER_LOOKS_TWICE", "N=3 DEATHS=1", full=True),
    catches("reset", "ADMITS_AFTER_ACCEPTING", f"N=3 {REJOIN_HIGH} ATTEMPTS=1", full=True),
    catches("reset", "LIST_WITHOUT_INCARNATIONS", f"N=3 {REJOIN_HIGH} ATTEMPTS=1", full=True),
    catches("reset", "ACCEPTS_TWICE", "N=3 TIMEOUTS=1 DEATHS=1 ATTEMPTS=1", full=True),
    catches("reset", "TWO_LOADS_OF_JOINED", "N=3 TIMEOUTS=1 ATTEMPTS=2", full=True),
]

CONFIGURATIONS = WAKEUP + CALLS + RESET
