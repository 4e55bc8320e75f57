/* Calls: publish, signal, wait, pull, with two halves and rows published in place.
 *
 * Every rank is a process that makes calls, numbered 1 .. CALLS. Each load or store of a word, a
 * header, a half or a buffer of the pool is a step of its own, and between two steps any time may
 * pass: a rank that the scheduler leaves alone is a rank that was stopped and goes on later.
 *
 * A half and a buffer of the pool hold one byte, the stamp of the call whose rows lie there, or
 * GARBAGE while rows are written. A reader reads each publisher's rows once, at any moment after it
 * was allowed to: if any of the rows could be wrong, some run reads that one.
 *
 * Parameters (0 or 1 where not said): N ranks; CALLS; TIMEOUTS: a wait may end at any moment;
 * DEATHS: number of processes that may end at any moment; RESETS: number of resets that may
 * succeed; IN_PLACE: calls may publish rows in the pool; SPLIT: between signal and teardown a rank
 * may reset or release its group, and its setup may fail; ELASTIC: calls may leave the last rank out,
 * more than 1: these do, a bit a call; REFUSALS: ranks may
 * refuse calls; TWO_GROUPS: another group of the call may fail; LONE: a rank may fail alone after its
 * signal, and its program may leave a combine out.
 *
 * With LONE each call is made at a place of its rank's program: dispatches at odd places, combines at
 * even ones. After a call that failed the program goes on: after a dispatch it leaves the combine
 * out. After a reset all begin at a common place.
 * Defects: see tools/check_model.py.
 *
 * Several hosts: a word that a rank of another host mirrors is the same word here, since a message a
 * store comes in the order of the stores. Not modelled: that words of different writers reach a
 * reader in another order than each other, and the mirrors of rows.
 */

#ifndef N
#define N 2
#endif
#ifndef CALLS
#define CALLS 3
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef RESETS
#define RESETS 0
#endif
#ifndef IN_PLACE
#define IN_PLACE 0
#endif
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef ELASTIC
#define ELASTIC 0
#endif
#ifndef REFUSALS
#define REFUSALS 0
#endif
#ifndef TWO_GROUPS
#define TWO_GROUPS 0
#endif
#ifndef LONE
#define LONE 0
#endif

/* Nothing happens that a call would have to give up for. */
#define CALM (!TIMEOUTS && !DEATHS && !SPLIT && !ELASTIC && !TWO_GROUPS && !LONE)

#define ALL ((1 << N) - 1)
#define IN(set, r) ((set) >> (r) & 1)
#define STAMP(e, n) ((e) * 16 + (n))
#define EPOCH(s) ((s) / 16)
#define CALL(s) ((s) % 16)
#define GARBAGE 255
#define AT(r, h) (2 * (r) + (h))

/* What a header says beside its stamp: flags, the members of the call, and its operator. */
#define REFUSED 1
#define FAILED_ELSEWHERE 2
#define IN_POOL 4
#define OPERATOR (64 * (place % 2))
#define HISTORY (2 * history + place % 2)
#define HEADER(flags, members) ((flags) + 8 * (members) + OPERATOR)
#define MEMBERS_OF(says) ((says) / 8 % 8)
#define OPERATOR_OF(says) ((says) / 64 * 64)

/* Where all programs go on after a call at this place that failed on all ranks; where one may go on
   after a failure of its own: there, or with the same dispatch once more. */
#define AFTER_ERROR(place) ((place) + 1 + (place) % 2)
#define SAME_LAYER(place) ((place) - 1 + (place) % 2)

/* code: has_reached */
#ifdef WAIT_FOR_EQUAL
#define REACHED(word, e, n) (EPOCH(word) == (e) && (CALL(word) == (n) || (n) <= 0))
#else
#define REACHED(word, e, n) (EPOCH(word) == (e) && CALL(word) >= (n))
#endif

/* Whose `done` frees a half. */
#ifdef HALF_FORGETS_MEMBERS
#define HALF_USERS members
#else
#define HALF_USERS users[h]
#endif

/* A rank waits also for those whose rows it has no use for; say, those of the last rank. */
#ifdef WAIT_FOR_SENDERS_ONLY
#define SENDERS (members & ~(1 << (N - 1)))
#else
#define SENDERS members
#endif

mtype = { kArrived, kTimeout, kLost, kMovedOn, kReset, kLeft, kInterrupted };

/* The control pages. Epochs begin at 0 here, so that attempt a of a reset starts epoch a. */
byte signalled[N], done[N], left[N], joined[N];
byte header_stamp[2 * N], header_says[2 * N];

byte half[2 * N] = GARBAGE;
byte pool[N] = GARBAGE;
byte made_at[2 * N];       /* the place of the call whose header is in a half */
byte came_by[2 * N];       /* the operators of the calls before it */

/* What the agreement of reset.pml gives: for each epoch its ranks and the common call number. */
byte waiting, number_of[N];
byte list[RESETS + 1], common[RESETS + 1], epochs;

