-- The schema of fencepost's locks, version 1.
--
-- Whoever runs this owns it. Everybody else needs USAGE on the schema and EXECUTE on its functions, and no right to any table:
-- the functions run with the owner's. Instants are microseconds since 1970, by this server's clock.
--
-- Pages at the end of a table are not given back but used again: vacuum would keep everybody from the table meanwhile.

CREATE TABLE fencepost.migration (
  version integer PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Invariant: a session lives as long as its row is there and says so. It is made by open() alone, under a name that is never used
-- twice. One that has expired is over for its own client; for the others it is when its row says that it has ended (or is gone), which
-- waits for a renewal on its way. So whoever finds it ended may take over, and no late renewal brings it back. The row of one that
-- has ended stays for a while: nor does a late copy of its opening.
CREATE TABLE fencepost.session (
  id bytea PRIMARY KEY,
  -- Negative for one that has ended: when.
  expires_at bigint NOT NULL,
  -- Where its news go.
  channel text NOT NULL,
  -- Whose it is, for people.
  info text NOT NULL
) WITH (fillfactor = 50, vacuum_truncate = off);

-- Claims that were released while a copy of them may still be on its way. They go with their session.
CREATE TABLE fencepost.withdrawn (
  session bytea NOT NULL,
  ticket bigint NOT NULL,
  PRIMARY KEY (session, ticket)
) WITH (vacuum_truncate = off);

-- Kind: s (with its session, and until then in any case), f (until then) or r (given back or orphaned, and kept until then).
CREATE TYPE fencepost.holder AS (
  session bytea, ticket bigint, token bigint, weight bigint, kind "char", until bigint, mode text, note bytea
);

-- One row for each key: the record of the lock, but for who waits.
--
-- Invariant: the fence is the highest token that was ever granted; and the next is above the clock as well, so that tokens also
-- rise where the row was lost. `latest` is the latest reading of the clock by which the row was changed: it counts where the clock
-- has gone back.
CREATE TABLE fencepost.lock (
  key bytea PRIMARY KEY,
  fence bigint NOT NULL,
  latest bigint NOT NULL,
  -- In force while somebody holds or waits.
  capacity bigint NOT NULL,
  -- How many wait.
  waiting bigint NOT NULL,
  -- In the order of their grants.
  holders fencepost.holder[] NOT NULL
) WITH (fillfactor = 50, vacuum_truncate = off);

-- The highest fence of all rows that were deleted: where the clock was ahead when they were used, the next ones begin behind it.
CREATE TABLE fencepost.highest (fence bigint NOT NULL);
INSERT INTO fencepost.highest VALUES (0);

CREATE TABLE fencepost.waiter (
  key bytea NOT NULL,
  place bigint GENERATED ALWAYS AS IDENTITY,
  session bytea NOT NULL,
  ticket bigint NOT NULL,
  weight bigint NOT NULL,
  kind "char" NOT NULL,
  -- How long it will hold, in microseconds.
  lasts bigint NOT NULL,
  mode text NOT NULL,
  note bytea NOT NULL,
  PRIMARY KEY (key, place),
  UNIQUE (session, ticket, key)
) WITH (vacuum_truncate = off);

-- What resources have admitted: see check_fence.
CREATE TABLE fencepost.mark (
  resource text PRIMARY KEY,
  highest bigint NOT NULL,
  exclusive bigint NOT NULL
) WITH (fillfactor = 50, vacuum_truncate = off);

-- What became of a claim or a release.
--
-- Outcome: granted, queued, busy, ended, withdrawn, exhausted, capacity; done, gone; or one after which it is to be sent again:
-- expired (once the sessions have been ended that are named: see end_expired) and fenced (a transaction of the holder's has fenced
-- the key, and goes on).
CREATE TYPE fencepost.answer AS (
  outcome text,
  -- A grant's token, or the capacity in force.
  number bigint,
  -- In how many microseconds to claim again.
  recheck bigint,
  -- Of the first holder: its token, for how many microseconds it has the lock, whose it is.
  blocker bigint, blocked_for bigint, blocked_by text,
  -- Sessions that have expired, and are in the way until somebody has ended them.
  expired bytea[],
  -- Whether a lock was granted, here or to a waiter: then it must not be forgotten.
  is_grant boolean
);
