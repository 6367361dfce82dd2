-- A claim.

-- Grants, enqueues or answers busy, as the lock table does.
--
-- Invariant: whatever is granted or enqueued belongs to a session that lives and to a claim that was not withdrawn, both looked at
-- once the row is locked: a release that withdraws it locks the row as well.
CREATE FUNCTION fencepost.claim_one(
  p_session bytea, p_ticket bigint, p_key bytea, p_waits boolean, p_weight bigint, p_capacity bigint, p_kind "char",
  p_lasts bigint, p_mode text, p_note bytea
) RETURNS fencepost.answer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_now bigint := fencepost.clock();
  v_token bigint;
  v_life "char";
  v_lock fencepost.lock;
  v_settled record;
  v_answer fencepost.answer;
  v_first fencepost.waiter;
  v_is_grant boolean := false;
BEGIN
  -- The key is idle: the usual case, in one step, which waits for nobody. A row that was changed since the statement began is none that
  -- it finds: so what it sees of the session, and of what was withdrawn, is no older than what it sees of the row.
  IF p_kind = 's' AND p_lasts = 0 THEN
    UPDATE fencepost.lock l SET
      fence = greatest(l.fence + 1, v_now), latest = greatest(l.latest, v_now), capacity = p_capacity,
      holders = ARRAY[ROW(p_session, p_ticket, greatest(l.fence + 1, v_now), p_weight, 's', 0, p_mode, p_note)::fencepost.holder]
    WHERE l.ctid = (SELECT o.ctid FROM fencepost.lock o WHERE o.key = p_key FOR NO KEY UPDATE SKIP LOCKED)
      AND l.key = p_key AND l.waiting = 0 AND l.holders = '{}' AND greatest(l.fence + 1, v_now) <= 9007199254740991
      AND (SELECT s.expires_at > v_now FROM fencepost.session s WHERE s.id = p_session)
      AND NOT EXISTS (SELECT FROM fencepost.withdrawn t WHERE t.session = p_session AND t.ticket = p_ticket)
    RETURNING l.fence INTO v_token;
    IF FOUND THEN RETURN ROW('granted', v_token, NULL, NULL, NULL, NULL, NULL, true)::fencepost.answer; END IF;
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
