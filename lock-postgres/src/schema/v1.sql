-- The schema of fencepost's locks, version 1.
--
-- Whoever runs this owns it. Everybody else needs USAGE on the schema and EXECUTE on its functions, and no right to any table:
-- the functions run with the owner's. Instants are microseconds since 1970, by this server's clock.

CREATE SCHEMA IF NOT EXISTS fencepost;

CREATE TABLE fencepost.migration (
  version integer PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Invariant: a session lives as long as its row is there. It is made by open() alone, under a name that is never used twice. One
-- that has expired is over for its own client; for the others it is when its row is deleted, which waits for a renewal on its way.
-- So whoever finds it gone may take over, and no late renewal brings it back.
CREATE TABLE fencepost.session (
  id bytea PRIMARY KEY,
  expires_at bigint NOT NULL,
  -- Where its news go.
  channel text NOT NULL,
  -- Whose it is, for people.
  info text NOT NULL
) WITH (fillfactor = 50);

-- Claims that were released while a copy of them may still be on its way. They go with their session.
CREATE TABLE fencepost.withdrawn (
  session bytea NOT NULL,
  ticket bigint NOT NULL,
  PRIMARY KEY (session, ticket)
);

-- Kind: s (with its session, and until then in any case), f (until then) or r (given back or orphaned, and kept until then).
CREATE TYPE fencepost.holder AS (
  session bytea, ticket bigint, token bigint, weight bigint, kind "char", until bigint, mode text, note text
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
) WITH (fillfactor = 50);

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
  note text NOT NULL,
  PRIMARY KEY (key, place),
  UNIQUE (session, ticket, key)
);

-- What resources have admitted: see check_fence.
CREATE TABLE fencepost.mark (
  resource text PRIMARY KEY,
  highest bigint NOT NULL,
  exclusive bigint NOT NULL
) WITH (fillfactor = 50);

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

CREATE FUNCTION fencepost.clock() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- The advisory locks of a key: one for those who fence a write, and one for those who remove a holder.
CREATE FUNCTION fencepost.fences(p_key bytea) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT hashtextextended(encode(p_key, 'hex'), 7310309943203851) $$;
CREATE FUNCTION fencepost.removals(p_key bytea) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT hashtextextended(encode(p_key, 'hex'), 8245085206021476) $$;

-- Whether a holder may be removed: no transaction has fenced the key. For whoever has the row locked.
--
-- Invariant: who fences shares the first lock until his transaction ends, and then waits for all who share the second. Who removes shares
-- the second one until his transaction ends, and then looks whether somebody has the first. So one of the two sees the other; and none of
-- those who remove is in the way of another one.
CREATE FUNCTION fencepost.may_remove(p_key bytea) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(fencepost.removals(p_key));
  -- It is given back at once: nothing interrupts an expression.
  RETURN CASE WHEN pg_try_advisory_lock(fencepost.fences(p_key)) THEN pg_advisory_unlock(fencepost.fences(p_key)) ELSE false END;
END $$;

-- a: alive; x: expired, and not ended yet; d: dead.
CREATE FUNCTION fencepost.life(p_session bytea) RETURNS "char" LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_expires bigint;
BEGIN
  SELECT s.expires_at INTO v_expires FROM fencepost.session s WHERE s.id = p_session;
  IF NOT FOUND THEN RETURN 'd'; END IF;
  IF v_expires <= fencepost.clock() THEN RETURN 'x'; END IF;
  RETURN 'a';
END $$;

CREATE FUNCTION fencepost.tell(p_session bytea, p_news text) RETURNS void LANGUAGE sql VOLATILE AS $$
  SELECT pg_notify(s.channel, encode(p_session, 'hex') || ' ' || p_news)
  FROM fencepost.session s WHERE s.id = p_session
$$;

CREATE FUNCTION fencepost.held(p_lock fencepost.lock) RETURNS numeric LANGUAGE sql IMMUTABLE
AS $$ SELECT coalesce(sum(h.weight), 0) FROM unnest(p_lock.holders) h $$;

