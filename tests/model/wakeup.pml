/* No lost wake-up: `asleep`, the fences and the futex, under store buffers.
 *
 * Every rank makes CALLS rounds: it posts its own word, then waits until the words of all others
 * have reached that round. Nobody times out and a sleep has no limit (the 500 ms slices of the code
 * are switched off), so that a wake-up that is lost shows as a rank that sleeps for ever.
 *
 * The memory is weaker than x86 and ARM allow together: a store waits in a buffer of its owner, one
 * place for each variable, and reaches memory at any later moment and in any order with the stores
 * to other variables. A load of the owner sees its own buffer first. A load that the machine makes
 * too early is the same as a store that it makes too late. Only fence_all() empties the buffer; the
 * kernel compares the futex word with what is in memory.
 *
 * Parameters: N, CALLS. RESTART = 1: after the rounds every rank begins an epoch with the same
 * call number, of which the low half, the futex word, knows nothing; then a slice is what ends the
 * sleep, and SLICES = 1 gives it back.
 * Defects: see tools/check_model.py.
 */

#ifndef N
#define N 2
#endif
#ifndef CALLS
#define CALLS 2
#endif
#ifndef RESTART
#define RESTART 0
#endif
#ifndef SLICES
#define SLICES 0
#endif

#define STAMP(e, n) ((e) * 8 + (n))
#define CALL(s) ((s) % 8)
#define NONE 255

byte signalled[N];            /* memory */
bool asleep[N];
byte signalled_buffered[N] = NONE;  /* stores that are on their way there, one a variable */
byte asleep_buffered[N] = NONE;
byte sleeps_on[N] = NONE;     /* the kernel: on whose word this rank sleeps */
bool finished[N];

#define BUFFER_EMPTY(r) (signalled_buffered[r] == NONE && asleep_buffered[r] == NONE)

/* The machine lets the buffered stores of a rank become visible. */
proctype memory(byte me) {
end:
  do
  :: atomic {
       signalled_buffered[me] != NONE ->
       signalled[me] = signalled_buffered[me]; signalled_buffered[me] = NONE
     }
  :: atomic {
       asleep_buffered[me] != NONE ->
       asleep[me] = asleep_buffered[me]; asleep_buffered[me] = NONE
     }
  od
}

/* A second store to the same variable keeps its order after the first. */
inline store(buffer, value) { atomic { buffer == NONE -> buffer = value } }

inline fence_all() { BUFFER_EMPTY(me) }

/* code: Session::on_post */
inline post(value) {
  store(signalled_buffered[me], value);
#ifndef NO_FENCE_AFTER_STORE
  fence_all();
#endif
  other = 0;
  do
  :: atomic { other < N && other != me && !asleep[other] -> other++ }
  :: atomic { other < N && other == me -> other++ }
  :: atomic { other < N && other != me && asleep[other] -> other = N; wake(me) }
  :: atomic { other == N -> other = 0; break }
  od
}

inline wake(owner) {
  sleeper = 0;
  do
  :: sleeper < N ->
     if
     :: sleeps_on[sleeper] == owner ->
        sleeps_on[sleeper] = NONE;
#ifdef WAKE_ONE
        sleeper = N - 1
#endif
     :: else
     fi;
     sleeper++
  :: else -> sleeper = 0; break
  od
}

/* code: Waiter::sleep, Board::sleep -> asleep */
inline sleep(target) {
  store(asleep_buffered[me], 1);
#ifndef NO_FENCE_BEFORE_LOOK
  fence_all();
#endif
  seen = signalled[other];
  if
  :: seen >= target
  :: else ->
     /* The kernel compares and queues under one lock; only the low half, and only in memory. */
#ifdef SLEEP_WITHOUT_COMPARING
     sleeps_on[me] = other;
#else
     atomic {
       if
       :: CALL(signalled[other]) == CALL(seen) -> sleeps_on[me] = other
       :: else
       fi
     };
#endif
     if
     :: sleeps_on[me] == NONE
     :: SLICES -> sleeps_on[me] = NONE
     fi
  fi;
  seen = 0;
  store(asleep_buffered[me], 0)
}

/* code: wait_for; Waiter::scan; Waiter::run. The words that arrived are taken off one by one: they only grow. */
inline wait_all(target) {
  other = 0;
  do
  :: atomic { other == me -> other++ }
  :: atomic { other < N && other != me && signalled[other] >= target -> other++ }
  :: atomic { other < N && other != me && signalled[other] < target }; sleep(target)
  :: atomic { other == N -> other = 0; break }
  od
}

proctype rank(byte me) {
  byte round = 1;
  byte other, sleeper, seen;
  do
  :: round <= CALLS -> post(STAMP(0, round)); wait_all(STAMP(0, round)); round++
  :: else -> break
  od;
#if RESTART
  post(STAMP(1, CALLS));
  wait_all(STAMP(1, CALLS));
#endif
  finished[me] = true
}

/* Nobody can go on: then everybody has come through. */
active proctype watchdog() {
  byte r;
  timeout ->
  atomic {
    for (r : 0 .. N - 1) { assert(finished[r]) }
  }
}

init {
  byte r;
  atomic { for (r : 0 .. N - 1) { run memory(r); run rank(r) } }
}
