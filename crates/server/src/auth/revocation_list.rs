//! What is revoked, beside the keys that a file does not have any more.
//!
//! One entry is a field and a number, in the store as well:
//!
//! | field | number |
//! | --- | --- |
//! | `t:<ticket>` | when the ticket ends, in Unix seconds: until then it is refused |
//! | `o:<owner>` | what was issued to the owner, or to one below it, until this second is refused |
//! | `k:<key>` | 0: the key of this id is refused for good |

use std::collections::HashMap;

use tokenwire_core::model::id::Owner;

/// Entries, by their fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RevocationList(HashMap<String, u64>);

/// A credential, as far as it can be revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The id of a ticket.
    pub(super) ticket: Option<String>,
    /// The id of the key, or of the token's owner.
    pub(super) key: Option<String>,
    /// The owner, and that of the key which the ticket was made with.
    pub(super) owners: Vec<Owner>,
    /// When it was issued, in Unix seconds.
    pub(super) issued: u64,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) field: String,
    pub(crate) value: u64,
}

// === impl Entry ===

impl Entry {
    pub(super) fn ticket(id: &str, until: u64) -> Self {
        let field = format!("t:{id}");
        Self {
            field,
            value: until,
        }
    }

    pub(super) fn owner(owner: &Owner, now: u64) -> Self {
        let field = format!("o:{}", name(owner));
        Self { field, value: now }
    }

    pub(super) fn key(id: &str) -> Self {
        let field = format!("k:{id}");
        Self { field, value: 0 }
    }
}

// === impl RevocationList ===

impl RevocationList {
    /// Adds an entry. Of two with one field the later one counts.
    pub(super) fn add(&mut self, entry: Entry) {
        let known = self.0.entry(entry.field).or_default();
        *known = entry.value.max(*known);
    }

    /// Removes what need not be known any more. Credentials last for at most `longest` seconds.
    /// Returns the fields.
    pub(super) fn remove_over(&mut self, now: u64, longest: u64) -> Vec<String> {
        let is_over = |field: &str, value: u64| match field.split_once(':') {
            Some(("t", _)) => value <= now,
            Some(("o", _)) => value.saturating_add(longest) <= now,
            _ => false,
        };
        let mut removed = Vec::new();
        self.0.retain(|field, value| {
            let over = is_over(field, *value);
            if over {
                removed.push(field.clone());
            }
            !over
        });
        removed
    }

    /// Adds the entries of another list. Returns those that it does not have.
    pub(super) fn take_in(&mut self, other: Self, now: u64, longest: u64) -> Vec<Entry> {
        self.remove_over(now, longest);
        let lost = self.0.iter();
        let lost = lost.filter(|(field, _)| !other.0.contains_key(*field));
        let lost = lost.map(|(field, value)| Entry {
            field: field.clone(),
            value: *value,
        });
        let lost = lost.collect();
        for (field, value) in other.0 {
            self.add(Entry { field, value });
        }
        lost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has_key(&self, id: &str) -> bool {
        !self.0.is_empty() && self.0.contains_key(&format!("k:{id}"))
    }

    /// Whether a credential is refused.
    pub(super) fn has(&self, holder: &Holder) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let ticket = holder.ticket.as_ref();
        ticket.is_some_and(|id| self.0.contains_key(&format!("t:{id}")))
            || holder.key.as_ref().is_some_and(|id| self.has_key(id))
            || holder.owners.iter().any(|owner| {
                let until = self.owner_until(name(owner));
                until.is_some_and(|until| holder.issued <= until)
            })
    }

    /// Returns the latest time of an entry of this owner, or of one above it.
    fn owner_until(&self, owner: &str) -> Option<u64> {
        let ends = owner.match_indices('/').map(|(at, _)| at);
        let names = ends.chain([owner.len()]).filter_map(|end| owner.get(..end));
        names
            .filter_map(|name| self.0.get(&format!("o:{name}")).copied())
            .max()
    }
}

impl FromIterator<(String, u64)> for RevocationList {
    fn from_iter<T: IntoIterator<Item = (String, u64)>>(entries: T) -> Self {
        let mut list = Self::default();
        for (field, value) in entries {
            list.add(Entry { field, value });
        }
        list
    }
}

/// Returns the name of an owner in the list.
pub(super) fn name(owner: &Owner) -> &str {
    match owner {
        Owner::Anonymous => "anonymous",
        Owner::Named(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(owner: &str, issued: u64) -> Holder {
        Holder {
            ticket: Some("ticket".to_owned()),
            key: Some("key".to_owned()),
            owners: vec![Owner::Named(owner.into())],
            issued,
        }
    }

    #[test]
    fn ticket_key_and_owner_are_refused_and_others_are_not() {
        let of = |entry: Entry| RevocationList::from_iter([(entry.field, entry.value)]);
        assert!(!RevocationList::default().has(&holder("alice", 5)));
        assert!(of(Entry::ticket("ticket", 9)).has(&holder("alice", 5)));
        assert!(!of(Entry::ticket("other", 9)).has(&holder("alice", 5)));
        assert!(of(Entry::key("key")).has(&holder("alice", 5)));
        assert!(!of(Entry::key("other")).has(&holder("alice", 5)));
        let alice = of(Entry::owner(&Owner::Named("alice".into()), 5));
        assert!(alice.has(&holder("alice", 5)));
        assert!(alice.has(&holder("alice/a/b", 5)));
        assert!(!alice.has(&holder("alice/a", 6)), "it was issued later");
        assert!(!alice.has(&holder("alice2", 5)));
        let below = of(Entry::owner(&Owner::Named("alice/a".into()), 5));
        assert!(!below.has(&holder("alice", 5)));
        assert!(!below.has(&holder("alice/ab", 5)));
    }

    #[test]
    fn list_takes_in_another_and_names_what_that_has_lost() {
        let mut list = RevocationList::from_iter([("k:a".to_owned(), 0), ("t:over".to_owned(), 5)]);
        let other = RevocationList::from_iter([("k:b".to_owned(), 0)]);
        assert_eq!(list.take_in(other.clone(), 9, 9), [Entry::key("a")]);
        assert!(list.has_key("a") && list.has_key("b"));
        assert_eq!(list.take_in(list.clone(), 9, 9), []);
    }

    #[test]
    fn entries_are_forgotten_once_nothing_that_they_refuse_can_be_valid() {
        let mut list = RevocationList::default();
        list.add(Entry::ticket("a", 10));
        list.add(Entry::ticket("b", 11));
        list.add(Entry::owner(&Owner::Anonymous, 4));
        list.add(Entry::owner(&Owner::Anonymous, 3));
        list.add(Entry::key("c"));
        assert_eq!(list.remove_over(10, 7), ["t:a"]);
        assert_eq!(list.remove_over(10, 6), ["o:anonymous"]);
        assert!(list.has_key("c"));
        assert_eq!(list.len(), 2);
    }
}
