/* Reset: the agreement on who is there, with shrink and rejoin.
 *
 * Every rank is a process that calls reset at most RUNS times. Each load and store of a word is a
 * step of its own; what is computed from it belongs to the step. A look at whether a process lives
 * goes together with the load beside it: what a dead rank posted is final.
 *
 * A round of the code's polling that changed nothing would go the same way again. So a rank waits
 * after a round until something was posted, or until a time is over (TIMEOUTS: any time may be over
 * at any moment), and a group that would poll for ever shows as one in which nobody can go on.
 *
 * With REJOIN rank Q may be restarted once: its first process is number Q here, its second number N,
 * and each has its own page. A survivor's `view` says which of the two pages it has mapped.
 *
 * Parameters: N ranks; ATTEMPTS: later ones are cut off; RUNS; TIMEOUTS, GIVE_UPS (0 or 1);
 * DEATHS: number of processes that may end at any moment; REJOIN (0 or 1), Q.
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

/* The words of ResetPosts. `incarnations` stands for the hash over (rank, incarnation). */
byte joined[PAGES], call[PAGES], list[PAGES], members[PAGES], incarnations[PAGES], accepted[PAGES];

bool ended[PAGES];
byte view[PAGES] = Q;      /* the page of rank Q that this process has mapped */
bool knocks;               /* the new process of Q has asked to come in */
byte answered;             /* the ranks that have admitted it */

byte changed;              /* the processes for which something was posted since their last round */

/* What each process has concluded in each attempt, for the properties: the processes on the list and
   the call number. */
byte concluded[(ATTEMPTS + 1) * PAGES];
#define CONCLUDED(page) concluded[attempt * PAGES + (page)]
#define PROCESSES (REJOIN && IN(mine, Q) -> mine & ~(1 << Q) | 1 << view[me] : mine)
#define MEANING (PROCESSES + 16 * mine_call)
#define SET(meaning) ((meaning) % 16)
bool finished[PAGES], has_concluded[PAGES], cut;
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
/* Ranks that the new process has not met yet count as ended. */
#define KNOWS(r) (me != N || (r) == id || IN(answered, r))
#define LIVES(r) ((r) == id || (KNOWS(r) && !ended[PAGE(r)]))
#define HAS_ACCEPTED(r, c) (KNOWS(r) && accepted[PAGE(r)] == PACK(attempt, (c) + 1))
#define JOINED(r) joined[PAGE(r)]
#define IS_HERE(r) (ATTEMPT(JOINED(r)) == attempt && LOW(JOINED(r)) != kGaveUp)

#include "reset_steps.pml"

#ifdef ADMITS_AFTER_ACCEPTING
#define MAY_ADMIT true
#else
#define MAY_ADMIT (closer == NOBODY)
#endif

proctype rank(byte me) {
  byte id = (me == N -> Q : me);
  byte attempt, known, latest, word, r, x, runs, closer = NOBODY;
  byte here, mine, mine_call, mine_incarnation, seen, seen_call, seen_incarnation;
  mtype:outcomes outcome = kOpen;
  bool under_way, open, later, gather_over, accept_over, all_here, may_close, beside_member;
  bool excluded, concludes, next, awaits, differs;

  if
  :: me == N -> atomic { ended[Q] -> view[me] = N; knocks = true; changed = 255 }; answered != 0
  :: else
  fi;

again: /* code: Reset::run; phase: kReset */
  runs++;
choose:
  choose_attempt();

join: /* code: Reset::join -> call, joined */
  if
  :: attempt > ATTEMPTS -> cut = true; goto stop
  :: else
  fi;
  atomic {
    closer = NOBODY; mine = 0; mine_call = 0; mine_incarnation = 0; gather_over = false;
    accept_over = false; outcome = kOpen; next = false; awaits = false; differs = false;
    all_here = false; may_close = false; beside_member = false; call[me] = id; changed = 255
  };
  POST(joined[me], PACK(attempt, kGathering));

round: /* code: Reset::agree */
  atomic {
    changed = changed & ~(1 << me); r = 0; awaits = false; differs = false;
    outcome = kOpen; all_here = false; may_close = false; beside_member = false
  };
#if REJOIN
  atomic { /* code: Reset::meet_others */
    if
    :: me != N && me != Q && knocks && !IN(answered, me) && MAY_ADMIT ->
       view[me] = N; answered = answered | 1 << me; changed = 255
    :: else
    fi
  };
#endif
  do
  :: r < N ->
     if
     :: r != id && !concludes -> look_at()
     :: else
     fi;
     r++
  :: atomic { r == N -> r = 0; break }
  od;
  if
  :: concludes -> goto begin_epoch
  :: excluded && !concludes && me != N -> atomic { known = attempt; goto too_late }
  :: excluded && !concludes && me == N -> atomic { known = attempt; excluded = false; goto choose }
  :: else
  fi;
  if
  :: closer == NOBODY && !next ->
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
  atomic { outcome = kOpen; all_here = false; may_close = false; beside_member = false };
  if
  :: IN(changed, me)
  :: differs -> atomic { attempt++; goto join }   /* it did not match for long */
  :: TIMEOUTS && closer == NOBODY && !gather_over -> gather_over = true
  :: TIMEOUTS && closer != NOBODY && !accept_over -> accept_over = true
  :: GIVE_UPS -> goto gave_up
  :: atomic { MAY_DIE -> DIE }
  fi;
  goto round;

begin_epoch:
#ifdef LIST_READ_AGAIN
  atomic { mine = members[PAGE(closer)]; mine_call = LOW(list[PAGE(closer)]) };
#endif
  /* code: Reset::begin_epoch -> signalled, done, joined */
  atomic {
    assert(IN(mine, id));
    assert(!REJOIN || !IN(mine, Q) || mine_incarnation == view[me]);
    /* All on a list that conclude the attempt conclude this list; two lists have no process in
       common. */
    for (x : 0 .. PAGES - 1) {
      assert(CONCLUDED(x) == 0 || CONCLUDED(x) == MEANING || (SET(CONCLUDED(x)) & PROCESSES) == 0);
      assert(CONCLUDED(x) == 0 || CONCLUDED(x) == MEANING || !IN(PROCESSES, x))
    };
    CONCLUDED(me) = MEANING; has_concluded[me] = true; x = 0;
    mine = 0; mine_call = 0; mine_incarnation = 0;
    known = attempt; closer = NOBODY; concludes = false; excluded = false
  };
  POST(joined[me], PACK(attempt, kConcluded));
  if
  :: runs < RUNS -> goto again
  :: true -> goto stop
  fi;

too_late: /* code: Reset::left_behind */
  excluded = false;
gave_up: /* code: Reset::timed_out, Reset::run -> joined */
  POST(joined[me], PACK(attempt, kGaveUp));
  atomic { closer = NOBODY; r = 0; x = 0; word = 0 };
  if
  :: runs < RUNS -> goto again
  :: true -> goto stop
  fi;

stop:
  atomic { finished[me] = true; changed = 255 }
dead:
  skip
}

/* Nobody can go on. Without times that end, everybody who lives is then in the new epoch. */
active proctype watchdog() {
  byte r;
  timeout ->
  atomic {
    for (r : 0 .. N - 1) { assert(cut || RUNS > 1 && !TIMEOUTS || ended[r] || finished[r]) }
    for (r : 0 .. N - 1) { assert(cut || TIMEOUTS || GIVE_UPS || RUNS > 1 || ended[r] || has_concluded[r]) }
  }
}


init {
  byte r;
  atomic { for (r : 0 .. PAGES - 1) { run rank(r) } }
}
