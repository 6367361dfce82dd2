-- Claims and releases.
--
-- A statement waits for a row for as long as others commit, and no longer: what else its client has to say waits behind it. Whoever is
-- refused so (55P03) is asked again.

-- Frees what dead sessions hold, and grants to whoever is next. Returns the sessions that have expired and are in the way, to be ended
-- before it is called again.
CREATE FUNCTION fencepost.settle_keys(p_keys bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
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

-- A claim or a release. Op: c (a claim that does not wait), w (one that waits), r (a release), u (of
-- a claim of which a copy may be on its way).
--
-- What grants nothing need not survive a crash of the server: a release that is forgotten leaves a hold that nobody owns, and its engine
-- gives it back as soon as somebody wants it.
CREATE FUNCTION fencepost.apply_one(
  p_op text, p_session bytea, p_ticket bigint, p_key bytea, p_weight bigint, p_capacity bigint, p_kind text, p_lasts bigint,
  p_mode text, p_note bytea
) RETURNS fencepost.answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  v_answer fencepost.answer;
  v_setting text;
BEGIN
  IF p_op IN ('c', 'w') THEN
    v_answer := fencepost.claim_one(p_session, p_ticket, p_key, p_op = 'w', p_weight, p_capacity, p_kind::"char", p_lasts, p_mode,
      p_note);
  ELSE
    v_answer := fencepost.release_one(p_session, p_ticket, p_key, p_op = 'u');
  END IF;
  IF NOT v_answer.is_grant THEN v_setting := set_config('synchronous_commit', 'off', true); END IF;
  RETURN v_answer;
END $$;

-- Of several, those whose keys occur once and that are the usual case: the same that claim_one and release_one try first, in one step for
-- all. What is left has no answer.
CREATE FUNCTION fencepost.apply_usual(
  p_ops text[], p_sessions bytea[], p_tickets bigint[], p_keys bytea[], p_weights bigint[], p_capacities bigint[],
  p_kinds text[], p_lasts bigint[], p_modes text[], p_notes bytea[]
) RETURNS TABLE (nr bigint, outcome text, number bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_now bigint;
BEGIN
  -- In the order of the keys: two of these wait for each other in one direction only.
  PERFORM FROM fencepost.lock l WHERE l.key = ANY (p_keys) ORDER BY l.key FOR NO KEY UPDATE;
  v_now := fencepost.clock();
  RETURN QUERY UPDATE fencepost.lock l SET holders = '{}', latest = greatest(l.latest, v_now)
    FROM (SELECT o.*, count(*) OVER (PARTITION BY o.key) AS times
      FROM unnest(p_ops, p_sessions, p_tickets, p_keys) WITH ORDINALITY AS o(op, session, ticket, key, n)) a
    WHERE a.op = 'r' AND a.times = 1
      AND l.ctid = (SELECT o.ctid FROM fencepost.lock o WHERE o.key = a.key FOR UPDATE SKIP LOCKED)
      AND l.key = a.key AND l.waiting = 0 AND cardinality(l.holders) = 1 AND (l.holders[1]).session = a.session
      AND (l.holders[1]).ticket = a.ticket AND (l.holders[1]).kind = 's' AND (l.holders[1]).until = 0
    RETURNING a.n, CASE WHEN (SELECT s.expires_at > v_now FROM fencepost.session s WHERE s.id = a.session) THEN 'done' ELSE 'gone' END,
      NULL::bigint;
  RETURN QUERY UPDATE fencepost.lock l SET
      fence = greatest(l.fence + 1, v_now), latest = greatest(l.latest, v_now), capacity = a.capacity,
      holders = ARRAY[ROW(a.session, a.ticket, greatest(l.fence + 1, v_now), a.weight, 's', 0, a.mode, a.note)::fencepost.holder]
    FROM (SELECT o.*, count(*) OVER (PARTITION BY o.key) AS times
      FROM unnest(p_ops, p_sessions, p_tickets, p_keys, p_weights, p_capacities, p_kinds, p_lasts, p_modes, p_notes)
        WITH ORDINALITY AS o(op, session, ticket, key, weight, capacity, kind, lasts, mode, note, n)) a
    WHERE a.op IN ('c', 'w') AND a.kind = 's' AND a.lasts = 0 AND a.times = 1
      AND l.ctid = (SELECT o.ctid FROM fencepost.lock o WHERE o.key = a.key FOR NO KEY UPDATE SKIP LOCKED)
      AND l.key = a.key AND l.waiting = 0 AND l.holders = '{}' AND greatest(l.fence + 1, v_now) <= 9007199254740991
      AND (SELECT s.expires_at > v_now FROM fencepost.session s WHERE s.id = a.session)
      AND NOT EXISTS (SELECT FROM fencepost.withdrawn t WHERE t.session = a.session AND t.ticket = a.ticket)
    RETURNING a.n, 'granted', l.fence;
END $$;

-- Several of them, one answer for each.
CREATE FUNCTION fencepost.apply(
  p_ops text[], p_sessions bytea[], p_tickets bigint[], p_keys bytea[], p_weights bigint[], p_capacities bigint[],
  p_kinds text[], p_lasts bigint[], p_modes text[], p_notes bytea[]
) RETURNS TABLE (nr bigint, outcome text, number bigint, recheck bigint, blocker bigint, blocked_for bigint, blocked_by text,
  expired bytea[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  v_done bigint[] := '{}';
  v_asked record;
  v_answer fencepost.answer;
  v_is_grant boolean := false;
BEGIN
  -- For few it would cost more than it saves. And rows are locked, and made, in one order: where one has to be made, one after the other.
  IF cardinality(p_ops) >= 8
    AND NOT EXISTS (SELECT FROM unnest(p_keys) k WHERE NOT EXISTS (SELECT FROM fencepost.lock l WHERE l.key = k)) THEN
    FOR nr, outcome, number IN
      SELECT u.nr, u.outcome, u.number FROM fencepost.apply_usual(p_ops, p_sessions, p_tickets, p_keys, p_weights, p_capacities, p_kinds,
        p_lasts, p_modes, p_notes) u
    LOOP
      v_done := v_done || nr;
      v_is_grant := v_is_grant OR outcome = 'granted';
      RETURN NEXT;
    END LOOP;
  END IF;
  -- In the order of the keys, as above.
  FOR v_asked IN
    SELECT * FROM unnest(p_ops, p_sessions, p_tickets, p_keys, p_weights, p_capacities, p_kinds, p_lasts, p_modes, p_notes)
      WITH ORDINALITY AS a(op, session, ticket, key, weight, capacity, kind, lasts, mode, note, n)
    WHERE a.n <> ALL (v_done) ORDER BY a.key, a.n
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
