-- What can be seen and done from outside, and how idle keys go.

-- Ends the holds of a key, or the one with this token, whoever owns them, and grants to whoever is next. Returns how many it ended;
-- -1 where a transaction has fenced the key, and nothing was done.
CREATE FUNCTION fencepost.force_release(p_key bytea, p_token bigint, OUT ended bigint, OUT expired bytea[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
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
  fence bigint, capacity bigint, waits boolean, session bytea, ticket bigint, token bigint, mode text, note bytea, kind "char",
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
  RETURN QUERY SELECT v_lock.fence, v_lock.capacity, NULL::boolean, NULL::bytea, NULL::bigint, NULL::bigint, NULL::text, NULL::bytea,
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
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
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
    UPDATE fencepost.session s SET expires_at = -v_now WHERE s.id IN (
      SELECT o.id FROM fencepost.session o WHERE o.expires_at BETWEEN 0 AND v_now - p_idle ORDER BY o.id LIMIT p_limit
      FOR UPDATE SKIP LOCKED);
    -- An hour is longer than any copy of an opening is on its way.
    DELETE FROM fencepost.session s WHERE s.id IN (
      SELECT o.id FROM fencepost.session o WHERE o.expires_at < 0 AND -o.expires_at < v_now - greatest(p_idle, 3600000000) ORDER BY o.id LIMIT p_limit FOR UPDATE SKIP LOCKED);
    DELETE FROM fencepost.withdrawn t WHERE (t.session, t.ticket) IN (
      SELECT o.session, o.ticket FROM fencepost.withdrawn o
      WHERE NOT EXISTS (SELECT FROM fencepost.session s WHERE s.id = o.session AND s.expires_at >= 0) LIMIT p_limit);
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
