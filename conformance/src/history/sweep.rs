//! [`sweep`]: the gate that every history passes, in O(n log n).

use std::collections::{BTreeMap, HashMap};

use super::recorder::{Operation, Outcome};

/// Whether a history can have been.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Judgement {
    /// Everything that was to be checked was, and holds.
    Passed,
    /// It could not be decided. Never to be read as passed.
    Unknown(String),
    /// It cannot have been, and this is why.
    Violated(Vec<String>),
}

/// Checks for each key that tokens are unique, that what was asked for after a grant got a higher one, and that what was
/// held at the same time fits the capacity.
///
/// An operation whose outcome is unknown claims nothing: its caller does not rely on a grant. So it takes nothing away from
/// what is checked here. A history without a single grant shows nothing, and is unknown.
pub fn sweep(operations: &[Operation]) -> Judgement {
    let mut by_key: BTreeMap<&str, Vec<Grant>> = BTreeMap::new();
    for operation in operations {
        if let Outcome::Granted { at, token, until } = operation.outcome {
            let Operation { client, weight, capacity, invoked, .. } = *operation;
            let grant =
                Grant { client, weight, capacity, invoked, at, token, until: until.unwrap_or(u64::MAX) };
            by_key.entry(&operation.key).or_default().push(grant);
        }
    }
    if by_key.is_empty() {
        return Judgement::Unknown("nothing was granted: there is nothing to judge by".to_owned());
    }
    let mut violations = Vec::new();
    for (key, grants) in &by_key {
        unique(key, grants, &mut violations);
        rising(key, grants, &mut violations);
        fitting(key, grants, &mut violations);
    }
    if violations.is_empty() { Judgement::Passed } else { Judgement::Violated(violations) }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    client: u64,
    weight: u32,
    capacity: u32,
    invoked: u64,
    at: u64,
    token: u64,
    until: u64,
}

fn unique(key: &str, grants: &[Grant], violations: &mut Vec<String>) {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for grant in grants {
        if let Some(other) = seen.insert(grant.token, grant.client) {
            violations.push(format!(
                "{key}: token {} was granted to clients {other} and {}",
                grant.token, grant.client
            ));
        }
    }
}

/// Walks through invocations in order, with the highest token of all that had returned before.
fn rising(key: &str, grants: &[Grant], violations: &mut Vec<String>) {
    let mut by_return: Vec<_> = grants.iter().collect();
    by_return.sort_by_key(|grant| grant.at);
    let mut by_invocation: Vec<_> = grants.iter().collect();
    by_invocation.sort_by_key(|grant| grant.invoked);
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<&Grant> = None;
    for grant in by_invocation {
        while let Some(earlier) = returned.next_if(|earlier| earlier.at <= grant.invoked) {
            if highest.is_none_or(|highest| highest.token < earlier.token) {
                highest = Some(earlier);
            }
        }
        if let Some(earlier) = highest.filter(|earlier| earlier.token >= grant.token) {
            violations.push(format!(
                "{key}: client {} asked at {} and got token {}, although {} had been granted by {}",
                grant.client, grant.invoked, grant.token, earlier.token, earlier.at
            ));
        }
    }
}

/// At each beginning, the weights of all that is held fit the capacity. What ends at that instant has ended.
fn fitting(key: &str, grants: &[Grant], violations: &mut Vec<String>) {
    let mut edges: Vec<(u64, bool, &Grant)> = Vec::with_capacity(grants.len() * 2);
    for grant in grants.iter().filter(|grant| grant.until > grant.at) {
        edges.push((grant.at, true, grant));
        edges.push((grant.until, false, grant));
    }
    edges.sort_by_key(|&(at, begins, _)| (at, begins));
    let mut held: u64 = 0;
    for (at, begins, grant) in edges {
        if !begins {
            held -= u64::from(grant.weight);
            continue;
        }
        held += u64::from(grant.weight);
        if held > u64::from(grant.capacity) {
            let beside: Vec<_> = grants
                .iter()
                .filter(|other| other.token != grant.token && other.at <= at && other.until > at)
                .map(|other| (other.client, other.token))
                .collect();
            violations.push(format!(
                "{key}: at {at} client {} held it under {} beside {beside:?} (client, token): {held} of {}",
                grant.client, grant.token, grant.capacity
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(client: u64, invoked: u64, at: u64, token: u64, until: u64) -> Operation {
        let outcome = Outcome::Granted { at, token, until: Some(until) };
        Operation { client, key: "k".to_owned(), weight: 1, capacity: 1, invoked, outcome }
    }

    #[test]
    fn one_after_the_other_passes() {
        let history = [granted(1, 0, 1, 10, 5), granted(2, 0, 5, 11, 9), granted(1, 6, 9, 12, 10)];
        assert_eq!(sweep(&history), Judgement::Passed);
    }

    #[test]
    fn two_at_once_are_found() {
        let history = [granted(1, 0, 1, 10, 5), granted(2, 0, 4, 11, 9)];
        assert!(
            matches!(sweep(&history), Judgement::Violated(found) if found[0].contains("beside [(1, 10)]"))
        );
    }

    #[test]
    fn as_many_as_fit_pass_and_one_more_does_not() {
        let permit = |client, token| Operation { capacity: 2, ..granted(client, 0, token, token, 100) };
        assert_eq!(sweep(&[permit(1, 10), permit(2, 11)]), Judgement::Passed);
        assert!(matches!(sweep(&[permit(1, 10), permit(2, 11), permit(3, 12)]), Judgement::Violated(_)));
    }

    #[test]
    fn a_token_that_falls_or_comes_twice_is_found() {
        assert!(matches!(sweep(&[granted(1, 0, 1, 10, 2), granted(2, 3, 4, 9, 5)]), Judgement::Violated(_)));
        assert!(matches!(sweep(&[granted(1, 0, 1, 10, 2), granted(2, 0, 4, 10, 5)]), Judgement::Violated(_)));
        let overlapping = [granted(1, 0, 3, 10, 4), granted(2, 0, 2, 9, 3)];
        assert_eq!(sweep(&overlapping), Judgement::Passed, "asked for at the same time: either may be first");
    }

    #[test]
    fn what_shows_nothing_has_not_passed() {
        assert!(matches!(sweep(&[]), Judgement::Unknown(_)));
        let unknown = Operation { outcome: Outcome::Unknown, ..granted(1, 0, 1, 10, 2) };
        assert!(matches!(sweep(&[unknown]), Judgement::Unknown(_)));
    }

    #[test]
    fn it_is_quick() {
        let history: Vec<_> =
            (0..100_000).map(|n| granted(n % 7, n * 10, n * 10 + 1, n + 1, n * 10 + 9)).collect();
        assert_eq!(sweep(&history), Judgement::Passed);
    }
}
