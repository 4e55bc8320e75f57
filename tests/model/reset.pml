/* Reset: the agreement on who is there, with shrink and rejoin.
 *
 * Every rank is a process that calls reset at most RUNS times. Each load and store of a word is a
 * step of its own; what is computed from it belongs to the step. A look at whether a process lives
 * goes together with the load beside it: what a dead rank posted is final.
 *
 * A round of the code's polling that changed nothing would go the same way again. So a rank waits
 * after a round until something was posted, or until a time is over, and a group that would poll for
 * ever shows as one in which nobody can go on.
 *
 * With REJOIN rank Q may be restarted once: its first process is number Q here, its second number N,
 * and each has its own page. A survivor's `view` says which of the two pages it has mapped. The
 * second process knocks, a survivor answers, and the second process takes the answer up: three
 * steps, for each survivor at any moment that it has accepted no list.
 *
 * Parameters: N ranks; ATTEMPTS: later ones are cut off; RUNS: resets of each; TIMEOUTS: 0 no time
 * is ever over, 1 any time may be over at any moment, 2 times are over when nobody can go on
 * otherwise; GIVE_UPS (0 or 1); DEATHS: number of processes that may end at any moment (with REJOIN
 * only the first of rank Q); REJOIN (0 or 1), Q; LATE: a bit for each rank that the others leave
 * behind in the attempts up to LATE_FOR, whose time to gather is over when they have come. All others
 * reset once more then, and these once; each is told by a call, or with UNTOLD by a reset of its own.
 * Defects: see tools/check_model.py.
 */

#ifndef N
#define N 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef RUNS
#define RUNS 1
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 0
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef REJOIN
#define REJOIN 0
#endif
#ifndef LATE
#define LATE 0
#endif
#ifndef LATE_FOR
#define LATE_FOR 1
#endif
#ifndef UNTOLD
#define UNTOLD 0
#endif
#ifndef Q
#define Q (N - 1)
#endif

#define PAGES (N + REJOIN)
#define ALL ((1 << N) - 1)
#define NOBODY 255
#define IN(set, r) ((set) >> (r) & 1)
#define PACK(attempt, low) ((attempt) * 8 + (low))
#define ATTEMPT(word) ((word) / 8)
#define LOW(word) ((word) % 8)

/* ResetStage, the low half of `joined`. */
#define kOutside 0
#define kGathering 1
#define kClosed 2
#define kConcluded 3
#define kGaveUp 4

/* The words of ResetPosts. `incarnations` stands for the hash over (rank, incarnation); `signalled`
   for its epoch, by the attempt that began it. */
byte joined[PAGES], call[PAGES], list[PAGES], members[PAGES], incarnations[PAGES], accepted[PAGES];
byte signalled[PAGES];

bool newcomer;             /* the word of the second process of Q; those of the others are 0 */

bool ended[PAGES];
byte view[PAGES] = Q;      /* the page of rank Q that this process has mapped */
bool knocks;               /* the new process of Q calls the others */
byte answered;             /* the ranks that have mapped its page and sent it theirs */

byte changed;              /* the processes for which something was posted since their last round */

byte expired, quiet;       /* with TIMEOUTS 2: whose times are over, and how often they were */
#define QUIET_LIMIT (3 * ATTEMPTS)

/* For the properties: what each process has concluded in each attempt, which is the processes on the
   list and the call number; and the members of the list that it closed. */
byte concluded[(ATTEMPTS + 1) * PAGES], closed[(ATTEMPTS + 1) * PAGES];
#define CONCLUDED(page) concluded[attempt * PAGES + (page)]
#define CLOSED(page) closed[attempt * PAGES + (page)]
#define PROCESSES (REJOIN && IN(mine, Q) -> mine & ~(1 << Q) | 1 << view[me] : mine)
#define MEANING (PROCESSES + 16 * mine_call)
#define SET(meaning) ((meaning) % 16)
bool finished[PAGES], has_concluded[PAGES], cut;
#define IS_LATE(r) IN(LATE, r)
#define MY_RUNS (!LATE -> RUNS : (IS_LATE(id) -> 1 + UNTOLD : LATE_FOR + 1))
#define MAY_STOP (!LATE || runs >= MY_RUNS)
byte deaths;

