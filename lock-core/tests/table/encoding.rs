//! The encoding: whatever decodes encodes to the same bytes, and nothing makes it panic.

use lock_core::table::{Command, KeyRecord, SessionCommand, SessionOutcome, SessionRecord};
use lock_core::{HolderInfo, SessionId};
use proptest::prelude::*;
use proptest::sample::Index;

use super::steps::{World, history};

#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let small = prop_oneof![Just(0), Just(1), Just(2), Just(0xff), any::<u8>()];
    let one = prop_oneof![
        6 => (any::<Index>(), small.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Remove),
        1 => (any::<Index>(), small).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for one in damage.iter().filter(|_| !bytes.is_empty()).cloned().collect::<Vec<_>>() {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match one {
            Damage::Set(at, byte) => bytes[at.index(len)] = byte,
            Damage::Remove(at) => {
                bytes.remove(at.index(len));
            }
            Damage::Insert(at, byte) => bytes.insert(at.index(len), byte),
            Damage::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

fn session_record() -> impl Strategy<Value = SessionRecord> {
    let text = || prop::option::of("\\PC{0,40}");
    (any::<u128>(), any::<u64>(), any::<u64>(), any::<u32>(), text(), text(), any::<bool>()).prop_map(
        |(id, now, ttl, pid, name, pod, ended)| {
            let info = HolderInfo::new(pid).with_name(name).with_pod(pod, None, Some(String::new()));
            let mut record = SessionRecord::open(SessionId::from_u128(id), now, ttl, info);
            if ended {
                record.apply(now, SessionCommand::End);
            }
            record
        },
    )
}

fn session_command() -> impl Strategy<Value = SessionCommand> {
    prop_oneof![
        6 => Just(SessionCommand::Renew),
        3 => Just(SessionCommand::EndIfExpired),
        1 => (0..2_000_u64).prop_map(|stamp| SessionCommand::EndUnlessRenewed { stamp }),
        1 => Just(SessionCommand::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_damaged_record_is_refused_or_has_one_encoding(steps in history(), damage in damage()) {
        let mut world = World::new();
        for step in &steps {
            if let Some(command) = world.command(step) {
                world.apply(&command);
            }
        }
        let bytes = damaged(world.record.encode(), &damage);
        if let Ok(record) = KeyRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
            // Nonsense in, but never a panic.
            world.record = record;
            for step in &steps {
                if let Some(command) = world.command(step) {
                    world.apply(&command);
                }
            }
            world.apply(&Command::Settle);
        }
    }

    #[test]
    fn random_bytes_are_refused_or_have_one_encoding(
        version in prop_oneof![Just(0x4b), Just(0x53), any::<u8>()],
        rest in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..120),
    ) {
        let bytes = [&[version], rest.as_slice()].concat();
        if let Ok(record) = KeyRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        } else if let Ok(record) = SessionRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn a_sessions_record_comes_back(record in session_record(), damage in damage()) {
        let bytes = record.encode();
        prop_assert_eq!(SessionRecord::decode(&bytes), Ok(record));
        let bytes = damaged(bytes, &damage);
        if let Ok(other) = SessionRecord::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn a_session_that_is_over_stays_over_and_its_stamp_never_goes_back(
        steps in prop::collection::vec((0..2_000_u64, session_command()), 1..40),
    ) {
        let mut record = SessionRecord::open(SessionId::from_u128(1), 1_000, 200, HolderInfo::new(1));
        for (now, command) in steps {
            let before = record.clone();
            let outcome = record.apply(now, command);
            prop_assert!(record.is_ended() || !before.is_ended());
            prop_assert!(record.stamp() >= before.stamp());
            prop_assert_eq!(outcome == SessionOutcome::Ended, record.is_ended());
            if command == SessionCommand::EndIfExpired && record.is_ended() && !before.is_ended() {
                prop_assert!(now >= before.expires_at());
            }
        }
    }
}

/// What a store has written stays readable: a change of these bytes needs a new version.
#[test]
fn the_encoding_is_this_one() {
    let mut world = World::new();
    let empty = world.record.encode();
    assert_eq!(empty, [vec![0x4b], vec![0; 32]].concat());
    let release = Command::Release {
        session: SessionId::from_u128(7),
        ticket: lock_core::Ticket(9),
        certainty: lock_core::Certainty::MaybeInFlight,
    };
    world.apply(&release);
    let mut expected = vec![0x4b];
    expected.extend(0_u64.to_be_bytes());
    expected.extend(10_000_u64.to_be_bytes());
    expected.extend([0; 12]);
    expected.extend(1_u32.to_be_bytes());
    expected.extend(7_u128.to_be_bytes());
    expected.extend(9_u64.to_be_bytes());
    assert_eq!(world.record.encode(), expected);
}
