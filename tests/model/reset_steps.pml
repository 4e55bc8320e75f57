/* The steps of a reset. Part of reset.pml. */

/* Processes that come back are taken in, and take up an answer, while they have accepted no list.
   code: Reset::meet_others, ShmTransport::take_in, ShmTransport::accept */
#ifdef ADMITS_AFTER_ACCEPTING
#define MAY_ADMIT true
#else
#define MAY_ADMIT (closer == NOBODY)
#endif
inline meet_others() {
#if REJOIN
  atomic {
    if
    :: me != N && me != Q && knocks && !IN(answered, me) && MAY_ADMIT ->
       view[me] = N; answered = answered | 1 << me; changed = 255
    :: me == N && met != answered && closer == NOBODY -> met = answered
    :: else
    fi
  }
#else
  skip
#endif
}

/* The attempts that others have concluded by now, in a call or a reset that fails: it has told this
   rank that they went on without it. code: Session::note_left_behind, concluded_by; code: Call::fail,
   Session::check_usable */
inline note_left_behind() {
#ifndef FAILURE_TELLS_NOTHING
  atomic { r = 0 };
  do
  :: atomic {
       r < N ->
       if
       :: KNOWS(r) && signalled[PAGE(r)] > known -> known = signalled[PAGE(r)]
       :: else
       fi;
       r++
     }
  :: atomic { r == N -> r = 0; break }
  od
#else
  skip
#endif
}

#define SOMEBODY_IS_IN_THE_EPOCH_OF(a) \
  (signalled[0] >= (a) || signalled[1] >= (a) || signalled[N - 1] >= (a))
#define ONLY_LATE_MISS \
  ((IS_LATE(0) || IS_HERE(0)) && (IS_LATE(1) || IS_HERE(1)) && (IS_LATE(N - 1) || IS_HERE(N - 1)))

/* This rank makes no reset until the others have gone on without it. A call tells it so as soon as
   they have, or later. */
inline be_left_behind() {
  if
  :: !UNTOLD ->
     SOMEBODY_IS_IN_THE_EPOCH_OF(1);
     note_left_behind();
     told = true
  :: else
  fi;
  SOMEBODY_IS_IN_THE_EPOCH_OF(LATE_FOR)
}

/* A rank that gave up an attempt does not come back to it: it may have accepted a list there.
   A rank is told once that others went on without it, until it is in a new epoch.
   code: Reset::choose_attempt, Standing::knows_it_is_left_behind */
#ifdef COMES_BACK_TO_ATTEMPT
#define LAST known
#else
#define LAST (known > attempt -> known : attempt)
#endif
#ifdef TOLD_OF_EACH_ATTEMPT
#define KNOWS_IT_IS_LEFT_BEHIND false
#else
#define KNOWS_IT_IS_LEFT_BEHIND (known > begun)
#endif
inline choose_attempt() {
  atomic {
    latest = LAST; under_way = false; r = 0; excluded = false;
    open = !(KNOWS_IT_IS_LEFT_BEHIND || IS_NEW)  /* it may be told now */
  };
  do
  :: atomic {
       r < N && r != id && KNOWS(r) ->
       word = JOINED(r);
       if
       :: ATTEMPT(word) < latest
       :: else ->
          under_way = (LOW(word) == kGathering || LOW(word) == kClosed) && LIVES(r) ||
                      (ATTEMPT(word) == latest && under_way);
          latest = ATTEMPT(word)
       fi;
       word = 0
     };
     atomic {
       if
       :: signalled[PAGE(r)] > known -> known = signalled[PAGE(r)]; excluded = open
       :: else
       fi;
       r++
     }
  :: atomic { r < N && !(r != id && KNOWS(r)) -> r++ }
  :: atomic {
       r == N ->
       if
       :: excluded ->
          assert(!told);
          excluded = false; told = true; latest = 0; under_way = false; open = false; goto over
       :: else
       fi;
       latest = (latest < known -> known : latest);
       attempt = (under_way && latest > LAST -> latest : latest + 1);
       latest = 0; under_way = false; open = false; r = 0;
       break
     }
  od
}

