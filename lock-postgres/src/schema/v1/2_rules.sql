-- What the rules are made of.

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