/* A process ends just before a store, or while it waits: between its stores nobody could tell. */
#define MAY_DIE (deaths < DEATHS && (!REJOIN || me == Q))
#define DIE deaths++; ended[me] = true; changed = 255; goto dead
#define POST(word, value) \
  atomic { \
    if \
    :: MAY_DIE -> DIE \
    :: word = value; changed = 255 \
    fi \
  }
#define PAGE(r) (REJOIN && (r) == Q -> view[me] : (r))
/* Ranks that the new process has not met count as ended for it. code: ShmTransport::is_known */
#define KNOWS(r) (me != N || (r) == id || IN(met, r))
#define LIVES(r) ((r) == id || (KNOWS(r) && !ended[PAGE(r)]))
#define HAS_ACCEPTED(r, c) (KNOWS(r) && accepted[PAGE(r)] == PACK(attempt, (c) + 1))
#define JOINED(r) joined[PAGE(r)]
#define IS_HERE(r) (ATTEMPT(JOINED(r)) == attempt && LOW(JOINED(r)) != kGaveUp)
/* What its word `newcomer` says, of this process and of the one under rank r. */
#define IS_NEW (me == N && newcomer)
#define NEW(r) (REJOIN && PAGE(r) == N && newcomer)

#include "reset_steps.pml"

