//! What the members of a set say, and which of them is the primary. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bson::oid::ObjectId;

use crate::mongo::legacy::is_master::IsMaster;

/// Maximum number of members. A set has 50 at most; a reply with more is cut off.
const MAX_MEMBERS: usize = 60;

/// An election, and the version of the configuration of who won it.
#[derive(Clone, Copy, Debug)]
struct Election {
    version: i64,
    id: Option<ObjectId>,
}

impl Election {
    /// How the ids of protocol version 1 begin. The term follows. Those of protocol version 0 begin with the time.
    const OF_TERM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

    /// Whether the other election was a later one. A set can lose a change of its configuration in an election, so that its version says
    /// nothing. The protocol version, however, only changes with the configuration, and ids of different ones cannot be compared.
    fn is_before(self, other: Self) -> bool {
        let (Some(id), Some(later)) = (self.id, other.id) else {
            return false;
        };
        let is_term = |id: ObjectId| id.bytes().starts_with(&Self::OF_TERM);
        match is_term(id) == is_term(later) {
            true => id < later,
            false => self.version < other.version,
        }
    }
}

/// What is known of a set.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The hosts that were given.
    seeds: Vec<String>,
    /// The set's name: the one that was given, or that of the first answer.
    name: Option<String>,
    is_direct: bool,
    /// The members to ask.
    members: BTreeSet<String>,
    /// The newest election that was seen. An older primary has not yet noticed that it was replaced.
    newest: Option<Election>,
    primary: Option<(String, IsMaster)>,
    /// Why the other members are not the primary.
    reasons: BTreeMap<String, String>,
}

impl View {
    /// Begins with what is given.
    pub fn new(seeds: &[String], name: Option<&str>, is_direct: bool) -> Self {
        let seeds: Vec<String> = seeds
            .iter()
            .take(if is_direct { 1 } else { MAX_MEMBERS })
            .cloned()
            .collect();
        Self {
            members: seeds.iter().cloned().collect(),
            seeds,
            name: name.map(str::to_owned),
            is_direct,
            newest: None,
            primary: None,
            reasons: BTreeMap::new(),
        }
    }