mtype:outcomes = { kOpen, kHolds, kBroken };

/* What a list comes to, from the `accepted` of those on it.
   code: Reset::outcome */
inline find_outcome(closer_asked, set) {
  atomic { x = 0; outcome = kHolds };
  do
  :: atomic { x < N && (!IN(set, x) || HAS_ACCEPTED(x, closer_asked)) -> x++ }
  :: atomic {
       x < N && IN(set, x) && !HAS_ACCEPTED(x, closer_asked) ->
       if
       :: !KNOWS(x)
       :: KNOWS(x) && (ATTEMPT(accepted[PAGE(x)]) == attempt || !LIVES(x)) -> outcome = kBroken; break
       :: else
       fi
     };
     atomic {
       if
       :: KNOWS(x) && LOW(JOINED(x)) == kGaveUp -> outcome = kBroken; break
       :: else -> outcome = kOpen; x++
       fi
     }
  :: atomic { x == N -> break }
  od;
  x = 0
}

/* code: Reset::accept, Board::accept -> accepted, joined */
inline accept(closer_chosen, set, number, page_of_q) {
  atomic { 
    closer = closer_chosen; mine = set; mine_call = number; mine_incarnation = page_of_q;
    time_over = false
  };
  POST(accepted[me], PACK(attempt, closer_chosen + 1));
  POST(joined[me], PACK(attempt, kClosed))
}

/* The hash of a list is the own one: over pages that this rank has mapped.
   code: Reset::incarnations, incarnation_hash */
#ifdef LIST_WITHOUT_INCARNATIONS
#define MAPS_THE_SAME true
#else
#define MAPS_THE_SAME \
  (!REJOIN || ((!IN(seen, Q) || seen_incarnation == view[me]) && \
               (me != N || (seen & ~(met | 1 << id)) == 0)))
#endif

/* The list of rank r, when it has closed one in this attempt. A later attempt of its closer may
   overwrite it while it is copied: then it is not used.
   code: read_list, Reset::consider */
inline look_at_list() {
  if
  :: atomic { ATTEMPT(list[PAGE(r)]) == attempt -> seen_call = LOW(list[PAGE(r)]) };
     seen_incarnation = incarnations[PAGE(r)];
     seen = members[PAGE(r)];
#ifndef LIST_MAY_BE_OLD
     if
     :: ATTEMPT(JOINED(r)) != attempt -> seen = 0
     :: else
     fi;
#endif
     assert(seen == 0 || seen == CLOSED(PAGE(r)));
     if
     :: seen == 0
     :: seen != 0 && IN(seen, id) ->
        if
        :: MAPS_THE_SAME -> accept(r, seen, seen_call, seen_incarnation)
        :: else -> atomic { differs = true; awaits = true }
        fi
     :: seen != 0 && !IN(seen, id) ->
        find_outcome(r, seen);
        if
        :: outcome == kHolds -> excluded = true
        :: outcome == kBroken -> next = true
        :: outcome == kOpen -> awaits = true
        fi
     fi;
     atomic { seen = 0; seen_call = 0; seen_incarnation = 0 }
  :: else
  fi
}

#ifdef ACCEPTS_TWICE
#define MAY_ACCEPT(r) (closer == NOBODY || r < closer)
#else
#define MAY_ACCEPT(r) (closer == NOBODY)
#endif
#define IS_LATER (ATTEMPT(word) > attempt && LOW(word) != kGaveUp && LIVES(r))
#ifdef CONCLUDED_SUFFICES
#define CONCLUDED_MINE (closer != NOBODY)
#else
#define CONCLUDED_MINE (closer != NOBODY && seen == PACK(attempt, closer + 1))
#endif

