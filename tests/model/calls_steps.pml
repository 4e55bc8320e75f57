/* The steps of a call. Part of calls.pml. */

/* p: the first rank from p on that is to be looked at. A rank does not look at itself. */
inline skip_others(ranks) {
  do
  :: p < N && (p == me || !IN(ranks, p)) -> p++
  :: else -> break
  od
}
inline next(ranks) { p++; skip_others(ranks) }

#define MISSING(word, n) (p < N && !REACHED(word, epoch, n))

/* code: has_left_before */
#ifdef LEFT_IS_NOT_SEEN
#define LEFT_BEFORE(p, n) false
#else
#define LEFT_BEFORE(p, n) \
  (EPOCH(left[p]) == epoch && CALL(left[p]) > 0 && CALL(left[p]) <= (n))
#endif

/* One word after the other: within an epoch they only grow.
   code: wait_for, Waiter::run, Waiter::scan, Waiter::look_around */
inline wait_for(word, call_wanted, ranks, ended_is_arrived) {
  atomic { end = kArrived; p = 0; skip_others(ranks) };
  do
  :: atomic { p < N && REACHED(word, epoch, call_wanted) -> next(ranks) }
  :: atomic { MISSING(word, call_wanted) && ended[p] && ended_is_arrived -> next(ranks) }
  :: atomic { MISSING(word, call_wanted) && ended[p] && !ended_is_arrived -> end = kLost; break }
  :: atomic { MISSING(word, call_wanted) && EPOCH(signalled[p]) > epoch -> end = kMovedOn; break }
  :: atomic { MISSING(word, call_wanted) && joined[p] > epoch -> end = kReset; break }
  :: atomic { MISSING(word, call_wanted) && LEFT_BEFORE(p, call_wanted) -> end = kLeft; break }
     /* Whether or not the word comes between the last look at it and the look at the clock. */
  :: atomic { p < N && TIMEOUTS -> end = kTimeout /* the same for kInterrupted */; break }
  :: atomic { p == N -> break }
  od;
  p = 0
}

/* code: Call::signal, Board::signal -> signalled */
inline signal(flags) {
  header_stamp[AT(me, h)] = 0;
  header_says[AT(me, h)] = HEADER(flags, members);
  atomic {
    header_stamp[AT(me, h)] = stamp;
    made_at[AT(me, h)] = (LONE -> place : 0);
    came_by[AT(me, h)] = (LONE -> history : 0)
  };
  signalled[me] = stamp  /* phase: kSignalled */
}

/* code: Call::post_done, Board::end_reading -> done */
inline end_call() { atomic { done[me] = stamp; users[h] = members } }

/* The stamp is looked at in the copy, and after the copy in the page.
   code: Call::gather, RollCall::read, read_header, Call::compare_headers */
inline copy_headers() {
  atomic { p = 0; skip_others(SENDERS) };
  do
  :: p < N ->
#ifndef STAMP_IGNORED
     if
     :: header_stamp[AT(p, h)] == stamp
     :: header_stamp[AT(p, h)] != stamp -> goto fail
     fi;
#endif
     atomic {
       if
#ifdef OUT_OF_STEP_GOES_ON
       :: OPERATOR_OF(header_says[AT(p, h)]) != OPERATOR -> mismatch = true
#else
       :: OPERATOR_OF(header_says[AT(p, h)]) != OPERATOR -> apart = true
#endif
#ifndef HISTORY_IS_FORGOTTEN
       :: OPERATOR_OF(header_says[AT(p, h)]) == OPERATOR && came_by[AT(p, h)] != history ->
          apart = true
#endif
       :: else
       fi;
       misplaced = misplaced || (LONE && made_at[AT(p, h)] != place);
       if
       :: header_says[AT(p, h)] & FAILED_ELSEWHERE -> elsewhere = true
       :: header_says[AT(p, h)] & REFUSED || MEMBERS_OF(header_says[AT(p, h)]) != members ->
          mismatch = true
       :: else
       fi;
       pooled = pooled | (header_says[AT(p, h)] & IN_POOL -> 1 << p : 0)
     };
#ifndef STAMP_IGNORED
#ifndef STAMP_ONCE
     if
     :: header_stamp[AT(p, h)] == stamp
     :: header_stamp[AT(p, h)] != stamp -> goto fail
     fi;
#endif
#endif
     atomic { next(SENDERS) }
  :: p == N -> break
  od;
  p = 0
}

/* code: Call::half_of, Call::peer_of; phase: kPull, kPullRows */
inline pull() {
  atomic { p = 0; skip_others(SENDERS) };
  do
  :: p < N ->
     bad = bad || half[AT(p, h)] != stamp;
     if
     :: IN(pooled, p) -> bad = bad || pool[p] != stamp
     :: !IN(pooled, p)
     fi;
     atomic { next(SENDERS) }
  :: p == N -> break
  od;
  p = 0
}

#ifdef NO_LEFT_CHECK
#define HAS_LEFT(p) (left[p] == GARBAGE)
#else
#define HAS_LEFT(p) (left[p] == stamp || EPOCH(left[p]) > epoch)
#endif
#ifdef NO_EPOCH_CHECK
#define MOVED_ON(p) false
#else
#define MOVED_ON(p) (EPOCH(signalled[p]) > epoch)
#endif

/* code: RollCall::stands, Call::end_reading */
inline look_again() {
  atomic { p = 0; skip_others(members) };
  do
  :: p < N ->
     if
     :: HAS_LEFT(p) -> goto fail
     :: !HAS_LEFT(p)
     fi;
     if
     :: MOVED_ON(p) -> goto fail
     :: !MOVED_ON(p)
     fi;
     atomic { next(members) }
  :: p == N -> break
  od;
  p = 0
}
