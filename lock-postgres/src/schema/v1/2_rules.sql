-- What the rules are made of. In PL/pgSQL, which keeps the plans of what it has run: a function in SQL makes them anew each time.

CREATE FUNCTION fencepost.clock() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- Whether a holder may be removed: no transaction has fenced the key. For whoever has locked the row.
--
-- Invariant: who fences shares the row (FOR KEY SHARE) until his transaction ends; who claims or waits is not in his way (FOR NO KEY
-- UPDATE). Who removes a holder has the row for himself until he commits: he waits for nobody who fences, and whoever comes to fence
-- waits for him, and sees what he has done.
CREATE FUNCTION fencepost.may_remove(p_key bytea) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM FROM fencepost.lock l WHERE l.key = p_key FOR UPDATE SKIP LOCKED;
  RETURN FOUND;
END $$;

-- a: alive; x: expired, and not ended yet; d: dead.
CREATE FUNCTION fencepost.life(p_session bytea) RETURNS "char" LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_expires bigint;
BEGIN
  SELECT s.expires_at INTO v_expires FROM fencepost.session s WHERE s.id = p_session;
  IF NOT FOUND OR v_expires < 0 THEN RETURN 'd'; END IF;
  IF v_expires <= fencepost.clock() THEN RETURN 'x'; END IF;
  RETURN 'a';
END $$;

CREATE FUNCTION fencepost.tell(p_session bytea, p_news text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_notify(s.channel, encode(p_session, 'hex') || ' ' || p_news) FROM fencepost.session s WHERE s.id = p_session;
END $$;

CREATE FUNCTION fencepost.held(p_lock fencepost.lock) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  v_holder fencepost.holder;
  v_held numeric := 0;
BEGIN
  FOREACH v_holder IN ARRAY p_lock.holders LOOP
    v_held := v_held + v_holder.weight;
  END LOOP;
  RETURN v_held;
END $$;

-- In how many microseconds a hold ends unless it is renewed.
CREATE FUNCTION fencepost.ends_in(p_holder fencepost.holder, p_now bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_expires bigint;
BEGIN
  IF p_holder.kind = 's' THEN
    SELECT s.expires_at INTO v_expires FROM fencepost.session s WHERE s.id = p_holder.session;
  END IF;
  RETURN greatest(0, p_holder.until - p_now, v_expires - p_now);
END $$;

-- When the first of the holders ends; null where nobody holds.
CREATE FUNCTION fencepost.next_end(p_lock fencepost.lock, p_now bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_holder fencepost.holder;
  v_soonest bigint;
BEGIN
  FOREACH v_holder IN ARRAY p_lock.holders LOOP
    v_soonest := least(v_soonest, fencepost.ends_in(v_holder, p_now));
  END LOOP;
  RETURN v_soonest;
END $$;

-- Somebody waits for what they hold, or tried. Not for holds with a fixed end: their engine has forgotten them.
CREATE FUNCTION fencepost.want_holders(p_lock fencepost.lock) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_holder fencepost.holder;
BEGIN
  FOREACH v_holder IN ARRAY p_lock.holders LOOP
    IF v_holder.kind = 's' THEN
      PERFORM fencepost.tell(v_holder.session, 'w ' || v_holder.ticket || ' ' || encode(p_lock.key, 'hex'));
    END IF;
  END LOOP;
END $$;

-- The token of the next grant; null where there is none left.
CREATE FUNCTION fencepost.next_token(p_lock fencepost.lock, p_now bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN nullif(least(greatest(p_lock.fence + 1, p_now), 9007199254740992), 9007199254740992);
END $$;

-- How a hold begins.
CREATE FUNCTION fencepost.hold(
  p_session bytea, p_ticket bigint, p_token bigint, p_weight bigint, p_kind "char", p_lasts bigint, p_mode text, p_note bytea,
  p_now bigint
) RETURNS fencepost.holder LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN ROW(p_session, p_ticket, p_token, p_weight, p_kind,
    CASE WHEN p_kind = 'f' OR p_lasts > 0 THEN p_now + p_lasts ELSE 0 END, p_mode, p_note)::fencepost.holder;
END $$;

CREATE FUNCTION fencepost.write(p_lock fencepost.lock, p_now bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  UPDATE fencepost.lock l SET fence = p_lock.fence, latest = greatest(l.latest, p_now), capacity = p_lock.capacity,
    waiting = p_lock.waiting, holders = p_lock.holders
  WHERE l.key = p_lock.key;
END $$;

-- The first of the queue; null where nobody waits.
CREATE FUNCTION fencepost.head(p_lock fencepost.lock) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF p_lock.waiting = 0 THEN RETURN NULL; END IF;
  RETURN (SELECT w.place FROM fencepost.waiter w WHERE w.key = p_lock.key ORDER BY w.place LIMIT 1);
END $$;

CREATE FUNCTION fencepost.answered(p_outcome text, p_number bigint, p_is_grant boolean) RETURNS fencepost.answer
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN ROW(p_outcome, p_number, NULL, NULL, NULL, NULL, NULL, p_is_grant)::fencepost.answer;
END $$;

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
RETURNS fencepost.answer LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_holder fencepost.holder;
BEGIN
  FOREACH v_holder IN ARRAY p_lock.holders LOOP
    IF v_holder.session = p_session AND v_holder.ticket = p_ticket THEN
      IF v_holder.kind = 'r' OR (v_holder.kind = 'f' AND v_holder.until <= p_now) THEN
        RETURN fencepost.answered('withdrawn', NULL, false);
      END IF;
      RETURN fencepost.answered('granted', v_holder.token, true);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- The row of a key that has none, unless somebody else has just made it. Nobody can be waiting there: whoever did before the row was
-- deleted claims again.
CREATE FUNCTION fencepost.make(p_key bytea) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  -- The first of these may wait for whoever is deleting the row. So what he leaves behind is read by the second.
  INSERT INTO fencepost.lock VALUES (p_key, 0, 0, 1, 0, '{}') ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN; END IF;
  UPDATE fencepost.lock l SET fence = coalesce((SELECT max(h.fence) FROM fencepost.highest h), 0) WHERE l.key = p_key;
  DELETE FROM fencepost.waiter w WHERE w.key = p_key;
END $$;