/* code: Reset::look_at, read_joined, accepted_in */
inline look_at() {
#ifdef TWO_LOADS_OF_JOINED
  seen = (KNOWS(r) -> accepted[PAGE(r)] : 0);
  word = (KNOWS(r) -> JOINED(r) : 0);
  atomic { word = PACK(ATTEMPT(word), (KNOWS(r) -> LOW(JOINED(r)) : 0)); later = IS_LATER };
#else
  atomic { word = (KNOWS(r) -> JOINED(r) : 0); later = IS_LATER };
#endif
  if
  :: later ->
     if
     :: closer != NOBODY -> find_outcome(closer, mine)
     :: else -> outcome = kOpen
     fi;
     atomic {
       if
       :: outcome == kHolds -> concludes = true
       :: outcome != kHolds && closer != NOBODY && !IN(mine, r)  /* the list decides */
       :: outcome != kHolds && (closer == NOBODY || IN(mine, r)) && LOW(word) == kConcluded ->
          excluded = true
       :: else -> attempt = ATTEMPT(word); word = 0; later = false; seen = 0; r = 0; goto join
       fi
     }
  :: !later && word == PACK(attempt, kConcluded) ->
#ifndef TWO_LOADS_OF_JOINED
     seen = accepted[PAGE(r)];
#endif
     atomic {
       if
       :: CONCLUDED_MINE -> concludes = IN(mine, r)
       :: !CONCLUDED_MINE && ATTEMPT(seen) == attempt -> excluded = true
       :: else
       fi;
       seen = 0
     }
  :: !later && ATTEMPT(word) == attempt && LOW(word) != kConcluded && MAY_ACCEPT(r) ->
#ifdef TWO_LOADS_OF_JOINED
     seen = 0;
#endif
     look_at_list()
  :: else
  fi;
  atomic { word = 0; later = false; seen = 0 }
}

/* The lowest rank present that never left closes. One that came back does not: it may have met only
   some of the others. code: Reset::may_close, Reset::is_here */
#ifdef NEWCOMER_CLOSES
#define NEVER_CLOSES (met == 0 && IS_NEW)
#define GOES_FIRST(r) ((r) < id)
#else
#define NEVER_CLOSES IS_NEW
#define GOES_FIRST(r) ((r) < id && !NEW(r))
#endif
inline find_whether_may_close() {
  atomic { x = 0; all_here = true; may_close = true; here = 0 };
  do
  :: atomic {
       x < N ->
       if
       :: LIVES(x) && IS_HERE(x) && GOES_FIRST(x) -> may_close = false; here = 0; break
       :: LIVES(x) && IS_HERE(x) && !GOES_FIRST(x) -> here = here | 1 << x
       :: LIVES(x) && !IS_HERE(x) -> all_here = false
       :: else
       fi;
       x++
     }
  :: atomic { x == N -> may_close = all_here || time_over; break }
  od;
  atomic { x = 0; all_here = false }
}

/* On the list are the ranks that were there when this rank decided to close: one that has left for a
   later attempt since breaks the list, and this rank follows it. */
#ifdef CLOSER_LOOKS_TWICE
#define ON_LIST(x) (LIVES(x) && IS_HERE(x))
#else
#define ON_LIST(x) IN(here, x)
#endif

/* code: Reset::close, Board::close -> members, incarnations, list */
inline close() {
  x = 0;
  do
  :: atomic {
       x < N ->
       if
       :: ON_LIST(x) ->
          seen = seen | 1 << x;
          seen_call = (call[PAGE(x)] > seen_call -> call[PAGE(x)] : seen_call)
       :: else
       fi;
       x++
     }
  :: atomic { x == N -> x = 0; break }
  od;
  POST(members[me], seen);
  POST(incarnations[me], view[me]);
  POST(list[me], PACK(attempt, seen_call); CLOSED(me) = seen);
  accept(id, seen, seen_call, view[me]);
  atomic { seen = 0; seen_call = 0 }
}

/* code: Reset::judge */
inline judge() {
#ifdef LIST_READ_AGAIN
  atomic { mine = members[PAGE(closer)]; mine_call = LOW(list[PAGE(closer)]) };
#endif
  find_outcome(closer, mine);
  atomic {
    if
    :: outcome == kHolds -> concludes = true
    :: outcome == kBroken || (outcome == kOpen && time_over) -> next = true
    :: else
    fi
  }
}
