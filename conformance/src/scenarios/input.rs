//! Whatever people write: keys, times, prefixes.

use std::collections::HashSet;
use std::time::Duration;

use lock_core::{AcquireOptions, ErrorKind, LockClient, LockKey, Prefix, Wait};

use crate::case::cases;
use crate::scene::{LONG, Scene};
use crate::verdict::{Verdict, expect, expect_eq};

cases! { "input":
    77 => every_key_is_one_of_its_own_or_refused,
    78 => a_key_is_never_more_than_a_name,
}

/// Pairwise different, and all of them allowed.
fn corpus() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "A",
        "a ",
        " a",
        "a\n",
        "a\t",
        "a\0",
        "\0",
        "a/b",
        "a//b",
        "/a",
        "a/",
        "/",
        ".",
        "..",
        "../a",
        "./a",
        "...",
        "a.",
        "~",
        "a%2Fb",
        "a%2fb",
        "%",
        "%25",
        "%00",
        "é",
        "e\u{301}",
        "ß",
        "SS",
        "İ",
        "i",
        "ı",
        "ſ",
        "s",
        "К",
        "K",
        "漢字",
        "🔒",
        "\u{200b}",
        "a\u{200b}",
        "\u{202e}a",
        "\u{feff}",
        "con",
        "CON",
        "nul",
        "a:b",
        "a*b",
        "a?b",
        "a\"b",
        "a'b",
        "a`b",
        "a\\b",
        "a|b",
        "<a>",
        "a{b}",
        "{a}b",
        "a}b{",
        "a@b",
        "a#b",
        "a&b",
        "a=b",
        "a;b",
        "-",
        "--",
        "-rf",
        "$HOME",
        "$(id)",
        "'; DROP TABLE locks; --",
        "\" OR 1=1 --",
        "\r\nSET a b\r\n",
        "]] return 1 --",
        "KEYS[1]",
        "null",
        "true",
        "0",
        "00",
        "1e3",
        "NaN",
    ]
    .map(str::to_owned)
    .to_vec();
    // As long as may be, alike in all but the last byte; and across the length that file systems allow for a name.
    for length in [100, 200, 252, 253, 254, 255, 256, 257, 300, 509, 510, 511, 512] {
        keys.push("x".repeat(length));
        keys.push(format!("{}y", "x".repeat(length - 1)));
    }
    keys.push("漢".repeat(170));
    keys.push("/".repeat(512));
    keys
}

