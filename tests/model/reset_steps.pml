/* The steps of a reset. Part of reset.pml. */

/* A rank that gave up an attempt does not come back to it: it may have accepted a list there.
   code: Reset::choose_attempt */
#ifdef COMES_BACK_TO_ATTEMPT
#define LAST known
#else
#define LAST (known > attempt -> known : attempt)
#endif
inline choose_attempt() {
  atomic { latest = LAST; under_way = false; r = 0 };
  do
  :: atomic {
       r < N ->
       word = JOINED(r);
       if
       :: r == id || ATTEMPT(word) < latest || !KNOWS(r)
       :: else ->
          open = (LOW(word) == kGathering || LOW(word) == kClosed) && LIVES(r);
          under_way = open || (ATTEMPT(word) == latest && under_way);
          latest = ATTEMPT(word);
          if
          :: LOW(word) == kConcluded && latest > known ->
             known = latest;
             if
             :: me != N -> attempt = known; goto too_late
             :: else
             fi
          :: else
          fi
       fi;
       r++
     }
  :: atomic {
       r == N ->
       attempt = (under_way && latest > LAST -> latest : latest + 1);
       latest = 0; under_way = false; open = false; word = 0; r = 0;
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

/* code: Reset::accept -> accepted, joined */
inline accept(closer_chosen, set, number, page_of_q) {
  atomic { closer = closer_chosen; mine = set; mine_call = number; mine_incarnation = page_of_q };
  POST(accepted[me], PACK(attempt, closer_chosen + 1));
  POST(joined[me], PACK(attempt, kClosed))
}

#ifdef LIST_WITHOUT_INCARNATIONS
#define MAPS_THE_SAME true
#else
#define MAPS_THE_SAME (!REJOIN || !IN(seen, Q) || seen_incarnation == view[me])
#endif

/* The list of rank r, when it has closed one in this attempt. The members are read before a later
   attempt of its closer can overwrite them, or not used.
   code: Reset::has_list, Reset::on_list, Reset::consider, Reset::incarnations */
inline look_at_list() {
  if
  :: ATTEMPT(list[PAGE(r)]) == attempt ->
     atomic { seen_call = LOW(list[PAGE(r)]); seen = members[PAGE(r)] };
     seen_incarnation = incarnations[PAGE(r)];
     if
#ifndef LIST_MAY_BE_OLD
     :: ATTEMPT(JOINED(r)) != attempt -> seen = 0
#endif
     :: else
     fi;
     if
     :: seen == 0
     :: seen != 0 && IN(seen, id) ->
        if
        :: MAPS_THE_SAME -> accept(r, seen, seen_call, seen_incarnation)
        :: else -> differs = true
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

/* code: Reset::look_at */
inline look_at() {
  atomic { word = (KNOWS(r) -> JOINED(r) : 0); later = ATTEMPT(word) > attempt && LOW(word) != kGaveUp && LIVES(r) };
  if
  :: later ->
     if
     :: closer != NOBODY -> find_outcome(closer, mine)
     :: else -> outcome = kOpen
     fi;
     atomic {
       if
       :: outcome == kHolds -> concludes = true
       :: outcome != kHolds && LOW(word) == kConcluded -> excluded = true
       :: else -> attempt = ATTEMPT(word); word = 0; later = false; r = 0; goto join
       fi
     }
  :: !later && ATTEMPT(word) == attempt && MAY_ACCEPT(r) -> look_at_list()
  :: else
  fi;
  atomic { word = 0; later = false }
}

/* A process that came back waits with its list for those that are there and that it has not met.
   code: Reset::may_close, Reset::is_here, Reset::a_member_is_here */
inline find_whether_may_close() {
  atomic { x = 0; all_here = true; may_close = !awaits; beside_member = me != N; here = 0 };
  do
  :: atomic {
       x < N ->
       if
       :: LIVES(x) && IS_HERE(x) && x < id -> may_close = false
       :: LIVES(x) && !IS_HERE(x) -> all_here = false
#ifndef UNMET_COUNT_AS_ENDED
       :: !KNOWS(x) && !ended[PAGE(x)] -> all_here = false
#endif
       :: else
       fi;
       beside_member = beside_member || (x != id && LIVES(x) && IS_HERE(x));
       here = here | (LIVES(x) && IS_HERE(x) -> 1 << x : 0);
       x++
     }
  :: atomic { x == N -> may_close = may_close && beside_member && (all_here || gather_over); x = 0; break }
  od
}

/* On the list are the ranks that were there when this rank decided to close: one that has left for a
   later attempt since breaks the list, and this rank follows it. */
#ifdef CLOSER_LOOKS_TWICE
#define ON_LIST(x) (LIVES(x) && IS_HERE(x))
#else
#define ON_LIST(x) IN(here, x)
#endif

/* code: Reset::close -> members, incarnations, list */
inline close() {
  POST(members[me], 0);
  POST(incarnations[me], view[me]);
  x = 0;
  do
  :: x < N ->
     atomic {
       if
       :: ON_LIST(x) ->
          members[me] = members[me] | 1 << x; changed = 255;
          if
          :: call[PAGE(x)] > seen_call -> seen_call = call[PAGE(x)]
          :: else
          fi
       :: else
       fi;
       x++
     }
  :: x == N -> break
  od;
  x = 0;
  POST(list[me], PACK(attempt, seen_call));
  accept(id, members[me], seen_call, view[me]);
  seen_call = 0
}

/* code: Reset::judge */
inline judge() {
#ifdef LIST_READ_AGAIN
  atomic { mine = members[PAGE(closer)]; mine_call = LOW(list[PAGE(closer)]) };
#endif
  x = 0;
  do
  :: x < N ->
     if
#ifdef TWO_LOADS_OF_JOINED
     :: IN(mine, x) && accepted[PAGE(x)] == PACK(attempt, closer + 1) ->
        if
        :: ATTEMPT(JOINED(x)) == attempt ->
           if
           :: LOW(JOINED(x)) == kConcluded -> concludes = true
           :: else
           fi
        :: else
        fi
#else
     :: IN(mine, x) && JOINED(x) == PACK(attempt, kConcluded) ->
#ifdef CONCLUDED_SUFFICES
        concludes = true
#else
        if
        :: accepted[PAGE(x)] == PACK(attempt, closer + 1) -> concludes = true
        :: else
        fi
#endif
#endif
     :: else
     fi;
     x++
  :: x == N -> break
  od;
  x = 0;
  if
  :: !concludes ->
     find_outcome(closer, mine);
     atomic {
       if
       :: outcome == kHolds -> concludes = true
       :: outcome == kBroken || (outcome == kOpen && accept_over) -> next = true
       :: else
       fi
     }
  :: else
  fi
}