-- In how many microseconds a hold ends unless it is renewed.
CREATE FUNCTION fencepost.ends_in(p_holder fencepost.holder, p_now bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT greatest(0, (p_holder).until - p_now, CASE WHEN (p_holder).kind = 's' THEN (
    SELECT s.expires_at - p_now FROM fencepost.session s WHERE s.id = (p_holder).session) END)
$$;

-- When the first of the holders ends; null where nobody holds.
CREATE FUNCTION fencepost.next_end(p_lock fencepost.lock, p_now bigint) RETURNS bigint LANGUAGE sql STABLE
AS $$ SELECT min(fencepost.ends_in(h, p_now)) FROM unnest(p_lock.holders) h $$;

-- Somebody waits for what they hold, or tried. Not for holds with a fixed end: their engine has forgotten them.
CREATE FUNCTION fencepost.want_holders(p_lock fencepost.lock) RETURNS void LANGUAGE sql VOLATILE AS $$
  SELECT fencepost.tell(h.session, 'w ' || h.ticket || ' ' || encode((p_lock).key, 'hex'))
  FROM unnest(p_lock.holders) h WHERE h.kind = 's'
$$;

CREATE FUNCTION fencepost.next_token(p_lock fencepost.lock, p_now bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT nullif(least(greatest(p_lock.fence + 1, p_now), 9007199254740992), 9007199254740992) $$;

-- How a hold begins.
CREATE FUNCTION fencepost.hold(
  p_session bytea, p_ticket bigint, p_token bigint, p_weight bigint, p_kind "char", p_lasts bigint, p_mode text, p_note text,
  p_now bigint
) RETURNS fencepost.holder LANGUAGE sql IMMUTABLE AS $$
  SELECT ROW(p_session, p_ticket, p_token, p_weight, p_kind,
    CASE WHEN p_kind = 'f' OR p_lasts > 0 THEN p_now + p_lasts ELSE 0 END, p_mode, p_note)::fencepost.holder
$$;

CREATE FUNCTION fencepost.write(p_lock fencepost.lock, p_now bigint) RETURNS void LANGUAGE sql VOLATILE AS $$
  UPDATE fencepost.lock SET fence = (p_lock).fence, latest = greatest(latest, p_now), capacity = (p_lock).capacity,
    waiting = (p_lock).waiting, holders = (p_lock).holders
  WHERE key = (p_lock).key
$$;

-- Removes the holders that have died or expired, then grants in order for as long as the capacity lasts. A head that is new looks
-- after itself from now on, and so is told; one that could be granted but for the token is told as well.
--
-- The row is locked by the caller, who writes it.
CREATE FUNCTION fencepost.settle(
  INOUT p_lock fencepost.lock, p_now bigint, p_head bigint, p_quiet_session bytea, p_quiet_ticket bigint,
  OUT expired bytea[], OUT is_fenced boolean, OUT is_changed boolean, OUT is_grant boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_stay fencepost.holder[] := '{}';
  v_holder fencepost.holder;
  v_life "char";
  v_head fencepost.waiter;
  v_token bigint;
BEGIN
  expired := '{}'; is_fenced := false; is_changed := false; is_grant := false;
  FOREACH v_holder IN ARRAY p_lock.holders LOOP
    v_life := 'd';
    IF v_holder.kind = 's' THEN
      v_life := fencepost.life(v_holder.session);
      IF v_life = 'x' THEN expired := expired || v_holder.session; END IF;
    END IF;
    IF v_holder.until > p_now OR v_life <> 'd' THEN
      IF v_holder.kind = 's' AND v_life = 'd' THEN v_holder.kind := 'r'; is_changed := true; END IF;
      v_stay := v_stay || v_holder;
    ELSIF fencepost.may_remove(p_lock.key) THEN
      is_changed := true;
    ELSE
      is_fenced := true;
      v_stay := v_stay || v_holder;
    END IF;
  END LOOP;
  p_lock.holders := v_stay;
  WHILE p_lock.waiting > 0 LOOP
    SELECT * INTO v_head FROM fencepost.waiter w WHERE w.key = p_lock.key ORDER BY w.place LIMIT 1;
    IF NOT FOUND THEN
      -- Somebody has deleted them.
      p_lock.waiting := 0; is_changed := true;
      EXIT;
    END IF;
    v_life := fencepost.life(v_head.session);
    IF v_life = 'x' THEN expired := expired || v_head.session; EXIT; END IF;
    IF v_life = 'a' THEN
      v_token := fencepost.next_token(p_lock, p_now);
      IF fencepost.held(p_lock) + v_head.weight > p_lock.capacity OR v_token IS NULL THEN
        IF (v_head.place IS DISTINCT FROM p_head OR fencepost.held(p_lock) + v_head.weight <= p_lock.capacity)
          AND (v_head.session, v_head.ticket) IS DISTINCT FROM (p_quiet_session, p_quiet_ticket) THEN
          PERFORM fencepost.tell(v_head.session, 'r ' || v_head.ticket);
        END IF;
        EXIT;
      END IF;
      p_lock.fence := v_token;
      p_lock.holders := p_lock.holders || fencepost.hold(v_head.session, v_head.ticket, v_token, v_head.weight, v_head.kind,
        v_head.lasts, v_head.mode, v_head.note, p_now);
      is_grant := true;
      PERFORM fencepost.tell(v_head.session, 'g ' || v_head.ticket || ' ' || v_token || ' ' || encode(p_lock.key, 'hex'));
    END IF;
    DELETE FROM fencepost.waiter w WHERE w.key = p_lock.key AND w.place = v_head.place;
    p_lock.waiting := p_lock.waiting - 1;
    is_changed := true;
  END LOOP;
END $$;

-- The first of the queue; null where nobody waits.
CREATE FUNCTION fencepost.head(p_lock fencepost.lock) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT min(w.place) FROM fencepost.waiter w WHERE (p_lock).waiting > 0 AND w.key = (p_lock).key
$$;

CREATE FUNCTION fencepost.answered(p_outcome text, p_number bigint, p_is_grant boolean) RETURNS fencepost.answer
LANGUAGE sql IMMUTABLE
AS $$ SELECT ROW(p_outcome, p_number, NULL, NULL, NULL, NULL, NULL, p_is_grant)::fencepost.answer $$;

-- Who is in the way.
CREATE FUNCTION fencepost.blocked(
  p_outcome text, p_recheck bigint, p_lock fencepost.lock, p_now bigint, p_is_grant boolean
) RETURNS fencepost.answer LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_first fencepost.holder := p_lock.holders[1];
  v_answer fencepost.answer;
BEGIN
  v_answer := ROW(p_outcome, NULL, p_recheck, NULL, NULL, NULL, NULL, p_is_grant);
  IF cardinality(p_lock.holders) > 0 THEN
    v_answer.blocker := v_first.token;
    v_answer.blocked_for := fencepost.ends_in(v_first, p_now);
    SELECT s.info INTO v_answer.blocked_by FROM fencepost.session s WHERE s.id = v_first.session;
  END IF;
  RETURN v_answer;
END $$;

-- What a claim holds already; null where it holds nothing.
CREATE FUNCTION fencepost.already(p_lock fencepost.lock, p_session bytea, p_ticket bigint, p_now bigint)
RETURNS fencepost.answer LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN h.kind = 'r' OR (h.kind = 'f' AND h.until <= p_now) THEN fencepost.answered('withdrawn', NULL, false)
    ELSE fencepost.answered('granted', h.token, true) END
  FROM unnest(p_lock.holders) h WHERE h.session = p_session AND h.ticket = p_ticket
$$;

-- The row of a key that has none, unless somebody else has just made it. Nobody can be waiting there: whoever did before the row was
-- deleted claims again.
CREATE FUNCTION fencepost.make(p_key bytea) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  INSERT INTO fencepost.lock SELECT p_key, h.fence, 0, 1, 0, '{}' FROM fencepost.highest h ON CONFLICT DO NOTHING;
  IF FOUND THEN DELETE FROM fencepost.waiter w WHERE w.key = p_key; END IF;
END $$;

-- Grants, enqueues or answers busy, as the lock table does.
--
-- Invariant: whatever is granted or enqueued belongs to a session that lives and to a claim that was not withdrawn, both looked at
-- once the row is locked: a release that withdraws it locks the row as well.
CREATE FUNCTION fencepost.claim_one(
  p_session bytea, p_ticket bigint, p_key bytea, p_waits boolean, p_weight bigint, p_capacity bigint, p_kind "char",
  p_lasts bigint, p_mode text, p_note text
) RETURNS fencepost.answer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_now bigint := fencepost.clock();
  v_token bigint;
  v_life "char";
  v_is_withdrawn boolean;
  v_lock fencepost.lock;
  v_head bigint;
  v_settled record;
  v_answer fencepost.answer;
  v_first fencepost.waiter;
  v_is_grant boolean := false;
BEGIN
  -- The key is idle: the usual case, in one step.
  IF p_kind = 's' AND p_lasts = 0 THEN
    UPDATE fencepost.lock l SET
      fence = greatest(l.fence + 1, v_now), latest = greatest(l.latest, v_now), capacity = p_capacity,
      holders = ARRAY[ROW(p_session, p_ticket, greatest(l.fence + 1, v_now), p_weight, 's', 0, p_mode, p_note)::fencepost.holder]
    WHERE l.key = p_key AND l.waiting = 0 AND l.holders = '{}' AND greatest(l.fence + 1, v_now) <= 9007199254740991
    RETURNING l.fence INTO v_token;
    IF v_token IS NOT NULL THEN
      SELECT CASE WHEN s.expires_at <= v_now THEN 'x' ELSE 'a' END,
        EXISTS (SELECT FROM fencepost.withdrawn t WHERE t.session = p_session AND t.ticket = p_ticket)
      INTO v_life, v_is_withdrawn FROM fencepost.session s WHERE s.id = p_session;
      IF v_life = 'a' AND NOT v_is_withdrawn THEN
        RETURN fencepost.answered('granted', v_token, true);
      END IF;
      -- The token is nobody's.
      UPDATE fencepost.lock l SET holders = '{}' WHERE l.key = p_key;
    END IF;
  END IF;

  LOOP
    SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = p_key FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    PERFORM fencepost.make(p_key);
  END LOOP;
  v_now := greatest(fencepost.clock(), v_lock.latest);
  v_life := fencepost.life(p_session);
  IF v_life = 'd' THEN RETURN fencepost.answered('ended', NULL, false); END IF;
  IF v_life = 'x' THEN RETURN ROW('expired', NULL, NULL, NULL, NULL, NULL, ARRAY[p_session], false)::fencepost.answer; END IF;
  IF EXISTS (SELECT FROM fencepost.withdrawn t WHERE t.session = p_session AND t.ticket = p_ticket) THEN
    RETURN fencepost.answered('withdrawn', NULL, false);
  END IF;
  v_answer := fencepost.already(v_lock, p_session, p_ticket, v_now);
  IF v_answer.outcome IS NOT NULL THEN RETURN v_answer; END IF;

  IF NOT (v_lock.waiting = 0 AND cardinality(v_lock.holders) = 0) THEN
    IF NOT (v_lock.waiting = 0 AND v_lock.capacity = p_capacity AND fencepost.held(v_lock) + p_weight <= p_capacity) THEN
      -- Contended as far as one can see without asking who lives: now it is worth asking.
      SELECT * INTO v_settled FROM fencepost.settle(v_lock, v_now, fencepost.head(v_lock), p_session, p_ticket);
      v_lock := v_settled.p_lock;
      v_is_grant := v_settled.is_grant;
      IF v_settled.is_changed THEN PERFORM fencepost.write(v_lock, v_now); END IF;
      IF cardinality(v_settled.expired) > 0 THEN
        RETURN ROW('expired', NULL, NULL, NULL, NULL, NULL, v_settled.expired, v_is_grant)::fencepost.answer;
      END IF;
      v_answer := fencepost.already(v_lock, p_session, p_ticket, v_now);
      IF v_answer.outcome IS NOT NULL THEN RETURN v_answer; END IF;
      IF EXISTS (SELECT FROM fencepost.waiter w WHERE w.session = p_session AND w.ticket = p_ticket AND w.key = p_key) THEN
        v_answer := fencepost.judge(v_lock, p_session, p_ticket, v_now, v_is_grant, v_settled.is_fenced);
        -- Whoever asks again behind the head has heard nothing for long: its engine finds out whether anybody owns it.
        SELECT * INTO v_first FROM fencepost.waiter w WHERE w.key = p_key ORDER BY w.place LIMIT 1;
        IF v_answer.outcome = 'queued' AND v_first.kind = 's'
          AND (v_first.session, v_first.ticket) IS DISTINCT FROM (p_session, p_ticket) THEN
          PERFORM fencepost.tell(v_first.session, 'w ' || v_first.ticket || ' ' || encode(p_key, 'hex'));
        END IF;
        RETURN v_answer;
      END IF;
      IF NOT (v_lock.waiting = 0 AND cardinality(v_lock.holders) = 0) THEN
        IF v_lock.capacity <> p_capacity THEN
          RETURN fencepost.answered('capacity', v_lock.capacity, v_is_grant);
        END IF;
        IF NOT (v_lock.waiting = 0 AND fencepost.held(v_lock) + p_weight <= p_capacity) THEN
          IF NOT p_waits THEN
            PERFORM fencepost.want_holders(v_lock);
            RETURN fencepost.blocked('busy', NULL, v_lock, v_now, v_is_grant);
          END IF;
          INSERT INTO fencepost.waiter (key, session, ticket, weight, kind, lasts, mode, note)
          VALUES (p_key, p_session, p_ticket, p_weight, p_kind, p_lasts, p_mode, p_note);
          v_lock.waiting := v_lock.waiting + 1;
          PERFORM fencepost.write(v_lock, v_now);
          RETURN fencepost.judge(v_lock, p_session, p_ticket, v_now, v_is_grant, v_settled.is_fenced);
        END IF;
      END IF;
    END IF;
  END IF;

  v_token := fencepost.next_token(v_lock, v_now);
  IF v_token IS NULL THEN RETURN fencepost.answered('exhausted', NULL, v_is_grant); END IF;
  v_lock.fence := v_token;
  v_lock.capacity := p_capacity;
  v_lock.holders := v_lock.holders
    || fencepost.hold(p_session, p_ticket, v_token, p_weight, p_kind, p_lasts, p_mode, p_note, v_now);
  PERFORM fencepost.write(v_lock, v_now);
  RETURN fencepost.answered('granted', v_token, true);
END $$;

-- How a claim stands that is in the queue. The head looks after the holders, and asks again when the first of them ends.
CREATE FUNCTION fencepost.judge(
  p_lock fencepost.lock, p_session bytea, p_ticket bigint, p_now bigint, p_is_grant boolean, p_is_fenced boolean
) RETURNS fencepost.answer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_recheck bigint := fencepost.next_end(p_lock, p_now);
  v_head fencepost.waiter;
  v_settled record;
BEGIN
  SELECT * INTO v_head FROM fencepost.waiter w WHERE w.key = p_lock.key ORDER BY w.place LIMIT 1;
  IF v_head.session <> p_session OR v_head.ticket <> p_ticket THEN
    RETURN fencepost.blocked('queued', NULL, p_lock, p_now, p_is_grant);
  END IF;
  IF fencepost.held(p_lock) + v_head.weight <= p_lock.capacity THEN
    -- settle() would have granted it, had there been a token.
    DELETE FROM fencepost.waiter w WHERE w.key = p_lock.key AND w.place = v_head.place;
    p_lock.waiting := p_lock.waiting - 1;
    SELECT * INTO v_settled FROM fencepost.settle(p_lock, p_now, NULL, NULL, NULL);
    PERFORM fencepost.write(v_settled.p_lock, p_now);
    RETURN fencepost.answered('exhausted', NULL, p_is_grant OR v_settled.is_grant);
  END IF;
  PERFORM fencepost.want_holders(p_lock);
  -- Nobody says when a transaction ends.
  IF p_is_fenced THEN v_recheck := greatest(v_recheck, 50000); END IF;
  RETURN fencepost.blocked('queued', v_recheck, p_lock, p_now, p_is_grant);
END $$;

-- Gives back a hold or a place in the queue, and hands over to whoever is next in the same step.
--
-- Invariant: once a release of an uncertain claim has run, no copy of that claim takes effect: the ticket is remembered. What a
-- dead session had needs no such memory.
CREATE FUNCTION fencepost.release_one(p_session bytea, p_ticket bigint, p_key bytea, p_is_uncertain boolean)
RETURNS fencepost.answer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_lock fencepost.lock;
  v_now bigint;
  v_life "char";
  v_head bigint;
  v_holder fencepost.holder;
  v_other fencepost.holder;
  v_stay fencepost.holder[] := '{}';
  v_was_over boolean;
  v_settled record;
BEGIN
  LOOP
    SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = p_key FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    IF NOT p_is_uncertain THEN RETURN fencepost.answered('gone', NULL, false); END IF;
    -- So that a copy of the claim waits for this to be over, and then finds itself withdrawn.
    PERFORM fencepost.make(p_key);
  END LOOP;
  v_now := greatest(fencepost.clock(), v_lock.latest);
  v_life := fencepost.life(p_session);
  IF p_is_uncertain AND v_life <> 'd' THEN
    INSERT INTO fencepost.withdrawn VALUES (p_session, p_ticket) ON CONFLICT DO NOTHING;
  END IF;
  v_head := fencepost.head(v_lock);
  SELECT h.* INTO v_holder FROM unnest(v_lock.holders) h
  WHERE h.session = p_session AND h.ticket = p_ticket AND h.kind <> 'r';
  IF FOUND THEN
    IF NOT fencepost.may_remove(p_key) THEN
      RETURN fencepost.answered('fenced', NULL, false);
    END IF;
    v_was_over := CASE WHEN v_holder.kind = 's' THEN v_life <> 'a' ELSE v_holder.until <= v_now END;
    FOREACH v_other IN ARRAY v_lock.holders LOOP
      IF (v_other.session, v_other.ticket) IS DISTINCT FROM (p_session, p_ticket) THEN
        v_stay := v_stay || v_other;
      ELSIF v_other.kind = 's' AND v_other.until > v_now THEN
        v_other.kind := 'r';
        v_stay := v_stay || v_other;
      END IF;
    END LOOP;
    v_lock.holders := v_stay;
  ELSE
    DELETE FROM fencepost.waiter w WHERE w.session = p_session AND w.ticket = p_ticket AND w.key = p_key;
    IF NOT FOUND THEN RETURN fencepost.answered('gone', NULL, false); END IF;
    v_lock.waiting := greatest(v_lock.waiting - 1, 0);
    v_was_over := v_life <> 'a';
  END IF;
  SELECT v_lock AS p_lock, '{}'::bytea[] AS expired, false AS is_grant INTO v_settled;
  IF v_lock.waiting > 0 THEN
    SELECT * INTO v_settled FROM fencepost.settle(v_lock, v_now, v_head, NULL, NULL);
  END IF;
  PERFORM fencepost.write(v_settled.p_lock, v_now);
  RETURN ROW(CASE WHEN v_was_over THEN 'gone' ELSE 'done' END, NULL, NULL, NULL, NULL, NULL, v_settled.expired,
    v_settled.is_grant)::fencepost.answer;
END $$;

-- What is asked, in the functions below: the only ones that others may execute.

-- The latest version of this schema that was applied.
CREATE FUNCTION fencepost.schema_version() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT max(version) FROM fencepost.migration $$;

-- Opens a session, or finds the one that an earlier copy of this call made; false for one that is over.
CREATE FUNCTION fencepost.open(p_session bytea, p_ttl bigint, p_channel text, p_info text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO fencepost.session AS s VALUES (p_session, fencepost.clock() + p_ttl, p_channel, p_info)
  ON CONFLICT (id) DO UPDATE SET expires_at = fencepost.clock() + p_ttl, channel = p_channel
  WHERE s.expires_at > fencepost.clock();
  RETURN FOUND;
END $$;

-- Renews a session, and says of each claim how it stands: h and its token; w and in how many microseconds to ask again, or null;
-- g for one that is not known. No row at all, not even the first one (s), for a session that is over.
CREATE FUNCTION fencepost.renew(p_session bytea, p_ttl bigint, p_channel text, p_tickets bigint[], p_keys bytea[])
RETURNS TABLE (standing text, number bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_asked record;
  v_lock fencepost.lock;
  v_holder fencepost.holder;
  v_now bigint;
  v_soonest bigint;
  v_first fencepost.waiter;
BEGIN
  UPDATE fencepost.session s SET expires_at = fencepost.clock() + p_ttl, channel = p_channel
  WHERE s.id = p_session AND s.expires_at > fencepost.clock();
  IF NOT FOUND THEN
    PERFORM fencepost.end_sessions(ARRAY[p_session]);
    RETURN;
  END IF;
  standing := 's';
  RETURN NEXT;
  FOR v_asked IN SELECT a.ticket, a.key FROM unnest(p_tickets, p_keys) WITH ORDINALITY AS a(ticket, key, n) ORDER BY a.n LOOP
    standing := 'g'; number := NULL;
    SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = v_asked.key;
    IF FOUND THEN
      SELECT h.* INTO v_holder FROM unnest(v_lock.holders) h
      WHERE h.session = p_session AND h.ticket = v_asked.ticket AND h.kind <> 'r';
      IF FOUND THEN
        standing := 'h'; number := v_holder.token;
      ELSIF v_lock.waiting > 0 AND EXISTS (SELECT FROM fencepost.waiter w
        WHERE w.session = p_session AND w.ticket = v_asked.ticket AND w.key = v_asked.key) THEN
        standing := 'w';
        v_now := greatest(fencepost.clock(), v_lock.latest);
        v_soonest := coalesce(fencepost.next_end(v_lock, v_now), 0);
        SELECT * INTO v_first FROM fencepost.waiter w WHERE w.key = v_asked.key ORDER BY w.place LIMIT 1;
        IF v_soonest = 0 OR (v_first.session = p_session AND v_first.ticket = v_asked.ticket) THEN
          number := v_soonest;
        END IF;
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- Whether a session is not over.
CREATE FUNCTION fencepost.lives(p_session bytea) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT fencepost.life(p_session) = 'a' $$;

-- Ends those of the sessions that have expired, for ever. To be called by itself, and never while a key is locked: whoever renews or
-- ends one of them may be waited for.
CREATE FUNCTION fencepost.end_sessions(p_sessions bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_session bytea;
BEGIN
  FOR v_session IN SELECT DISTINCT a FROM unnest(p_sessions) a ORDER BY a LOOP
    DELETE FROM fencepost.session s WHERE s.id = v_session AND s.expires_at <= fencepost.clock();
    IF FOUND THEN DELETE FROM fencepost.withdrawn t WHERE t.session = v_session; END IF;
  END LOOP;
END $$;

-- Ends a session, whether it has expired or not. What it holds is freed by settling its keys, afterwards.
CREATE FUNCTION fencepost.close(p_session bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM fencepost.session s WHERE s.id = p_session;
  DELETE FROM fencepost.withdrawn t WHERE t.session = p_session;
END $$;

-- Frees what dead sessions hold, and grants to whoever is next. Returns the sessions that have expired and are in the way, to be ended
-- before it is called again.
CREATE FUNCTION fencepost.settle_keys(p_keys bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_key bytea;
  v_lock fencepost.lock;
  v_now bigint;
  v_settled record;
  v_is_grant boolean := false;
BEGIN
  FOR v_key IN SELECT DISTINCT a FROM unnest(p_keys) a ORDER BY a LOOP
    SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = v_key FOR NO KEY UPDATE;
    CONTINUE WHEN NOT FOUND;
    v_now := greatest(fencepost.clock(), v_lock.latest);
    SELECT * INTO v_settled FROM fencepost.settle(v_lock, v_now, fencepost.head(v_lock), NULL, NULL);
    IF v_settled.is_changed THEN PERFORM fencepost.write(v_settled.p_lock, v_now); END IF;
    v_is_grant := v_is_grant OR v_settled.is_grant;
    RETURN QUERY SELECT unnest(v_settled.expired);
  END LOOP;
  IF NOT v_is_grant THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
END $$;

-- Claims and releases, one answer for each, in their order. Op: c (a claim that does not wait), w (one that waits), r (a release), u (of
-- a claim of which a copy may be on its way).
--
-- What grants nothing need not survive a crash of the server: a release that is forgotten leaves a hold that nobody owns, and its engine
-- gives it back as soon as somebody wants it.
CREATE FUNCTION fencepost.apply(
  p_ops text[], p_sessions bytea[], p_tickets bigint[], p_keys bytea[], p_weights bigint[], p_capacities bigint[],
  p_kinds text[], p_lasts bigint[], p_modes text[], p_notes text[]
) RETURNS TABLE (nr bigint, outcome text, number bigint, recheck bigint, blocker bigint, blocked_for bigint, blocked_by text,
  expired bytea[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_asked record;
  v_answer fencepost.answer;
  v_is_grant boolean := false;
BEGIN
  -- In the order of the keys: two of these wait for each other in one direction only.
  FOR v_asked IN
    SELECT * FROM unnest(p_ops, p_sessions, p_tickets, p_keys, p_weights, p_capacities, p_kinds, p_lasts, p_modes, p_notes)
      WITH ORDINALITY AS a(op, session, ticket, key, weight, capacity, kind, lasts, mode, note, n)
    ORDER BY a.key, a.n
  LOOP
    IF v_asked.op IN ('c', 'w') THEN
      v_answer := fencepost.claim_one(v_asked.session, v_asked.ticket, v_asked.key, v_asked.op = 'w', v_asked.weight,
        v_asked.capacity, v_asked.kind::"char", v_asked.lasts, v_asked.mode, v_asked.note);
    ELSE
      v_answer := fencepost.release_one(v_asked.session, v_asked.ticket, v_asked.key, v_asked.op = 'u');
    END IF;
    v_is_grant := v_is_grant OR v_answer.is_grant;
    nr := v_asked.n; outcome := v_answer.outcome; number := v_answer.number; recheck := v_answer.recheck;
    blocker := v_answer.blocker; blocked_for := v_answer.blocked_for; blocked_by := v_answer.blocked_by;
    expired := v_answer.expired;
    RETURN NEXT;
  END LOOP;
  IF NOT v_is_grant THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
END $$;

-- Ends the holds of a key, or the one with this token, whoever owns them, and grants to whoever is next. Returns how many it ended;
-- -1 where a transaction has fenced the key, and nothing was done.
CREATE FUNCTION fencepost.force_release(p_key bytea, p_token bigint, OUT ended bigint, OUT expired bytea[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_lock fencepost.lock;
  v_now bigint;
  v_head bigint;
  v_holder fencepost.holder;
  v_stay fencepost.holder[] := '{}';
  v_settled record;
BEGIN
  ended := 0; expired := '{}';
  SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = p_key FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  v_now := greatest(fencepost.clock(), v_lock.latest);
  v_head := fencepost.head(v_lock);
  FOREACH v_holder IN ARRAY v_lock.holders LOOP
    IF p_token IS NOT NULL AND p_token <> v_holder.token THEN
      v_stay := v_stay || v_holder;
    ELSE
      IF NOT fencepost.may_remove(p_key) THEN ended := -1; RETURN; END IF;
      -- One that had died or expired before goes too, but was not ended by this.
      IF v_holder.until > v_now OR (v_holder.kind = 's' AND fencepost.life(v_holder.session) = 'a') THEN
        ended := ended + 1;
        PERFORM fencepost.tell(v_holder.session, 'v ' || v_holder.ticket);
      END IF;
    END IF;
  END LOOP;
  v_lock.holders := v_stay;
  SELECT * INTO v_settled FROM fencepost.settle(v_lock, v_now, v_head, NULL, NULL);
  expired := v_settled.expired;
  PERFORM fencepost.write(v_settled.p_lock, v_now);
END $$;

-- Who holds a key and who waits for it, those first that hold; without those that are dead. Changes nothing.
CREATE FUNCTION fencepost.inspect(p_key bytea) RETURNS TABLE (
  fence bigint, capacity bigint, waits boolean, session bytea, ticket bigint, token bigint, mode text, note text, kind "char",
  ends_in bigint, info text
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_lock fencepost.lock;
  v_now bigint;
BEGIN
  SELECT * INTO v_lock FROM fencepost.lock l WHERE l.key = p_key;
  IF NOT FOUND THEN RETURN; END IF;
  v_now := greatest(fencepost.clock(), v_lock.latest);
  -- Always one row, also where nobody holds it.
  RETURN QUERY SELECT v_lock.fence, v_lock.capacity, NULL::boolean, NULL::bytea, NULL::bigint, NULL::bigint, NULL::text, NULL::text,
    NULL::"char", NULL::bigint, NULL::text;
  RETURN QUERY SELECT v_lock.fence, v_lock.capacity, false, h.session, h.ticket, h.token, h.mode, h.note, h.kind,
    fencepost.ends_in(h, v_now), s.info
  FROM unnest(v_lock.holders) h LEFT JOIN fencepost.session s ON s.id = h.session
  WHERE h.until > v_now OR (h.kind = 's' AND s.expires_at > fencepost.clock()) ORDER BY h.token;
  RETURN QUERY SELECT v_lock.fence, v_lock.capacity, true, w.session, w.ticket, NULL::bigint, w.mode, w.note, w.kind,
    NULL::bigint, s.info
  FROM fencepost.waiter w JOIN fencepost.session s ON s.id = w.session
  WHERE v_lock.waiting > 0 AND w.key = p_key AND s.expires_at > fencepost.clock() ORDER BY w.place;
END $$;

-- Keys from one on, excluding it where p_is_after, and before another one, that are held or waited for; in the order of their bytes.
CREATE FUNCTION fencepost.list(p_from bytea, p_is_after boolean, p_before bytea, p_limit bigint) RETURNS SETOF bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.key FROM fencepost.lock l
  WHERE l.key >= p_from AND (NOT p_is_after OR l.key > p_from) AND (p_before IS NULL OR l.key < p_before)
    AND (EXISTS (SELECT FROM unnest(l.holders) h LEFT JOIN fencepost.session s ON s.id = h.session
        WHERE h.until > greatest(fencepost.clock(), l.latest) OR (h.kind = 's' AND s.expires_at > fencepost.clock()))
      OR (l.waiting > 0 AND EXISTS (SELECT FROM fencepost.waiter w JOIN fencepost.session s ON s.id = w.session
        WHERE w.key = l.key AND s.expires_at > fencepost.clock())))
  ORDER BY l.key LIMIT p_limit
$$;

-- Looks at the next keys behind one: deletes those that have been idle for so long and whose fence is behind the clock; names those on
-- which somebody may have died, to be settled. Returns where to go on; null at the end. Also ends sessions that nobody comes for.
--
-- Invariant: the next token of a key whose row is gone is above every one that it had: above the clock, and above what is remembered.
CREATE FUNCTION fencepost.sweep(p_after bytea, p_limit bigint, p_idle bigint, OUT next bytea, OUT to_settle bytea[], OUT removed bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_lock fencepost.lock;
  v_now bigint := fencepost.clock();
  v_seen bigint := 0;
  v_highest bigint := 0;
BEGIN
  to_settle := '{}'; removed := 0;
  PERFORM set_config('synchronous_commit', 'off', true);
  FOR v_lock IN SELECT * FROM fencepost.lock l WHERE l.key > p_after ORDER BY l.key LIMIT p_limit LOOP
    v_seen := v_seen + 1;
    next := v_lock.key;
    IF v_lock.waiting > 0 OR cardinality(v_lock.holders) > 0 THEN
      IF v_lock.latest < v_now - p_idle AND NOT EXISTS (SELECT FROM unnest(v_lock.holders) h
        JOIN fencepost.session s ON s.id = h.session WHERE s.expires_at > v_now) THEN
        to_settle := to_settle || v_lock.key;
      END IF;
    ELSIF greatest(v_lock.latest, v_lock.fence) < v_now - p_idle THEN
      -- Not one that somebody is at just now.
      DELETE FROM fencepost.lock l WHERE l.ctid = (SELECT o.ctid FROM fencepost.lock o
        WHERE o.key = v_lock.key AND o.waiting = 0 AND o.holders = '{}' AND o.fence = v_lock.fence FOR UPDATE SKIP LOCKED);
      IF FOUND THEN
        removed := removed + 1;
        v_highest := greatest(v_highest, v_lock.fence);
      END IF;
    END IF;
  END LOOP;
  IF v_seen < p_limit THEN next := NULL; END IF;
  UPDATE fencepost.highest h SET fence = v_highest WHERE h.fence < v_highest;
  IF p_after = '' THEN
    DELETE FROM fencepost.session s WHERE s.id IN (
      SELECT o.id FROM fencepost.session o WHERE o.expires_at < v_now - p_idle ORDER BY o.id LIMIT p_limit FOR UPDATE SKIP LOCKED);
    DELETE FROM fencepost.withdrawn t WHERE (t.session, t.ticket) IN (
      SELECT o.session, o.ticket FROM fencepost.withdrawn o
      WHERE NOT EXISTS (SELECT FROM fencepost.session s WHERE s.id = o.session) LIMIT p_limit);
  END IF;
END $$;

-- Settings that matter, as this role sees them.
CREATE FUNCTION fencepost.settings() RETURNS TABLE (name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT s, current_setting(s, true) FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) s
  UNION ALL SELECT 'persistence', max(c.relpersistence::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'fencepost' AND c.relname IN ('lock', 'session', 'waiter', 'withdrawn')
  UNION ALL SELECT 'asynchronous standbys', CASE WHEN bool_or(r.sync_state IS NULL) THEN NULL
    ELSE count(*) FILTER (WHERE r.sync_state = 'async')::text END FROM pg_stat_replication r
$$;

-- For applications: see the page about Postgres.

-- The bytes that a key has in these tables.
CREATE FUNCTION fencepost.key(name text, prefix text DEFAULT NULL) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN prefix IS NULL THEN convert_to(name, 'UTF8')
  ELSE convert_to(prefix, 'UTF8') || '\xff'::bytea || convert_to(name, 'UTF8') END $$;

-- Makes sure that a hold stands, and that it does until the end of this transaction: what the transaction writes and the lock commit
-- together. An error (FP001) where it does not stand.
CREATE FUNCTION fencepost.fence_key(key bytea, token bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION USING ERRCODE = '25001',
      MESSAGE = 'a lock can be fenced only in a transaction that is READ COMMITTED',
      HINT = 'Any other one looks at what was committed before it began, and the lock may have been lost since.';
  END IF;
  -- Shared, so that several holders may write beside each other. Whoever wants to remove a holder is refused from here on.
  PERFORM pg_advisory_xact_lock_shared(fencepost.fences(key));
  -- Those who were about to are waited for. What is locked in this block is free again behind it.
  BEGIN
    PERFORM pg_advisory_xact_lock(fencepost.removals(key));
    RAISE EXCEPTION USING ERRCODE = 'FP000';
  EXCEPTION WHEN SQLSTATE 'FP000' THEN NULL;
  END;
  -- A statement of its own sees what was committed by now.
  PERFORM FROM fencepost.lock l, unnest(l.holders) h LEFT JOIN fencepost.session s ON s.id = h.session
  WHERE l.key = fence_key.key AND h.token = fence_key.token AND h.kind <> 'r'
    AND (h.until > fencepost.clock() OR (h.kind = 's' AND s.expires_at > fencepost.clock()));
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'FP001',
      MESSAGE = format('the lock on %s is not held under token %s', encode(key, 'escape'), token),
      HINT = 'It was released, or lost to somebody else: nothing must be written on its behalf.';
  END IF;
END $$;

-- The same, by the name of the key and the prefix of the client.
CREATE FUNCTION fencepost.fence(name text, token bigint, prefix text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$ SELECT fencepost.fence_key(fencepost.key(name, prefix), token) $$;

-- Admits a token to a resource, or refuses it as stale (FP002), whichever store has granted it. Mode: exclusive, shared or permits. An
-- exclusive token passes while no higher one was admitted, its own again included; the others while theirs is above the last exclusive
-- one. What was admitted is remembered when this transaction commits.
CREATE FUNCTION fencepost.check_fence(resource text, mode text, token bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_mark fencepost.mark;
BEGIN
  IF mode IS NULL OR mode NOT IN ('exclusive', 'shared', 'permits') THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('a mode is exclusive, shared or permits, not %L', mode);
  END IF;
  IF token IS NULL OR token < 1 OR token > 9007199254740991 THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('a fencing token is a number from 1 to 9007199254740991, not %s', token);
  END IF;
  IF resource IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a resource has a name';
  END IF;
  INSERT INTO fencepost.mark VALUES (resource, 0, 0) ON CONFLICT DO NOTHING;
  SELECT * INTO v_mark FROM fencepost.mark m WHERE m.resource = check_fence.resource FOR UPDATE;
  IF (mode = 'exclusive' AND token < v_mark.highest) OR (mode <> 'exclusive' AND token <= v_mark.exclusive) THEN
    RAISE EXCEPTION USING ERRCODE = 'FP002',
      MESSAGE = format('token %s is stale: %s has admitted %s', token, resource, CASE mode WHEN 'exclusive' THEN v_mark.highest
        ELSE v_mark.exclusive END),
      HINT = 'Somebody else has had the lock since: nothing must be written under this token.';
  END IF;
  UPDATE fencepost.mark m SET highest = greatest(m.highest, token),
    exclusive = CASE WHEN mode = 'exclusive' THEN token ELSE m.exclusive END
  WHERE m.resource = check_fence.resource AND (m.highest < token OR (mode = 'exclusive' AND m.exclusive < token));
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fencepost FROM PUBLIC;
INSERT INTO fencepost.migration (version) VALUES (1);
