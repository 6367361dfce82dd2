-- For applications: see the page about Postgres.

-- The bytes that a key has in these tables.
CREATE FUNCTION fencepost.key(name text, prefix text DEFAULT NULL) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN prefix IS NULL THEN convert_to(name, 'UTF8')
  ELSE convert_to(prefix, 'UTF8') || decode('ff', 'hex') || convert_to(name, 'UTF8') END $$;

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
  -- Several holders may write beside each other. Whoever is removing one is waited for; nobody else does from here on.
  PERFORM FROM fencepost.lock l WHERE l.key = fence_key.key FOR KEY SHARE;
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