/// Each is held at the same time, and each stands in the list under the name that it was given.
async fn every_key_is_one_of_its_own_or_refused(scene: Scene) -> Verdict {
    // Keys are what they are here; a prefix keeps them apart from those of other scenarios.
    let prefix = Prefix::new(format!("corpus-{:x}", scene.seed()))?;
    let client = scene.client_with(|builder| builder.ttl(LONG).prefix(prefix.clone())).await?;
    let other = scene.client_with(|builder| builder.ttl(LONG).prefix(prefix)).await?;
    let keys = corpus();
    expect_eq(
        "keys in the corpus that are one of their own",
        keys.iter().collect::<HashSet<_>>().len(),
        keys.len(),
    )?;
    let mut held = Vec::new();
    for key in &keys {
        match client.mutex(key.as_str())?.try_acquire().await? {
            Ok(guard) => held.push(guard),
            Err(busy) => expect(false, format_args!("{key:?} to be free while others are held"), busy)?,
        }
        let again = other.mutex(key.as_str())?.try_acquire().await?;
        expect(again.is_err(), format_args!("{key:?} to be held by then"), "granted again")?;
    }
    let mut listed = HashSet::new();
    let mut after = None;
    loop {
        let page = other.list("", after, 7).await?;
        expect(page.keys.len() <= 7, "a page of at most seven", page.keys.len())?;
        listed.extend(page.keys.iter().map(|key| key.as_str().to_owned()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: HashSet<_> = keys.iter().cloned().collect();
    expect(
        listed == expected,
        "every key in the list, as it was given",
        format_args!(
            "lacking {:?}, besides {:?}",
            expected.difference(&listed),
            listed.difference(&expected)
        ),
    )?;
    for (key, guard) in keys.iter().zip(held) {
        let holders = client.inspect(key.as_str()).await?.holders;
        expect(
            holders.len() == 1 && holders[0].token == guard.token(),
            format_args!("{key:?} to be held by its own holder"),
            format_args!("{holders:?}"),
        )?;
        guard.release().await?;
    }
    what_cannot_be_is_refused(&client).await
}

async fn what_cannot_be_is_refused(client: &LockClient) -> Verdict {
    for key in [String::new(), "x".repeat(513), "x".repeat(1 << 20)] {
        let error = LockKey::new(&key).err().map(|error| error.kind().clone());
        expect_eq(format_args!("a key of {} bytes", key.len()), error, Some(ErrorKind::InvalidInput))?;
        let error = client.mutex(key.as_str()).err().map(|error| error.kind().clone());
        expect_eq(
            format_args!("a mutex by a key of {} bytes", key.len()),
            error,
            Some(ErrorKind::InvalidInput),
        )?;
    }
    let lock = client.mutex("k")?;
    for time in [Duration::ZERO, Duration::MAX] {
        let refused = lock.acquire_detached(time, &AcquireOptions::new()).await.err();
        let kind = refused.map(|error| error.kind().clone());
        expect(
            matches!(kind, Some(ErrorKind::InvalidInput | ErrorKind::Unsupported)),
            format_args!("a detached hold of {time:?} to be refused"),
            format_args!("{kind:?}"),
        )?;
    }
    let forever = AcquireOptions::new().wait(Wait::AtMost(Duration::MAX)).hold_at_most(Duration::MAX);
    match lock.acquire_with(&forever).await {
        Ok(guard) => guard.release().await.map(|_| ())?,
        Err(error) => expect_eq("the kind of error", error.kind().clone(), ErrorKind::InvalidInput)?,
    }
    Ok(())
}

/// What looks like a command, a path, a pattern or a prefix is a name and nothing else.
async fn a_key_is_never_more_than_a_name(scene: Scene) -> Verdict {
    let unique = |name: &str| Prefix::new(format!("{name}-{:x}", scene.seed()));
    let within = async |prefix: Prefix| scene.client_with(|builder| builder.ttl(LONG).prefix(prefix)).await;
    let (one, other) = (within(unique("one")?).await?, within(unique("one-and")?).await?);
    let plain = scene.client().await?;
    let guards = [
        one.mutex("k")?.acquire().await?,
        one.mutex("k/inner")?.acquire().await?,
        other.mutex("k")?.acquire().await?,
    ];
    for (client, keys) in [(&one, vec!["k", "k/inner"]), (&other, vec!["k"])] {
        let mut listed: Vec<_> =
            client.list("", None, 100).await?.keys.iter().map(|key| key.as_str().to_owned()).collect();
        listed.sort();
        expect_eq("the keys under one prefix", listed, keys.into_iter().map(str::to_owned).collect())?;
    }
    let tokens: HashSet<_> = guards.iter().map(lock_core::Guard::token).collect();
    for pattern in ["*", "?", "%", "k*", "k%", "_", "[k]", "^k", ".*"] {
        let ended = one.force_release(pattern, None).await?;
        expect_eq(format_args!("holds ended under the name {pattern:?}"), ended, 0)?;
        let listed = one.list(pattern, None, 100).await?.keys.len();
        expect_eq(format_args!("keys that begin with {pattern:?}"), listed, 0)?;
    }
    expect_eq("keys that begin with \"k/\"", one.list("k/", None, 100).await?.keys.len(), 1)?;
    // One client's prefix is no other client's key.
    for name in [
        format!("one-{:x}/k", scene.seed()),
        format!("one-{:x}@k", scene.seed()),
        format!("one-{:x}k", scene.seed()),
    ] {
        expect(
            plain.mutex(name.as_str())?.try_acquire().await?.is_ok(),
            format_args!("{name:?} to be free"),
            "busy",
        )?;
    }
    for guard in &guards {
        expect(guard.state().is_held(), "held by all that", format_args!("{:?}", guard.state()))?;
    }
    expect(!tokens.is_empty(), "tokens", "none")
}