    /// The members to ask. The given hosts are among them, whatever the set says of itself: its members may all have moved.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.members.iter().chain(&self.seeds).cloned().collect()
    }

    /// Forgets who the primary is.
    pub fn forget_primary(&mut self) {
        self.primary = None;
        self.reasons.clear();
    }

    /// The primary, if there is one.
    pub fn primary(&self) -> Option<&(String, IsMaster)> {
        self.primary.as_ref()
    }

    /// Why no member is the primary, for people.
    pub fn reasons(&self) -> String {
        let reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(address, reason)| format!("{address}: {reason}"))
            .collect();
        match reasons.is_empty() {
            true => format!("{}: no answer", self.seeds.join(", ")),
            false => reasons.join("; "),
        }
    }

    /// Notes that a member gave no answer.
    pub fn fail(&mut self, address: &str, reason: String) {
        self.drop_primary(address);
        self.reasons.insert(address.to_owned(), reason);
    }

    /// Takes the answer of a member.
    pub fn see(&mut self, address: &str, answer: IsMaster) {
        self.drop_primary(address);
        self.reasons.remove(address);
        let verdict = match self.is_direct {
            true => self.judge_alone(&answer),
            false => self.judge(address, &answer),
        };
        match verdict {
            Ok(()) => self.primary = Some((address.to_owned(), answer)),
            Err(reason) => {
                self.reasons.insert(address.to_owned(), reason);
            }
        }
    }

    /// Whether a server that is connected to directly is the primary, or why not.
    fn judge_alone(&mut self, answer: &IsMaster) -> Result<(), String> {
        self.judge_name(answer)?;
        match answer.is_primary {
            true => Ok(()),
            false => Err(state_of(answer)),
        }
    }

    /// Whether a member is the primary, or why not.
    fn judge(&mut self, address: &str, answer: &IsMaster) -> Result<(), String> {
        if let Err(reason) = self.judge_name(answer) {
            self.members.remove(address);
            return Err(reason);
        }
        let election = Election {
            version: answer.set_version.unwrap_or_default(),
            id: answer.election_id,
        };
        if answer.is_primary && self.newest.is_some_and(|newest| election.is_before(newest)) {
            return Err("it has been replaced as primary and has not noticed yet".to_owned());
        }
        self.learn(answer);
        let own_name = answer.me.as_deref().filter(|me| *me != address);
        if let Some(own_name) = own_name {
            // The set knows it by another name, under which it is asked too. It is one member, not two.
            self.members.remove(address);
            return Err(format!(
                "its set names it {own_name}, which must be reachable from here"
            ));
        }
        if !answer.is_primary {
            return Err(state_of(answer));
        }
        self.newest = Some(election);
        Ok(())
    }

    fn judge_name(&mut self, answer: &IsMaster) -> Result<(), String> {
        match (&self.name, &answer.set_name) {
            (_, None) => Err("it is no member of a replica set, or has no configuration yet".to_owned()),
            (Some(expected), Some(found)) if expected != found => {
                Err(format!("it is a member of the set {found}, not of {expected}"))
            }
            (Some(_), Some(_)) => Ok(()),
            (None, Some(found)) => {
                self.name = Some(found.clone());
                Ok(())
            }
        }
    }

    /// Takes over the members that an answer names: all of them from a primary, further ones from others.
    fn learn(&mut self, answer: &IsMaster) {
        if answer.is_primary {
            self.members.clear();
        }
        let named = answer.members().chain(&answer.primary);
        let room = MAX_MEMBERS.saturating_sub(self.members.len());
        self.members.extend(named.take(room).cloned());
    }

    fn drop_primary(&mut self, address: &str) {
        self.primary.take_if(|(primary, _)| primary == address);
    }
}

fn state_of(answer: &IsMaster) -> String {
    let state = match answer {
        IsMaster { is_secondary: true, .. } => "a secondary",
        IsMaster { is_arbiter: true, .. } => "an arbiter",
        _ => "starting, or not able to take part",
    };
    state.to_owned()
}

#[cfg(test)]
mod tests {
    use bson::raw::cstr;
    use bson::rawdoc;

    use super::*;

