-- A release.

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
  v_is_alive boolean;
  v_settled record;
BEGIN
  -- It is the only one, and nobody waits: the usual case, in one step. Whoever has fenced the key is seen by the lock.
  IF NOT p_is_uncertain THEN
    UPDATE fencepost.lock l SET holders = '{}', latest = greatest(l.latest, fencepost.clock())
    WHERE l.ctid = (SELECT o.ctid FROM fencepost.lock o WHERE o.key = p_key FOR UPDATE SKIP LOCKED)
      AND l.key = p_key AND l.waiting = 0 AND cardinality(l.holders) = 1 AND (l.holders[1]).session = p_session
      AND (l.holders[1]).ticket = p_ticket AND (l.holders[1]).kind = 's' AND (l.holders[1]).until = 0
    RETURNING (SELECT s.expires_at > fencepost.clock() FROM fencepost.session s WHERE s.id = p_session) INTO v_is_alive;
    IF FOUND THEN
      RETURN ROW(CASE WHEN v_is_alive THEN 'done' ELSE 'gone' END, NULL, NULL, NULL, NULL, NULL, NULL, false)::fencepost.answer;
    END IF;
  END IF;

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
    -- A claim that has begun and not seen that does not find this row any more, and looks again.
    UPDATE fencepost.lock l SET latest = greatest(l.latest, v_now) WHERE l.key = p_key;
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
