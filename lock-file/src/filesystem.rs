//! Which file systems are known to lock and rename as this store needs it.

/// Local ones, on which the tests were run or which have the same semantics by their kernel's shared code. Network
/// and user-space file systems are not among them: their locks and pipes end at the machine's border, or lie.
const KNOWN: [(u64, &str); 6] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794C_7630, "overlayfs"),
    (0x2FC1_2FC1, "zfs"),
];

const OTHERS: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
];

/// Whether a file system is on the list, by the number that `statfs` gives.
pub(crate) fn is_known(number: u64) -> bool {
    KNOWN.iter().any(|&(known, _)| known == number)
}

/// A file system's name, or its number.
pub(crate) fn name(number: u64) -> String {
    let names = KNOWN.iter().chain(&OTHERS);
    match names.into_iter().find(|&&(known, _)| known == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("a file system of type {number:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_not_known() {
        assert!(is_known(0xEF53) && is_known(0x0102_1994));
        for (number, name) in OTHERS {
            assert!(!is_known(number), "{name}");
        }
        assert_eq!(name(0x6969), "NFS");
        assert_eq!(name(0x1234), "a file system of type 0x1234");
    }
}