    /// An id of protocol version 0.
    fn election(number: u8) -> ObjectId {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&[0x6b, 0x0b, 0x32, number]);
        ObjectId::from_bytes(bytes)
    }

    /// An id of protocol version 1.
    fn term(number: u8) -> ObjectId {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&Election::OF_TERM);
        bytes[11] = number;
        ObjectId::from_bytes(bytes)
    }

    fn answer(me: &str, is_primary: bool, version: i32, election_id: Option<ObjectId>) -> IsMaster {
        let mut raw = rawdoc! {
            "setName": "rs", "me": me, "ismaster": is_primary, "secondary": !is_primary, "setVersion": version, "hosts": ["a:1", "b:1"],
        };
        if let Some(id) = election_id {
            raw.append(cstr!("electionId"), id);
        }
        IsMaster::parse(raw).unwrap()
    }

    fn view(seeds: &[&str]) -> View {
        let seeds: Vec<String> = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        View::new(&seeds, Some("rs"), false)
    }

    fn primary(view: &View) -> Option<&str> {
        view.primary().map(|(address, _)| address.as_str())
    }

    #[test]
    fn members_are_learned_and_the_primary_is_found() {
        let mut view = view(&["a:1", "old:1"]);
        view.see("a:1", answer("a:1", false, 1, None));
        assert_eq!(primary(&view), None);
        assert!(view.addresses().contains("b:1"), "{view:?}");
        view.see("b:1", answer("b:1", true, 1, Some(election(1))));
        assert_eq!(primary(&view), Some("b:1"));
        // A seed that is no member is asked, but it is none.
        assert!(!view.members.contains("old:1") && view.addresses().contains("old:1"));
        view.fail("b:1", "connection refused".to_owned());
        assert_eq!(primary(&view), None);
        assert_eq!(view.reasons(), "a:1: a secondary; b:1: connection refused");
    }

    #[test]
    fn of_two_primaries_the_one_of_the_newer_election_counts() {
        for (old, new) in [
            ((1, election(1)), (1, election(2))),
            ((1, election(1)), (2, election(2))),
            ((1, term(1)), (1, term(2))),
            // The configuration of the old one was lost with it.
            ((9, election(1)), (1, election(2))),
            ((9, term(1)), (1, term(2))),
            // Between them, the set was given another protocol version.
            ((1, election(2)), (2, term(1))),
            ((1, term(2)), (2, election(1))),
        ] {
            let mut view = view(&["a:1", "b:1"]);
            view.see("a:1", answer("a:1", true, old.0, Some(old.1)));
            view.see("b:1", answer("b:1", true, new.0, Some(new.1)));
            assert_eq!(primary(&view), Some("b:1"));
            view.see("a:1", answer("a:1", true, old.0, Some(old.1)));
            assert_eq!(primary(&view), Some("b:1"));
            // Not even when the newer one is gone, and its members do not count.
            view.forget_primary();
            let mut stale = answer("a:1", true, old.0, Some(old.1));
            stale.hosts = vec!["a:1".to_owned(), "removed:1".to_owned()];
            view.see("a:1", stale);
            assert!(!view.addresses().contains("removed:1"));
            assert_eq!(primary(&view), None);
            assert!(view.reasons().contains("replaced"));
        }
    }

    #[test]
    fn a_member_of_another_set_is_none() {
        let mut view = view(&["a:1"]);
        view.name = Some("other".to_owned());
        view.see("a:1", answer("a:1", true, 1, None));
        assert_eq!(primary(&view), None);
        assert_eq!(view.reasons(), "a:1: it is a member of the set rs, not of other");
        assert!(!view.addresses().contains("b:1"));

        let mut unnamed = View::new(&["a:1".to_owned()], None, false);
        unnamed.see("a:1", answer("a:1", false, 1, None));
        assert_eq!(unnamed.name.as_deref(), Some("rs"));
        unnamed.see("c:1", IsMaster::parse(rawdoc! { "ismaster": true }).unwrap());
        assert!(primary(&unnamed).is_none());
    }

    #[test]
    fn a_member_is_used_under_the_name_that_its_set_has_for_it() {
        let mut view = view(&["proxy:1"]);
        view.see("proxy:1", answer("a:1", true, 1, Some(election(1))));
        assert_eq!(primary(&view), None);
        assert!(view.reasons().contains("names it a:1") && view.addresses().contains("a:1"));
        view.see("a:1", answer("a:1", true, 1, Some(election(1))));
        assert_eq!(primary(&view), Some("a:1"));
    }

    #[test]
    fn a_direct_connection_has_one_member() {
        let mut view = View::new(&["proxy:1".to_owned(), "x:1".to_owned()], Some("rs"), true);
        view.see("proxy:1", answer("a:1", false, 1, None));
        assert_eq!(primary(&view), None);
        view.see("proxy:1", answer("a:1", true, 1, None));
        assert_eq!(primary(&view), Some("proxy:1"));
        assert_eq!(view.addresses().len(), 1);
    }

    #[test]
    fn the_number_of_members_is_bounded() {
        let hosts: bson::raw::RawArrayBuf = (0..1_000).map(|number| format!("h{number}:1")).collect();
        let mut view = view(&["a:1"]);
        for is_primary in [true, false] {
            let raw = rawdoc! { "setName": "rs", "ismaster": is_primary, "hosts": hosts.clone() };
            view.see("a:1", IsMaster::parse(raw).unwrap());
            assert!(view.addresses().len() <= MAX_MEMBERS + 1, "{}", view.addresses().len());
        }
    }
}
