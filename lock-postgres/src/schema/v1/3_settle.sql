-- Who holds no more, and who is next.

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