#define ENDED (ended[0] | ended[1] << 1 | (N > 2 -> ended[N - 1] << 2 : 0))
bool ended[N];             /* the process, as has_ended() says */
bool finished[N];          /* makes no more calls */
byte without_last;         /* the calls that leave the last rank out: all others know, it does not */
byte refused;              /* the calls of epoch 0 that a rank refused, a bit a call */

#include "calls_steps.pml"

/* The outcome of an agreement: those who wait, with or without the ones that died meanwhile.
   code: Reset::run */
#define ALL_WAIT ((waiting | ENDED) == ALL)
inline agree() {
  epochs++;
  p = 0;
  do
  :: p < N ->
     if
     :: IN(waiting, p) && !(ended[p] && p != me) ->
        list[epochs] = list[epochs] | 1 << p
     :: IN(waiting, p) && ended[p] && p != me ->
        if
        :: list[epochs] = list[epochs] | 1 << p
        :: true
        fi
     :: else
     fi;
     if
     :: IN(list[epochs], p) && number_of[p] > common[epochs] -> common[epochs] = number_of[p]
     :: else
     fi;
     p++
  :: else -> break
  od;
  p = 0; waiting = 0
}

proctype rank(byte me) provided (!ended[me]) {
  byte epoch, number, stamp, members, h, p, pooled;
  byte users[2] = ALL, everyone = ALL;
  byte place = LONE;         /* of the next call */
  mtype end;
  byte history;              /* the operators of the calls so far */
  bool bad, mismatch, elsewhere, in_place, open, apart, misplaced;

next_call: /* phase: kIdle */
  atomic {
    if
    :: number == CALLS -> goto release
    :: number < CALLS
    fi;
    if
    :: LONE && place % 2 == 0 -> place++  /* the program caught an error between the two */
    :: true
    fi;
    /* code: Call::begin, Call::choose_members; phase: kCheck */
    number++; stamp = STAMP(epoch, number); h = number % 2;
    members = everyone; in_place = false;
    if
    :: ELASTIC && me != N - 1 && IN(without_last, number) -> members = everyone & ~(1 << (N - 1))
    :: else
    fi
  };

  /* code: Call::open_half, Call::wait_half, Call::refuse; phase: kWaitHalf */
#ifdef REFUSAL_DOES_NOT_WAIT
  if
  :: REFUSALS -> goto refusal
  :: true
  fi;
#endif
#ifndef HALF_NOT_AWAITED
  wait_for(done[p], number - 2, HALF_USERS, true);
  if
  :: end != kArrived -> goto fail
  :: end == kArrived
  fi;
#endif
  if
  :: REFUSALS -> goto refusal
  :: true
  :: TWO_GROUPS && (LONE || epoch < RESETS) ->
     /* code: Call::refuse; code: Session::leave, Board::leave -> left */
     signal(FAILED_ELSEWHERE);
     end_call();
#ifndef GIVES_UP_IN_SILENCE
     left[me] = STAMP(epoch, number + 1);
#endif
     goto needs_reset
  fi;

#ifdef SIGNAL_BEFORE_ROWS
  signal(0);
#endif
  half[AT(me, h)] = GARBAGE;  /* phase: kPublish */
  half[AT(me, h)] = stamp;    /* phase: kPublishRows */
  if
  :: atomic { IN_PLACE -> in_place = true; pool[me] = stamp }
  :: true
  fi;
#ifndef SIGNAL_BEFORE_ROWS
  signal((in_place -> IN_POOL : 0));
#endif
#ifdef SETUP_FAILS_AFTER_SIGNAL
  if
  :: end_call(); pool[me] = GARBAGE; goto next_call
  :: true
  fi;
#endif
  if
  :: SPLIT && epoch < RESETS -> /* code: Call::suspend, Call::drop, Session::reset */
     end_call(); open = true; goto reset
  :: SPLIT -> end_call(); open = true; goto release
  :: true /* code: Call::resume */
  :: TWO_GROUPS && epoch < RESETS -> /* code: Call::fail; code: Session::leave, Board::leave -> left */
     left[me] = stamp; end_call(); pool[me] = GARBAGE; goto needs_reset
  fi;

#ifdef DONE_BEFORE_READING
  end_call();
#endif
  /* phase: kWaitSignals */
  wait_for(signalled[p], number, SENDERS, false);
  if
  :: end != kArrived -> goto fail
  :: end == kArrived
  fi;
  copy_headers();
  if
  :: elsewhere || apart -> goto fail
  :: !elsewhere && !apart && mismatch
  :: !elsewhere && !apart && !mismatch -> pull()
  fi;
#ifdef DONE_AFTER_READERS
  if
  :: in_place -> wait_for(done[p], number, members, false)
  :: !in_place
  fi;
#endif
  /* code: Call::finish, Call::fail */
  look_again();
  if
  :: LONE && !mismatch ->
     /* This rank alone fails; others may end the call well. code: Call::fail_alone */
#ifdef ALONE_GOES_ON
     end_call();
     atomic {
       bad = false; misplaced = false; pooled = 0; history = HISTORY; in_place = false;
       if
       :: place = AFTER_ERROR(place)
       :: place = SAME_LAYER(place)
       fi
     };
     goto next_call
#else
     end_call();
     if
     :: in_place ->
#ifndef LEAVES_BEFORE_READERS
        wait_for(done[p], number, members, false)
#endif
     :: !in_place
     fi;
     pool[me] = GARBAGE;
     left[me] = STAMP(epoch, number + 1);  /* code: Session::leave, Board::leave -> left */
     goto needs_reset
#endif
  :: true
  fi;
  /* Here the rows become the result of the call. */
  assert(mismatch || !bad);
  assert(mismatch || ELASTIC || epoch > 0 || !IN(refused, number));
  assert(mismatch || !misplaced);
#ifndef DONE_BEFORE_READING
  end_call();
#endif
  atomic {
    if
    :: LONE -> history = HISTORY; place = (mismatch -> AFTER_ERROR(place) : place + 1)
    :: else
    fi;
    bad = false; mismatch = false; misplaced = false; pooled = 0
  };
  /* code: Call::wait_readers; phase: kWaitReaders */
  if
  :: in_place ->
#ifndef READERS_NOT_AWAITED
     wait_for(done[p], number, members, false);
     if
     :: end != kArrived -> goto fail
     :: end == kArrived
     fi;
#endif
     atomic { pool[me] = GARBAGE; in_place = false }  /* the caller has its buffer back */
  :: !in_place
  fi;
  goto next_call;

refusal: /* The members of this call may not be known yet. code: Call::refuse */
  atomic { refused = refused | 1 << number; members = users[1 - h] };
  signal(REFUSED);
#ifndef REFUSAL_WITHOUT_DONE
  end_call();
#endif
#if LONE
  atomic { history = HISTORY; place = AFTER_ERROR(place) };
#endif
  goto next_call;

fail: /* code: Call::fail; code: Session::leave, Board::leave -> left */
  assert(!CALM);
#ifndef REUSE_WITHOUT_LEFT
  left[me] = stamp;
#endif
  end_call();
  pool[me] = GARBAGE;

needs_reset:
  /* What a failed call leaves in locals would only make more states. */
  atomic {
    p = 0; end = kArrived; pooled = 0;
    bad = false; mismatch = false; elsewhere = false; in_place = false; apart = false;
    misplaced = false
  };
  if
  :: epoch < RESETS -> goto reset
  :: epoch >= RESETS -> goto stop
  fi;

reset: /* code: Session::reset; phase: kReset. The open call has ended, its rows are still there. */
  atomic {
    epoch < RESETS -> joined[me] = epoch + 1; number_of[me] = number; waiting = waiting | 1 << me
  };
  if
  :: atomic { epochs == epoch && (TIMEOUTS || ALL_WAIT) -> agree() }
  :: epochs > epoch
  :: atomic { TIMEOUTS && epochs == epoch -> waiting = waiting & ~(1 << me) }
  fi;
  if
  :: epochs > epoch && IN(list[epoch + 1], me)
  :: epochs == epoch || !IN(list[epoch + 1], me) ->
     /* A reset without success takes the rows of an open call away.
        code: Session::drop_setup, Board::forgo_setup -> left */
#ifndef FAILED_RESET_FREES_ROWS
     if
     :: open -> left[me] = STAMP(epoch + 1, 0)
     :: !open
     fi;
#endif
     pool[me] = GARBAGE; goto stop
  fi;
  /* code: Reset::begin_epoch, Board::begin_epoch -> signalled, done */
#ifdef ROWS_GO_BEFORE_EPOCH
  pool[me] = GARBAGE;
#endif
  atomic {
    epoch++; number = common[epoch]; everyone = list[epoch]; users[0] = everyone; users[1] = everyone;
    place = (LONE -> 2 * number + 1 : 0); history = 0
  };
  signalled[me] = STAMP(epoch, number);
  done[me] = STAMP(epoch, number);
  atomic { pool[me] = GARBAGE; open = false };
  goto next_call;

release: /* code: Session::close, Session::drop_setup, Board::forgo_setup -> left */
  wait_for(done[p], number, users[number % 2], true);
  if
  :: open && end != kArrived -> left[me] = STAMP(epoch + 1, 0)
  :: !(open && end != kArrived)
  fi;
  pool[me] = GARBAGE;
  ended[me] = true;

stop:
  finished[me] = true
}

#if DEATHS
active proctype fate() {
  byte deaths, r;
  do
  :: atomic {
       deaths < DEATHS ->
       deaths++;
       select(r : 0 .. N - 1);
       ended[r] = true; r = 0
     }
  :: true -> break
  od
}

#endif

/* Nobody can go on: then everybody has come through, or waits for a reset that the bounds forbid. */
active proctype watchdog() {
  byte r;
  timeout ->
  atomic {
    for (r : 0 .. N - 1) { assert(finished[r] || ended[r]) }
  }
}

init {
  byte r;
  atomic {
#if ELASTIC > 1
    without_last = ELASTIC;
#elif ELASTIC
    select(without_last : 0 .. (1 << CALLS) - 1);
    without_last = without_last << 1;
#endif
    for (r : 0 .. N - 1) { run rank(r) }
  }
}