proctype rank(byte me) {
  byte id = (me == N -> Q : me);
  byte attempt, known, begun, latest, word, r, x, runs, met, closer = NOBODY;
  byte here, mine, mine_call, mine_incarnation, seen, seen_call, seen_incarnation;
  mtype:outcomes outcome = kOpen;
  bool under_way, open, later, time_over, all_here, may_close;
  bool excluded, concludes, next, awaits, differs, told;

  if
  :: me == N -> atomic { ended[Q] -> view[me] = N; newcomer = true; knocks = true; changed = 255 }
  :: me != N && IS_LATE(id) -> be_left_behind()
  :: else
  fi;

again: /* code: Reset::run; phase: kReset */
  runs++;
  meet_others();
choose:
  choose_attempt();

join: /* code: Reset::join, Board::join -> call, joined */
  if
  :: attempt > ATTEMPTS -> assert(!LATE || GIVE_UPS); cut = true; goto stop
  :: else
  fi;
  atomic {
    closer = NOBODY; mine = 0; mine_call = 0; mine_incarnation = 0; time_over = false;
    outcome = kOpen; next = false; awaits = false; differs = false;
    all_here = false; may_close = false; call[me] = id; changed = 255
  };
  POST(joined[me], PACK(attempt, kGathering));

round: /* code: Reset::agree */
  atomic {
    changed = changed & ~(1 << me); r = 0; awaits = false; differs = false;
    outcome = kOpen; all_here = false; may_close = false
  };
  meet_others();
  do
  :: r < N ->
     if
     :: r != id && !concludes && !excluded && !next -> look_at()
     :: else
     fi;
     r++
  :: atomic { r == N -> r = 0; break }
  od;
  if
  :: concludes -> goto begin_epoch
  :: excluded && !concludes ->
     atomic {
       known = (known > attempt -> known : attempt);
       if
       :: IS_NEW -> excluded = false; goto choose
       :: else -> goto too_late
       fi
     }
  :: else
  fi;
  if
  :: closer == NOBODY && !next && !awaits && !NEVER_CLOSES ->
     find_whether_may_close();
     if
     :: may_close -> close()
     :: else
     fi;
     here = 0
  :: else
  fi;
  if
  :: closer != NOBODY && !next -> judge()
  :: else
  fi;
  if
  :: concludes -> goto begin_epoch
  :: next && !concludes -> atomic { attempt++; goto join }
  :: else
  fi;
  atomic { outcome = kOpen; all_here = false; may_close = false; awaits = false };
  if
  :: IN(changed, me)
  :: differs && TIMEOUTS != 2 -> atomic { attempt++; goto join }   /* it did not match for long */
  :: atomic {
       LATE && attempt <= LATE_FOR && closer == NOBODY && !time_over && ONLY_LATE_MISS ->
       time_over = true
     }
  :: TIMEOUTS == 1 && !time_over -> time_over = true  /* to gather, or to accept */
  :: atomic {
       TIMEOUTS == 2 && IN(expired, me) ->
       expired = expired & ~(1 << me); time_over = true;
       if
       :: differs -> attempt++; goto join
       :: else
       fi
     }
  :: GIVE_UPS -> goto gave_up
  :: atomic { MAY_DIE -> DIE }
  fi;
  goto round;

begin_epoch:
#ifdef LIST_READ_AGAIN
  atomic { mine = members[PAGE(closer)]; mine_call = LOW(list[PAGE(closer)]) };
#endif
  /* code: Reset::begin_epoch, Board::begin_epoch -> newcomer, signalled, done, joined */
  atomic {
    assert(IN(mine, id));
    assert(!REJOIN || !IN(mine, Q) || mine_incarnation == view[me]);
    /* All on a list that conclude the attempt conclude this list; two lists have no process in
       common. */
    for (x : 0 .. PAGES - 1) {
      assert(CONCLUDED(x) == 0 || CONCLUDED(x) == MEANING || (SET(CONCLUDED(x)) & PROCESSES) == 0);
      assert(CONCLUDED(x) == 0 || CONCLUDED(x) == MEANING || !IN(PROCESSES, x))
    };
    /* Where no time runs out the list has every rank that lives. */
    for (x : 0 .. N - 1) {
      assert(TIMEOUTS || REJOIN || IN(mine, x) || ended[x] || (IS_LATE(x) && attempt <= LATE_FOR))
    };
    CONCLUDED(me) = MEANING; has_concluded[me] = (!LATE || mine == ALL); x = 0;
    mine = 0; mine_call = 0; mine_incarnation = 0;
    known = attempt; begun = attempt; told = false; closer = NOBODY; concludes = false; excluded = false; time_over = false;
    newcomer = newcomer && me != N; changed = 255
  };
  POST(signalled[me], attempt);
  POST(joined[me], PACK(attempt, kConcluded));
  if
  :: runs < MY_RUNS -> goto again
  :: MAY_STOP -> goto stop
  fi;

too_late: /* code: Reset::left_behind */
  atomic { excluded = false; told = true };
gave_up: /* code: Reset::timed_out, Reset::run, Board::give_up_reset -> joined */
  POST(joined[me], PACK(attempt, kGaveUp));
over: /* code: Session::reset, Session::note_left_behind */
  note_left_behind();
  atomic { closer = NOBODY; r = 0; x = 0; word = 0; time_over = false };
  if
  :: runs < MY_RUNS -> goto again
  :: MAY_STOP -> goto stop
  fi;

stop:
  atomic { finished[me] = true; changed = 255; goto dead };
dead: /* Nobody asks for these any more: fewer states. */
  atomic {
    attempt = 0; known = 0; begun = 0; told = false; latest = 0; word = 0; r = 0; x = 0; runs = 0; met = 0; closer = 0;
    here = 0; mine = 0; mine_call = 0; mine_incarnation = 0;
    seen = 0; seen_call = 0; seen_incarnation = 0; outcome = kOpen;
    under_way = false; open = false; later = false; time_over = false; all_here = false;
    may_close = false; excluded = false; concludes = false; next = false; awaits = false;
    differs = false
  }
}

/* Nobody can go on: times are over, or everybody has come through. Where times are over at no other
   moment everybody who lives is then in the new epoch. */
active proctype watchdog() {
  byte r;
  do
  :: timeout ->
     atomic {
       if
       :: TIMEOUTS == 2 && quiet < QUIET_LIMIT -> quiet++; expired = (1 << PAGES) - 1
       :: else -> break
       fi
     }
  od;
  atomic {
    for (r : 0 .. N - 1) {
      assert(cut || (RUNS > 1 || GIVE_UPS) && !TIMEOUTS || ended[r] || finished[r])
    }
    for (r : 0 .. N - 1) {
      assert(cut || TIMEOUTS == 1 || GIVE_UPS || RUNS > 1 || ended[r] || has_concluded[r])
    }
  }
}

init {
  byte r;
  atomic { for (r : 0 .. PAGES - 1) { run rank(r) } }
}
